//! Reports: events stored with their decisions and the checkpoints that these lead to, those of many calls in one transaction.

use std::collections::HashMap;
use std::collections::HashSet;

use crate::db::Db;
use crate::db::Error;
use crate::db::checkpoints::NewCheckpoint;
use crate::db::checkpoints::delete_pending;
use crate::db::checkpoints::insert_pending;
use crate::db::connection::Value;
use crate::db::connection::args;
use crate::db::decisions::DecisionRow;
use crate::db::decisions::Range;
use crate::db::decisions::decisions_in;
use crate::db::decisions::insert_decisions;
use crate::db::events::pack;
use crate::db::events::unpack;
use crate::db::job::Outcome;
use crate::db::job::Turn;
use crate::db::job::Unfit;
use crate::db::job::Write;
use crate::db::metrics::Metrics;
use crate::db::new_uid;
use crate::db::runs::save_progress;
use crate::db::runs::take_runs;
use crate::db::tx::Tx;
use crate::domain::event::Event;
use crate::domain::event::EventKind;
use crate::domain::ids::RunName;
use crate::domain::report::Report;
use crate::domain::run::Judged;
use crate::domain::run::Run;
use crate::failpoint::failpoint;

/// Decisions of one report in one transaction; what comes behind them is for the next one, so that others need not wait.
const MOST_DECISIONS: usize = 256;
/// No stored row has more events: it is what a report may have.
const ROW_EVENTS: i64 = 10_000;
/// Events that cost about as much as a row: they are packed.
const EVENTS_A_ROW: usize = 16;

/// What a report came to.
#[derive(Clone, Debug)]
pub struct Reported {
    /// The run after it.
    pub run: Run,
    /// Decisions of its events up to `next_sequence`, made before or now, in order.
    pub decisions: Vec<DecisionRow>,
    /// Where the writer goes on; below the end of the report if it has too many decisions for one transaction.
    pub next_sequence: i64,
    /// How many of its events were stored before.
    pub duplicate_count: i64,
}

impl Db {
    /// Stores the events that are new with what the rules decide of them. Repeated: the same answer.
    pub async fn report(&self, report: Report) -> Result<Reported, Error> {
        let reported = self.change(report).await?;
        failpoint!("event.committed");
        Ok(reported)
    }
}

impl Write for Report {
    type Answer = Reported;
    const AUDITED: bool = false;

    fn turn(&self) -> Turn {
        let ends = self.events().iter().filter(|it| it.kind != EventKind::BatchEnd).count();
        let rows = 4 + 2 * ends.min(MOST_DECISIONS) + self.events().len() / EVENTS_A_ROW;
        Turn { is_report: true, ..Turn::of(&self.run, rows) }
    }

    fn count(&self, reported: &Reported, metrics: &Metrics) {
        let first_new = self.first_sequence.saturating_add(reported.duplicate_count);
        let new = reported.decisions.iter().filter(|it| it.sequence >= first_new);
        let repeated = usize::try_from(reported.duplicate_count).unwrap_or_default();
        // A report that repeats an old one whole is answered where the writer stands, which is far behind its end.
        let end = if repeated < self.events().len() { reported.next_sequence } else { first_new };
        let stored = u64::try_from(end.saturating_sub(first_new)).unwrap_or_default();
        metrics.reported(stored, repeated as u64, new);
    }

    async fn run(set: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Outcome<Reported>>, Error> {
        failpoint!("event.begun");
        let runs = take_runs(tx, set.iter().map(|it| &it.run)).await?;
        failpoint!("event.locked");
        let next = next_sequences(tx, set, &runs).await?;
        let mut book = Book { runs, next, fresh: HashSet::new(), is_lone: set.len() == 1 };
        // First what each report repeats: another event there is refused, and nothing of its report is stored.
        let standings: Vec<_> = set.iter().map(|report| book.standing(report)).collect();
        let ranges: Vec<Range> = standings.iter().filter_map(|it| it.as_ref().ok()?.repeats()).collect();
        let stored = stored_events(tx, &ranges).await?;
        let told = decisions_in(tx, &ranges).await?;

        let mut written = Written::default();
        let mut outcomes = Vec::with_capacity(set.len());
        for (report, standing) in set.iter().zip(standings) {
            let repeats = standing.as_ref().ok().and_then(Standing::repeats);
            let before = repeats.map(|it| told.range(it.keys()).map(|(_, row)| row.clone()).collect());
            outcomes.push(match standing {
                Ok(standing) => {
                    book.take(report, &standing, &stored, before.unwrap_or_default(), &mut written)
                }
                Err(unfit) => unfit.into(),
            });
        }
        written.write(tx, &book).await?;
        Ok(outcomes)
    }
}

/// Runs and writers as the set leaves them so far.
struct Book {
    runs: HashMap<RunName, Run>,
    next: HashMap<(String, String), i64>,
    /// Writers with new events in this set.
    fresh: HashSet<(String, String)>,
    is_lone: bool,
}

/// How a report stands to what is stored.
struct Standing {
    writer: (String, String),
    first: i64,
    repeated: usize,
}

impl Standing {
    /// The sequences that were stored before, if there are any.
    fn repeats(&self) -> Option<Range> {
        let end = self.first.saturating_add(to_i64(self.repeated));
        let (run_uid, writer) = self.writer.clone();
        (self.repeated > 0).then_some(Range { run_uid, writer, first: self.first, end })
    }
}

impl Book {
    fn standing(&self, report: &Report) -> Result<Standing, Unfit> {
        let Some(run) = self.runs.get(&report.run) else {
            return Err(Unfit::not_found(self.is_lone, "run", &report.run));
        };
        run.check_attempt(report.attempt)?;
        let writer = (run.uid.clone(), report.writer.clone());
        let next = self.next.get(&writer).copied().unwrap_or(0);
        let repeated = report.repeated(next)?;
        Ok(Standing { writer, first: report.first_sequence, repeated })
    }

