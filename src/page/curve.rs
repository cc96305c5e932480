//! What of a run's history is shown, and how: which metrics, on which scale, how smooth. All of it follows from the address.

use std::collections::BTreeSet;

use maud::Markup;
use maud::html;

use crate::page::chart::Chart;
use crate::page::chart::Drawn;
use crate::page::points;
use crate::page::points::History;
use crate::page::points::Line;
use crate::page::query::Query;
use crate::page::show;

/// Pictures beside the one of the monitor, unless others are chosen.
const MOST_FIRST: usize = 3;
/// Pictures in all: each is some 50 kB.
const MOST_CHOSEN: usize = 12;
/// How smooth it may be.
const FACTORS: [&str; 5] = ["0.3", "0.6", "0.8", "0.9", "0.97"];

/// How the pictures are drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) is_log: bool,
    /// The factor of the moving average; 0: none.
    pub(super) smooth: f64,
}

impl Look {
    pub(super) fn of(query: &Query) -> Look {
        let smooth = query.first("smooth").parse().ok().filter(|it| (0.0..1.0).contains(it));
        Look { is_log: query.first("scale") == "log", smooth: smooth.unwrap_or(0.0) }
    }
}

/// The name under which what a metric is on training and on held-out data is one picture.
pub(super) fn base(metric: &str) -> &str {
    metric.strip_prefix("val_").unwrap_or(metric)
}

/// The pictures that are asked for, by the names of their metrics without `val_`: that of the monitor first.
pub(super) fn chosen(query: &Query, monitor: &str, known: &BTreeSet<String>) -> Vec<String> {
    let main = base(monitor).to_owned();
    let asked: Vec<_> = query.all("m").map(|it| base(it).to_owned()).collect();
    let others = match asked.is_empty() {
        false => asked.into_iter().take(MOST_CHOSEN).collect::<Vec<_>>(),
        true => known.iter().filter(|it| **it != main).take(MOST_FIRST).cloned().collect(),
    };
    let mut chosen = vec![main];
    for name in others {
        if !chosen.contains(&name) {
            chosen.push(name);
        }
    }
    chosen
}

/// The lines of a picture: what is on held-out data in the foreground, if there is any.
pub(super) fn lines(history: &History, base: &str, look: Look) -> Vec<Drawn> {
    let held_out = format!("val_{base}");
    let has_both = !history.lines(&held_out).is_empty();
    let mut drawn = Vec::new();
    for (name, class) in [(base, if has_both { "train" } else { "main" }), (held_out.as_str(), "main")] {
        if let (Some(of_batches), true) = (history.batches.get(name), history.metrics.contains_key(name)) {
            drawn.extend(of_lines(of_batches, &format!("{name} of batches"), "batches", look));
        }
        drawn.extend(of_lines(history.lines(name), name, class, look));
    }
    drawn
}

/// A metric's lines, an attempt each; smoothed ones over their raw ones.
pub(super) fn of_lines(lines: &[Line], name: &str, class: &'static str, look: Look) -> Vec<Drawn> {
    let all: usize = lines.iter().map(|it| it.points.len()).sum();
    let share = |line: &Line| (points::MOST_POINTS * line.points.len() / all.max(1)).max(2);
    let draw = |points: &[points::Point], most, class, is_told| Drawn {
        class,
        name: name.to_owned(),
        points: points::thinned(points, most),
        is_told,
    };
    let mut drawn = Vec::new();
    if look.smooth > 0.0 {
        drawn.extend(lines.iter().map(|it| draw(&it.points, share(it), "raw", false)));
    }
    drawn.extend(lines.iter().map(|it| {
        let smooth = points::smoothed(&it.points, look.smooth);
        draw(if look.smooth > 0.0 { &smooth } else { &it.points }, share(it), class, true)
    }));
    drawn
}

/// A picture without marks, smaller.
pub(super) fn small(history: &History, base: &str, look: Look) -> Option<Markup> {
    let lines = lines(history, base, look);
    if lines.is_empty() {
        return None;
    }
    let bands = history.bands.clone();
    let label = format!("{base} over epochs");
    let keys = keys(&lines);
    let chart =
        Chart { label, width: 480.0, height: 220.0, is_log: look.is_log, lines, bands, ..Chart::default() };
    Some(html! {
        figure.small {
            figcaption { h3 { (show::text(base)) } (keys) }
            div.plot { (chart.draw()) }
        }
    })
}

/// Which line is which, where there are two.
pub(super) fn keys(lines: &[Drawn]) -> Markup {
    let has = |class| lines.iter().find(|it| it.class == class && it.is_told);
    html! {
        @let lines: Vec<_> = ["main", "train", "batches"].into_iter().filter_map(has).collect();
        @if lines.len() > 1 {
            @for line in lines {
                span.key {
                    svg.marks viewBox="0 0 20 12" width="20" height="12" aria-hidden="true" { path class={ "line " (line.class) } d="M1 6H19" {} }
                    (show::text(&line.name))
                }
            }
        }
    }
}

/// What changes how the pictures are drawn. It works without a script, by its button.
pub(super) fn controls(query: &Query, known: &BTreeSet<String>, chosen: &[String]) -> Markup {
    let (scale, smooth) = (query.first("scale"), query.first("smooth"));
    html! {
        form.controls method="get" data-submits {
            @if known.len() > 1 {
                fieldset {
                    legend { "Metrics" }
                    @for name in known {
                        label.box {
                            input type="checkbox" name="m" value=(name) checked[chosen.contains(name)];
                            (show::text(name))
                        }
                    }
                }
            }
            (smoothing(smooth))
            (scaling(scale))
            button type="submit" { "Show" }
        }
    }
}

/// How smooth the curves are.
pub(super) fn smoothing(smooth: &str) -> Markup {
    html! {
        label { "Smoothing "
            select name="smooth" {
                option value="" { "none" }
                @for factor in FACTORS { option value=(factor) selected[smooth == factor] { (factor) } }
            }
        }
    }
}

pub(super) fn scaling(scale: &str) -> Markup {
    html! {
        label { "Scale "
            select name="scale" {
                option value="" { "linear" }
                option value="log" selected[scale == "log"] { "logarithmic" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Look, chosen};
    use crate::page::query::Query;

    #[test]
    fn the_address_says_what_is_shown() {
        let known: BTreeSet<_> = ["accuracy", "loss", "lr", "mae", "mse"].map(str::to_owned).into();
        assert_eq!(chosen(&Query::default(), "val_loss", &known), ["loss", "accuracy", "lr", "mae"]);
        assert_eq!(chosen(&Query::of(b"m=val_mse&m=mse"), "val_loss", &known), ["loss", "mse"]);
        for (text, smooth) in [("smooth=0.6", 0.6), ("smooth=1", 0.0), ("smooth=x", 0.0), ("", 0.0)] {
            let look = Look::of(&Query::of(text.as_bytes()));
            assert!((look.smooth - smooth).abs() < 1e-12, "{text}");
        }
    }
}
