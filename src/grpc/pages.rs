//! Page sizes and page tokens. A token belongs to its query: with another one it is refused.

use prost::Message;

use crate::app::Error;
use crate::domain::digest::Digest;
use crate::domain::refusal::Refusal;

/// What a request gets that does not say.
const DEFAULT_PAGE: i64 = 50;
/// The most in one page.
const MAX_PAGE: i64 = 1_000;
/// Bytes of a page, which has at least one item: every client takes messages of 4 MiB.
const PAGE_BYTES: usize = 3 << 20;
/// Rows looked up at once, so that pages of large rows do not take memory for what they cannot hold.
pub(crate) const ROWS_AT_ONCE: i64 = 50;
/// The same of rows that are small whatever they hold: a whole page of them is about its bytes.
pub(crate) const SMALL_ROWS_AT_ONCE: i64 = MAX_PAGE + 1;

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

/// The first page of a list that stands in its resource: as large as a page can be.
pub(crate) const FIRST_PAGE: i64 = MAX_PAGE;

/// What was found behind a place, each item with the place behind it.
#[derive(Debug)]
pub(crate) struct Found<T, P> {
    pub(crate) items: Vec<(T, P)>,
    pub(crate) next: Next<P>,
}

/// How a list goes on behind all that was found.
#[derive(Debug)]
pub(crate) enum Next<P> {
    /// It does not.
    End,
    /// Behind the last item.
    Behind,
    /// From a place on, where more is to be looked for.
    Look(P),
    /// The same on another page.
    Page(P),
}

/// Rows that a page of a list looks at, whether or not its filter matches them: a tenth of a second.
const MOST_LOOKS: i64 = 10_000;

impl<P> Next<(Option<P>, i64)> {
    /// From a place on, if there is one, unless the page has looked at so many rows.
    pub(crate) fn behind(place: Option<P>, looks: i64) -> Self {
        match place {
            None => Next::End,
            place if looks >= MOST_LOOKS => Next::Page((place, looks)),
            place => Next::Look((place, looks)),
        }
    }
}

impl<T, P> Found<T, P> {
    /// Of `asked` rows, fewer were found only where they end.
    pub(crate) fn of(items: Vec<(T, P)>, asked: i64) -> Self {
        let next = if i64::try_from(items.len()) == Ok(asked) { Next::Behind } else { Next::End };
        Found { items, next }
    }

    /// Of rows that hold many items each: there are no more where none was found.
    pub(crate) fn packed(items: Vec<(T, P)>) -> Self {
        let next = if items.is_empty() { Next::End } else { Next::Behind };
        Found { items, next }
    }
}

/// A page of what `look` finds behind a place, of which it is asked for `at_once` rows at most at a time; and where the next page
/// begins, if there is one.
pub(crate) async fn fill<T, P, F>(
    at_once: i64,
    limit: i64,
    mut place: P,
    mut look: impl FnMut(P, i64) -> F,
) -> Result<(Vec<T>, Option<P>), Error>
where
    T: Message,
    P: Clone,
    F: Future<Output = Result<Found<T, P>, Error>>,
{
    let (mut page, mut bytes) = (Vec::new(), 0);
    loop {
        // One more than can be needed tells whether there is another page.
        let left = limit.saturating_sub(i64::try_from(page.len()).unwrap_or(i64::MAX));
        let found = look(place.clone(), left.saturating_add(1).min(at_once)).await?;
        for (item, behind) in found.items {
            let item_bytes = item.encoded_len();
            let fits = page.is_empty() || bytes + item_bytes <= PAGE_BYTES;
            if !fits || i64::try_from(page.len()).is_ok_and(|it| it >= limit) {
                return Ok((page, Some(place)));
            }
            bytes += item_bytes;
            page.push(item);
            place = behind;
        }
        match found.next {
            Next::End => return Ok((page, None)),
            Next::Behind => {}
            Next::Look(next) => place = next,
            Next::Page(next) => return Ok((page, Some(next))),
        }
    }
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
            Some((query, position)) if query == self.0 && !position.contains('\0') => Ok(Some(position)),
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
        for bad in ["x", ".", "17", &query.token("-1"), &query.token("x"), &query.token("1\0")] {
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
