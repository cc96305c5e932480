//! Parts of a checkpoint that several processes save together: which there may be, and which are missing.

use crate::domain::refusal::Refusal;

/// Most parts of a checkpoint. The largest trainings known have some ten thousand ranks, of which one a node saves; each part
/// is a row, and its process a caller that waits.
pub const MAX_PARTS: i32 = 4_096;
/// Most ranges that are spelled out: a sentence stays a sentence, and metadata fit a header of 8 KiB.
const MAX_RANGES: usize = 20;

/// One part of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    number: i64,
    count: i64,
}

impl Part {
    /// Part `number` of `count`, from 0; a count of 0 says that there are no parts.
    pub fn parse(number: i32, count: i32) -> Result<Option<Part>, Refusal> {
        if (number, count) == (0, 0) {
            return Ok(None);
        }
        if (1..=MAX_PARTS).contains(&count) && (0..count).contains(&number) {
            return Ok(Some(Part { number: number.into(), count: count.into() }));
        }
        let message = format!(
            "part {number} of {count}: part_count is from 1 to {MAX_PARTS} and part from 0 to part_count - 1, or both are 0"
        );
        Err(Refusal::invalid("BAD_PART", message))
    }

    /// Which one, from 0.
    pub fn number(self) -> i64 {
        self.number
    }

    /// Of how many.
    pub fn count(self) -> i64 {
        self.count
    }
}

/// The parts of `count` that are not among `present`, in short: `0-2,5`. At most twenty ranges are spelled out.
pub fn missing_in_short(count: i64, present: &[i64]) -> String {
    let present: std::collections::HashSet<i64> = present.iter().copied().collect();
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for part in (0..count).filter(|part| !present.contains(part)) {
        match ranges.last_mut() {
            Some((_, last)) if *last == part - 1 => *last = part,
            _ => ranges.push((part, part)),
        }
    }
    let more = ranges.len() > MAX_RANGES;
    let spelled = ranges.iter().take(MAX_RANGES).map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    let mut short = spelled.collect::<Vec<_>>().join(",");
    if more {
        short.push_str(",...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_one_of_its_count() {
        for (number, count) in [(0, 1), (3, 4), (MAX_PARTS - 1, MAX_PARTS)] {
            let part = Part::parse(number, count).unwrap().unwrap();
            assert_eq!((part.number(), part.count()), (number.into(), count.into()));
        }
        assert_eq!(Part::parse(0, 0), Ok(None));
        let wrong = [(1, 0), (-1, 0), (0, -1), (-1, 4), (4, 4), (0, MAX_PARTS + 1), (i32::MAX, i32::MAX)];
        for (number, count) in wrong {
            assert_eq!(Part::parse(number, count).unwrap_err().reason, "BAD_PART", "{number} of {count}");
        }
    }

    #[test]
    fn missing_parts_are_told_in_ranges() {
        for (count, present, short) in [
            (1, &[][..], "0"),
            (4, &[1], "0,2-3"),
            (4, &[3, 2, 1, 0], ""),
            (6, &[3, 4], "0-2,5"),
            (4_096, &[4_095], "0-4094"),
        ] {
            assert_eq!(missing_in_short(count, present), short, "{present:?} of {count}");
        }
        let even: Vec<i64> = (0..4_096).step_by(2).collect();
        let short = missing_in_short(4_096, &even);
        assert!(short.starts_with("1,3,5,") && short.ends_with(",39,..."), "{short}");
    }
}
