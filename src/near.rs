//! Near misses: which of the words that are known was perhaps meant by one that is not.

/// One slip in so many characters is taken for a slip.
const CHARACTERS_A_SLIP: usize = 4;
/// More slips than this make another word, however long it is.
const MOST_SLIPS: usize = 3;

/// The word that is so near to `word` that it was probably meant; of several the nearest one.
pub(crate) fn nearest<'w>(word: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let most = (word.chars().count() / CHARACTERS_A_SLIP).clamp(1, MOST_SLIPS);
    let lower = word.to_lowercase();
    let slips = |it: &'w str| (strsim::osa_distance(&lower, &it.to_lowercase()), it);
    let near = words.into_iter().filter(|it| *it != word).map(slips).filter(|(slips, _)| *slips <= most);
    near.min_by_key(|(slips, _)| *slips).map(|(_, it)| it)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_a_near_miss_and_another_word_is_none() {
        let table = [
            ("val_los", Some("val_loss")),
            ("vla_loss", Some("val_loss")),
            ("VAL_LOSS", Some("val_loss")),
            ("acc", None),
            ("accurcay", Some("accuracy")),
            ("f2", Some("f1")),
            ("", None),
        ];
        for (word, meant) in table {
            assert_eq!(nearest(word, ["val_loss", "accuracy", "f1"]), meant, "{word}");
        }
    }
}
