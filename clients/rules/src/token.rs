//! The text of an API token: `kb_<id>_<secret><checksum>`, for example `kb_0Dq2u7MBn1xc_` and 49 characters more.
//!
//! The id finds the token and is no secret. The secret is 32 random bytes. The checksum is the CRC-32 (as in zip and gzip) of all that
//! stands before it, so that a scanner tells a token from a word and a slip of the pen is told without asking anybody.

use std::borrow::Cow;

/// What every token begins with, so that scanners find one that leaked.
pub const PREFIX: &str = "kb_";
/// Characters of the id: 12 of 62 are 71 bits, enough that no two tokens ever have the same.
pub const ID_CHARS: usize = 12;
/// Bytes of the secret.
pub const SECRET_BYTES: usize = 32;
/// Characters of the secret: 62^43 is more than 2^256.
const SECRET_CHARS: usize = 43;
/// Characters of the checksum: 62^6 is more than 2^32.
const CHECKSUM_CHARS: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why a text is no token. None of these says anything about what the text holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It does not begin with [`PREFIX`].
    Prefix,
    /// It has more or fewer characters, or others, than a token.
    Form,
    /// The checksum is that of another text: some character is wrong.
    Checksum,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Malformed::Prefix => "it does not begin with `kb_`, as tokens of Keepbest do",
            Malformed::Form => {
                "it is not of the form of a token: a part of it is missing, or something was added"
            }
            Malformed::Checksum => "its checksum does not fit: a character of it was changed",
        })
    }
}

/// A new token's id and text, of so many random bytes: the first nine make the id.
pub fn mint(id: [u8; 9], secret: [u8; SECRET_BYTES]) -> (String, String) {
    let id = digits(&id, ID_CHARS);
    let mut text = format!("{PREFIX}{id}_{}", digits(&secret, SECRET_CHARS));
    let checksum = checksum(&text);
    text.push_str(&checksum);
    (id, text)
}

/// The id in the text of a token.
pub fn id_of(text: &str) -> Result<&str, Malformed> {
    let rest = text.strip_prefix(PREFIX).ok_or(Malformed::Prefix)?;
    let (id, tail) = rest.split_once('_').ok_or(Malformed::Form)?;
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if id.len() != ID_CHARS
        || tail.len() != SECRET_CHARS + CHECKSUM_CHARS
        || !is_digits(id)
        || !is_digits(tail)
    {
        return Err(Malformed::Form);
    }
    let (before, given) = text.split_at(text.len() - CHECKSUM_CHARS);
    if checksum(before) == given { Ok(id) } else { Err(Malformed::Checksum) }
}

/// What is kept of a token: BLAKE3 of its text. A secret of 256 random bits needs no slow hash.
pub fn digest(text: &str) -> [u8; 32] {
    *blake3::hash(text.as_bytes()).as_bytes()
}

/// Whether the text is that of the token with this digest; it takes as long whatever the answer.
pub fn matches(text: &str, digest: &[u8; 32]) -> bool {
    // Compared in constant time by the crate.
    blake3::hash(text.as_bytes()) == blake3::Hash::from_bytes(*digest)
}

/// A text in which nothing of a token but its id can be read: what somebody put a whole token into by mistake.
pub fn masked(text: &str) -> Cow<'_, str> {
    let Some(at) = text.find(PREFIX) else { return Cow::Borrowed(text) };
    let (before, from) = text.split_at(at);
    let rest = &from[PREFIX.len()..];
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
    let (word, behind) = rest.split_at(end);
    match word.split_once('_') {
        Some((id, _)) => Cow::Owned(format!("{before}{PREFIX}{id}_...{}", masked(behind))),
        None => Cow::Owned(format!("{before}{PREFIX}{word}{}", masked(behind))),
    }
}

fn checksum(text: &str) -> String {
    digits(&crc32fast::hash(text.as_bytes()).to_be_bytes(), CHECKSUM_CHARS)
}

/// A number of big-endian bytes in base 62, its last `chars` digits with zeros in front.
fn digits(bytes: &[u8], chars: usize) -> String {
    let mut number = bytes.to_vec();
    let mut text = vec![b'0'; chars];
    for place in text.iter_mut().rev() {
        let mut rest = 0_u16;
        for byte in &mut number {
            let value = rest * 256 + u16::from(*byte);
            // Below 256, since the rest is below 62.
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            rest = value % 62;
        }
        *place = DIGITS[usize::from(rest)];
    }
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_its_id_and_its_form() {
        let (id, text) = mint([1, 2, 3, 4, 5, 6, 7, 8, 9], [7; 32]);
        assert_eq!(id_of(&text), Ok(id.as_str()));
        assert_eq!(text.len(), 3 + ID_CHARS + 1 + SECRET_CHARS + CHECKSUM_CHARS);
        assert_eq!(id.len(), ID_CHARS);
        // The smallest and the largest secret have room.
        for secret in [[0; 32], [255; 32]] {
            let (id, text) = mint([255; 9], secret);
            assert_eq!(id_of(&text), Ok(id.as_str()), "{text}");
        }
    }

    #[test]
    fn different_secrets_are_different_texts() {
        let mut secret = [255; 32];
        let (_, text) = mint([0; 9], secret);
        secret[0] = 254;
        assert_ne!(mint([0; 9], secret).1, text);
        secret[0] = 255;
        secret[31] = 254;
        assert_ne!(mint([0; 9], secret).1, text);
    }

    #[test]
    fn a_slip_of_the_pen_is_told() {
        let (_, text) = mint([9; 9], [200; 32]);
        for place in PREFIX.len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            if bytes[place] == b'_' {
                continue;
            }
            bytes[place] = if bytes[place] == b'x' { b'y' } else { b'x' };
            let wrong = String::from_utf8(bytes).unwrap();
            assert_eq!(id_of(&wrong), Err(Malformed::Checksum), "{place}");
        }
        assert_eq!(id_of(&text[1..]), Err(Malformed::Prefix));
        assert_eq!(id_of(&text[..text.len() - 1]), Err(Malformed::Form));
        assert_eq!(id_of(&format!("{text}0")), Err(Malformed::Form));
        assert_eq!(id_of(&text.replace("_", "é_")), Err(Malformed::Prefix));
        assert_eq!(id_of("kb_"), Err(Malformed::Form));
        assert_eq!(id_of(""), Err(Malformed::Prefix));
        assert_eq!(id_of("kb_0123456789ab_ééééééééééééééééééééééééééééééééééééé"), Err(Malformed::Form));
    }

    #[test]
    fn only_the_text_itself_matches_what_is_kept() {
        let (_, text) = mint([9; 9], [200; 32]);
        assert!(matches(&text, &digest(&text)));
        assert!(!matches(&mint([9; 9], [201; 32]).1, &digest(&text)));
    }

    #[test]
    fn a_token_in_a_text_is_masked() {
        let (id, text) = mint([9; 9], [200; 32]);
        let name = format!("teams/a/tokens/{text}/x {text}");
        assert_eq!(masked(&name), format!("teams/a/tokens/kb_{id}_.../x kb_{id}_..."));
        assert_eq!(masked("teams/a/kb_x"), "teams/a/kb_x");
        assert_eq!(masked("kb_"), "kb_");
        assert_eq!(masked(""), "");
    }

    #[test]
    fn the_checksum_is_the_one_of_zip() {
        // CRC-32 of "123456789" is 0xCBF43926.
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
        assert_eq!(digits(&61_u32.to_be_bytes(), 2), "0z");
        assert_eq!(digits(&62_u32.to_be_bytes(), 2), "10");
    }
}
