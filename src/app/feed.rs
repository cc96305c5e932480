//! Watching versions: a team's feed from a place on, and then as it grows, on whichever replica.
//!
//! A watcher reads the feed by its place and is woken by the feed's end, which one task of each server looks at for all of them. So
//! nothing is skipped: what wakes may come late, or not at all, and only tells that it is worth to look.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use futures::Stream;
use tokio::sync::Notify;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::app::App;
use crate::app::Error;
use crate::db::BestScope;
use crate::db::FeedEnd;
use crate::db::FeedEntry;
use crate::db::VersionRow;
use crate::domain::ids::BestParent;
use crate::domain::ids::Id;
use crate::domain::refusal::Refusal;

/// How often the ends of feeds are looked at while somebody watches: how late another replica's version is seen. A version of this
/// one wakes at once.
const LOOK: Duration = Duration::from_millis(250);
/// How often without a watcher: so that what has no place stays little.
const LOOK_ALONE: Duration = Duration::from_secs(10);
/// Entries that are read at once: some 10 KiB.
const PAGE: i64 = 100;
/// Who may watch at one server: each has a task, a page of entries and a version, which may have 64 KiB of metadata.
const MOST_WATCHERS: usize = 4_096;
/// When one should come back for whom there was no room.
const RETRY: Duration = Duration::from_secs(5);
/// A watcher hears where it stands so often while nothing comes: less than the minute after which balancers cut what is silent.
const STANDING: Duration = Duration::from_secs(20);

/// Who watches on this server; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Feed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The ends of the feeds that are watched, by team.
    ends: Mutex<HashMap<Id, watch::Sender<i64>>>,
    wake: Notify,
    room: Arc<Semaphore>,
}

impl Default for Feed {
    fn default() -> Feed {
        let room = Arc::new(Semaphore::new(MOST_WATCHERS));
        Feed(Arc::new(Shared { ends: Mutex::default(), wake: Notify::new(), room }))
    }
}

impl Feed {
    fn ends(&self) -> MutexGuard<'_, HashMap<Id, watch::Sender<i64>>> {
        self.0.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, team: &Id) -> watch::Receiver<i64> {
        let receiver = self.ends().entry(team.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe();
        self.0.wake.notify_one();
        receiver
    }

    /// The teams that are watched; those that are not any more are forgotten.
    fn watched(&self) -> Vec<Id> {
        let mut ends = self.ends();
        ends.retain(|_, sender| sender.receiver_count() > 0);
        ends.keys().cloned().collect()
    }

    fn tell(&self, found: &HashMap<String, FeedEnd>) {
        for (team, end) in self.ends().iter() {
            let Some(position) = found.get(team.as_str()).map(|it| it.position) else { continue };
            end.send_if_modified(|last| position > std::mem::replace(last, position.max(*last)));
        }
    }

    /// A version was committed here.
    pub(super) fn wake(&self, team: &Id) {
        if self.ends().contains_key(team) {
            self.0.wake.notify_one();
        }
    }
}

/// Where a watch begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With what is committed from now on.
    Now,
    /// With the first version that is still there.
    First,
    /// Behind a place, as an earlier watch has told it.
    Behind(String),
}

/// What a watcher sees.
#[derive(Clone, Debug)]
pub struct Seen {
    /// None: it only says where the watch stands.
    pub version: Option<VersionRow>,
    /// Whether it became the best of its artifact.
    pub is_best: bool,
    /// Where to go on behind it.
    pub cursor: String,
}

