//! Chunks: what a team holds, and how a new one comes in.
//!
//! A key is reserved long before its bytes are put: a row that says that an object may be there, which the collector deletes
//! when it is due. Then the bytes go to the store. Then, in the transaction that pins it, the chunk gets its row, and the
//! reservation goes. A chunk that the team holds is touched there instead, so that a collector that saw it unused leaves it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Connection;
use crate::db::connection::Value;
use crate::db::connection::args;
use crate::db::files::digest_of;
use crate::db::job::Outcome;
use crate::db::job::Turn;
use crate::db::job::Write;
use crate::db::tx::Tx;
use crate::db::uploads::WriteFiles;
use crate::domain::digest::Digest;
use crate::domain::file::lost_race;
use crate::domain::ids::ProjectName;
use crate::domain::refusal::Refusal;
use crate::failpoint::failpoint;

/// Added to the touch time of a chunk that the collector saw pinned: it is put aside, and no later pass looks at it before
/// a pin goes. Times are far below: this is the year 148,108.
pub(super) const ASIDE_US: i64 = 1 << 62;

/// Where the bytes of a chunk are that an upload wants to pin.
#[derive(Clone, Debug)]
pub enum Stored {
    /// The team held it when the upload looked.
    Held,
    /// Under this key, which was reserved for it.
    New(String),
    /// Under the key that the team has for it, whose bytes were found wrong: they were put there again.
    Healed(String),
}

/// A piece of a file whose bytes are durable.
#[derive(Clone, Debug)]
pub struct PlacedChunk {
    /// Where it stands in the file.
    pub offset_bytes: i64,
    pub size_bytes: i64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Where its bytes are.
    pub stored: Stored,
}

/// A chunk that a team holds.
#[derive(Clone, Debug)]
pub struct HeldChunk {
    pub size_bytes: i64,
    /// Where its bytes are.
    pub object_key: String,
    /// Whether a read found them wrong.
    pub is_suspect: bool,
}

/// Keys that are about to be used, each once.
#[derive(Clone, Debug)]
struct Reserve {
    keys: Vec<String>,
    due_time_us: i64,
}

impl Write for Reserve {
    type Answer = ();
    const AUDITED: bool = false;

    fn turn(&self) -> Turn {
        // A caller waits for it with its bytes in hand.
        Turn::own(self.keys.len() / 4)
    }

    async fn run(set: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Outcome<()>>, Error> {
        let sql = "WITH {v: object_key text, due_time_us bigint} INSERT INTO doomed_objects (object_key, due_time_us) \
            SELECT * FROM v";
        let rows = set.iter().flat_map(|it| it.keys.iter().map(|key| args![key, it.due_time_us]));
        tx.execute_of(sql, rows.collect()).await?;
        failpoint!("chunk.claiming");
        Ok(set.iter().map(|_| Outcome::Done(())).collect())
    }
}

/// A chunk whose bytes were found wrong.
#[derive(Clone, Debug)]
struct Suspect {
    team: String,
    digest: Digest,
    object_key: String,
}

impl Write for Suspect {
    type Answer = ();
    const AUDITED: bool = false;

    fn turn(&self) -> Turn {
        Turn::own(1)
    }

    async fn run(set: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Outcome<()>>, Error> {
        let sql = "WITH {v: team text, digest bytes, object_key text} UPDATE chunks SET is_suspect = 1 FROM v \
            WHERE chunks.team = v.team AND chunks.digest = v.digest AND chunks.object_key = v.object_key";
        let chunks: BTreeMap<_, _> = set
            .iter()
            .map(|it| ((&it.team, it.digest), args![&it.team, it.digest, &it.object_key]))
            .collect();
        tx.execute_of(sql, chunks.into_values().collect()).await?;
        Ok(set.iter().map(|_| Outcome::Done(())).collect())
    }
}

impl Db {
    /// Lets the collector know of objects that may come to be under these keys; it deletes them when they are due.
    pub async fn reserve_keys(&self, keys: Vec<String>, due_time_us: i64) -> Result<(), Error> {
        self.change(Reserve { keys, due_time_us }).await
    }

