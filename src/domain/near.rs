//! What somebody may have meant: of the names that there are, the one that is nearly so.

/// How alike two names must be, of 1: one letter in three may be wrong.
const ALIKE: f64 = 0.66;

/// The name that is most like one that does not exist; none if none is. Case and signs between words count for nothing.
pub fn nearest<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let plain = |text: &str| -> String {
        text.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect()
    };
    let wanted = plain(name);
    let alike = |it: &&str| strsim::normalized_damerau_levenshtein(&wanted, &plain(it));
    let scored = names.into_iter().map(|it| (alike(&it), it)).filter(|(alike, _)| *alike >= ALIKE);
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_what_was_meant() {
        let names = ["loss", "val_loss", "val_accuracy", "Top-1 (%)"];
        for (typed, meant) in [
            ("val_los", Some("val_loss")),
            ("val/loss", Some("val_loss")),
            ("Val-Loss", Some("val_loss")),
            ("val_acuracy", Some("val_accuracy")),
            ("top_1", None),
            ("top-1 (%)", Some("Top-1 (%)")),
            ("reward", None),
            ("lsos", Some("loss")),
        ] {
            assert_eq!(nearest(typed, names), meant, "{typed}");
        }
    }
}
