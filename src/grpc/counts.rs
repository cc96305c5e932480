//! Limits on what stands in a message, held while it arrives: two bytes on the wire may be hundreds in memory, so the messages
//! within one are counted before they are built.
//!
//! A pass over the tags, by the tables below. Whether the bytes are a message at all is left to prost.

use crate::app::events::MAX_EVENTS;
use crate::app::runs::MAX_JSON_BYTES;
use crate::app::uploads::MAX_FIND_CHUNKS;
use crate::app::uploads::MAX_KNOWN_CHUNKS;
use crate::app::uploads::MAX_SMALL_FILES;
use crate::domain::event::METRICS_MAX;
use crate::domain::refusal::Refusal;

/// Bytes of a `Struct` on the wire for one of its JSON text: a list of digits takes eleven for two.
const STRUCT_BYTES: u64 = 8 * MAX_JSON_BYTES as u64;

/// A field that is limited, or that holds one.
struct Field {
    number: u64,
    name: &'static str,
    limit: Limit,
    within: &'static [Field],
}

enum Limit {
    /// How often it may stand in its message, and the reason of the refusal.
    Count(usize, Reason),
    /// How many bytes it may have.
    Bytes(u64),
}

#[derive(Clone, Copy)]
enum Reason {
    LimitExceeded,
    BadEvent,
}

const fn field(number: u64, name: &'static str, limit: Limit, within: &'static [Field]) -> Field {
    Field { number, name, limit, within }
}

const METRICS: Limit = Limit::Count(METRICS_MAX, Reason::BadEvent);
const REPORT: &[Field] = &[field(5, "events", Limit::Count(MAX_EVENTS, Reason::LimitExceeded), EVENT)];
const EVENT: &[Field] = &[field(6, "metrics", METRICS, &[]), field(7, "typed_metrics", METRICS, &[])];
const START: &[Field] = &[
    // Which holds free options beside what is small.
    field(
        3,
        "strategy",
        Limit::Bytes(2 * STRUCT_BYTES),
        &[field(9, "options", Limit::Bytes(STRUCT_BYTES), &[])],
    ),
    field(4, "metric_directions", Limit::Count(METRICS_MAX, Reason::LimitExceeded), &[]),
    field(9, "config", Limit::Bytes(STRUCT_BYTES), &[]),
];
const SMALL_FILES: &[Field] = &[field(3, "files", Limit::Count(MAX_SMALL_FILES, Reason::LimitExceeded), &[])];
const WRITE: &[Field] = &[field(9, "known", Limit::Count(MAX_KNOWN_CHUNKS, Reason::LimitExceeded), &[])];
const FIND: &[Field] = &[field(2, "digests", Limit::Count(MAX_FIND_CHUNKS, Reason::LimitExceeded), &[])];
const COMMIT: &[Field] = &[field(4, "metadata", Limit::Bytes(STRUCT_BYTES), &[])];
const EVENTS_OF: &[Field] = &[field(4, "metrics", Limit::Count(METRICS_MAX, Reason::LimitExceeded), &[])];

/// The limits of each method whose message can be more than it looks.
const METHODS: [(&str, &[Field]); 8] = [
    ("/keepbest.v1.Runs/StartRun", START),
    ("/keepbest.v1.Runs/ReportEvents", REPORT),
    ("/keepbest.v1.Runs/StreamEvents", REPORT),
    ("/keepbest.v1.Runs/ListEvents", EVENTS_OF),
    ("/keepbest.v1.Checkpoints/WriteFile", WRITE),
    ("/keepbest.v1.Checkpoints/FindMissingChunks", FIND),
    ("/keepbest.v1.Checkpoints/WriteSmallFiles", SMALL_FILES),
    ("/keepbest.v1.Checkpoints/CommitCheckpoint", COMMIT),
];

/// What stands in the messages of a call, as they arrive.
#[derive(Default)]
pub(crate) struct Counts {
    fields: &'static [Field],
    /// The message, and those within it that are open.
    open: Vec<Open>,
    next: Next,
}

/// A message that has not ended.
struct Open {
    /// Bytes that have not come, without those of a message that is open within.
    left: u64,
    fields: &'static [Field],
    /// What has come of each field: how many, or how many bytes.
    counts: Vec<u64>,
    /// Groups that are open in it. What is in them is none of its fields.
    groups: usize,
}

impl Open {
    fn of(left: u64, fields: &'static [Field]) -> Open {
        Open { left, fields, counts: vec![0; fields.len()], groups: 0 }
    }
}

