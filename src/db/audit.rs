//! The audit log: entries written by the transactions that they tell of, and the chains that they become a moment later.
//!
//! A transaction only adds its entry: if it also gave the entry its place, all changes of a team would wait for one row. Places are
//! given by [`Db::chain_entries`], under the lock of the chain's row.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::db::Db;
use crate::db::Error;
use crate::db::connection::Row;
use crate::db::connection::args;
use crate::db::files::digest_of;
use crate::db::from_json;
use crate::db::job::Outcome;
use crate::db::job::Turn;
use crate::db::job::Write;
use crate::db::new_uid;
use crate::db::to_json;
use crate::db::tx::Tx;
use crate::domain::audit::BEGINNING;
use crate::domain::audit::Caller;
use crate::domain::audit::Entry;
use crate::domain::audit::link;
use crate::domain::digest::Digest;
use crate::domain::ids::Id;

/// Entries that get their places in one transaction.
const CHAINED_AT_ONCE: i64 = 1_000;
/// About how many rows that is.
const CHAINED_ROWS: usize = 100;
/// Entries that are dropped in one transaction.
const DROPPED_AT_ONCE: i64 = 1_000;

/// An entry as a transaction adds it.
#[derive(Debug)]
pub(super) struct NewEntry {
    uid: String,
    team: String,
    time_us: i64,
    body: String,
}

impl NewEntry {
    pub(super) fn of(caller: &Caller) -> Result<NewEntry, Error> {
        Ok(NewEntry {
            uid: new_uid(),
            team: caller.team.as_ref().map(|it| it.as_str().to_owned()).unwrap_or_default(),
            time_us: caller.time_us,
            body: to_json(&caller.act)?,
        })
    }
}

/// Adds entries. A call that changes things in several transactions has one entry.
pub(super) async fn append(tx: &mut Tx<'_>, entries: &[&Arc<NewEntry>]) -> Result<(), Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let sql = "WITH {v: uid text, team text, time_us bigint, body text} \
        INSERT INTO audit_entries (uid, team, time_us, body) SELECT * FROM v WHERE TRUE ON CONFLICT (uid) DO NOTHING";
    let row = |it: &&Arc<NewEntry>| args![&it.uid, &it.team, it.time_us, &it.body];
    tx.execute_of(sql, entries.iter().map(row).collect()).await.map(drop)
}

/// Places for entries that have none: as many statements for a thousand as for one.
struct ChainEntries;

impl Write for ChainEntries {
    type Answer = usize;
    const IN_SETS: bool = false;
    const AUDITED: bool = false;

    fn turn(&self) -> Turn {
        Turn::own(CHAINED_ROWS)
    }

    async fn run(set: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Outcome<usize>>, Error> {
        let mut outcomes = Vec::with_capacity(set.len());
        for _ in set {
            outcomes.push(Outcome::Done(chain(tx).await?));
        }
        Ok(outcomes)
    }
}

async fn chain(tx: &mut Tx<'_>) -> Result<usize, Error> {
    let waiting = tx.rows(WAITING, args![CHAINED_AT_ONCE]).await?;
    let teams: BTreeSet<String> = waiting.iter().map(|row| row.text(1)).collect::<Result<_, _>>()?;
    let make = "WITH {v: team text, position bigint, digest bytes} \
        INSERT INTO audit_chains (team, last_position, last_digest, first_position, before_digest) \
        SELECT team, position, digest, position + 1, digest FROM v WHERE TRUE ON CONFLICT (team) DO NOTHING";
    tx.execute_of(make, teams.iter().map(|team| args![team, -1_i64, BEGINNING]).collect()).await?;
    // Whoever chains these teams' entries now has their rows; and what it has chained is seen after that.
    let take = "WITH {v: team text} SELECT c.team, c.last_position, c.last_digest, c.first_position, c.before_digest \
        FROM v CROSS JOIN audit_chains c WHERE c.team = v.team ORDER BY c.team {lock c}";
    let rows = tx.rows_of(take, teams.iter().map(|team| args![team]).collect()).await?;
    let chains = rows.iter().map(|row| chain_of(row).map(|it| (it.team.clone(), it)));
    let mut chains: BTreeMap<String, Chain> = chains.collect::<Result<_, _>>()?;
    let entries =
        format!("SELECT uid, position, digest, time_us, body, team FROM audit_entries {WITHOUT_PLACE}");
    let mut places = Vec::new();
    for row in tx.rows(&entries, args![CHAINED_AT_ONCE]).await? {
        let entry = entry_of(&row)?;
        // One of another team has come meanwhile.
        let Some(chain) = chains.get_mut(&row.text(5)?) else { continue };
        chain.last_position += 1;
        chain.last_digest = link(chain.last_digest, &chain.team, &entry.uid, entry.time_us, &entry.body);
        places.push(args![entry.uid, chain.last_position, chain.last_digest]);
    }
    let count = places.len();
    let place = "WITH {v: uid text, position bigint, digest bytes} UPDATE audit_entries SET position = v.position, \
        digest = v.digest FROM v WHERE audit_entries.uid = v.uid";
    tx.execute_of(place, places).await?;
    let end = "WITH {v: team text, position bigint, digest bytes} UPDATE audit_chains SET last_position = v.position, \
        last_digest = v.digest FROM v WHERE audit_chains.team = v.team";
    let ends = chains.into_values().map(|it| args![it.team, it.last_position, it.last_digest]);
    tx.execute_of(end, ends.collect()).await?;
    Ok(count)
}

/// The two ends of a team's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Empty: the service's own.
    pub team: String,
    pub last_position: i64,
    pub last_digest: Digest,
    pub first_position: i64,
    /// Of the entry before the first one that is kept.
    pub before_digest: Digest,
}

