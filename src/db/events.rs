//! Events as they are stored: those of a report packed into one row, and read back as a history.

use serde::Deserialize;
use serde::Serialize;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Row;
use crate::db::connection::args;
use crate::domain::event::Event;
use crate::domain::event::EventKind;
use crate::domain::metric::MetricValue;
use crate::domain::metric::Metrics;

/// Bytes of packed events read at once; unpacked and on the wire they are a few times as much.
const READ_BYTES: i64 = 1 << 20;
const READ_ROWS: i64 = 500;

impl Db {
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
        for row in self.page(sizes, args![run_uid, start, READ_ROWS]).await? {
            bytes += row.length(2)?;
            if bytes > READ_BYTES && end > start {
                break;
            }
            end = row.int(0)? + row.int(1)?;
        }
        let range = "SELECT position, writer, first_sequence, attempt, body FROM events \
            WHERE run_uid = $1 AND position >= $2 AND position < $3 ORDER BY position";
        let rows = self.page(range, args![run_uid, start, if end > position { end } else { start }]).await?;
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
    /// The newest event of the run's newest attempt that was decided upon.
    pub async fn newest_event(&self, run_uid: &str, attempt: i64) -> Result<Option<Event>, Error> {
        newest_of(self.row(NEWEST_EVENT, args![run_uid]).await?, attempt)
    }
}

/// The newest events of a run that were decided upon. A writer's sequences go on from attempt to attempt, and nothing of an older
/// attempt comes after a newer one's.
pub(super) const NEWEST_EVENT: &str = "SELECT attempt, body FROM events WHERE run_uid = $1 AND writer = '' ORDER BY first_sequence DESC LIMIT 1";

/// The last of them, if they are of this attempt.
pub(super) fn newest_of(row: Option<Row>, attempt: i64) -> Result<Option<Event>, Error> {
    match row {
        Some(row) if row.int(0)? == attempt => Ok(unpack(&row.bytes(1)?)?.pop()),
        _ => Ok(None),
    }
}

/// A request's events as they were stored.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// Place of the first event in the run.
    pub position: i64,
    pub writer: String,
    /// Sequence of the first event.
    pub first_sequence: i64,
    /// The attempt that reported.
    pub attempt: i64,
    pub events: Vec<Event>,
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
    wall_time_us: Option<i64>,
    numbers: Vec<(u32, f64)>,
    others: Vec<(u32, MetricValue)>,
}

/// The events as they are stored; one without a wall time came now.
pub(super) fn pack(events: &[Event], now_us: i64) -> Result<Vec<u8>, Error> {
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
            wall_time_us: event.wall_time_us.or(Some(now_us)),
            numbers,
            others,
        });
    }
    rmp_serde::to_vec(&Packed { names, events: packed }).map_err(|error| Error::unreadable("events", error))
}

pub(super) fn unpack(body: &[u8]) -> Result<Vec<Event>, Error> {
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