/// What the next byte is.
#[derive(Clone, Copy)]
enum Next {
    Tag(Varint),
    Number,
    Length(u64, Varint),
    Skipped(u64),
    /// This is no message: prost will say so.
    Lost,
}

impl Default for Next {
    fn default() -> Next {
        Next::Tag(Varint::default())
    }
}

#[derive(Clone, Copy, Default)]
struct Varint {
    value: u64,
    bits: u32,
}

impl Varint {
    /// With its next byte, and whether that was the last one. None: there are more than ten.
    fn with(self, byte: u8) -> Option<(Varint, bool)> {
        let value = self.value | u64::from(byte & 0x7f).checked_shl(self.bits)?;
        Some((Varint { value, bits: self.bits + 7 }, byte < 0x80))
    }
}

impl Counts {
    /// For a call of a method.
    pub(crate) fn of(path: &str) -> Counts {
        let method = METHODS.iter().find(|(method, _)| *method == path);
        Counts { fields: method.map_or(&[], |(_, fields)| *fields), ..Counts::default() }
    }

    /// A message of so many bytes begins.
    pub(crate) fn begin(&mut self, length: usize) {
        self.open.clear();
        self.next = Next::default();
        if !self.fields.is_empty() {
            self.open.push(Open::of(length as u64, self.fields));
        }
    }

    /// Passes over its next bytes.
    pub(crate) fn pass(&mut self, mut data: &[u8]) -> Result<(), Refusal> {
        while let Some((byte, rest)) = data.split_first() {
            self.close();
            let Some(open) = self.open.last_mut() else { return Ok(()) };
            if let Next::Skipped(left) = self.next {
                let part = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
                open.left -= part as u64;
                self.next = skipped(left - part as u64);
                data = &data[part..];
                continue;
            }
            if open.left == 0 {
                self.next = Next::Lost;
            }
            if let Next::Lost = self.next {
                return Ok(());
            }
            open.left -= 1;
            self.next = self.after(*byte)?;
            data = rest;
        }
        Ok(())
    }

    /// Leaves the messages that have ended.
    fn close(&mut self) {
        let between = matches!(self.next, Next::Tag(Varint { bits: 0, .. }));
        while between && self.open.last().is_some_and(|it| it.left == 0 && it.groups == 0) {
            self.open.pop();
        }
    }

    fn after(&mut self, byte: u8) -> Result<Next, Refusal> {
        Ok(match self.next {
            Next::Tag(tag) => match tag.with(byte) {
                Some((tag, true)) => self.tagged(tag.value >> 3, tag.value & 7),
                Some((tag, false)) => Next::Tag(tag),
                None => Next::Lost,
            },
            Next::Number if byte < 0x80 => Next::default(),
            Next::Length(field, length) => match length.with(byte) {
                Some((length, true)) => self.delimited(field, length.value)?,
                Some((length, false)) => Next::Length(field, length),
                None => Next::Lost,
            },
            next => next,
        })
    }

    fn tagged(&mut self, field: u64, wire_type: u64) -> Next {
        let Some(open) = self.open.last_mut() else { return Next::Lost };
        match wire_type {
            0 => Next::Number,
            1 if open.left >= 8 => Next::Skipped(8),
            2 => Next::Length(field, Varint::default()),
            3 => {
                open.groups += 1;
                Next::default()
            }
            4 if open.groups > 0 => {
                open.groups -= 1;
                Next::default()
            }
            5 if open.left >= 4 => Next::Skipped(4),
            _ => Next::Lost,
        }
    }

    /// A field of so many bytes begins.
    fn delimited(&mut self, number: u64, length: u64) -> Result<Next, Refusal> {
        let index = self.open.iter().rev().nth(1).and_then(|it| it.counts.first().copied());
        let Some(open) = self.open.last_mut() else { return Ok(Next::Lost) };
        if length > open.left {
            return Ok(Next::Lost);
        }
        let field = open.fields.iter().position(|it| it.number == number && open.groups == 0);
        let Some(at) = field else { return Ok(skipped(length)) };
        let field = &open.fields[at];
        open.counts[at] += if let Limit::Bytes(_) = field.limit { length } else { 1 };
        field.check(open.counts[at], index)?;
        if field.within.is_empty() {
            return Ok(skipped(length));
        }
        open.left -= length;
        self.open.push(Open::of(length, field.within));
        Ok(Next::default())
    }
}

fn skipped(bytes: u64) -> Next {
    if bytes == 0 { Next::default() } else { Next::Skipped(bytes) }
}

