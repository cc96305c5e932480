//! Answers that may be large, while they are made: rows, a message and its bytes, which stand in no sum before they have their room.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::refusal::Refusal;
use crate::turns::Caller;
use crate::turns::Taken;
use crate::turns::Turns;

/// The methods whose answers hold a page of something, up to 4 MiB, found by its key. Those of the others are small, or as large as
/// their requests.
const SHORT: [&str; 7] = [
    "get_checkpoint",
    "abandon_checkpoint",
    "get_best_version",
    "get_version",
    "get_artifact",
    "list_files",
    "list_aliases",
];
/// Those whose pages may take seconds: they keep nobody from the others.
const LONG: [&str; 10] = [
    "list_runs",
    "list_events",
    "list_decisions",
    "list_versions",
    "list_artifacts",
    "list_projects",
    "list_teams",
    "list_tokens",
    "list_members",
    "list_audit_entries",
];

/// Answers of each kind that are made at once, which is about as many as have places for their reads on SQLite. Each has about 8 MiB
/// at most.
const SHORT_AT_ONCE: u64 = 6;
const LONG_AT_ONCE: u64 = 4;
/// The part of them that one caller may have.
const CALLER_PART: u64 = 2;
/// Calls that wait until theirs can be made: each has a request of less than a KiB.
const WAITING: usize = 8_192;
/// How long one waits.
const WAIT: Duration = Duration::from_secs(5);
/// When a caller should come back whose answer could not be made.
const RETRY: Duration = Duration::from_secs(2);

/// Places for large answers.
#[derive(Clone, Debug)]
pub(super) struct Large {
    short: Turns,
    long: Turns,
}

/// A place for a large answer, which goes with it until it has its room. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    _taken: Arc<Taken>,
}

impl Place {
    fn of(taken: Taken) -> Place {
        Place { _taken: Arc::new(taken) }
    }
}

impl Default for Large {
    fn default() -> Large {
        let turns = |places| Turns::new(places, places / CALLER_PART, WAITING);
        Large { short: turns(SHORT_AT_ONCE), long: turns(LONG_AT_ONCE) }
    }
}

impl Large {
    /// A place for the answer of a method, once its request is whole; none if it is never large.
    pub(super) async fn place(&self, method: &str) -> Result<Option<Place>, Refusal> {
        let places = match method {
            short if SHORT.contains(&short) => &self.short,
            long if LONG.contains(&long) => &self.long,
            _ => return Ok(None),
        };
        let caller = Caller::current().number();
        if let Some(place) = places.try_take(caller, 1) {
            return Ok(Some(Place::of(place)));
        }
        match tokio::time::timeout(WAIT, places.take(caller, 1)).await {
            Ok(Ok(place)) => Ok(Some(Place::of(place))),
            _ => {
                let message =
                    "more large answers are asked for than the server's memory allows: come back in a moment";
                Err(Refusal::exhausted("OVERLOADED", message).retry_after(RETRY))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use keepbest_proto::FILE_DESCRIPTOR_SET;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// `ListRuns` as `list_runs`.
    fn snake(name: &str) -> String {
        let letter = |(at, letter): (usize, char)| {
            let gap = if at > 0 && letter.is_ascii_uppercase() { "_" } else { "" };
            format!("{gap}{}", letter.to_ascii_lowercase())
        };
        name.char_indices().map(letter).collect()
    }

    #[test]
    fn every_method_that_reads_a_page_has_its_places() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let messages = set.file.iter().flat_map(|file| &file.message_type);
        let paged: BTreeSet<String> = messages
            .filter(|it| it.field.iter().any(|field| field.name().ends_with("next_page_token")))
            .map(|it| format!(".keepbest.v1.{}", it.name()))
            .collect();
        let methods = set.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
        let large: BTreeSet<String> = methods
            .filter(|it| paged.contains(it.output_type()))
            .map(|it| snake(it.name()))
            // A version as it is committed or as an alias is set has no files with it.
            .filter(|it| !["commit_checkpoint", "set_alias"].contains(&it.as_str()))
            .collect();
        assert_eq!(large, SHORT.iter().chain(&LONG).map(|it| (*it).to_owned()).collect());
    }
}