    /// Decides what is new of a report.
    fn take(
        &mut self,
        report: &Report,
        standing: &Standing,
        stored: &HashMap<(String, String, i64), Event>,
        mut decisions: Vec<DecisionRow>,
        written: &mut Written,
    ) -> Outcome<Reported> {
        if self.fresh.contains(&standing.writer) {
            // An earlier report of this set moved the writer on: this one may repeat it.
            return Outcome::Later;
        }
        let Some(run) = self.runs.get(&report.run) else { return Outcome::Later };
        let (run_uid, writer) = &standing.writer;
        for index in 0..standing.repeated {
            let sequence = report.first_sequence + to_i64(index);
            let Some(event) = stored.get(&(run_uid.clone(), writer.clone(), sequence)) else {
                return Outcome::Refused(Error::unreadable(
                    "event",
                    format!("sequence {sequence} is missing"),
                ));
            };
            if let Err(refusal) = report.check_same(index, event) {
                return Outcome::Refused(refusal.into());
            }
        }
        let duplicate_count = to_i64(standing.repeated);
        let next_sequence = report.first_sequence + duplicate_count;
        let new = report.events().get(standing.repeated..).unwrap_or_default();
        if new.is_empty() {
            let next_sequence = self.next.get(&standing.writer).copied().unwrap_or(0);
            return Outcome::Done(Reported { run: run.clone(), decisions, next_sequence, duplicate_count });
        }
        let judged =
            run.check_active().and_then(|()| run.judge(&report.writer, new, MOST_DECISIONS, new_uid));
        let judged = match judged {
            Ok(judged) => judged,
            Err(refusal) => return Outcome::Refused(refusal.into()),
        };
        match written.add(report, run, (next_sequence, new), &judged) {
            Ok(made) => decisions.extend(made),
            Err(error) => return Outcome::Refused(error),
        }
        let next_sequence = next_sequence + to_i64(judged.taken);
        let run = Run { update_time_us: report.now_us, ..judged.run };
        self.fresh.insert(standing.writer.clone());
        self.next.insert(standing.writer.clone(), next_sequence);
        self.runs.insert(report.run.clone(), run.clone());
        Outcome::Done(Reported { run, decisions, next_sequence, duplicate_count })
    }
}

/// The rows of a set.
#[derive(Default)]
struct Written {
    events: Vec<Vec<Value>>,
    decisions: Vec<(String, DecisionRow)>,
    checkpoints: Vec<NewCheckpoint>,
    given_up: Vec<(String, i64)>,
}

impl Written {
    /// The rows of a report's new events, and its decisions.
    fn add(
        &mut self,
        report: &Report,
        run: &Run,
        (first_sequence, new): (i64, &[Event]),
        judged: &Judged,
    ) -> Result<Vec<DecisionRow>, Error> {
        let taken = new.get(..judged.taken).unwrap_or_default();
        let body = pack(taken, report.now_us)?;
        let mut decisions = Vec::with_capacity(judged.judgements.len());
        for judgement in &judged.judgements {
            let Some(event) = taken.get(judgement.index) else {
                return Err(Error::unreadable("decision", "it is of no event of its report"));
            };
            let offset = to_i64(judgement.index);
            if let Some(uid) = &judgement.checkpoint_uid {
                let expire_time_us = report.now_us.saturating_add(report.pending_expiry_us);
                let times_us = (report.now_us, expire_time_us);
                self.checkpoints.push(NewCheckpoint::of(run, uid, event, &judgement.decision, times_us)?);
            }
            decisions.push(DecisionRow {
                position: run.event_count + offset,
                writer: report.writer.clone(),
                sequence: first_sequence + offset,
                attempt: run.attempt,
                epoch: event.epoch,
                batch: event.batch,
                checkpoint_uid: judgement.checkpoint_uid.clone(),
                decide_time_us: report.now_us,
                decision: judgement.decision.clone(),
            });
        }
        let count = to_i64(taken.len());
        self.events.push(args![
            &run.uid,
            run.event_count,
            &report.writer,
            first_sequence,
            count,
            run.attempt,
            body
        ]);
        self.decisions.extend(decisions.iter().map(|row| (run.uid.clone(), row.clone())));
        self.given_up.extend(judged.given_up.iter().map(|uid| (uid.clone(), report.now_us)));
        Ok(decisions)
    }

