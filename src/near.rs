//! Near misses: which of the words that are known was perhaps meant by one that is not.

/// One slip in so many characters is taken for a slip.
const CHARACTERS_A_SLIP: usize = 4;
/// More slips than this make another word, however long it is.
const MOST_SLIPS: usize = 3;

/// The word that is so near to `word` that it was probably meant; of several the nearest one. Case and signs between letters count
/// for nothing. A word that only lacks its first or last part is near, too, but less so than one with slips.
pub(crate) fn nearest<'w>(word: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let typed = plain(word);
    let most = (word.chars().count() / CHARACTERS_A_SLIP).clamp(1, MOST_SLIPS);
    let slips = |it: &'w str| {
        let known = plain(it);
        // What is compared is as long as the known words: a caller's text may be as long as a request.
        let slips = (typed.chars().count().abs_diff(known.chars().count()) <= most)
            .then(|| strsim::osa_distance(&typed, &known));
        match slips.filter(|slips| *slips <= most) {
            Some(slips) => Some((slips, it)),
            None => lacks_a_part(&typed, &known).then_some((MOST_SLIPS + 1, it)),
        }
    };
    let near = words.into_iter().filter(|it| *it != word).filter_map(slips);
    // Of those that are as near, the one that is nearest as it is written.
    near.min_by_key(|(slips, it)| (*slips, strsim::osa_distance(word, it))).map(|(_, it)| it)
}

fn plain(text: &str) -> String {
    text.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect()
}

/// Whether what was typed is the begin or the end of a word that has more parts.
fn lacks_a_part(typed: &str, known: &str) -> bool {
    !typed.is_empty()
        && (known.strip_prefix(typed).is_some_and(|rest| rest.starts_with('_'))
            || known.strip_suffix(typed).is_some_and(|rest| rest.ends_with('_')))
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_text_as_long_as_a_request_is_not_compared_letter_by_letter() {
        // By its letters this would take hours.
        assert_eq!(nearest(&"x".repeat(4 << 20), vec!["val_loss"; 1_000]), None);
    }

    #[test]
    fn a_slip_is_a_near_miss_and_another_word_is_none() {
        let words = ["val_loss", "val_accuracy", "accuracy", "f1", "Top-1 (%)", "val_auc"];
        let table = [
            ("val_los", Some("val_loss")),
            ("vla_loss", Some("val_loss")),
            ("VAL_LOSS", Some("val_loss")),
            ("val/loss", Some("val_loss")),
            ("Val-Loss", Some("val_loss")),
            ("val_acuracy", Some("val_accuracy")),
            ("top-1 (%)", Some("Top-1 (%)")),
            ("acc", None),
            ("accurcay", Some("accuracy")),
            ("auc", Some("val_auc")),
            ("f2", Some("f1")),
            ("reward", None),
            ("", None),
        ];
        for (word, meant) in table {
            assert_eq!(nearest(word, words), meant, "{word}");
        }
        for (word, meant) in [("val_los", "val_loss"), ("val los", "val loss")] {
            assert_eq!(nearest(word, ["val/loss", "val loss", "val_loss"]), Some(meant));
        }
    }
}