impl App {
    /// Watches the versions of a run, an artifact, a project or a team. The first thing that is seen says where the watch stands.
    pub async fn watch_versions(
        &self,
        parent: &BestParent,
        begin: &Begin,
        best_only: bool,
    ) -> Result<impl Stream<Item = Result<Seen, Error>> + Send + use<>, Error> {
        let Ok(room) = Arc::clone(&self.feed.0.room).try_acquire_owned() else {
            let message = "as many watch at this server as its memory allows: come back in a moment";
            return Err(Refusal::exhausted("OVERLOADED", message).retry_after(RETRY).into());
        };
        let (scope, team) = self.feed_scope(parent).await?;
        // First the end, so that nothing falls between what is read and what wakes.
        let end = self.feed.watch(&team);
        // What was committed before this call is before "now".
        self.db.place_versions().await?;
        let stands = self.db.feed_ends(std::slice::from_ref(&team)).await?.remove(team.as_str());
        let (feed_id, last) = stands.map_or((None, 0), |it| (Some(it.feed_id), it.position));
        let after = match begin {
            Begin::Now => last,
            Begin::First => 0,
            Begin::Behind(cursor) => behind(cursor, feed_id.as_deref(), last)?,
        };
        let watcher = Watcher {
            app: self.clone(),
            parent: parent.clone(),
            scope,
            team,
            _room: room,
            best_only,
            end,
            feed_id,
            after,
            stands: after,
            entries: VecDeque::new(),
            spoke: None,
        };
        Ok(futures::stream::try_unfold(watcher, |mut watcher| async move {
            let seen = watcher.next().await?;
            Ok(Some((seen, watcher)))
        }))
    }

    async fn feed_scope(&self, parent: &BestParent) -> Result<(BestScope, Id), Error> {
        Ok(match parent {
            BestParent::Run(name) => {
                (BestScope::Run(self.db.run(name).await?.uid), name.project.team.clone())
            }
            BestParent::Artifact(name) => {
                (BestScope::Artifact(self.db.artifact(name).await?.uid), name.project.team.clone())
            }
            BestParent::Project(name) => {
                (BestScope::Project(name.team.clone(), name.project.clone()), name.team.clone())
            }
            BestParent::Team(name) => (BestScope::Team(name.team.clone()), name.team.clone()),
        })
    }

