//! The frame of every page: its head, where one is, and what stands above and below.

use maud::DOCTYPE;
use maud::Markup;
use maud::PreEscaped;
use maud::html;

use crate::page::statics;
use crate::page::visit::Visit;

/// How often a page that lives looks for what is new. A look costs the calls of the page; a page in the background costs none.
pub(super) const LIVE_SECONDS: u32 = 4;
/// The same where a look reads long histories, in the tenth of a second.
pub(super) const LONG_LIVE_SECONDS: u32 = 20;

/// What the pages differ in around their content.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame<'a> {
    pub(super) title: &'a str,
    /// Where one is: labels with addresses, from the team down to what stands before this page.
    pub(super) crumbs: Vec<(String, String)>,
    /// What it shows goes on: after how many seconds to look again.
    pub(super) live_seconds: Option<u32>,
    pub(super) has_session: bool,
    /// Where the browser goes on by itself.
    pub(super) refresh: Option<&'a str>,
}

impl<'a> Frame<'a> {
    /// The frame of what lies below a resource with this name.
    pub(super) fn of(visit: &Visit, title: &'a str, parent: &str) -> Frame<'a> {
        Frame { title, crumbs: crumbs(parent), has_session: visit.token.is_some(), ..Frame::default() }
    }

    pub(super) fn page(&self, content: &Markup) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    @if let Some(address) = self.refresh {
                        meta http-equiv="refresh" content={ "0; url=" (address) };
                    }
                    title { (plain(self.title)) " · Keepbest" }
                    link rel="icon" href=(statics::address("icon.svg")) type="image/svg+xml";
                    link rel="stylesheet" href=(statics::address("page.css"));
                    script src=(statics::address("page.js")) defer {}
                }
                body data-live=[self.live_seconds] {
                    a.skip href="#main" { "To the content" }
                    header.top {
                        nav aria-label="Where you are" {
                            a.brand href="/" { (PreEscaped(MARK)) "Keepbest" }
                            @for (label, address) in &self.crumbs {
                                span.slash aria-hidden="true" { "/" }
                                a href=(address) { bdi { (label) } }
                            }
                        }
                        @if self.has_session {
                            form method="post" action="/-/logout" { button.quiet type="submit" { "Log out" } }
                        }
                    }
                    main #main tabindex="-1" { (content) }
                }
            }
        }
    }
}

/// The sign of the house: a curve with its best point.
const MARK: &str = r#"<svg class="logo" viewBox="0 0 20 20" width="20" height="20" aria-hidden="true"><path d="M2 4c3 8 5 11 8 11s4-3 8-5"/><circle cx="10" cy="15" r="3"/></svg>"#;

/// A title is text alone: no elements, so `bdi` cannot help, and characters that turn the direction of what follows go.
fn plain(title: &str) -> String {
    title.chars().filter(|c| !c.is_control() && !is_turn(*c)).collect()
}

/// Whether a character changes the direction in which what follows is shown.
pub(super) fn is_turn(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The parts of a resource's name that have pages, each with its address.
fn crumbs(name: &str) -> Vec<(String, String)> {
    let parts: Vec<_> = name.split('/').collect();
    let pairs = parts.chunks_exact(2).enumerate();
    pairs.map(|(n, pair)| (pair[1].to_owned(), format!("/{}", parts[..2 * n + 2].join("/")))).collect()
}

/// The way on in a list whose end was not reached.
pub(super) fn more(address: &str, text: &str) -> Markup {
    html! { p.more { a href=(address) rel="next" { (text) } } }
}

/// What stands where a list has nothing.
pub(super) fn nothing(text: &Markup) -> Markup {
    html! { p.nothing { (text) } }
}

#[cfg(test)]
mod tests {
    use super::{crumbs, plain};

    #[test]
    fn each_level_has_its_address() {
        let of = crumbs("teams/t/projects/p/runs/r");
        let pairs: Vec<_> = of.iter().map(|(label, address)| (&**label, &**address)).collect();
        assert_eq!(
            pairs,
            [("t", "/teams/t"), ("p", "/teams/t/projects/p"), ("r", "/teams/t/projects/p/runs/r")]
        );
        assert!(crumbs("").is_empty());
    }

    #[test]
    fn a_title_turns_nothing_around() {
        assert_eq!(plain("a\u{202e}b\u{1b}[31mc\u{2067}"), "ab[31mc");
    }
}
