//! Events: one packed row a request, written with their decisions and pending checkpoints in one transaction.

use serde::Deserialize;
use serde::Serialize;

use crate::db::Db;
use crate::db::Error;
use crate::db::checkpoints::insert_pending;
use crate::db::connection::Connection;
use crate::db::connection::args;
use crate::db::decisions::DecisionRow;
use crate::db::decisions::decisions_in;
use crate::db::decisions::insert_decision;
use crate::db::runs::RunRow;
use crate::db::runs::RunState;
use crate::db::runs::check_attempt;
use crate::db::runs::lock_run;
use crate::db::runs::next_sequence;
use crate::db::to_json;
use crate::domain::decision::Action;
use crate::domain::decision::Decision;
use crate::domain::event::Event;
use crate::domain::event::EventKind;
use crate::domain::ids::RunName;
use crate::domain::ids::shown;
use crate::domain::metric::MetricValue;
use crate::domain::metric::Metrics;
use crate::domain::monitor::MonitorState;
use crate::domain::refusal::Refusal;
use crate::failpoint::failpoint;

/// Bytes of packed events read at once; unpacked and on the wire they are a few times as much.
const READ_BYTES: i64 = 1 << 20;
/// Rows read at once.
const READ_ROWS: i64 = 500;

/// A request's events.
#[derive(Clone, Debug)]
pub struct Report {
    /// The run.
    pub run: RunName,
    /// The attempt that reports.
    pub attempt: i64,
    /// Which process of the run; empty: the only one.
    pub writer: String,
    /// Sequence of the first event.
    pub first_sequence: i64,
    /// The events, in order.
    pub events: Vec<Event>,
    /// Now.
    pub now_us: i64,
    /// How long a pending checkpoint lives without a write.
    pub pending_expiry_us: i64,
}

/// One decision among a request's events, with the uid of the checkpoint that a SAVE leads to.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Index of the event.
    pub index: usize,
    /// What was decided.
    pub decision: Decision,
    /// For SAVE.
    pub checkpoint_uid: Option<String>,
}

/// What the rules say of new events.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The run's monitor state after them.
    pub state: MonitorState,
    /// What was decided, in order.
    pub judgements: Vec<Judgement>,
    /// Pending checkpoints that are given up, by uid.
    pub given_up: Vec<String>,
}

/// The rules over a run's state and its new events of one writer.
pub type Judge = fn(&RunRow, &str, &[Event]) -> Result<Judged, Refusal>;

/// What a report came to.
#[derive(Clone, Debug)]
pub struct Reported {
    /// The run after it.
    pub run: RunRow,
    /// Decisions of all events of the request, stored before or now, in order.
    pub decisions: Vec<DecisionRow>,
    /// Where the writer goes on.
    pub next_sequence: i64,
    /// How many events were stored before.
    pub duplicate_count: i64,
}

impl Db {
    /// Stores the events that are new, with what `judge` decides of them, in one transaction. Repeated: the same answer.
    pub async fn report(&self, report: Report, judge: Judge) -> Result<Reported, Error> {
        let run = report.run.clone();
        let reported =
            self.write_of(&run, move |connection| Box::pin(append(connection, report, judge))).await?;
        failpoint!("event.committed");
        Ok(reported)
    }

    /// Rows of a run's events from the one with `position` on, oldest first: at least one if there is one, and further ones
    /// up to `READ_BYTES`.
    pub async fn list_events(&self, run_uid: &str, position: i64) -> Result<Vec<EventRow>, Error> {
        // Positions have no gaps, so the row that begins last before the position holds it.
        let start = "SELECT position FROM events WHERE run_uid = $1 AND position <= $2 ORDER BY position DESC LIMIT 1";
        let Some(start) = self.row(start, args![run_uid, position]).await? else { return Ok(Vec::new()) };
        let start = start.int(0)?;
        let sizes = "SELECT position, event_count, LENGTH(body) FROM events WHERE run_uid = $1 AND position >= $2 \
            ORDER BY position LIMIT $3";
        let (mut end, mut bytes) = (start, 0);
        for row in self.rows(sizes, args![run_uid, start, READ_ROWS]).await? {
            bytes += row.length(2)?;
            if bytes > READ_BYTES && end > start {
                break;
            }
            end = row.int(0)? + row.int(1)?;
        }
        let range = "SELECT position, writer, first_sequence, attempt, body FROM events \
            WHERE run_uid = $1 AND position >= $2 AND position < $3 ORDER BY position";
        let rows = self.rows(range, args![run_uid, start, if end > position { end } else { start }]).await?;
        rows.iter()
            .map(|row| {
                Ok(EventRow {
                    position: row.int(0)?,
                    writer: row.text(1)?,
                    first_sequence: row.int(2)?,
                    attempt: row.int(3)?,
                    events: unpack(&row.bytes(4)?)?,
                })
            })
            .collect()
    }
}

