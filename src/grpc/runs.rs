//! Service `Runs`.

use std::pin::Pin;

use futures::Stream;
use futures::StreamExt;
use keepbest_proto::v1;
use keepbest_proto::v1::runs_server::Runs;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;

use crate::app::App;
use crate::app::DecisionFilter;
use crate::app::Error;
use crate::app::EventRow;
use crate::app::decisions::Moment;
use crate::app::events::NewEvents;
use crate::app::runs::Resume;
use crate::app::runs::Start;
use crate::domain::decision::Action;
use crate::domain::ids::Id;
use crate::domain::ids::ListParent;
use crate::domain::ids::ProjectName;
use crate::domain::ids::RunName;
use crate::domain::refusal::Refusal;
use crate::domain::run::RunState;
use crate::grpc::Face;
use crate::grpc::convert::decision_to;
use crate::grpc::convert::directions_of;
use crate::grpc::convert::duration_of;
use crate::grpc::convert::event_of;
use crate::grpc::convert::event_to;
use crate::grpc::convert::json_of;
use crate::grpc::convert::next_due_to;
use crate::grpc::convert::run_to;
use crate::grpc::convert::strategy_of;
use crate::grpc::convert::version_to;
use crate::grpc::pages::Page;
use crate::grpc::pages::Query;
use crate::grpc::pages::bad_token;
use crate::grpc::pages::page_size;
use crate::grpc::pages::page_size_within;
use crate::grpc::record;
use crate::grpc::status::OrStatus;

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

#[tonic::async_trait]
impl Runs for Face {
    type StreamEventsStream = Pin<Box<dyn Stream<Item = Result<v1::ReportEventsResponse, Status>> + Send>>;

    async fn start_run(
        &self,
        request: Request<v1::StartRunRequest>,
    ) -> Result<Response<v1::StartRunResponse>, Status> {
        let request = request.into_inner();
        record(&format!("{}/runs/{}", request.parent, request.run_id));
        let begun = self.app.start_run(start_of(request).or_status()?).await.or_status()?;
        Ok(Response::new(v1::StartRunResponse {
            run: Some(run_to(&begun.run)),
            attempt: begun.attempt,
            next_sequence: begun.next_sequence,
            resume_from: begun.resume_from.as_ref().map(version_to),
            resumed: begun.resumed,
            next_due: Some(next_due_to(begun.next_due)),
            warnings: begun.warnings,
        }))
    }

    async fn report_events(
        &self,
        request: Request<v1::ReportEventsRequest>,
    ) -> Result<Response<v1::ReportEventsResponse>, Status> {
        let request = request.into_inner();
        record(&request.run);
        report(&self.app, request).await.map(Response::new).or_status()
    }

    async fn stream_events(
        &self,
        request: Request<Streaming<v1::ReportEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let app = self.app.clone();
        // One request at a time: what is not asked for is not read, so a slow database slows the sender down.
        let answers =
            futures::stream::try_unfold((app, request.into_inner()), |(app, mut requests)| async move {
                // A stream may stand for hours: it ends between two requests, and the stop need not wait for it.
                match app.until_stop(requests.message()).await.or_status()?? {
                    Some(request) => {
                        let answer = report(&app, request).await.or_status()?;
                        Ok(Some((answer, (app, requests))))
                    }
                    None => Ok(None),
                }
            });
        Ok(Response::new(answers.boxed()))
    }

    async fn finish_run(&self, request: Request<v1::FinishRunRequest>) -> Result<Response<v1::Run>, Status> {
        let request = request.into_inner();
        record(&request.name);
        let state = match v1::RunState::try_from(request.state) {
            Ok(v1::RunState::Unspecified | v1::RunState::Finished) => RunState::Finished,
            Ok(v1::RunState::Failed) => RunState::Failed,
            _ => {
                return Err(Refusal::invalid("BAD_STATE", "state is neither FINISHED nor FAILED"))
                    .or_status();
            }
        };
        let name = RunName::parse(&request.name).or_status()?;
        let run = self.app.finish_run(name, request.attempt, state).await.or_status()?;
        Ok(Response::new(run_to(&run)))
    }

    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::Run>, Status> {
        let request = request.into_inner();
        record(&request.name);
        let name = RunName::parse(&request.name).or_status()?;
        Ok(Response::new(run_to(&self.app.run(&name).await.or_status()?)))
    }

