//! Reads what `strace -f -y -x` wrote, and judges the order in which a server made things durable.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// What is asked of strace for [`judge`]: the calls that matter, and the first bytes of what they write.
pub(crate) const OPTIONS: [&str; 6] =
    ["-y", "-x", "-s", "48", "-e", "trace=fsync,fdatasync,rename,write,pwrite64,writev,sendto,sendmsg"];

/// A system call, with the lines at which it began and ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    name: String,
    arguments: String,
    succeeded: bool,
    began: usize,
    ended: usize,
}

/// The calls in the order of their beginnings; those without an end are left out.
fn parse(trace: &str) -> Vec<Call> {
    let mut open: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    let mut calls = Vec::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            open.insert(thread, (number, begun));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((began, begun)) = open.remove(thread) else { continue };
            let ending = resumed.split_once(" resumed>").map_or("", |it| it.1);
            calls.extend(call(&format!("{begun}{ending}"), began, number));
        } else {
            calls.extend(call(rest, number, number));
        }
    }
    calls.sort_by_key(|call| call.began);
    calls
}

/// `NAME(ARGUMENTS) = RESULT`.
fn call(text: &str, began: usize, ended: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let succeeded = !result.starts_with(['-', '?']);
    Some(Call { name: name.to_owned(), arguments: arguments.trim_end().to_owned(), succeeded, began, ended })
}

impl Call {
    /// The path behind the descriptor, which comes first.
    fn path(&self) -> &str {
        self.arguments.split_once('<').and_then(|it| it.1.split_once('>')).map_or("", |it| it.0)
    }

    fn is_sync(&self) -> bool {
        self.succeeded && (self.name == "fsync" || self.name == "fdatasync")
    }

    fn is_write(&self) -> bool {
        ["write", "pwrite64", "writev", "sendto", "sendmsg"].contains(&&*self.name)
    }

    /// Whether it sends the headers of an answer: an HTTP/2 frame of type HEADERS that does not end its stream.
    fn is_reply(&self) -> bool {
        if !self.is_write() || !self.path().starts_with("socket:") {
            return false;
        }
        let text = self.arguments.split('"').nth(1).unwrap_or("");
        let bytes: Vec<u8> = text.split("\\x").filter_map(|it| u8::from_str_radix(it, 16).ok()).collect();
        let mut frames = &bytes[..];
        while let [a, b, c, kind, flags, ..] = frames {
            if *kind == 1 && flags & 1 == 0 {
                return true;
            }
            let length = (usize::from(*a) << 16) + (usize::from(*b) << 8) + usize::from(*c);
            frames = frames.get(9 + length..).unwrap_or(&[]);
        }
        false
    }
}

/// What a server did, if it was in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// Answers.
    pub(crate) replies: usize,
    /// Answers before which the database was synced since the one before.
    pub(crate) synced_replies: usize,
    /// Objects that were written, synced, renamed, and synced with their folder.
    pub(crate) objects: usize,
    /// Syncs of the database's log.
    pub(crate) log_syncs: usize,
}

/// What is written and not known to be durable.
#[derive(Default)]
struct State {
    /// Objects under their first names, with the end of the last write.
    unsynced: BTreeMap<String, usize>,
    /// Folders of objects that got their names, with the end of the last rename and how many there were.
    unsynced_folders: BTreeMap<String, (usize, usize)>,
    /// The end of the last write to the log.
    log: Option<usize>,
    /// Whether the log was synced since the last answer.
    synced: bool,
}

/// Whether at each write to the database's log every object was synced, with its name, and at each answer the log too. The
/// client must make one call at a time and files of one chunk, so that nothing else is under way.
pub(crate) fn judge(trace: &str) -> Result<Order, String> {
    let calls = parse(trace);
    let mut points: Vec<(usize, bool, &Call)> = Vec::new();
    for call in &calls {
        points.push((call.began, false, call));
        points.push((call.ended, true, call));
    }
    // A call on one line begins before it ends.
    points.sort_by_key(|(line, ends, _)| (*line, *ends));
    let (mut state, mut order) = (State::default(), Order::default());
    for (line, ends, call) in points {
        let judged = if ends { state.ended(call, &mut order) } else { state.begins(call, &mut order) };
        judged.map_err(|why| format!("line {}: {why}", line + 1))?;
    }
    Ok(order)
}

impl State {
    fn begins(&mut self, call: &Call, order: &mut Order) -> Result<(), String> {
        let path = call.path();
        if call.is_write() && path.ends_with("-wal") {
            self.objects_are_durable("the database was written")?;
        }
        if call.is_reply() {
            self.objects_are_durable("an answer left")?;
            if self.log.is_some() {
                return Err("an answer left before the database's log was synced".to_owned());
            }
            order.replies += 1;
            order.synced_replies += usize::from(std::mem::take(&mut self.synced));
        }
        if call.name == "rename" {
            let from = call.arguments.split('"').nth(1).unwrap_or("");
            if self.unsynced.contains_key(from) {
                return Err(format!("`{from}` got its name before it was synced"));
            }
        }
        Ok(())
    }

    fn objects_are_durable(&self, what: &str) -> Result<(), String> {
        let paths: BTreeSet<_> = self.unsynced.keys().chain(self.unsynced_folders.keys()).collect();
        match paths.first() {
            Some(path) => Err(format!("{what} before `{path}` was synced")),
            None => Ok(()),
        }
    }

    fn ended(&mut self, call: &Call, order: &mut Order) -> Result<(), String> {
        let path = call.path();
        if call.is_write() && path.ends_with("-wal") {
            self.log = Some(call.ended);
        } else if call.is_write() && path.contains("/objects/") {
            self.unsynced.insert(path.to_owned(), call.ended);
        } else if call.name == "rename" {
            let to = call.arguments.split('"').nth(3).unwrap_or("");
            let folder = to.rsplit_once('/').map_or("", |it| it.0);
            let renames = self.unsynced_folders.get(folder).map_or(0, |it| it.1) + 1;
            self.unsynced_folders.insert(folder.to_owned(), (call.ended, renames));
        } else if call.is_sync() {
            // Only what was there when it began.
            if self.log.is_some_and(|end| end <= call.began) && path.ends_with("-wal") {
                self.log = None;
                self.synced = true;
                order.log_syncs += 1;
            }
            if self.unsynced.get(path).is_some_and(|end| *end <= call.began) {
                self.unsynced.remove(path);
            }
            if self.unsynced_folders.get(path).is_some_and(|(end, _)| *end <= call.began) {
                order.objects += self.unsynced_folders.remove(path).map_or(0, |it| it.1);
            }
        }
        Ok(())
    }
}