    /// Those of the chunks that the team holds.
    pub async fn held_chunks(
        &self,
        team: &str,
        digests: impl IntoIterator<Item = Digest>,
    ) -> Result<HashMap<Digest, HeldChunk>, Error> {
        let sql = "WITH {v: team text, digest bytes} SELECT k.digest, k.object_key, k.is_suspect, \
            k.size_bytes FROM v CROSS JOIN chunks k WHERE k.team = v.team AND k.digest = v.digest";
        let digests: BTreeSet<Digest> = digests.into_iter().collect();
        let rows = self.rows_of(sql, digests.into_iter().map(|digest| args![team, digest]).collect()).await?;
        let held = rows.iter().map(|row| {
            let chunk =
                HeldChunk { size_bytes: row.int(3)?, object_key: row.text(1)?, is_suspect: row.flag(2)? };
            Ok((digest_of(&row.bytes(0)?)?, chunk))
        });
        held.collect()
    }

    /// Those of the chunks that a file of the project has.
    pub async fn chunks_of_project(
        &self,
        project: &ProjectName,
        digests: impl IntoIterator<Item = Digest>,
    ) -> Result<HashSet<Digest>, Error> {
        let sql = "WITH {v: team text, project text, digest bytes} SELECT v.digest FROM v WHERE (SELECT 1 \
            FROM file_chunks f JOIN files i ON i.uid = f.file_uid JOIN checkpoints c ON c.uid = i.checkpoint_uid \
            JOIN runs r ON r.uid = c.run_uid WHERE f.team = v.team AND f.digest = v.digest AND r.project = v.project \
            LIMIT 1) = 1";
        let row = |digest| args![project.team.as_str(), project.project.as_str(), digest];
        let rows = self.rows_of(sql, digests.into_iter().map(row).collect()).await?;
        rows.iter().map(|row| digest_of(&row.bytes(0)?)).collect()
    }

    /// Bytes under this key are wrong or missing: the next upload of the chunk puts them there again.
    pub async fn suspect_chunk(&self, team: &str, digest: Digest, object_key: String) -> Result<(), Error> {
        self.change(Suspect { team: team.to_owned(), digest, object_key }).await
    }
}

type Key = (String, Digest);

/// The chunks and reservations of a set, as it leaves them so far.
#[derive(Default)]
pub(super) struct Chunks {
    held: BTreeMap<Key, HeldChunk>,
    reserved: BTreeSet<String>,
    all: Vec<Changes>,
}

/// What one call changes of chunks.
#[derive(Default)]
pub(super) struct Changes {
    team: String,
    now_us: i64,
    held: BTreeMap<Key, HeldChunk>,
    reserved: BTreeSet<String>,
    new: BTreeMap<Key, (i64, String)>,
    touched: BTreeMap<Key, bool>,
    used: Vec<String>,
    pins: BTreeMap<(String, i64), Vec<Value>>,
    unpinned: Vec<(String, i64, Digest)>,
}

impl Changes {
    /// Takes the pin of a file's chunk away.
    pub(super) fn unpin(&mut self, file_uid: &str, offset_bytes: i64, digest: Digest) {
        self.unpinned.push((file_uid.to_owned(), offset_bytes, digest));
    }

