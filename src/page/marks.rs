//! What became of each decision, as marks on the curve.

use std::collections::HashMap;

use keepbest_proto::v1;
use maud::Markup;
use maud::html;

use crate::figures;
use crate::page::points::History;
use crate::page::show;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Skipped,
    Failed,
    GivenUp,
    Deleted,
    Open,
    Kept,
    Best,
}

/// A decision's place on the curve.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) kind: Kind,
    pub(super) x: f64,
    /// The monitor's value; none where there was no number.
    pub(super) y: Option<f64>,
    /// Names that point at the version, but for those of epochs.
    pub(super) aliases: Vec<String>,
    pub(super) title: String,
    /// The page of the version.
    pub(super) href: Option<String>,
}

/// The decisions as marks, what matters most last, so that it is drawn on top.
pub(super) fn marks(
    decisions: &[v1::Decision],
    versions: &HashMap<&str, &v1::Version>,
    history: &History,
) -> Vec<Mark> {
    let (low, high) = history.span().unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
    let mark = |decision: &v1::Decision| {
        let version = versions.get(decision.version.as_str());
        let aliases = version.map(|it| it.aliases.as_slice()).unwrap_or_default();
        let aliases: Vec<_> = aliases.iter().filter(|it| !it.starts_with("epoch_")).cloned().collect();
        let kind = kind(decision, aliases.iter().any(|it| it == "best"));
        let href = (!decision.version.is_empty()).then(|| format!("/{}", decision.version));
        Mark {
            kind,
            x: history.place(decision),
            y: decision.value,
            title: title(decision, &aliases),
            aliases,
            href,
        }
    };
    // Where only some events were read, marks beyond the curve would hang in the air.
    let mut marks: Vec<_> = decisions.iter().map(mark).filter(|it| (low..=high).contains(&it.x)).collect();
    marks.sort_by_key(|it| it.kind);
    marks
}

fn kind(decision: &v1::Decision, is_best: bool) -> Kind {
    match (decision.action(), decision.outcome()) {
        (v1::Action::Save, v1::Outcome::Committed) if is_best => Kind::Best,
        (v1::Action::Save, v1::Outcome::Committed) => Kind::Kept,
        (v1::Action::Save, v1::Outcome::GivenUp) => Kind::GivenUp,
        (v1::Action::Save, v1::Outcome::Deleted) => Kind::Deleted,
        (v1::Action::Save, _) => Kind::Open,
        (v1::Action::Fail, _) => Kind::Failed,
        _ => Kind::Skipped,
    }
}

/// What a mark says to those who ask it.
fn title(decision: &v1::Decision, aliases: &[String]) -> String {
    let batch = decision.batch.map(|it| format!(", batch {}", it.saturating_add(1))).unwrap_or_default();
    let value = decision.value.map(|it| format!(": {}", figures::metric(it))).unwrap_or_default();
    let led_to = match (decision.action(), decision.outcome()) {
        (v1::Action::Save, v1::Outcome::Committed) => format!("Kept as {}", show::id(&decision.version)),
        (v1::Action::Save, v1::Outcome::GivenUp) => "Given up: it never became a version".to_owned(),
        (v1::Action::Save, v1::Outcome::Deleted) => "Kept, and deleted since".to_owned(),
        (v1::Action::Save, _) => "Being uploaded".to_owned(),
        (v1::Action::Fail, _) => "Failed".to_owned(),
        _ => "Skipped".to_owned(),
    };
    let named = if aliases.is_empty() { String::new() } else { format!(" ({})", aliases.join(", ")) };
    let epoch = decision.epoch.saturating_add(1);
    show::visible(&format!("Epoch {epoch}{batch}{value}\n{led_to}{named}\n{}", decision.reason_text))
}

/// A mark at its place in a picture.
pub(super) fn draw(mark: &Mark, x: f64, y: f64) -> Markup {
    let shape = html! {
        @match mark.kind {
            Kind::Skipped => circle r="3" {},
            Kind::Failed => { circle r="4.5" {} path d="M0-2.4V.6M0 2v.4" {} },
            Kind::GivenUp => { circle r="5" {} path d="M-2.4-2.4l4.8 4.8M2.4-2.4l-4.8 4.8" {} },
            Kind::Deleted => circle r="4.5" {},
            Kind::Open => { circle r="5" {} path d="M0-5a5 5 0 0 1 0 10z" {} },
            Kind::Kept => circle r="4.8" {},
            Kind::Best => path d=(STAR) {},
        }
        @if mark.aliases.iter().any(|it| it != "best" && it != "latest") {
            circle.ring r=(if mark.kind == Kind::Best { "12.5" } else { "8.5" }) {}
        }
        title { (mark.title) }
    };
    let place = format!("translate({x:.1} {y:.1})");
    html! {
        @match &mark.href {
            // The table beside it has the same links for those who go by keys.
            Some(href) => a href=(href) tabindex="-1" class={ "mark " (class(mark.kind)) } transform=(place)
                aria-label=(mark.title) { (shape) },
            None => g class={ "mark " (class(mark.kind)) } transform=(place) { (shape) },
        }
    }
}

/// Five points, the outer ones 10 from the middle.
const STAR: &str = "M0-10L2.4-3.2 9.5-3.1 3.8 1.2 5.9 8.1 0 4-5.9 8.1-3.8 1.2-9.5-3.1-2.4-3.2z";

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Skipped => "skipped",
        Kind::Failed => "failed",
        Kind::GivenUp => "given-up",
        Kind::Deleted => "deleted",
        Kind::Open => "open",
        Kind::Kept => "kept",
        Kind::Best => "best",
    }
}

/// What the marks mean, for those kinds that are in the picture.
pub(super) fn legend(marks: &[Mark]) -> Markup {
    let words = [
        (Kind::Best, "best"),
        (Kind::Kept, "kept"),
        (Kind::Open, "uploading"),
        (Kind::GivenUp, "given up"),
        (Kind::Deleted, "deleted"),
        (Kind::Failed, "failed"),
        (Kind::Skipped, "skipped"),
    ];
    let sample = |kind| Mark { kind, x: 0.0, y: None, aliases: Vec::new(), title: String::new(), href: None };
    let is_named = |mark: &Mark| mark.aliases.iter().any(|it| it != "best" && it != "latest");
    html! {
        @for (kind, word) in words.into_iter().filter(|(kind, _)| marks.iter().any(|it| it.kind == *kind)) {
            span.key { svg.marks viewBox="-12 -12 24 24" width="18" height="18" aria-hidden="true" { (draw(&sample(kind), 0.0, 0.0)) } (word) }
        }
        @if marks.iter().any(is_named) {
            span.key {
                svg.marks viewBox="-12 -12 24 24" width="18" height="18" aria-hidden="true" {
                    g.mark.kept { circle r="4.8" {} circle.ring r="8.5" {} }
                }
                "named by you"
            }
        }
    }
}