const CHAIN: &str =
    "SELECT team, last_position, last_digest, first_position, before_digest FROM audit_chains";

fn chain_of(row: &Row) -> Result<Chain, Error> {
    Ok(Chain {
        team: row.text(0)?,
        last_position: row.int(1)?,
        last_digest: digest_of(&row.bytes(2)?)?,
        first_position: row.int(3)?,
        before_digest: digest_of(&row.bytes(4)?)?,
    })
}

/// Of entries that have no place yet.
const WITHOUT_PLACE: &str = "WHERE position IS NULL ORDER BY uid LIMIT $1";
const WAITING: &str = "SELECT uid, team FROM audit_entries WHERE position IS NULL ORDER BY uid LIMIT $1";

const ENTRY: &str = "SELECT uid, position, digest, time_us, body FROM audit_entries";

fn entry_of(row: &Row) -> Result<Entry, Error> {
    let body = row.text(4)?;
    Ok(Entry {
        uid: row.text(0)?,
        position: row.int_or_null(1)?,
        digest: row.bytes_or_null(2)?.as_deref().map(digest_of).transpose()?,
        time_us: row.int(3)?,
        // One that was tampered with is shown as far as it can be read, and told by the chain.
        act: from_json("audit entry", &body).unwrap_or_default(),
        body,
    })
}

fn team_text(team: Option<&Id>) -> &str {
    team.map_or("", Id::as_str)
}

impl Db {
    /// Notes the call of this database where it changes nothing.
    pub async fn note(&self) -> Result<(), Error> {
        self.write(|_| Box::pin(async { Ok(()) })).await
    }

    /// Gives entries that have none their places, and says how many.
    pub async fn chain_entries(&self) -> Result<usize, Error> {
        if self.page(WAITING, args![1]).await?.is_empty() {
            return Ok(0);
        }
        self.change(ChainEntries).await
    }

    /// The chains behind a team, in the order of their teams.
    pub async fn chains(&self, after: Option<&str>, limit: i64) -> Result<Vec<Chain>, Error> {
        let rows = match after {
            None => self.page(&format!("{CHAIN} ORDER BY team LIMIT $1"), args![limit]).await?,
            Some(after) => {
                let sql = format!("{CHAIN} WHERE team > $1 ORDER BY team LIMIT $2");
                self.page(&sql, args![after, limit]).await?
            }
        };
        rows.iter().map(chain_of).collect()
    }

    /// Entries of a team's chain from a position on, in their order.
    pub async fn chained_entries(&self, team: &str, from: i64, limit: i64) -> Result<Vec<Entry>, Error> {
        let sql = format!("{ENTRY} WHERE team = $1 AND position >= $2 ORDER BY position LIMIT $3");
        self.page(&sql, args![team, from, limit]).await?.iter().map(entry_of).collect()
    }

    /// Entries of a team before a position, the newest first.
    pub async fn audit_entries(
        &self,
        team: Option<&Id>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Entry>, Error> {
        let sql = format!("{ENTRY} WHERE team = $1 AND position < $2 ORDER BY position DESC LIMIT $3");
        let before = before.unwrap_or(i64::MAX);
        self.page(&sql, args![team_text(team), before, limit]).await?.iter().map(entry_of).collect()
    }

    /// Drops entries that are older, from the beginning of each chain, and says how many.
    pub async fn drop_audit_entries(&self, older_than_us: i64) -> Result<u64, Error> {
        let mut dropped = 0;
        let mut after = None;
        loop {
            let chains = self.chains(after.as_deref(), 100).await?;
            let Some(last) = chains.last() else { return Ok(dropped) };
            after = Some(last.team.clone());
            for chain in chains {
                dropped += self.drop_first_entries(chain, older_than_us).await?;
            }
        }
    }

    async fn drop_first_entries(&self, mut chain: Chain, older_than_us: i64) -> Result<u64, Error> {
        let mut dropped = 0;
        loop {
            let some = self.drop_some_entries(&chain, older_than_us).await?;
            dropped += some;
            chain.first_position += i64::try_from(some).unwrap_or(0);
            if some == 0 {
                return Ok(dropped);
            }
        }
    }

    async fn drop_some_entries(&self, chain: &Chain, older_than_us: i64) -> Result<u64, Error> {
        let first = self.chained_entries(&chain.team, chain.first_position, DROPPED_AT_ONCE).await?;
        // The newest one stays: its digest is the chain's end.
        let old = |it: &&Entry| it.time_us < older_than_us && it.position < Some(chain.last_position);
        let Some(last) = first.iter().take_while(old).last() else { return Ok(0) };
        let (Some(position), Some(digest)) = (last.position, last.digest) else { return Ok(0) };
        let team = chain.team.clone();
        self.write(move |connection| {
            Box::pin(async move {
                let sql = "UPDATE audit_chains SET first_position = $1, before_digest = $2 \
                    WHERE team = $3 AND first_position < $1";
                if connection.execute(sql, args![position + 1, digest, &team]).await? == 0 {
                    return Ok(0);
                }
                let sql = "DELETE FROM audit_entries WHERE team = $1 AND position <= $2";
                connection.execute(sql, args![&team, position]).await
            })
        })
        .await
    }
}