impl Db {
    /// The newest event of an attempt that was decided upon.
    pub async fn newest_event(&self, run_uid: &str, attempt: i64) -> Result<Option<Event>, Error> {
        let sql = "SELECT body FROM events WHERE run_uid = $1 AND attempt = $2 AND writer = '' \
            ORDER BY position DESC LIMIT 1";
        let row = self.row(sql, args![run_uid, attempt]).await?;
        Ok(row.map(|row| unpack(&row.bytes(0)?)).transpose()?.and_then(|mut events| events.pop()))
    }
}

/// A request's events as they were stored.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// Place of the first event in the run.
    pub position: i64,
    /// Which process reported.
    pub writer: String,
    /// Sequence of the first event.
    pub first_sequence: i64,
    /// The attempt that reported.
    pub attempt: i64,
    /// The events, in order.
    pub events: Vec<Event>,
}

async fn append(connection: &mut Connection<'_>, report: Report, judge: Judge) -> Result<Reported, Error> {
    failpoint!("event.begun");
    let Some(mut run) = lock_run(connection, &report.run).await? else {
        return Err(Refusal::not_found("run", &report.run).into());
    };
    failpoint!("event.locked");
    check_attempt(&run, report.attempt)?;
    let count = i64::try_from(report.events.len()).unwrap_or(i64::MAX);
    let stored = next_sequence(connection, &run.uid, &report.writer).await?;
    check_sequence(&report, stored, count)?;
    let duplicate_count = (stored - report.first_sequence).min(count);
    let mut decisions = Vec::new();
    if duplicate_count > 0 {
        let range = (report.first_sequence, report.first_sequence + duplicate_count);
        decisions = decisions_in(connection, &run.uid, &report.writer, range).await?;
    }
    let new = report.events.get(usize::try_from(duplicate_count).unwrap_or(0)..).unwrap_or_default();
    if new.is_empty() {
        return Ok(Reported { run, decisions, next_sequence: stored, duplicate_count });
    }
    if run.state != RunState::Active {
        let message = format!("run `{}` is finished: StartRun opens it again with a new attempt", run.name);
        return Err(Refusal::precondition("RUN_FINISHED", message).into());
    }
    let Judged { state, judgements, given_up } = judge(&run, &report.writer, new)?;
    let insert = "INSERT INTO events (run_uid, position, writer, first_sequence, event_count, attempt, body) \
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let new_count = count - duplicate_count;
    let values = args![&run.uid, run.event_count, &report.writer, stored, new_count, run.attempt, pack(new)?];
    connection.execute(insert, values).await?;
    for judgement in judgements {
        decisions.push(record(connection, &run, &report, stored, new, judgement).await?);
    }
    for uid in given_up {
        let sql = "UPDATE checkpoints SET state = 'DELETED', delete_time_us = $1 WHERE uid = $2 AND state = 'PENDING'";
        connection.execute(sql, args![report.now_us, uid]).await?;
    }
    failpoint!("event.recorded");
    run.monitor_state = state;
    run.event_count += new_count;
    run.last_epoch = new.last().map(|event| event.epoch).or(run.last_epoch);
    run.update_time_us = report.now_us;
    let next_sequence = stored + new_count;
    save_progress(connection, &run, &report.writer, next_sequence).await?;
    failpoint!("event.written");
    Ok(Reported { run, decisions, next_sequence, duplicate_count })
}

fn check_sequence(report: &Report, stored: i64, count: i64) -> Result<(), Refusal> {
    if report.first_sequence < 0 || report.first_sequence.checked_add(count).is_none() {
        let message = format!("first_sequence {} is not between 0 and 2^63 - 1", report.first_sequence);
        return Err(Refusal::invalid("BAD_EVENT", message));
    }
    if report.first_sequence <= stored {
        return Ok(());
    }
    let message = format!(
        "events of writer `{}` of run `{}` begin at sequence {}, but {stored} is the next: send the ones between first",
        shown(&report.writer),
        report.run,
        report.first_sequence
    );
    Err(Refusal::precondition("SEQUENCE_GAP", message).with("next_sequence", stored))
}

