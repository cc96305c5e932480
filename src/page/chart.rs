//! The picture: lines over epochs with marks on them, as SVG that needs no script. What a script shows when a pointer moves over it
//! stands beside each line.

use std::fmt::Write as _;

use maud::Markup;
use maud::html;

use crate::figures;
use crate::page::marks;
use crate::page::marks::Mark;
use crate::page::points::Band;
use crate::page::points::Point;
use crate::page::scale::Scale;
use crate::page::show;

/// In units of the picture, which is shown as wide as there is room.
const LEAST_LEFT: f64 = 54.0;
const RIGHT: f64 = 22.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 30.0;
/// Labels nearer to each other than this would overlap.
const LABEL_ROOM: f64 = 64.0;
/// About as wide as one character of a label, or more.
const CHARACTER: f64 = 6.6;
const WIDE_CHARACTER: f64 = 7.8;

/// A line of the picture, thinned already.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    /// What a style makes of it.
    pub(super) class: &'static str,
    pub(super) name: String,
    pub(super) points: Vec<Point>,
    /// A faint line under a smoothed one is not asked for its values.
    pub(super) is_told: bool,
}

#[derive(Debug, Default)]
pub(super) struct Chart {
    /// What it is, for those who do not see it.
    pub(super) label: String,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) is_log: bool,
    pub(super) lines: Vec<Drawn>,
    pub(super) bands: Vec<Band>,
    pub(super) marks: Vec<Mark>,
}

/// A name and where it stands.
struct Label {
    x: f64,
    y: f64,
    text: String,
}

impl Chart {
    pub(super) fn draw(&self) -> Markup {
        let (right, bottom) = (self.width - RIGHT, self.height - BOTTOM);
        let xs = self.lines.iter().flat_map(|it| it.points.iter().map(|point| point.x));
        let xs = xs.chain(self.marks.iter().map(|it| it.x));
        let ys = self.lines.iter().flat_map(|it| it.points.iter().map(|point| point.y));
        let ys = ys.chain(self.marks.iter().filter_map(|it| it.y));
        let y = Scale::of(ys, self.is_log, true).on(bottom, TOP);
        let values = y.ticks(false);
        let longest = values.iter().map(|(_, text)| text.len()).max().unwrap_or_default();
        let left = (longest as f64 * WIDE_CHARACTER + 12.0).max(LEAST_LEFT).round();
        let x = Scale::of(xs, false, false).on(left + 10.0, right - 10.0);
        html! {
            svg.chart viewBox={ "0 0 " (self.width) " " (self.height) } role="group" aria-label=(show::visible(&self.label))
                data-left=(left) data-right=(right) data-top=(TOP) data-bottom=(bottom) {
                (self.bands(&x, left))
                g.grid {
                    @for (at, text) in &values {
                        @if let Some(at) = y.place(*at) {
                            path d={ "M" (left) " " (px(at)) "H" (right) } {}
                            text x=(left - 8.0) y=(px(at + 4.0)) text-anchor="end" { (text) }
                        }
                    }
                    @for (at, text) in x.ticks(true) {
                        @if let Some(at) = x.place(at) {
                            text x=(px(at)) y=(bottom + 20.0) text-anchor="middle" { (text) }
                        }
                    }
                    path.axis d={ "M" (left) " " (bottom) "H" (right) } {}
                    text.unit x=(left - 8.0) y=(bottom + 20.0) text-anchor="end" { "epoch" }
                }
                @for line in &self.lines { (draw_line(line, &x, &y)) }
                @for mark in &self.marks {
                    @if let Some((x, y)) = place(mark, &x, &y, bottom) { (marks::draw(mark, x, y)) }
                }
                g.names aria-hidden="true" {
                    @for label in self.labels(&x, &y, [left, right, bottom]) {
                        text x=(px(label.x)) y=(px(label.y)) text-anchor="middle" { (label.text) }
                    }
                }
            }
        }
    }

    /// A stretch for each attempt, from where it began to where the next one did, so that it shows what was done again.
    fn bands(&self, x: &Scale, left: f64) -> Markup {
        if self.bands.len() < 2 {
            return html! {};
        }
        let bottom = self.height - BOTTOM;
        let starts: Vec<_> = self.bands.iter().map(|it| x.place(it.from).unwrap_or(left)).collect();
        let mut told = f64::NEG_INFINITY;
        let mut has_room = |from: f64| {
            let has = from - told > LABEL_ROOM;
            told = if has { from } else { told };
            has
        };
        html! {
            g.bands {
                @for (n, (band, from)) in self.bands.iter().zip(&starts).enumerate() {
                    @let to = x.place(band.to).unwrap_or(*from).max(starts.get(n + 1).copied().unwrap_or(*from));
                    @if n % 2 == 1 {
                        rect x=(px(*from)) y=(TOP) width=(px(to - from)) height=(bottom - TOP) {}
                    }
                    @if n > 0 { path d={ "M" (px(*from)) " " (TOP) "V" (bottom) } { title { "attempt " (band.attempt) " begins" } } }
                    @if has_room(*from) {
                        text x=(px(from + 5.0)) y=(TOP - 8.0) { "attempt " (band.attempt) }
                    }
                }
            }
        }
    }

