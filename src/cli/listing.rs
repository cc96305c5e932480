//! Lists of any length: how much of one is printed, of how many, and how to get the rest.

use keepbest_client::Error;
use serde_json::{Value, json};

use super::args::Listing;
use super::context::Context;
use super::failure::Failure;
use super::human;

/// Rows of a table that nobody gave a limit: they fit on a screen or two.
const ROWS: u32 = 50;
/// The most items that the server puts into one page.
const MAX_PAGE: u32 = 1_000;
/// What is not listed is counted up to here: ten pages, some tenths of a second.
const MOST_COUNTED: u64 = 10_000;
/// Pages that are read to count: of runs with large configurations a page holds fewer items.
const MOST_COUNT_PAGES: u32 = 20;

/// A page of a list: its items, and the token of the next one, which is empty behind the last.
pub(super) type Page<T> = (Vec<T>, String);

/// How much of a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    All,
    /// So many items at most.
    First(u32),
}

/// The items of a table, and where the list goes on.
#[derive(Debug)]
pub(super) struct Rows<T> {
    pub(super) items: Vec<T>,
    /// Items of the last page that are not among them.
    cut: u64,
    next_page_token: String,
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    Exactly(u64),
    MoreThan(u64),
}

/// Whether the whole list is asked for: `--all`, or `--json` without `--limit`.
pub(super) fn is_whole(context: &Context, listing: &Listing) -> bool {
    extent(context, listing) == Extent::All
}

fn extent(context: &Context, listing: &Listing) -> Extent {
    match listing.limit {
        Some(limit) => Extent::First(limit),
        None if listing.all || context.output.is_json() => Extent::All,
        None => Extent::First(ROWS),
    }
}

/// Prints a list as JSON under `key`, item by item, and returns the token of what follows; [`end`] closes the document.
pub(super) async fn document<T>(
    context: &mut Context,
    listing: &Listing,
    key: &str,
    item: impl Fn(&T) -> Value,
    mut page: impl AsyncFnMut(i32, String) -> Result<Page<T>, Error>,
) -> Result<String, Failure> {
    let mut token = listing.page_token.clone().unwrap_or_default();
    let mut left = match extent(context, listing) {
        Extent::All => u32::MAX,
        Extent::First(limit) => limit,
    };
    let mut is_begun = false;
    loop {
        let (items, next) = page(page_size(left), token).await?;
        // Only now: of a list that cannot be read nothing is printed.
        if !std::mem::replace(&mut is_begun, true) {
            context.output.begin_list(key)?;
        }
        for it in &items {
            context.output.item(&item(it))?;
        }
        if extent(context, listing) != Extent::All {
            left = left.saturating_sub(u32::try_from(items.len()).unwrap_or(u32::MAX));
        }
        if next.is_empty() || left == 0 {
            return Ok(next);
        }
        token = next;
    }
}

/// Ends the document: where the list goes on, and what else it has to say.
pub(super) fn end(
    context: &mut Context,
    next_page_token: &str,
    more: &[(&str, Value)],
) -> Result<(), Failure> {
    let token = [("next_page_token", json!(next_page_token))];
    Ok(context.output.end_list(&[token.as_slice(), more].concat())?)
}

