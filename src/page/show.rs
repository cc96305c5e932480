//! How values are shown: texts of strangers so that they harm nothing, times with their ages, names as links, states as words.

use keepbest_proto::v1;
use maud::Markup;
use maud::html;
use prost_types::Timestamp;
use prost_types::Value;
use prost_types::value::Kind;

use crate::figures;
use crate::page::layout::is_turn;

/// A longer text is cut where it stands in a table; whole it is in its `title`.
const SHORT_TEXT: usize = 120;

/// A text that somebody else wrote. Elements are escaped wherever text is put; what a terminal or the order of letters would
/// obey is shown as what it is.
pub(super) fn text(text: &str) -> Markup {
    html! { bdi { (visible(text)) } }
}

/// The same, cut when it is long.
pub(super) fn short_text(text: &str) -> Markup {
    let shown = visible(text);
    match shown.char_indices().nth(SHORT_TEXT) {
        None => html! { bdi { (shown) } },
        Some((end, _)) => html! { bdi title=(shown) { (&shown[..end]) "…" } },
    }
}

/// Control characters and those that turn the direction of a text, as their escapes.
pub(super) fn visible(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if (c.is_control() && c != '\n' && c != '\t') || is_turn(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
        shown
    })
}

/// The last part of a resource's name.
pub(super) fn id(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

/// The name of the resource `up` levels above.
pub(super) fn parent(name: &str, up: usize) -> &str {
    let end = name.rmatch_indices('/').nth(2 * up - 1).map_or(0, |(at, _)| at);
    &name[..end]
}

/// A link to a resource, with its id as text.
pub(super) fn link(name: &str) -> Markup {
    html! { a href={ "/" (name) } { (text(id(name))) } }
}

/// Microseconds since 1970.
pub(super) fn time_us(time: &Timestamp) -> i64 {
    time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1_000)
}

/// How long ago, with the time itself behind it.
pub(super) fn age(time: Option<&Timestamp>, now_us: i64) -> Markup {
    let Some(time) = time else { return html! { span.soft { "–" } } };
    let exact = date(time.seconds);
    let seconds = (now_us - time_us(time)) / 1_000_000;
    html! { time datetime=(exact) title=(exact) { (figures::age(seconds)) } }
}