    /// The names that point at what was kept, beside their marks, but for those that would stand on each other.
    fn labels(&self, x: &Scale, y: &Scale, [left, right, bottom]: [f64; 3]) -> Vec<Label> {
        let mut labels: Vec<Label> = Vec::new();
        // The best is drawn last and named first.
        for mark in self.marks.iter().rev().filter(|it| !it.aliases.is_empty()) {
            let Some((at, height)) = place(mark, x, y, bottom) else { continue };
            let text = shortened(&mark.aliases.join(", "));
            let half = text.chars().count() as f64 * CHARACTER / 2.0;
            let at = at.min(right + RIGHT - half - 2.0).max(left + half);
            let above = height - 17.0;
            let stands = if above < TOP + 8.0 { height + 25.0 } else { above };
            let is_free = |it: &Label| {
                let room = half + it.text.chars().count() as f64 * CHARACTER / 2.0 + 4.0;
                (it.x - at).abs() > room || (it.y - stands).abs() > 14.0
            };
            if labels.iter().all(is_free) {
                labels.push(Label { x: at, y: stands, text });
            }
        }
        labels
    }
}

/// Where a mark stands: at its value, or on the axis where it has none.
fn place(mark: &Mark, x: &Scale, y: &Scale, bottom: f64) -> Option<(f64, f64)> {
    Some((x.place(mark.x)?, mark.y.and_then(|it| y.place(it)).unwrap_or(bottom)))
}

fn shortened(text: &str) -> String {
    const MOST: usize = 24;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// A line with its gaps. A point alone between two is drawn as a dot, as a stroke without length.
fn draw_line(line: &Drawn, x: &Scale, y: &Scale) -> Markup {
    let (mut path, mut values, mut is_down) = (String::new(), String::new(), false);
    for point in &line.points {
        let place = x.place(point.x).zip(y.place(point.y));
        if let Some((left, top)) = place {
            let step = if is_down { 'L' } else { 'M' };
            // A text takes whatever is written to it.
            let _written = write!(path, "{step}{} {}", px(left), px(top));
            if !is_down {
                path.push_str("h0");
            }
            if line.is_told {
                let _written =
                    write!(values, "{} {} {:.2} {};", px(left), px(top), point.x, figures::metric(point.y));
            }
        }
        is_down = place.is_some();
    }
    html! {
        path class={ "line " (line.class) } d=(path) data-name=[line.is_told.then(|| show::visible(&line.name))]
            data-values=[line.is_told.then_some(values)] {}
    }
}

/// A length in the picture, to a tenth.
fn px(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::{Chart, Drawn};
    use crate::page::marks::{Kind, Mark};
    use crate::page::points::{Band, Point};

    fn chart(ys: &[f64]) -> Chart {
        let points = ys.iter().enumerate().map(|(n, y)| Point { x: n as f64 + 1.0, y: *y }).collect();
        let line = Drawn { class: "main", name: "<b>".to_owned(), points, is_told: true };
        Chart { label: "loss".to_owned(), width: 400.0, height: 200.0, lines: vec![line], ..Chart::default() }
    }

    #[test]
    fn a_gap_is_a_gap_and_names_are_escaped() {
        let svg = chart(&[1.0, 2.0, f64::NAN, 3.0]).draw().into_string();
        let path = svg.split("d=\"M").find(|it| it.contains("data-values")).unwrap();
        assert_eq!(path.matches('L').count(), 1, "{path}");
        assert!(path.contains('M') && svg.contains("&lt;b&gt;") && !svg.contains("<b>"), "{svg}");
        assert!(!svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn marks_stand_on_the_curve_and_attempts_are_told_apart() {
        let mut chart = chart(&[1.0, 2.0, 0.5]);
        chart.bands = vec![Band { attempt: 1, from: 1.0, to: 2.0 }, Band { attempt: 2, from: 2.0, to: 3.0 }];
        chart.marks = vec![Mark {
            kind: Kind::Best,
            x: 3.0,
            y: Some(0.5),
            aliases: vec!["best".to_owned()],
            title: "Epoch 3".to_owned(),
            href: Some("/v2".to_owned()),
        }];
        let svg = chart.draw().into_string();
        let line = svg.split("class=\"line main\" d=\"").nth(1).unwrap().split('"').next().unwrap();
        let (x, y) = line.rsplit('L').next().unwrap().split_once(' ').unwrap();
        let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
        assert!(svg.contains(&format!("translate({x:.1} {y:.1})")), "{svg}");
        assert!(svg.contains("attempt 2 begins") && svg.contains("href=\"/v2\""), "{svg}");
    }
}
