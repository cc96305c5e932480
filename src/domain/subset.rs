//! One of `t` parts of all chunks: a check that reads one part a day has read everything after `t` days.

use std::fmt;
use std::str::FromStr;

use crate::domain::digest::Digest;

/// Part `n` of `t`, counted from 1. Which part a chunk is in follows from its digest alone: the parts never overlap, together
/// they are everything, and a chunk that many versions share is in one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subset {
    part: u64,
    of: u64,
}

impl Subset {
    /// Whether the chunk is in this part.
    pub fn has(self, digest: &Digest) -> bool {
        let [a, b, c, d, e, f, g, h, ..] = digest.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) % self.of == self.part - 1
    }
}

impl FromStr for Subset {
    type Err = String;

    fn from_str(text: &str) -> Result<Subset, String> {
        let numbers =
            text.split_once('/').and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((part, of)) if (1..=of).contains(&part) => Ok(Subset { part, of }),
            _ => Err(format!(
                "`{text}` is not a part of all chunks: `1/7` is the first of seven, `7/7` the last"
            )),
        }
    }
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.part, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subset_is_a_part_of_so_many() {
        for text in ["1/1", "1/7", "7/7"] {
            assert_eq!(text.parse::<Subset>().unwrap().to_string(), text);
        }
        for text in ["", "1", "0/7", "8/7", "1/0", "-1/7", "a/b", "1/7/7", "50%"] {
            assert!(text.parse::<Subset>().unwrap_err().contains("`1/7`"), "{text}");
        }
    }

    #[test]
    fn each_chunk_is_in_exactly_one_part() {
        for of in [1, 2, 7, 100] {
            let parts: Vec<Subset> = (1..=of).map(|part| format!("{part}/{of}").parse().unwrap()).collect();
            let mut sizes = vec![0; parts.len()];
            for number in 0..1_000_u32 {
                let digest = Digest::of_pieces([number.to_le_bytes().as_slice()]);
                let holders: Vec<usize> = (0..parts.len()).filter(|it| parts[*it].has(&digest)).collect();
                assert_eq!(holders.len(), 1);
                sizes[holders[0]] += 1;
            }
            assert!(sizes.iter().all(|size| *size < 3 * 1_000 / parts.len() + 10), "{sizes:?}");
        }
    }
}
