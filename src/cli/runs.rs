//! `keepbest runs`: the runs of a project or a team.

use std::cell::Cell;

use keepbest_client::{Error, v1};

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::output::Column;
use super::{epochs, human, json, listing, meant, names, words};

/// The most runs that the server puts into a page.
const LARGEST_PAGE: i32 = 1_000;
/// Hexadecimal digits in the name of a push's run: of a digest (`push/plan.rs`), or of a UUID, which has more.
const PUSH_DIGITS: usize = 16;

/// Lists runs, newest first, as a table or as JSON.
pub(super) async fn list(context: &mut Context, arguments: args::Runs) -> Result<(), Failure> {
    let parent = names::projects(arguments.parent.as_deref(), &context.project)?;
    let client = context.connect().await?;
    let listing = &arguments.list;
    let leaves_pushes_out = !arguments.pushes && arguments.filter.is_none() && !context.output.is_json();
    let has_pushes = Cell::new(false);
    let page = async |page_size: i32, page_token: String| {
        let filter = epochs::typed_filter(arguments.filter.as_deref().unwrap_or_default());
        // Of a thousand pushes in a row a table needs one page, not twenty.
        let page_size = if leaves_pushes_out { LARGEST_PAGE } else { page_size };
        let request = v1::ListRunsRequest { parent: parent.clone(), page_size, page_token, filter };
        let mut page = client.list_runs(request).await?;
        if leaves_pushes_out {
            let all = page.runs.len();
            page.runs.retain(|run| !is_of_push(&run.name));
            has_pushes.set(has_pushes.get() || page.runs.len() < all);
        }
        Ok::<_, Error>((page.runs, page.next_page_token))
    };
    if context.output.is_json() {
        let next = listing::document(context, listing, "runs", json::run, &page).await?;
        return listing::end(context, &next, &[]);
    }
    let rows = listing::rows(context, listing, &page).await?;
    if rows.items.is_empty() {
        return match arguments.filter {
            Some(_) => Ok(context
                .output
                .line(&format!("no runs that match the filter in {}", words::short(&parent)))?),
            None if has_pushes.get() => {
                let short = words::short(&parent).trim_end_matches("/-").to_owned();
                Ok(context
                    .output
                    .line(&format!("no runs but those of pushes in {short}: `--pushes` lists them"))?)
            }
            None => Ok(context
                .output
                .line(&meant::nothing_in(&client, &context.project, &parent, "runs").await?)?),
        };
    }
    let columns = [
        Column::Text("RUN".into()),
        Column::Text("STATE".into()),
        Column::Text("MONITOR".into()),
        Column::Number("BEST".into()),
        Column::Number("EPOCH".into()),
        Column::Number("EVENTS".into()),
        Column::Text("UPDATED".into()),
    ];
    let lines = rows.items.iter().map(|run| row(run, context.now_us)).collect();
    context.output.table(&columns, lines)?;
    listing::tell_rest(context, listing, &rows, "runs", &page).await?;
    if has_pushes.get() {
        context.output.note("the runs of pushes are left out: `--pushes` lists them too");
    }
    Ok(())
}

/// Whether a run was made by a push, as its name tells: `push-`, and at least [`PUSH_DIGITS`].
fn is_of_push(name: &str) -> bool {
    let id = name.rsplit('/').next().unwrap_or(name);
    id.strip_prefix("push-").is_some_and(|digits| {
        digits.bytes().all(|it| it == b'-' || it.is_ascii_hexdigit())
            && digits.bytes().filter(u8::is_ascii_hexdigit).count() >= PUSH_DIGITS
    })
}

fn row(run: &v1::Run, now_us: i64) -> Vec<String> {
    vec![
        words::short(&run.name),
        state(run, now_us),
        monitor(run),
        human::optional_metric(best(run)),
        human::optional_from_one(run.last_epoch),
        run.event_count.to_string(),
        human::age(run.update_time.as_ref(), now_us),
    ]
}

/// The monitor of a run with its direction, as `val_loss (min)`.
pub(super) fn monitor(run: &v1::Run) -> String {
    let monitor = run.strategy.as_ref().map_or("", |strategy| strategy.monitor.as_str());
    // The contract's default for an empty monitor.
    human::monitor(if monitor.is_empty() { "val_loss" } else { monitor }, run.direction())
}

/// Where the run stands. Of one that has not ended, when it was heard from: its process may have died since, and says nothing then.
pub(super) fn state(run: &v1::Run, now_us: i64) -> String {
    let heard = human::age(run.heard_time.as_ref(), now_us);
    match run.contact() {
        v1::Contact::Alive => format!("heard {heard}"),
        v1::Contact::Silent => format!("silent, heard {heard}"),
        v1::Contact::Unspecified => human::enum_name(run.state().as_str_name(), "RUN_STATE_"),
    }
}

/// The best value that was saved; none if there is none yet. A threshold to begin with is none.
pub(super) fn best(run: &v1::Run) -> Option<f64> {
    run.monitor_state.as_ref().filter(|it| !it.best_checkpoint.is_empty()).and_then(|it| it.best)
}

#[cfg(test)]
mod tests {
    use super::is_of_push;

    #[test]
    fn the_runs_of_pushes_are_known_by_their_names() {
        for (id, is) in [
            ("push-0123456789abcdef", true),
            ("push-0123456789abcdef-9", true),
            ("push-6f9619ff-8b86-d011-b42d-00c04fc964ff", true),
            ("push-down", false),
            ("push-1", false),
            ("mypush-0123456789abcdef", false),
        ] {
            assert_eq!(is_of_push(&format!("teams/t/projects/p/runs/{id}")), is, "{id}");
        }
    }
}
