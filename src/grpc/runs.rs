//! Service `Runs`.

use futures::StreamExt;
use keepbest_proto::v1;
use keepbest_proto::v1::runs_server::Runs;
use tonic::Streaming;

use crate::app::App;
use crate::app::DecisionFilter;
use crate::app::Error;
use crate::app::EventRow;
use crate::app::decisions::Moment;
use crate::app::deletions::How;
use crate::app::events::NewEvents;
use crate::app::runs::Resume;
use crate::app::runs::Start;
use crate::domain::decision::Action;
use crate::domain::ids::Id;
use crate::domain::ids::ListParent;
use crate::domain::ids::ProjectName;
use crate::domain::ids::RunName;
use crate::domain::refusal::Refusal;
use crate::domain::run::HEARTBEAT_US;
use crate::domain::run::Run;
use crate::domain::run::RunState;
use crate::grpc::Answers;
use crate::grpc::Face;
use crate::grpc::convert::decision_to;
use crate::grpc::convert::deletion_to;
use crate::grpc::convert::directions_of;
use crate::grpc::convert::duration_of;
use crate::grpc::convert::event_of;
use crate::grpc::convert::event_to;
use crate::grpc::convert::json_of;
use crate::grpc::convert::listed_decision_to;
use crate::grpc::convert::next_due_to;
use crate::grpc::convert::run_to;
use crate::grpc::convert::strategy_of;
use crate::grpc::convert::version_to;
use crate::grpc::pages::Found;
use crate::grpc::pages::Next;
use crate::grpc::pages::Query;
use crate::grpc::pages::ROWS_AT_ONCE;
use crate::grpc::pages::bad_token;
use crate::grpc::pages::fill;
use crate::grpc::pages::page_size;
use crate::grpc::pages::page_size_within;
use crate::grpc::record;
use crate::grpc::status::status;

/// Events of a ListEvents that does not say, and the most: they are small, and histories are long.
const DEFAULT_EVENTS: i64 = 1_000;
const MAX_EVENTS: i64 = 10_000;

/// An id that may be left out.
fn optional_id(what: &str, text: &str) -> Result<Option<Id>, Refusal> {
    if text.is_empty() { Ok(None) } else { Id::parse(what, text).map(Some) }
}

fn resume_of(value: i32) -> Result<Resume, Refusal> {
    match v1::Resume::try_from(value) {
        Ok(v1::Resume::Unspecified | v1::Resume::Allow) => Ok(Resume::Allow),
        Ok(v1::Resume::Never) => Ok(Resume::Never),
        Ok(v1::Resume::Must) => Ok(Resume::Must),
        Err(_) => Err(Refusal::invalid(
            "BAD_RESUME",
            format!("resume has value {value}, which this server does not know"),
        )),
    }
}

fn start_of(request: v1::StartRunRequest) -> Result<Start, Refusal> {
    Ok(Start {
        project: ProjectName::parse(&request.parent)?,
        run: optional_id("run", &request.run_id)?,
        strategy: strategy_of(request.strategy)?,
        directions: directions_of(request.metric_directions)?,
        artifact: optional_id("artifact", &request.artifact_id)?,
        artifact_type: request.artifact_type,
        request_id: request.request_id,
        resume: resume_of(request.resume)?,
        config: json_of("config", request.config)?,
        writer: optional_id("writer", &request.writer)?,
    })
}

fn new_events_of(request: v1::ReportEventsRequest) -> Result<NewEvents, Refusal> {
    let events = request.events.into_iter().enumerate().map(|(index, event)| event_of(index, event));
    Ok(NewEvents {
        run: RunName::parse(&request.run)?,
        attempt: request.attempt,
        writer: optional_id("writer", &request.writer)?,
        first_sequence: request.first_sequence,
        events: events.collect::<Result<_, _>>()?,
    })
}

async fn report(app: &App, request: v1::ReportEventsRequest) -> Result<v1::ReportEventsResponse, Error> {
    let new = new_events_of(request)?;
    let run = new.run.clone();
    let answer = app.report_events(new).await?;
    Ok(v1::ReportEventsResponse {
        decisions: answer.decisions.into_iter().map(|row| decision_to(&run, row)).collect(),
        next_sequence: answer.next_sequence,
        next_due: Some(next_due_to(answer.next_due)),
        duplicate_count: answer.duplicate_count,
    })
}

impl Face {
    async fn start_run(&self, request: v1::StartRunRequest) -> Result<v1::StartRunResponse, Error> {
        record(&format!("{}/runs/{}", request.parent, request.run_id));
        let mints = request.mint_run_token;
        let begun = self.app.start_run(start_of(request)?).await?;
        let run_token = match mints {
            true => self.app.mint_attempt_token(&begun.run, begun.attempt).await?,
            false => None,
        };
        Ok(v1::StartRunResponse {
            run: Some(self.run(&begun.run)),
            attempt: begun.attempt,
            next_sequence: begun.next_sequence,
            resume_from: begun.resume_from.as_ref().map(version_to),
            resumed: begun.resumed,
            next_due: Some(next_due_to(begun.next_due)),
            warnings: begun.warnings,
            run_token: run_token.unwrap_or_default(),
        })
    }