impl Field {
    /// Refuses what is above the limit; `index` is which message of its kind it stands in, from 1.
    fn check(&self, count: u64, index: Option<u64>) -> Result<(), Refusal> {
        let name = self.name;
        match self.limit {
            Limit::Count(most, Reason::LimitExceeded) if count > most as u64 => {
                let message = format!("more than {most} {name} in one request: at most {most} are allowed");
                Err(Refusal::exhausted("LIMIT_EXCEEDED", message))
            }
            Limit::Count(most, Reason::BadEvent) if count > most as u64 => {
                let event = index.unwrap_or(1).saturating_sub(1);
                let message = format!(
                    "event {event}: `{name}` has more than {most} entries: at most {most} are allowed in one event"
                );
                Err(Refusal::invalid("BAD_EVENT", message).with("field", format!("events[{event}].{name}")))
            }
            Limit::Bytes(most) if count > most => {
                let message = format!(
                    "{name} has more than {most} bytes: at most {MAX_JSON_BYTES} are allowed as JSON"
                );
                Err(Refusal::invalid("BAD_METADATA", message))
            }
            Limit::Count(..) | Limit::Bytes(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use keepbest_proto::v1;
    use prost::Message;

    use super::*;

    const REPORT_EVENTS: &str = "/keepbest.v1.Runs/ReportEvents";

    /// The reason, whatever parts the message comes in.
    fn counted(path: &str, message: &[u8]) -> Option<&'static str> {
        let reason = |size: usize| {
            let mut counts = Counts::of(path);
            counts.begin(message.len());
            message.chunks(size).find_map(|part| counts.pass(part).err()).map(|it| it.reason)
        };
        let reasons = [message.len().max(1), 1, 7].map(reason);
        assert!(reasons.iter().all(|it| *it == reasons[0]), "{reasons:?}");
        reasons[0]
    }

    fn report(events: usize, metrics: usize) -> Vec<u8> {
        let metrics = (0..metrics).map(|it| (format!("metric-{it}"), 0.5)).collect();
        let event = v1::Event { epoch: 300, batch: Some(1), metrics, ..Default::default() };
        let run = "a run".to_owned();
        let events = vec![event; events];
        v1::ReportEventsRequest { run, attempt: 2, events, ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn events_and_their_metrics_are_counted_each_for_itself() {
        assert_eq!(counted(REPORT_EVENTS, &report(MAX_EVENTS, 0)), None);
        assert_eq!(counted(REPORT_EVENTS, &report(MAX_EVENTS + 1, 0)), Some("LIMIT_EXCEEDED"));
        assert_eq!(counted(REPORT_EVENTS, &report(3, METRICS_MAX)), None);
        assert_eq!(counted(REPORT_EVENTS, &report(1, METRICS_MAX + 1)), Some("BAD_EVENT"));
        assert_eq!(counted("/keepbest.v1.Runs/GetRun", &report(MAX_EVENTS + 1, 0)), None);
    }

    #[test]
    fn groups_and_other_fields_hide_nothing() {
        let many = report(MAX_EVENTS + 1, 0);
        for before in
            [&b"\x9b\x06\x9c\x06"[..], b"\x9b\x06\x2a\x00\x9c\x06", b"\x99\x0612345678", b"\x9d\x061234"]
        {
            let message = [before, &many].concat();
            assert_eq!(counted(REPORT_EVENTS, &message), Some("LIMIT_EXCEEDED"), "{before:?}");
        }
        // Fields of a group are none of the message.
        let grouped = [b"\x9b\x06", many.as_slice(), b"\x9c\x06"].concat();
        assert_eq!(counted(REPORT_EVENTS, &grouped), None);
    }

    #[test]
    fn what_is_no_message_is_left_to_prost() {
        for bytes in
            [&b"\xff"[..], b"\x2a\x7f\x00", b"\x0c", b"\x0f", &[0xff; 20], b"\x29\x00", b"\x2a\x02\x32\x05"]
        {
            assert_eq!(counted(REPORT_EVENTS, bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn free_fields_are_limited_by_their_bytes_however_often_they_stand() {
        let path = "/keepbest.v1.Checkpoints/CommitCheckpoint";
        let once = [&b"\x22\x80\x80\x10"[..], &vec![0; 256 << 10]].concat();
        assert_eq!(counted(path, &once.repeat(2)), None);
        assert_eq!(counted(path, &once.repeat(3)), Some("BAD_METADATA"));
    }
}