/// The items of a table.
pub(super) async fn rows<T>(
    context: &Context,
    listing: &Listing,
    mut page: impl AsyncFnMut(i32, String) -> Result<Page<T>, Error>,
) -> Result<Rows<T>, Failure> {
    let most = match extent(context, listing) {
        Extent::All => usize::MAX,
        Extent::First(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let mut items = Vec::new();
    let mut token = listing.page_token.clone().unwrap_or_default();
    loop {
        let left = u32::try_from(most - items.len()).unwrap_or(u32::MAX);
        let (more, next) = page(page_size(left), token).await?;
        items.extend(more);
        let cut = items.len().saturating_sub(most) as u64;
        items.truncate(most);
        if next.is_empty() || items.len() == most {
            return Ok(Rows { items, cut, next_page_token: next });
        }
        token = next;
    }
}

/// Says below a table that is not whole of how many it is, and how to get the rest. `noun` is a plural, as `versions`.
pub(super) async fn tell_rest<T>(
    context: &Context,
    listing: &Listing,
    rows: &Rows<T>,
    noun: &str,
    page: impl AsyncFnMut(i32, String) -> Result<Page<T>, Error>,
) -> Result<(), Failure> {
    if rows.next_page_token.is_empty() && rows.cut == 0 {
        return Ok(());
    }
    let shown = human::grouped(rows.items.len() as u64);
    let of = rows.count(page).await?.to_text();
    let from = if listing.page_token.is_some() { " from there on" } else { "" };
    context.output.note(&format!(
        "{shown} of {of} {noun}{from}: `--all` lists all of them, `--limit N` as many as you want"
    ));
    Ok(())
}

impl<T> Rows<T> {
    /// Where the list goes on; empty: it does not.
    pub(super) fn next_page_token(&self) -> &str {
        &self.next_page_token
    }

    /// How many items the list has from its first one on.
    pub(super) async fn count(
        &self,
        page: impl AsyncFnMut(i32, String) -> Result<Page<T>, Error>,
    ) -> Result<Count, Error> {
        let so_far = self.items.len() as u64 + self.cut;
        if self.next_page_token.is_empty() {
            return Ok(Count::Exactly(so_far));
        }
        count_from(so_far, self.next_page_token.clone(), page).await
    }
}

/// Counts what follows a token, up to a bound.
pub(super) async fn count_from<T>(
    so_far: u64,
    mut token: String,
    mut page: impl AsyncFnMut(i32, String) -> Result<Page<T>, Error>,
) -> Result<Count, Error> {
    let mut count = so_far;
    for _ in 0..MOST_COUNT_PAGES {
        let left = u32::try_from(MOST_COUNTED.saturating_sub(count)).unwrap_or(MAX_PAGE);
        if left == 0 {
            break;
        }
        let (items, next) = page(page_size(left), token).await?;
        count += items.len() as u64;
        if next.is_empty() {
            return Ok(Count::Exactly(count));
        }
        token = next;
    }
    Ok(Count::MoreThan(count))
}

impl Count {
    /// The number, if all were counted.
    pub(super) fn exactly(self) -> Option<u64> {
        match self {
            Count::Exactly(count) => Some(count),
            Count::MoreThan(_) => None,
        }
    }

    /// As `1,200` or `more than 10,000`.
    pub(super) fn to_text(self) -> String {
        match self {
            Count::Exactly(count) => human::grouped(count),
            Count::MoreThan(count) => format!("more than {}", human::grouped(count)),
        }
    }
}

fn page_size(left: u32) -> i32 {
    i32::try_from(left.min(MAX_PAGE)).expect("a page is at most 1,000")
}

#[cfg(test)]
mod tests {
    use keepbest_client::Error;

    use super::{Count, MOST_COUNTED, Page, Rows, count_from};

    /// A list of `total` items, of which each second page holds none.
    fn list(total: i32) -> impl AsyncFnMut(i32, String) -> Result<Page<i32>, Error> {
        async move |size: i32, token: String| {
            let (at, is_empty) = token
                .split_once(' ')
                .map_or((0, false), |(at, empty)| (at.parse::<i32>().unwrap(), empty == "empty"));
            let end = if is_empty { at } else { (at + size).min(total) };
            let next = if end < total {
                format!("{end} {}", if is_empty { "" } else { "empty" })
            } else {
                String::new()
            };
            Ok(((at..end).collect(), next))
        }
    }

    #[tokio::test]
    async fn a_list_is_counted_up_to_a_bound() {
        for (total, count) in [
            (2_500, Count::Exactly(2_500)),
            (10_000, Count::Exactly(10_000)),
            (10_001, Count::MoreThan(MOST_COUNTED)),
        ] {
            let (items, next_page_token) = list(total)(50, String::new()).await.unwrap();
            let rows = Rows { items, cut: 0, next_page_token };
            assert_eq!(rows.count(list(total)).await.unwrap(), count, "{total}");
        }
        let rows = Rows { items: vec![0; 50], cut: 7, next_page_token: String::new() };
        assert_eq!(rows.count(list(0)).await.unwrap(), Count::Exactly(57));
        assert_eq!(count_from(0, String::new(), list(7)).await.unwrap(), Count::Exactly(7));
        assert_eq!(Count::MoreThan(10_000).to_text(), "more than 10,000");
    }
}
