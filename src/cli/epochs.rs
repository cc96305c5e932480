//! Epochs and batches in what people type: counted from 1, as Keras prints them. In requests they are counted from 0.
//!
//! The names that the server gives to the version of an epoch hold its number too, so `cnn:epoch_7` is the version of the
//! seventh epoch, which other programs call `epoch_6`. Full resource names, and what `--json` prints, are the server's own
//! and stay as they are.

use std::borrow::Cow;

use super::failure::Failure;

/// The fields of a filter that count.
const COUNTED: [&str; 3] = ["epoch", "batch", "last_epoch"];

/// The server's name of an alias that was typed.
pub(super) fn typed_alias(alias: &str) -> Result<Cow<'_, str>, Failure> {
    match counted_alias(alias) {
        None => Ok(alias.into()),
        Some((epoch, batch)) if epoch > 0 && batch != Some(0) => {
            Ok(alias_of(epoch - 1, batch.map(|it| it - 1)).into())
        }
        Some(_) => Err(Failure::usage(format!(
            "`{alias}` names no version: epochs and batches are counted from 1 here, so the first ones are `epoch_1` and \
             `epoch_1_batch_1`"
        ))),
    }
}

/// An alias of the server's as it is typed and printed here.
pub(super) fn shown_alias(alias: &str) -> Cow<'_, str> {
    match counted_alias(alias) {
        None => alias.into(),
        Some((epoch, batch)) => {
            alias_of(epoch.saturating_add(1), batch.map(|it| it.saturating_add(1))).into()
        }
    }
}

/// `epoch_3` or `epoch_3_batch_9`, with numbers as the server writes them.
fn counted_alias(alias: &str) -> Option<(u64, Option<u64>)> {
    let numbers = alias.strip_prefix("epoch_")?;
    let (epoch, batch) = match numbers.split_once("_batch_") {
        None => (number(numbers)?, None),
        Some((epoch, batch)) => (number(epoch)?, Some(number(batch)?)),
    };
    Some((epoch, batch))
}

fn number(digits: &str) -> Option<u64> {
    let canonical = digits == "0" || !digits.starts_with('0');
    (canonical && digits.bytes().all(|it| it.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

fn alias_of(epoch: u64, batch: Option<u64>) -> String {
    batch.map_or_else(|| format!("epoch_{epoch}"), |batch| format!("epoch_{epoch}_batch_{batch}"))
}

/// The server's form of a filter that was typed: the numbers that `epoch` and `batch` are compared with are one less. What is
/// no filter is passed on as it is, for the server says what is wrong with it.
pub(super) fn typed_filter(filter: &str) -> String {
    let mut written = String::with_capacity(filter.len());
    let mut rest = filter;
    let mut counts = false;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' | '\'' | '`' => quoted_end(rest, first),
            // A metric's name goes on to where the server sees its end.
            _ if rest.starts_with("metrics.") && !rest["metrics.".len()..].starts_with(['"', '\'', '`']) => {
                rest.find(|it: char| it.is_whitespace() || "=!<>".contains(it)).unwrap_or(rest.len())
            }
            it if is_of_word(it) => rest.find(|it| !is_of_word(it)).unwrap_or(rest.len()),
            it => it.len_utf8(),
        };
        let (word, after) = rest.split_at(end);
        match word.parse::<i64>() {
            Ok(number) if counts => written.push_str(&number.saturating_sub(1).to_string()),
            _ => {
                if is_of_word(first) && !word.eq_ignore_ascii_case("in") {
                    counts = COUNTED.contains(&word);
                }
                written.push_str(word);
            }
        }
        rest = after;
    }
    written
}

fn is_of_word(it: char) -> bool {
    it.is_alphanumeric() || matches!(it, '_' | '.' | '-' | '+')
}

/// Where the text in quotes ends that `text` begins with.
fn quoted_end(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, it) in text.char_indices().skip(1) {
        match it {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            it if it == quote => return at + it.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::{shown_alias, typed_alias, typed_filter};

    #[test]
    fn the_aliases_of_epochs_are_counted_from_1() {
        for (typed, servers) in [
            ("epoch_1", "epoch_0"),
            ("epoch_10", "epoch_9"),
            ("epoch_3_batch_9", "epoch_2_batch_8"),
            ("best", "best"),
            ("v3", "v3"),
            ("epoch_07", "epoch_07"),
            ("epoch_", "epoch_"),
            ("epoch_x", "epoch_x"),
        ] {
            assert_eq!(typed_alias(typed).unwrap(), servers);
            assert_eq!(shown_alias(servers), typed);
        }
        for none in ["epoch_0", "epoch_0_batch_4", "epoch_4_batch_0"] {
            assert!(typed_alias(none).unwrap_err().to_string().contains("from 1"), "{none}");
        }
    }

    #[test]
    fn the_numbers_of_epochs_in_a_filter_are_counted_from_1() {
        for (typed, servers) in [
            ("epoch >= 3 AND metrics.val_loss < 2", "epoch >= 2 AND metrics.val_loss < 2"),
            ("epoch=7", "epoch=6"),
            ("metrics.time/epoch = 3 OR epoch = 3", "metrics.time/epoch = 3 OR epoch = 2"),
            ("metrics.a(epoch:x >= 4", "metrics.a(epoch:x >= 4"),
            ("metrics.`of epoch` = 4 AND epoch = 4", "metrics.`of epoch` = 4 AND epoch = 3"),
            ("last_epoch < 20 AND attempt = 2", "last_epoch < 19 AND attempt = 2"),
            ("batch != 10 AND step = 10", "batch != 9 AND step = 10"),
            ("(epoch = 1 OR epoch = 2) AND number = 3", "(epoch = 0 OR epoch = 1) AND number = 3"),
            ("epoch IN (1, 2,3) AND size_bytes > 4", "epoch IN (0, 1,2) AND size_bytes > 4"),
            ("metrics.epoch > 5", "metrics.epoch > 5"),
            (r#"metrics."epoch = 7" > 5"#, r#"metrics."epoch = 7" > 5"#),
            (r#"run = "epoch = 7 \" 8" AND epoch > 1"#, r#"run = "epoch = 7 \" 8" AND epoch > 0"#),
            ("epoch >= 2.5", "epoch >= 2.5"),
            ("epoch >= -1", "epoch >= -2"),
            ("ünï = 1", "ünï = 1"),
            (r#"epoch = 3 AND run = "unfinished"#, r#"epoch = 2 AND run = "unfinished"#),
        ] {
            assert_eq!(typed_filter(typed), servers);
        }
    }
}