    /// Gives versions their places and tells watchers how far the feeds go, until the server stops. What fails is tried again.
    pub async fn keep_feed(&self) {
        let mut told = false;
        while !self.stopping.is_cancelled() {
            match self.look_at_feeds().await {
                Ok(()) => told = false,
                Err(error) if !told => {
                    told = true;
                    tracing::warn!(error = %error, "Could not look at the feed of versions: watchers wait");
                }
                Err(_) => {}
            }
            let pause = if self.feed.ends().is_empty() { LOOK_ALONE } else { LOOK };
            tokio::select! {
                () = self.stopping.cancelled() => {}
                () = self.feed.0.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn look_at_feeds(&self) -> Result<(), Error> {
        self.db.place_versions().await?;
        let teams = self.feed.watched();
        if teams.is_empty() {
            return Ok(());
        }
        self.feed.tell(&self.db.feed_ends(&teams).await?);
        Ok(())
    }
}

/// A cursor's place, if it is one of this feed.
fn behind(cursor: &str, feed_id: Option<&str>, last: i64) -> Result<i64, Refusal> {
    let malformed = || {
        let message =
            format!("cursor `{}` is none that a watch has answered", crate::domain::ids::shown(cursor));
        Refusal::invalid("BAD_CURSOR", message)
    };
    let (of, position) = cursor.split_once('.').ok_or_else(malformed)?;
    let position: i64 = position.parse().ok().filter(|it| *it >= 0).ok_or_else(malformed)?;
    // One of a team that had no version yet.
    if of.is_empty() && position == 0 {
        return Ok(0);
    }
    if feed_id != Some(of) || position > last {
        let message = "the cursor is of another feed: of another team, or of a database that was made anew since; watch without \
            it, and look at what there is";
        return Err(Refusal::precondition("CURSOR_UNKNOWN", message));
    }
    Ok(position)
}

/// A watch.
struct Watcher {
    app: App,
    parent: BestParent,
    scope: BestScope,
    team: Id,
    best_only: bool,
    end: watch::Receiver<i64>,
    /// None: the team has no version yet.
    feed_id: Option<String>,
    /// Up to here all is read, if not yet seen.
    after: i64,
    /// Up to here all is seen.
    stands: i64,
    entries: VecDeque<FeedEntry>,
    /// When it said something last.
    spoke: Option<Instant>,
    _room: OwnedSemaphorePermit,
}

impl Watcher {
    async fn next(&mut self) -> Result<Seen, Error> {
        let seen = self.find().await?;
        self.spoke = Some(Instant::now());
        Ok(seen)
    }

    async fn find(&mut self) -> Result<Seen, Error> {
        let Some(spoke) = self.spoke else { return Ok(self.stands()) };
        let silent = tokio::time::sleep_until(spoke + STANDING);
        let mut silent = std::pin::pin!(silent);
        let app = self.app.clone();
        loop {
            // A long way may have nothing on it that is looked for.
            if spoke.elapsed() >= STANDING {
                return self.stands_still().await;
            }
            if app.stopping.is_cancelled() {
                return Err(Error::Stopping);
            }
            if let Some(entry) = self.entries.pop_front() {
                match self.load(entry).await? {
                    Some(seen) => return Ok(seen),
                    None => continue,
                }
            }
            self.stands = self.after;
            let end = *self.end.borrow_and_update();
            if self.read().await? {
                continue;
            }
            // What the scope has up to there was read after that was told.
            self.after = self.after.max(end);
            self.stands = self.after;
            tokio::select! {
                biased;
                () = app.stopping.cancelled() => return Err(Error::Stopping),
                // Its other end lives as long as somebody watches.
                changed = self.end.changed() => changed.map_err(|_| Error::Stopping)?,
                () = silent.as_mut() => return self.stands_still().await,
            }
        }
    }

    /// Where it stands, if what is watched is still there: what has its name now is something else.
    async fn stands_still(&self) -> Result<Seen, Error> {
        let (scope, _) = self.app.feed_scope(&self.parent).await?;
        if scope != self.scope {
            return Err(Refusal::not_found(self.parent.what(), &self.parent).into());
        }
        Ok(self.stands())
    }

    /// Reads entries; whether there are any.
    async fn read(&mut self) -> Result<bool, Error> {
        let entries = self.app.db.feed(&self.scope, self.after, PAGE).await?;
        let Some(last) = entries.last() else { return Ok(false) };
        self.after = last.position;
        if self.feed_id.is_none() {
            let ends = self.app.db.feed_ends(std::slice::from_ref(&self.team)).await?;
            self.feed_id = ends.into_values().next().map(|it| it.feed_id);
        }
        self.entries = entries.into_iter().filter(|it| !self.best_only || it.is_best).collect();
        Ok(true)
    }

    /// Reads the version of an entry. One that was deleted since is passed over.
    async fn load(&mut self, entry: FeedEntry) -> Result<Option<Seen>, Error> {
        self.stands = entry.position;
        let mut versions = self.app.db.versions_by_uid(vec![&entry.checkpoint_uid]).await?;
        let version = versions.remove(&entry.checkpoint_uid);
        Ok(version.map(|it| Seen { version: Some(it), is_best: entry.is_best, ..self.stands() }))
    }

    fn stands(&self) -> Seen {
        let feed_id = self.feed_id.as_deref().unwrap_or_default();
        let stands = if feed_id.is_empty() { 0 } else { self.stands };
        Seen { version: None, is_best: false, cursor: format!("{feed_id}.{stands}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_of_its_feed() {
        assert_eq!(behind("f.3", Some("f"), 7).unwrap(), 3);
        assert_eq!(behind(".0", Some("f"), 7).unwrap(), 0);
        assert_eq!(behind(".0", None, 0).unwrap(), 0);
        for (cursor, reason) in [
            ("", "BAD_CURSOR"),
            ("f", "BAD_CURSOR"),
            ("f.x", "BAD_CURSOR"),
            ("f.-1", "BAD_CURSOR"),
            ("g.3", "CURSOR_UNKNOWN"),
            ("f.8", "CURSOR_UNKNOWN"),
            (".1", "CURSOR_UNKNOWN"),
        ] {
            assert_eq!(behind(cursor, Some("f"), 7).unwrap_err().reason, reason, "{cursor}");
        }
    }
}