    /// Pins a chunk, if its bytes are where the upload says.
    pub(super) fn pin(&mut self, file_uid: &str, chunk: &PlacedChunk) -> Result<(), Refusal> {
        let key = (self.team.clone(), chunk.digest);
        match (&chunk.stored, self.held.get_mut(&key)) {
            // Repeated, or the second of two equal pieces of a call.
            (Stored::New(object_key), Some(held)) if held.object_key == *object_key => {}
            (Stored::New(object_key), Some(held))
                if !held.is_suspect && self.reserved.contains(object_key) =>
            {
                // A faster upload of the same bytes won. Our object keeps its reservation, so the collector removes it.
            }
            (Stored::New(object_key), None) if self.reserved.remove(object_key) => {
                let (size_bytes, object_key) = (chunk.size_bytes, object_key.clone());
                self.new.insert(key.clone(), (size_bytes, object_key.clone()));
                self.used.push(object_key.clone());
                self.held.insert(key.clone(), HeldChunk { size_bytes, object_key, is_suspect: false });
            }
            (Stored::Held, Some(held)) if !held.is_suspect && held.size_bytes == chunk.size_bytes => {}
            (Stored::Healed(object_key), Some(held)) if held.object_key == *object_key => {
                held.is_suspect = false;
                self.touched.insert(key.clone(), true);
            }
            // The collector took the reservation or the chunk: the object is gone, or came after it and would stay for ever.
            // Nothing may refer to it, and the caller deletes it.
            _ => return Err(lost_race()),
        }
        if !self.new.contains_key(&key) {
            self.touched.entry(key.clone()).or_insert(false);
        }
        let place = (file_uid.to_owned(), chunk.offset_bytes);
        let values = args![file_uid, chunk.offset_bytes, chunk.size_bytes, &self.team, chunk.digest];
        self.pins.insert(place, values);
        Ok(())
    }
}

impl Chunks {
    pub(super) async fn load(tx: &mut Tx<'_>, set: &[&WriteFiles]) -> Result<Chunks, Error> {
        let team = |write: &WriteFiles| write.checkpoint.run.project.team.as_str().to_owned();
        let placed = set.iter().flat_map(|write| {
            write.files.iter().flat_map(|step| &step.chunks).map(|chunk| (team(write), chunk))
        });
        let (mut keys, mut objects) = (BTreeSet::new(), BTreeSet::new());
        for (team, chunk) in placed {
            keys.insert((team, chunk.digest));
            if let Stored::New(object_key) = &chunk.stored {
                objects.insert(object_key.clone());
            }
        }
        // In the order in which the collector locks them.
        let sql = "WITH {v: team text, digest bytes} SELECT k.team, k.digest, k.object_key, k.is_suspect, \
            k.size_bytes FROM v CROSS JOIN chunks k WHERE k.team = v.team AND k.digest = v.digest ORDER BY k.team, k.digest {lock k}";
        let rows = keys.into_iter().map(|(team, digest)| args![team, digest]);
        let mut held = BTreeMap::new();
        for row in tx.rows_of(sql, rows.collect()).await? {
            let chunk =
                HeldChunk { size_bytes: row.int(4)?, object_key: row.text(2)?, is_suspect: row.flag(3)? };
            held.insert((row.text(0)?, digest_of(&row.bytes(1)?)?), chunk);
        }
        let sql = "WITH {v: object_key text} SELECT d.object_key FROM v CROSS JOIN doomed_objects d \
            WHERE d.object_key = v.object_key AND d.due_time_us > 0 ORDER BY d.object_key {lock d}";
        let rows = tx.rows_of(sql, objects.into_iter().map(|key| args![key]).collect()).await?;
        let reserved = rows.iter().map(|row| row.text(0)).collect::<Result<_, _>>()?;
        Ok(Chunks { held, reserved, all: Vec::new() })
    }

    /// What a call of the set sees, to be changed by it alone.
    pub(super) fn begin(&self, write: &WriteFiles) -> Changes {
        let team = write.checkpoint.run.project.team.as_str().to_owned();
        let digests =
            write.files.iter().flat_map(|step| &step.chunks).map(|chunk| (team.clone(), chunk.digest));
        let held = digests.filter_map(|key| Some((key.clone(), self.held.get(&key)?.clone()))).collect();
        let objects =
            write.files.iter().flat_map(|step| &step.chunks).filter_map(|chunk| match &chunk.stored {
                Stored::New(object_key) => self.reserved.get(object_key).cloned(),
                Stored::Held | Stored::Healed(_) => None,
            });
        Changes { reserved: objects.collect(), team, now_us: write.now_us, held, ..Changes::default() }
    }

    /// A call of the set is done: the next ones see what it changed.
    pub(super) fn keep(&mut self, changes: Changes) {
        self.held.extend(changes.held.iter().map(|(key, chunk)| (key.clone(), chunk.clone())));
        for key in &changes.used {
            self.reserved.remove(key);
        }
        self.all.push(changes);
    }