    async fn report_events(
        &self,
        request: v1::ReportEventsRequest,
    ) -> Result<v1::ReportEventsResponse, Error> {
        record(&request.run);
        report(&self.app, request).await
    }

    async fn finish_run(&self, request: v1::FinishRunRequest) -> Result<v1::Run, Error> {
        record(&request.name);
        let state = match v1::RunState::try_from(request.state) {
            Ok(v1::RunState::Unspecified | v1::RunState::Finished) => RunState::Finished,
            Ok(v1::RunState::Failed) => RunState::Failed,
            _ => {
                return Err(Refusal::invalid("BAD_STATE", "state is neither FINISHED nor FAILED").into());
            }
        };
        let name = RunName::parse(&request.name)?;
        let run = self.app.finish_run(name, request.attempt, state).await?;
        Ok(self.run(&run))
    }

    async fn get_run(&self, request: v1::GetRunRequest) -> Result<v1::Run, Error> {
        record(&request.name);
        let name = RunName::parse(&request.name)?;
        Ok(self.run(&self.app.run(&name).await?))
    }

    async fn list_runs(&self, request: v1::ListRunsRequest) -> Result<v1::ListRunsResponse, Error> {
        record(&request.parent);
        let parent = ListParent::parse(&request.parent)?;
        let limit = page_size(request.page_size)?;
        let query = match request.filter.as_str() {
            "" => Query::of(&["runs", &request.parent]),
            filter => Query::of(&["runs", &request.parent, filter]),
        };
        let before = query.position(&request.page_token)?.map(run_position).transpose()?;
        let (parent, filter) = (&parent, &request.filter);
        let look = |(before, looks), rows| async move {
            let found = self.app.list_runs_where(parent, filter, before, rows).await?;
            let looks = looks + found.looks;
            let items = found.runs.into_iter().map(|run| {
                let place = Some((run.create_time_us, run.uid.clone()));
                (self.run(&run), (place, looks))
            });
            Ok(Found { items: items.collect(), next: Next::behind(found.next, looks) })
        };
        let (runs, next) = fill(ROWS_AT_ONCE, limit, (before, 0), look).await?;
        let token = |(time_us, uid)| query.token(&format!("{time_us}.{uid}"));
        let next_page_token = next.and_then(|(place, _)| place).map(token).unwrap_or_default();
        Ok(v1::ListRunsResponse { runs, next_page_token })
    }

    async fn list_events(&self, request: v1::ListEventsRequest) -> Result<v1::ListEventsResponse, Error> {
        record(&request.parent);
        let name = RunName::parse(&request.parent)?;
        let limit = page_size_within(request.page_size, DEFAULT_EVENTS, MAX_EVENTS)?;
        let query = Query::of(&["events", &request.parent, &request.metrics.join("\0")]);
        let position = query.offset(&request.page_token)?;
        let run = self.app.run(&name).await?;
        let (run, metrics) = (&run, &request.metrics);
        let look = |position, _| async move {
            let rows = self.app.list_events(run, position).await?;
            Ok(Found::packed(
                recorded_events(rows, position, metrics).zip(position.saturating_add(1)..).collect(),
            ))
        };
        let (events, next) = fill(ROWS_AT_ONCE, limit, position, look).await?;
        let next_page_token = next.map(|it| query.token(&it.to_string())).unwrap_or_default();
        Ok(v1::ListEventsResponse { events, next_page_token })
    }

    async fn list_decisions(
        &self,
        request: v1::ListDecisionsRequest,
    ) -> Result<v1::ListDecisionsResponse, Error> {
        record(&request.parent);
        let name = RunName::parse(&request.parent)?;
        let limit = page_size(request.page_size)?;
        let v1::ListDecisionsRequest { epoch, newest_first, .. } = request;
        let filter = DecisionFilter { epoch, action: action_of(request.action)?, newest_first };
        let query = Query::of(&["decisions", &request.parent, &format!("{filter:?}")]);
        let position = match request.page_token.is_empty() && newest_first {
            true => i64::MAX,
            false => query.offset(&request.page_token)?,
        };
        let run = &name;
        let look = |position, rows| async move {
            let decisions = self.app.list_decisions(run, filter, position, rows).await?;
            let led_to = self.app.led_to(&decisions).await?;
            let items = decisions.into_iter().map(|row| {
                let led_to = row.checkpoint_uid.as_ref().and_then(|uid| led_to.get(uid));
                // The newest first, each position is the end of what follows.
                let behind = if newest_first { row.position } else { row.position + 1 };
                (listed_decision_to(run, row, led_to), behind)
            });
            Ok(Found::of(items.collect(), rows))
        };
        let (decisions, next) = fill(ROWS_AT_ONCE, limit, position, look).await?;
        let next_page_token = next.map(|it| query.token(&it.to_string())).unwrap_or_default();
        Ok(v1::ListDecisionsResponse { decisions, next_page_token })
    }