/// A time of RFC 3339 in UTC, from seconds since 1970.
pub(super) fn date(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days of the civil calendar, counted from 1 March of the year 0 in eras of 400 years.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let moved = (5 * of_year + 2) / 153;
    let day = of_year - (153 * moved + 2) / 5 + 1;
    let month = if moved < 10 { moved + 3 } else { moved - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// An epoch, or a batch in it, counted from 1.
pub(super) fn epoch(epoch: i64, batch: Option<i64>) -> Markup {
    html! {
        (epoch.saturating_add(1))
        @if let Some(batch) = batch { span.soft { " · batch " (batch.saturating_add(1)) } }
    }
}

/// A metric; nothing if there is none.
pub(super) fn metric(value: Option<f64>) -> Markup {
    match value {
        None => html! { span.soft { "–" } },
        Some(value) => html! { span title=(value) { (figures::metric(value)) } },
    }
}

/// The name of the metric that a run watches: the contract's default for none.
pub(super) fn monitor(run: &v1::Run) -> &str {
    run.strategy.as_ref().map(|it| it.monitor.as_str()).filter(|it| !it.is_empty()).unwrap_or("val_loss")
}

pub(super) fn direction(mode: v1::Mode) -> &'static str {
    match mode {
        v1::Mode::Unspecified => "",
        v1::Mode::Min => "lower is better",
        v1::Mode::Max => "higher is better",
    }
}

/// The best value that was saved; a threshold to begin with is none.
pub(super) fn best(run: &v1::Run) -> Option<f64> {
    run.monitor_state.as_ref().filter(|it| !it.best_checkpoint.is_empty()).and_then(|it| it.best)
}

/// Where a run stands, as a word with a sign: never by colour alone.
pub(super) fn state(run: &v1::Run) -> Markup {
    let (class, sign, word) = match (run.state(), run.contact()) {
        (v1::RunState::Finished, _) => ("finished", "✓", "finished"),
        (v1::RunState::Failed, _) => ("failed", "✕", "failed"),
        (_, v1::Contact::Silent) => ("silent", "◌", "silent"),
        _ => ("active", "●", "active"),
    };
    html! { span class={ "state " (class) } { span aria-hidden="true" { (sign) } " " (word) } }
}

/// The names that point at a version, but for those that the server gives to epochs: the epoch stands beside them.
pub(super) fn aliases(version: &v1::Version) -> Markup {
    let told = i64::try_from(version.aliases.len()).unwrap_or(i64::MAX);
    let more = version.alias_count.saturating_sub(told);
    html! {
        @for alias in version.aliases.iter().filter(|it| !it.starts_with("epoch_")) { (alias_chip(alias)) " " }
        @if more > 0 { span.soft { "and " (more) " more" } }
    }
}

pub(super) fn alias_chip(alias: &str) -> Markup {
    let is_best = alias == "best";
    html! {
        span.chip.best[is_best] {
            @if is_best { span aria-hidden="true" { "★ " } }
            (text(alias))
        }
    }
}

/// What a decision led to: a sign, and a word.
pub(super) fn outcome(decision: &v1::Decision) -> Markup {
    let (class, sign, word) = match (decision.action(), decision.outcome()) {
        (v1::Action::Save, v1::Outcome::Committed) => ("kept", "●", "kept"),
        (v1::Action::Save, v1::Outcome::Open) => ("open", "◔", "uploading"),
        (v1::Action::Save, v1::Outcome::GivenUp) => ("given-up", "✕", "given up"),
        (v1::Action::Save, v1::Outcome::Deleted) => ("deleted", "○", "deleted"),
        (v1::Action::Save, v1::Outcome::Unspecified) => ("open", "◔", "save"),
        (v1::Action::Fail, _) => ("given-up", "!", "failed"),
        _ => ("skipped", "·", "skipped"),
    };
    html! { span class={ "outcome " (class) } { span aria-hidden="true" { (sign) } " " (word) } }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        text.extend([byte >> 4, byte & 15].map(|it| char::from_digit(it.into(), 16).unwrap_or('0')));
        text
    })
}

/// The first digits of a digest: enough to tell it from others.
pub(super) fn short_digest(bytes: &[u8]) -> String {
    hex(bytes.get(..6).unwrap_or(bytes))
}

/// The first digits of a digest, with all of them behind it.
pub(super) fn digest(bytes: &[u8]) -> Markup {
    html! { code title=(hex(bytes)) { (short_digest(bytes)) } }
}

/// A setting's value as JSON, a text as it is.
pub(super) fn value(value: &Value) -> String {
    match &value.kind {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => json(value),
    }
}

fn json(value: &Value) -> String {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => "null".to_owned(),
        Some(Kind::BoolValue(it)) => it.to_string(),
        Some(Kind::NumberValue(it)) => it.to_string(),
        Some(Kind::StringValue(it)) => format!("{it:?}"),
        Some(Kind::ListValue(it)) => {
            format!("[{}]", it.values.iter().map(json).collect::<Vec<_>>().join(", "))
        }
        Some(Kind::StructValue(it)) => {
            let fields = it.fields.iter().map(|(name, value)| format!("{name:?}: {}", json(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{date, hex, id, parent, short_text, text, visible};

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn names_have_parents() {
        let name = "teams/t/projects/p/artifacts/a/versions/v3";
        assert_eq!(
            [id(name), parent(name, 1), parent(name, 2)],
            ["v3", "teams/t/projects/p/artifacts/a", "teams/t/projects/p"]
        );
    }

    #[test]
    fn hostile_texts_are_shown_and_not_obeyed() {
        assert_eq!(text("<script>").into_string(), "<bdi>&lt;script&gt;</bdi>");
        assert_eq!(visible("\u{1b}[31mred\u{202e}fdp"), "\\u{1b}[31mred\\u{202e}fdp");
        assert!(short_text(&"ä".repeat(200)).into_string().contains("…"));
        assert_eq!(hex(&[0, 0xab, 0xff]), "00abff");
    }
}