/// Stores one decision and, for a SAVE, the checkpoint it leads to.
async fn record(
    connection: &mut Connection<'_>,
    run: &RunRow,
    report: &Report,
    first_sequence: i64,
    events: &[Event],
    judgement: Judgement,
) -> Result<DecisionRow, Error> {
    let offset = i64::try_from(judgement.index).unwrap_or(i64::MAX);
    let Some(event) = events.get(judgement.index) else {
        return Err(Error::unreadable("decision", "it is of no event of its request"));
    };
    if let (Action::Save, Some(uid)) = (judgement.decision.action, &judgement.checkpoint_uid) {
        insert_pending(
            connection,
            run,
            uid,
            event,
            &judgement.decision,
            (report.now_us, report.pending_expiry_us),
        )
        .await?;
    }
    let row = DecisionRow {
        position: run.event_count + offset,
        writer: report.writer.clone(),
        sequence: first_sequence + offset,
        attempt: run.attempt,
        epoch: event.epoch,
        batch: event.batch,
        checkpoint_uid: judgement.checkpoint_uid,
        decide_time_us: report.now_us,
        decision: judgement.decision,
    };
    insert_decision(connection, &run.uid, &row).await?;
    Ok(row)
}

async fn save_progress(
    connection: &mut Connection<'_>,
    run: &RunRow,
    writer: &str,
    next_sequence: i64,
) -> Result<(), Error> {
    let update = "UPDATE runs SET monitor_state = $1, event_count = $2, last_epoch = $3, update_time_us = $4 \
        WHERE uid = $5";
    let state = to_json(&run.monitor_state)?;
    connection
        .execute(update, args![state, run.event_count, run.last_epoch, run.update_time_us, &run.uid])
        .await?;
    let upsert = "INSERT INTO run_writers (run_uid, writer, next_sequence) VALUES ($1, $2, $3) \
        ON CONFLICT (run_uid, writer) DO UPDATE SET next_sequence = excluded.next_sequence";
    connection.execute(upsert, args![&run.uid, writer, next_sequence]).await.map(drop)
}

/// The stored form of a request's events: metric names once, numbers apart from the rest.
#[derive(Serialize, Deserialize)]
struct Packed {
    names: Vec<String>,
    events: Vec<PackedEvent>,
}

#[derive(Serialize, Deserialize)]
struct PackedEvent {
    kind: EventKind,
    epoch: i64,
    batch: Option<i64>,
    step: Option<i64>,
    wall_time_us: i64,
    numbers: Vec<(u32, f64)>,
    others: Vec<(u32, MetricValue)>,
}

fn pack(events: &[Event]) -> Result<Vec<u8>, Error> {
    let mut places = std::collections::HashMap::new();
    let mut names = Vec::new();
    let mut packed = Vec::with_capacity(events.len());
    for event in events {
        let (mut numbers, mut others) = (Vec::with_capacity(event.metrics.len()), Vec::new());
        for (name, value) in &event.metrics {
            let place = *places.entry(name.as_str()).or_insert_with(|| {
                names.push(name.clone());
                u32::try_from(names.len() - 1).unwrap_or(u32::MAX)
            });
            match value {
                MetricValue::Number(number) => numbers.push((place, *number)),
                other => others.push((place, other.clone())),
            }
        }
        packed.push(PackedEvent {
            kind: event.kind,
            epoch: event.epoch,
            batch: event.batch,
            step: event.step,
            wall_time_us: event.wall_time_us,
            numbers,
            others,
        });
    }
    rmp_serde::to_vec(&Packed { names, events: packed }).map_err(|error| Error::unreadable("events", error))
}

fn unpack(body: &[u8]) -> Result<Vec<Event>, Error> {
    let packed: Packed = rmp_serde::from_slice(body).map_err(|error| Error::unreadable("events", error))?;
    let name = |place: u32| packed.names.get(place as usize).cloned().unwrap_or_default();
    let event = |it: PackedEvent| {
        let numbers =
            it.numbers.into_iter().map(|(place, number)| (name(place), MetricValue::Number(number)));
        let mut metrics: Metrics = numbers.collect();
        metrics.extend(it.others.into_iter().map(|(place, value)| (name(place), value)));
        Event {
            kind: it.kind,
            epoch: it.epoch,
            batch: it.batch,
            step: it.step,
            wall_time_us: it.wall_time_us,
            metrics,
        }
    };
    Ok(packed.events.into_iter().map(event).collect())
}