    async fn await_decision(
        &self,
        request: v1::AwaitDecisionRequest,
    ) -> Result<v1::AwaitDecisionResponse, Error> {
        let v1::AwaitDecisionRequest { run, attempt, epoch, batch, wait } = request;
        record(&run);
        let run = RunName::parse(&run)?;
        let wait = wait.as_ref().map(duration_of).transpose()?;
        let moment = Moment { run: run.clone(), attempt, epoch, batch };
        let decision = self.app.await_decision(moment, wait).await?;
        let decision = decision.map(|row| decision_to(&run, row));
        Ok(v1::AwaitDecisionResponse { decision })
    }

    async fn heartbeat(&self, request: v1::HeartbeatRequest) -> Result<v1::HeartbeatResponse, Error> {
        record(&request.run);
        self.app.hear(RunName::parse(&request.run)?, request.attempt).await?;
        let interval = prost_types::Duration { seconds: HEARTBEAT_US / 1_000_000, nanos: 0 };
        Ok(v1::HeartbeatResponse { interval: Some(interval) })
    }

    /// A run as the wire has it, with its sign of life now.
    fn run(&self, run: &Run) -> v1::Run {
        run_to(run, self.app.is_alive(run))
    }

    async fn delete_run(&self, request: v1::DeleteRunRequest) -> Result<v1::Deletion, Error> {
        record(&request.name);
        let name = RunName::parse(&request.name)?;
        let how = How { validate_only: request.validate_only, force: request.force };
        let deleted = self.app.delete_run(&name, how).await;
        deletion_to(request.name, deleted, request.allow_missing)
    }

    async fn stream_events(
        &self,
        requests: Streaming<v1::ReportEventsRequest>,
    ) -> Result<Answers<v1::ReportEventsResponse>, Error> {
        // One request at a time: what is not asked for is not read, so a slow database slows the sender down.
        let answers =
            futures::stream::try_unfold((self.clone(), requests), |(face, mut requests)| async move {
                // A stream may stand for hours: it ends between two requests, and the stop need not wait for it.
                match face.app.until_stop(requests.message()).await.map_err(status)?? {
                    Some(request) => {
                        let admitted = face.admit(&request).map_err(status)?;
                        let app = &admitted.as_ref().unwrap_or(&face).app;
                        let answer = report(app, request).await.map_err(status)?;
                        Ok(Some((answer, (face, requests))))
                    }
                    None => Ok(None),
                }
            });
        Ok(answers.boxed())
    }
}

service! {
    Runs {
        start_run: v1::StartRunRequest => v1::StartRunResponse,
        report_events: v1::ReportEventsRequest => v1::ReportEventsResponse,
        finish_run: v1::FinishRunRequest => v1::Run,
        get_run: v1::GetRunRequest => v1::Run,
        list_runs: v1::ListRunsRequest => v1::ListRunsResponse,
        list_events: v1::ListEventsRequest => v1::ListEventsResponse,
        list_decisions: v1::ListDecisionsRequest => v1::ListDecisionsResponse,
        await_decision: v1::AwaitDecisionRequest => v1::AwaitDecisionResponse,
        heartbeat: v1::HeartbeatRequest => v1::HeartbeatResponse,
        delete_run: v1::DeleteRunRequest => v1::Deletion,
        stream_events: Streaming<v1::ReportEventsRequest> => Answers<v1::ReportEventsResponse>,
    }

    type StreamEventsStream = Answers<v1::ReportEventsResponse>;
}

/// The events of rows from a position on.
fn recorded_events(
    rows: Vec<EventRow>,
    position: i64,
    metrics: &[String],
) -> impl Iterator<Item = v1::RecordedEvent> {
    rows.into_iter().flat_map(move |row| {
        let passed = usize::try_from(position - row.position).unwrap_or(0);
        let (writer, attempt) = (row.writer, row.attempt);
        (row.first_sequence..).zip(row.events).skip(passed).map(move |(sequence, event)| v1::RecordedEvent {
            writer: writer.clone(),
            sequence,
            attempt,
            event: Some(event_to(event, metrics)),
        })
    })
}

fn action_of(value: i32) -> Result<Option<Action>, Refusal> {
    match v1::Action::try_from(value) {
        Ok(v1::Action::Unspecified) => Ok(None),
        Ok(v1::Action::Save) => Ok(Some(Action::Save)),
        Ok(v1::Action::Skip) => Ok(Some(Action::Skip)),
        Ok(v1::Action::Fail) => Ok(Some(Action::Fail)),
        Err(_) => Err(Refusal::invalid(
            "BAD_FILTER",
            format!("action has value {value}, which this server does not know"),
        )),
    }
}

fn run_position(position: &str) -> Result<(i64, String), Refusal> {
    let (time_us, uid) = position.split_once('.').ok_or_else(bad_token)?;
    Ok((time_us.parse().map_err(|_| bad_token())?, uid.to_owned()))
}