    /// Writes it all; whether anything was.
    pub(super) async fn write(self, tx: &mut Tx<'_>) -> Result<bool, Error> {
        let (mut new, mut touched, mut used) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let (mut pins, mut unpinned, mut lost) = (BTreeMap::new(), Vec::new(), Vec::new());
        for changes in self.all {
            let now_us = changes.now_us;
            new.extend(changes.new.into_iter().map(|((team, digest), (size_bytes, object_key))| {
                let row = args![&team, digest, size_bytes, object_key, now_us];
                ((team, digest), row)
            }));
            for (key, heals) in changes.touched {
                let row = touched.entry(key).or_insert((false, now_us));
                *row = (row.0 || heals, row.1.max(now_us));
            }
            used.extend(changes.used);
            for (file_uid, offset_bytes, digest) in changes.unpinned {
                unpinned.push(args![&file_uid, offset_bytes]);
                lost.push((changes.team.clone(), digest.as_bytes().to_vec()));
            }
            pins.extend(changes.pins);
        }
        let is_written = !pins.is_empty() || !unpinned.is_empty();
        unpin(tx, unpinned, lost).await?;
        insert_chunks(tx, new.into_values().collect()).await?;
        touch_chunks(tx, touched).await?;
        let sql = "WITH {v: object_key text} DELETE FROM doomed_objects WHERE object_key IN (SELECT object_key FROM v)";
        tx.execute_of(sql, used.into_iter().map(|key| args![key]).collect()).await?;
        // A stream writes each place once: what stands there is this pin from before a lost answer.
        let pin = "WITH {v: file_uid text, offset_bytes bigint, size_bytes bigint, team text, digest bytes} \
            INSERT INTO file_chunks (file_uid, offset_bytes, size_bytes, team, digest) SELECT * FROM v WHERE TRUE \
            ON CONFLICT (file_uid, offset_bytes) DO UPDATE SET size_bytes = excluded.size_bytes, digest = excluded.digest";
        tx.execute_of(pin, pins.into_values().collect()).await?;
        Ok(is_written)
    }
}

/// Takes pins away, and shows their chunks to the collector again.
async fn unpin(
    tx: &mut Tx<'_>,
    places: Vec<Vec<Value>>,
    chunks: Vec<(String, Vec<u8>)>,
) -> Result<(), Error> {
    let sql = "WITH {v: file_uid text, offset_bytes bigint} DELETE FROM file_chunks \
        WHERE (file_uid, offset_bytes) IN (SELECT file_uid, offset_bytes FROM v)";
    tx.execute_of(sql, places).await?;
    // In the order in which uploads lock them; the time changes, so that a collector that just saw the pin does not put the
    // chunk aside.
    let chunks: BTreeSet<(String, Vec<u8>)> = chunks.into_iter().collect();
    let sql = "WITH {v: team text, digest bytes, aside bigint} UPDATE chunks SET touch_time_us = touch_time_us % v.aside + 1 \
        FROM v WHERE chunks.team = v.team AND chunks.digest = v.digest";
    let rows = chunks.into_iter().map(|(team, digest)| args![team, digest, ASIDE_US]);
    tx.execute_of(sql, rows.collect()).await.map(drop)
}

async fn insert_chunks(tx: &mut Tx<'_>, new: Vec<Vec<Value>>) -> Result<(), Error> {
    let wanted = u64::try_from(new.len()).unwrap_or(u64::MAX);
    let sql = "WITH {v: team text, digest bytes, size_bytes bigint, object_key text, touch_time_us bigint} \
        INSERT INTO chunks (team, digest, size_bytes, object_key, touch_time_us) SELECT * FROM v WHERE TRUE \
        ON CONFLICT (team, digest) DO NOTHING";
    if tx.execute_of(sql, new).await? == wanted {
        return Ok(());
    }
    // Another replica stored the same bytes since the rows were read: all is undone, and the call looks again.
    Err(lost_race().into())
}

/// Marks chunks as just used, so that a collector that saw one unused leaves it.
async fn touch_chunks(tx: &mut Tx<'_>, touched: BTreeMap<Key, (bool, i64)>) -> Result<(), Error> {
    // The time always changes, also when two touches share a microsecond: the collector compares it.
    let sql = "WITH {v: team text, digest bytes, now_us bigint, aside bigint, heals bigint} UPDATE chunks SET \
        touch_time_us = CASE WHEN touch_time_us % v.aside < v.now_us THEN v.now_us ELSE touch_time_us % v.aside + 1 END, \
        is_suspect = CASE WHEN v.heals = 1 THEN 0 ELSE is_suspect END \
        FROM v WHERE chunks.team = v.team AND chunks.digest = v.digest";
    let rows = touched
        .into_iter()
        .map(|((team, digest), (heals, now_us))| args![team, digest, now_us, ASIDE_US, heals]);
    tx.execute_of(sql, rows.collect()).await.map(drop)
}

/// Shows chunks that lost a pin to the collector again. Whoever takes pins away calls this in the same transaction; the time
/// changes, so that a collector that just saw the pin does not put the chunk aside.
pub(super) async fn look_again(
    connection: &mut Connection<'_>,
    mut chunks: Vec<(String, Vec<u8>)>,
) -> Result<(), Error> {
    // In the order in which uploads lock them.
    chunks.sort_unstable();
    chunks.dedup();
    let sql = "UPDATE chunks SET touch_time_us = touch_time_us % $3 + 1 WHERE team = $1 AND digest = $2";
    for (team, digest) in chunks {
        connection.execute(sql, args![team, digest, ASIDE_US]).await?;
    }
    Ok(())
}