    async fn write(self, tx: &mut Tx<'_>, book: &Book) -> Result<(), Error> {
        if self.events.is_empty() {
            return Ok(());
        }
        let events = "WITH {v: run_uid text, position bigint, writer text, first_sequence bigint, event_count bigint, \
            attempt bigint, body bytes} INSERT INTO events (run_uid, position, writer, first_sequence, event_count, \
            attempt, body) SELECT * FROM v";
        tx.execute_of(events, self.events).await?;
        insert_decisions(tx, self.decisions.iter().map(|(run_uid, row)| (run_uid, row))).await?;
        insert_pending(tx, self.checkpoints).await?;
        delete_pending(tx, self.given_up).await?;
        failpoint!("event.recorded");
        let moved: HashSet<&String> = book.fresh.iter().map(|(run_uid, _)| run_uid).collect();
        save_progress(tx, book.runs.values().filter(|run| moved.contains(&run.uid))).await?;
        let writers = "WITH {v: run_uid text, writer text, next_sequence bigint} \
            INSERT INTO run_writers (run_uid, writer, next_sequence) SELECT * FROM v WHERE TRUE \
            ON CONFLICT (run_uid, writer) DO UPDATE SET next_sequence = excluded.next_sequence";
        let next = |it: &(String, String)| args![&it.0, &it.1, book.next.get(it).copied().unwrap_or(0)];
        tx.execute_of(writers, book.fresh.iter().map(next).collect()).await?;
        failpoint!("event.written");
        Ok(())
    }
}

/// Where each of the reports' writers goes on.
async fn next_sequences(
    tx: &mut Tx<'_>,
    set: &[&Report],
    runs: &HashMap<RunName, Run>,
) -> Result<HashMap<(String, String), i64>, Error> {
    let sql = "WITH {v: run_uid text, writer text} SELECT w.run_uid, w.writer, w.next_sequence FROM v \
        CROSS JOIN run_writers w WHERE w.run_uid = v.run_uid AND w.writer = v.writer";
    let writers: HashSet<(&str, &str)> = set
        .iter()
        .filter_map(|report| Some((runs.get(&report.run)?.uid.as_str(), report.writer.as_str())))
        .collect();
    let rows = tx.rows_of(sql, writers.into_iter().map(|(run, writer)| args![run, writer]).collect()).await?;
    rows.iter().map(|row| Ok(((row.text(0)?, row.text(1)?), row.int(2)?))).collect()
}

/// The events of these sequences, by run, writer and sequence.
async fn stored_events(
    tx: &mut Tx<'_>,
    ranges: &[Range],
) -> Result<HashMap<(String, String, i64), Event>, Error> {
    let sql = "WITH {v: run_uid text, writer text, first bigint, past bigint, lowest bigint} \
        SELECT e.run_uid, e.writer, e.first_sequence, e.body FROM v CROSS JOIN events e WHERE e.run_uid = v.run_uid \
        AND e.writer = v.writer AND e.first_sequence > v.lowest AND e.first_sequence < v.past \
        AND e.first_sequence + e.event_count > v.first";
    let with_lowest = |range: &Range| {
        let mut values = range.values();
        values.push((range.first - ROW_EVENTS).into());
        values
    };
    let mut events = HashMap::new();
    for row in tx.rows_of(sql, ranges.iter().map(with_lowest).collect()).await? {
        let (run_uid, writer, first) = (row.text(0)?, row.text(1)?, row.int(2)?);
        for (sequence, event) in (first..).zip(unpack(&row.bytes(3)?)?) {
            if ranges.iter().any(|it| it.holds(&run_uid, &writer, sequence)) {
                events.insert((run_uid.clone(), writer.clone(), sequence), event);
            }
        }
    }
    Ok(events)
}

fn to_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