    async fn list_runs(
        &self,
        request: Request<v1::ListRunsRequest>,
    ) -> Result<Response<v1::ListRunsResponse>, Status> {
        let request = request.into_inner();
        record(&request.parent);
        let parent = ListParent::parse(&request.parent).or_status()?;
        let mut page = Page::of(page_size(request.page_size).or_status()?);
        let query = Query::of(&["runs", &request.parent]);
        let position = query.position(&request.page_token).or_status()?;
        let mut before = position.map(run_position).transpose().or_status()?;
        while let Some(rows) = page.wants() {
            let runs = self.app.list_runs(&parent, before.clone(), rows).await.or_status()?;
            let last = i64::try_from(runs.len()) != Ok(rows);
            for run in runs {
                if page.take(run_to(&run)) {
                    before = Some((run.create_time_us, run.uid));
                }
            }
            if last {
                break;
            }
        }
        let next = before.filter(|_| page.is_full);
        Ok(Response::new(v1::ListRunsResponse {
            runs: page.items,
            next_page_token: next
                .map(|(time_us, uid)| query.token(&format!("{time_us}.{uid}")))
                .unwrap_or_default(),
        }))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let request = request.into_inner();
        record(&request.parent);
        let name = RunName::parse(&request.parent).or_status()?;
        let limit = page_size_within(request.page_size, DEFAULT_EVENTS, MAX_EVENTS).or_status()?;
        let query = Query::of(&["events", &request.parent, &request.metrics.join("\0")]);
        let mut position = query.offset(&request.page_token).or_status()?;
        let mut page = Page::of(limit);
        let run = self.app.run(&name).await.or_status()?;
        while page.wants().is_some() {
            let rows = self.app.list_events(&run, position).await.or_status()?;
            if rows.is_empty() {
                break;
            }
            for recorded in recorded_events(rows, position, &request.metrics) {
                if !page.take(recorded) {
                    break;
                }
                position += 1;
            }
        }
        let next_page_token = if page.is_full { query.token(&position.to_string()) } else { String::new() };
        Ok(Response::new(v1::ListEventsResponse { events: page.items, next_page_token }))
    }

    async fn list_decisions(
        &self,
        request: Request<v1::ListDecisionsRequest>,
    ) -> Result<Response<v1::ListDecisionsResponse>, Status> {
        let request = request.into_inner();
        record(&request.parent);
        let name = RunName::parse(&request.parent).or_status()?;
        let limit = page_size(request.page_size).or_status()?;
        let filter = DecisionFilter { epoch: request.epoch, action: action_of(request.action).or_status()? };
        let query = Query::of(&["decisions", &request.parent, &format!("{filter:?}")]);
        let mut position = query.offset(&request.page_token).or_status()?;
        let mut page = Page::of(limit);
        while let Some(rows) = page.wants() {
            let decisions = self.app.list_decisions(&name, filter, position, rows).await.or_status()?;
            let last = i64::try_from(decisions.len()) != Ok(rows);
            for row in decisions {
                let behind = row.position + 1;
                if page.take(decision_to(&name, row)) {
                    position = behind;
                }
            }
            if last {
                break;
            }
        }
        let next_page_token = if page.is_full { query.token(&position.to_string()) } else { String::new() };
        Ok(Response::new(v1::ListDecisionsResponse { decisions: page.items, next_page_token }))
    }

    async fn await_decision(
        &self,
        request: Request<v1::AwaitDecisionRequest>,
    ) -> Result<Response<v1::AwaitDecisionResponse>, Status> {
        let v1::AwaitDecisionRequest { run, attempt, epoch, batch, wait } = request.into_inner();
        record(&run);
        let run = RunName::parse(&run).or_status()?;
        let wait = wait.as_ref().map(duration_of).transpose().or_status()?;
        let moment = Moment { run: run.clone(), attempt, epoch, batch };
        let decision = self.app.await_decision(moment, wait).await.or_status()?;
        let decision = decision.map(|row| decision_to(&run, row));
        Ok(Response::new(v1::AwaitDecisionResponse { decision }))
    }
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
