//! What every command needs: where the server is, where names are looked up, where output goes.

use std::time::Duration;

use keepbest_client::{Client, Error, ProjectName, Retry};

use super::args::Global;
use super::failure::Failure;
use super::output::Output;
use crate::clock::Clock;

/// How long a command keeps trying if its server breaks off or does not answer. A restart of the server takes less.
const RETRY_BUDGET: Duration = Duration::from_secs(30);
/// The most items that the server puts into one page.
const MAX_PAGE: u32 = 1_000;

#[derive(Debug)]
pub(super) struct Context {
    server: String,
    pub(super) project: ProjectName,
    pub(super) output: Output,
    /// When the command began, in microseconds since 1970. Ages are relative to it.
    pub(super) now_us: i64,
}

impl Context {
    pub(super) fn new(global: Global) -> Result<Context, Failure> {
        Ok(Context {
            project: ProjectName::parse(&global.project)?,
            server: global.server,
            output: Output::new(global.json),
            now_us: Clock::System.now_us(),
        })
    }

    /// Connects to the server. If nothing listens at the address, the user is told at once; any other failure is retried.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let retry = Retry { budget: RETRY_BUDGET, ..Retry::default() };
        Ok(Client::builder(&self.server).retry(retry).fail_when_refused(true).connect().await?)
    }
}

/// The first `limit` items of a list. `page` asks for a page of a size with a token, and returns its items and the next token.
pub(super) async fn pages<T>(
    limit: u32,
    mut page: impl AsyncFnMut(i32, String) -> Result<(Vec<T>, String), Error>,
) -> Result<Vec<T>, Failure> {
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut items = Vec::new();
    let mut token = String::new();
    loop {
        let left = u32::try_from(most - items.len()).unwrap_or(u32::MAX);
        let size = i32::try_from(left.min(MAX_PAGE)).expect("a page is at most 1,000");
        let (more, next) = page(size, token).await?;
        items.extend(more);
        items.truncate(most);
        if next.is_empty() || items.len() == most {
            return Ok(items);
        }
        token = next;
    }
}

#[cfg(test)]
mod tests {
    use super::pages;

    #[tokio::test]
    async fn pages_are_asked_for_until_there_are_enough_or_no_more() {
        // 2,500 items, of which each second page holds none.
        let list = async |limit| {
            let mut asked = Vec::new();
            let items = pages(limit, async |size, token: String| {
                asked.push(size);
                let (at, is_empty) = token
                    .split_once(' ')
                    .map_or((0, false), |(at, empty)| (at.parse::<i32>().unwrap(), empty == "empty"));
                let end = if is_empty { at } else { (at + size).min(2_500) };
                let next = if end < 2_500 {
                    format!("{end} {}", if is_empty { "" } else { "empty" })
                } else {
                    String::new()
                };
                Ok(((at..end).collect::<Vec<_>>(), next))
            });
            (items.await.unwrap(), asked)
        };
        assert_eq!(list(3_000).await, ((0..2_500).collect(), vec![1_000, 1_000, 1_000, 1_000, 1_000]));
        assert_eq!(list(1_200).await, ((0..1_200).collect(), vec![1_000, 200, 200]));
        assert_eq!(list(7).await, ((0..7).collect(), vec![7]));
    }
}
