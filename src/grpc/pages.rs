//! Page sizes and page tokens. A token belongs to its query: with another one it is refused.

use prost::Message;

use crate::app::Error;
use crate::domain::digest::Digest;
use crate::domain::refusal::Refusal;

/// What a request gets that does not say.
const DEFAULT_PAGE: i64 = 50;
/// The most in one page.
const MAX_PAGE: i64 = 1_000;
/// Bytes of a page: every client takes messages of 4 MiB.
const PAGE_BYTES: usize = 3 << 20;
/// Rows looked up at once, so that pages of large rows do not take memory for what they cannot hold.
const ROWS_AT_ONCE: i64 = 50;
/// The same of rows that are small whatever they hold: a whole page of them is about its bytes.
const SMALL_ROWS_AT_ONCE: i64 = MAX_PAGE + 1;

/// A clamped page size.
pub(crate) fn page_size(asked: i32) -> Result<i64, Refusal> {
    page_size_within(asked, DEFAULT_PAGE, MAX_PAGE)
}

/// A clamped page size with limits of its own.
pub(crate) fn page_size_within(asked: i32, default: i64, most: i64) -> Result<i64, Refusal> {
    match i64::from(asked) {
        0 => Ok(default),
        1.. => Ok(i64::from(asked).min(most)),
        _ => Err(Refusal::invalid(
            "BAD_PAGE_SIZE",
            format!("page_size {asked} is negative: 0 means {default}"),
        )),
    }
}

/// A page that fills: at most so many items and so many bytes, and at least one.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    bytes: usize,
    limit: usize,
    /// There was more than fits.
    pub(crate) is_full: bool,
}

impl<T: Message> Page<T> {
    pub(crate) fn of(limit: i64) -> Page<T> {
        Page {
            items: Vec::new(),
            bytes: 0,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            is_full: false,
        }
    }

    /// How many rows to look up next, one more than can be needed; none: the page is full.
    pub(crate) fn wants(&self) -> Option<i64> {
        self.wants_of(ROWS_AT_ONCE)
    }

    fn wants_of(&self, at_once: i64) -> Option<i64> {
        let left = i64::try_from(self.limit - self.items.len()).unwrap_or(i64::MAX);
        (!self.is_full).then(|| left.saturating_add(1).min(at_once))
    }

    /// Takes an item if it fits; whether it did.
    pub(crate) fn take(&mut self, item: T) -> bool {
        let bytes = item.encoded_len();
        let fits = self.items.is_empty() || self.bytes + bytes <= PAGE_BYTES;
        if self.is_full || self.items.len() >= self.limit || !fits {
            self.is_full = true;
            return false;
        }
        self.bytes += bytes;
        self.items.push(item);
        true
    }
}

/// The first page of a list that stands in its resource: as large as a page can be.
pub(crate) const FIRST_PAGE: i64 = MAX_PAGE;

/// A page of small rows that `look` finds behind a place, each with the place behind it; and where the next page begins, if there
/// is one.
pub(crate) async fn fill_small<T, P, F>(
    limit: i64,
    mut place: P,
    mut look: impl FnMut(P, i64) -> F,
) -> Result<(Vec<T>, Option<P>), Error>
where
    T: Message,
    P: Clone,
    F: Future<Output = Result<Vec<(T, P)>, Error>>,
{
    let mut page = Page::of(limit);
    while let Some(rows) = page.wants_of(SMALL_ROWS_AT_ONCE) {
        let found = look(place.clone(), rows).await?;
        let is_last = i64::try_from(found.len()) != Ok(rows);
        for (item, behind) in found {
            if page.take(item) {
                place = behind;
            }
        }
        if is_last {
            break;
        }
    }
    Ok((page.items, page.is_full.then_some(place)))
}

/// The query that a token belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Query(String);

impl Query {
    /// All parts of the request that must stay the same from page to page.
    pub(crate) fn of(parts: &[&str]) -> Query {
        let pieces = parts.iter().flat_map(|part| [part.as_bytes(), b"\0"]);
        let mut digest = Digest::of_pieces(pieces).to_string();
        digest.truncate(16);
        Query(digest)
    }

    /// A token that goes on at `position`.
    pub(crate) fn token(&self, position: &str) -> String {
        format!("{}.{position}", self.0)
    }

    /// The position of a token; empty for the first page.
    pub(crate) fn position<'t>(&self, token: &'t str) -> Result<Option<&'t str>, Refusal> {
        if token.is_empty() {
            return Ok(None);
        }
        match token.split_once('.') {
            Some((query, position)) if query == self.0 => Ok(Some(position)),
            _ => Err(bad_token()),
        }
    }

    /// The position of a token as a number; 0 for the first page.
    pub(crate) fn offset(&self, token: &str) -> Result<i64, Refusal> {
        match self.position(token)? {
            None => Ok(0),
            Some(position) => position.parse().ok().filter(|it| *it >= 0).ok_or_else(bad_token),
        }
    }
}

/// The token was not made for this query.
pub(crate) fn bad_token() -> Refusal {
    Refusal::invalid("BAD_PAGE_TOKEN", "page_token is not one that this query gave: begin with an empty one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_its_query() {
        let query = Query::of(&["teams/a", "epoch = 1"]);
        let token = query.token("17");
        assert_eq!(query.offset(&token), Ok(17));
        assert_eq!(query.offset(""), Ok(0));
        for other in [Query::of(&["teams/b", "epoch = 1"]), Query::of(&["teams/aepoch = 1"])] {
            assert_eq!(other.offset(&token).unwrap_err().reason, "BAD_PAGE_TOKEN");
        }
        for bad in ["x", ".", "17", &query.token("-1"), &query.token("x")] {
            assert_eq!(query.offset(bad).unwrap_err().reason, "BAD_PAGE_TOKEN", "{bad}");
        }
    }

    #[test]
    fn page_sizes_are_clamped() {
        assert_eq!(page_size(0), Ok(50));
        assert_eq!(page_size(7), Ok(7));
        assert_eq!(page_size(i32::MAX), Ok(1_000));
        assert!(page_size(-1).is_err());
    }
}
