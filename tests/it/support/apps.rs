//! The service without its faces: an application over a test's database, and a trainer that calls it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use keepbest::app::App;
use keepbest::app::DecisionRow;
use keepbest::app::Error;
use keepbest::app::EventRow;
use keepbest::app::Limits;
use keepbest::app::StoredFile;
use keepbest::app::VersionRow;
use keepbest::app::events::Answer;
use keepbest::app::events::NewEvents;
use keepbest::app::runs::Begun;
use keepbest::app::runs::Resume;
use keepbest::app::runs::Start;
use keepbest::app::uploads::SmallFile;
use keepbest::app::uploads::Target;
use keepbest::clock::Clock;
use keepbest::db::Graces;
use keepbest::domain::event::Event;
use keepbest::domain::event::EventKind;
use keepbest::domain::ids::ArtifactName;
use keepbest::domain::ids::CheckpointName;
use keepbest::domain::ids::Id;
use keepbest::domain::ids::ProjectName;
use keepbest::domain::ids::RunName;
use keepbest::domain::ids::VersionName;
use keepbest::domain::metric::Direction;
use keepbest::domain::metric::MetricValue;
use keepbest::domain::metric::Mode;
use keepbest::domain::strategy::Strategy;
use keepbest::store::Store;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::support::databases::TestDatabase;
use crate::support::patience;
use crate::support::pieces::pieces;

pub(crate) const SECOND_US: i64 = 1_000_000;
pub(crate) const HOUR_US: i64 = 3_600 * SECOND_US;

/// Where the tests' clocks begin.
pub(crate) const BEGIN_US: i64 = 1_800_000_000 * SECOND_US;

pub(crate) const PROJECT: &str = "teams/default/projects/digits";

/// A service over a database, a store for objects and a clock of its own.
pub(crate) struct TestApp {
    pub(crate) app: App,
    pub(crate) database: TestDatabase,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) clock: Arc<AtomicI64>,
    limits: Limits,
}

async fn open(
    database: &TestDatabase,
    objects: &Arc<dyn ObjectStore>,
    clock: &Arc<AtomicI64>,
    limits: &Limits,
) -> App {
    let (store, clock) = (Store::over(Arc::clone(objects)), Clock::ByHand(Arc::clone(clock)));
    App::new(database.open().await, store, clock, limits.clone())
}

/// A pending checkpoint lives ten hours, one of several parts one; deleted versions stay one, chunks two, objects three.
pub(crate) fn limits() -> Limits {
    Limits {
        upload_buffer_bytes: 1 << 30,
        download_buffer_bytes: 1 << 30,
        upload_idle: Duration::from_secs(30),
        pending_expiry: Duration::from_secs(10 * 3_600),
        parts_expiry: Duration::from_secs(3_600),
        keys_at_once: 1,
        requires_authentication: false,
        audit: keepbest::app::Audit::default(),
        rates: keepbest::app::rates::Most::default(),
        graces: Graces { deleted_us: HOUR_US, chunk_us: 2 * HOUR_US, object_us: 3 * HOUR_US },
    }
}

impl TestApp {
    /// Over the database, with objects in memory.
    pub(crate) async fn over(database: TestDatabase) -> TestApp {
        TestApp::with(database, Arc::new(InMemory::new())).await
    }

    /// Over the database and the store for objects.
    pub(crate) async fn with(database: TestDatabase, objects: Arc<dyn ObjectStore>) -> TestApp {
        TestApp::limited(database, objects, limits()).await
    }

    /// Over the database and the store for objects, with limits of its own.
    pub(crate) async fn limited(
        database: TestDatabase,
        objects: Arc<dyn ObjectStore>,
        limits: Limits,
    ) -> TestApp {
        let clock = Arc::new(AtomicI64::new(BEGIN_US));
        let app = open(&database, &objects, &clock, &limits).await;
        TestApp { app, database, objects, clock, limits }
    }

    /// The same store for objects with another database.
    pub(crate) async fn on(&self, database: TestDatabase) -> TestApp {
        let app = open(&database, &self.objects, &self.clock, &self.limits).await;
        let (objects, clock) = (Arc::clone(&self.objects), Arc::clone(&self.clock));
        TestApp { app, database, objects, clock, limits: self.limits.clone() }
    }

    /// Another replica of the same service.
    pub(crate) async fn replica(&self) -> App {
        open(&self.database, &self.objects, &self.clock, &self.limits).await
    }

    /// Turns the clock on.
    pub(crate) fn turn(&self, by_us: i64) {
        self.clock.fetch_add(by_us, Ordering::SeqCst);
    }

    /// Begins a run in [`PROJECT`].
    pub(crate) async fn start(&self, run: &str, strategy: Strategy) -> Trainer {
        Trainer::start(&self.app, start(PROJECT, run, strategy)).await.unwrap()
    }

    /// Keys of all chunks' objects that are stored.
    pub(crate) async fn keys(&self) -> Vec<String> {
        self.keys_below("chunks").await
    }

    /// Keys of all manifests that are stored.
    pub(crate) async fn manifests(&self) -> Vec<String> {
        self.keys_below("manifests").await
    }

    async fn keys_below(&self, folder: &str) -> Vec<String> {
        let listed = self.objects.list(Some(&folder.into())).map(|it| it.unwrap().location.to_string());
        let mut keys: Vec<String> = listed.collect().await;
        keys.sort();
        keys
    }

    /// What a check of everything finds wrong.
    pub(crate) async fn problems(&self) -> Vec<String> {
        self.app.check(true).await.unwrap().problems
    }
}

/// `save_best_only` on `val_loss`.
pub(crate) fn best_only() -> Strategy {
    Strategy { filepath: "model-{epoch:02d}.keras".to_owned(), save_best_only: true, ..Strategy::default() }
}

/// Save at every epoch.
pub(crate) fn every_epoch() -> Strategy {
    Strategy { save_best_only: false, ..best_only() }
}

/// The same strategy with higher values as the better ones.
pub(crate) fn towards(direction: Direction, strategy: Strategy) -> Strategy {
    let mode = match direction {
        Direction::Min => Mode::Min,
        Direction::Max => Mode::Max,
    };
    Strategy { mode, ..strategy }
}

/// A start of `run` in a project.
pub(crate) fn start(project: &str, run: &str, strategy: Strategy) -> Start {
    Start {
        project: ProjectName::parse(project).unwrap(),
        run: Some(id(run)),
        strategy,
        directions: [].into(),
        artifact: None,
        artifact_type: String::new(),
        request_id: String::new(),
        resume: Resume::Allow,
        config: None,
        writer: None,
    }
}

pub(crate) fn id(text: &str) -> Id {
    Id::parse("test", text).unwrap()
}

/// The end of an epoch with metrics.
pub(crate) fn epoch_end(epoch: i64, metrics: &[(&str, f64)]) -> Event {
    Event {
        kind: EventKind::EpochEnd,
        epoch,
        batch: None,
        step: None,
        wall_time_us: None,
        metrics: metrics.iter().map(|(name, it)| ((*name).to_owned(), MetricValue::Number(*it))).collect(),
    }
}

/// The end of an epoch with a `val_loss`.
pub(crate) fn val_loss(epoch: i64, value: f64) -> Event {
    epoch_end(epoch, &[("val_loss", value)])
}

/// Rows have no equality, but all their fields print.
pub(crate) fn shown<T: Debug>(value: &T) -> String {
    format!("{value:?}")
}

/// The reason of a refusal; another error is printed whole.
pub(crate) fn reason<T: Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Refused(refusal)) => refusal.reason.to_owned(),
        other => format!("{other:?}"),
    }
}

/// The sentence of a refusal.
pub(crate) fn sentence<T: Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Refused(refusal)) => refusal.message,
        other => format!("{other:?}"),
    }
}

/// One attempt of a run.
#[derive(Clone, Debug)]
pub(crate) struct Trainer {
    pub(crate) app: App,
    pub(crate) run: RunName,
    pub(crate) artifact: ArtifactName,
    pub(crate) attempt: i64,
    pub(crate) sequence: i64,
}

impl Trainer {
    /// Begins an attempt.
    pub(crate) async fn start(app: &App, start: Start) -> Result<Trainer, Error> {
        Ok(Trainer::of(app, app.start_run(start).await?))
    }

    /// Goes on with an attempt that has begun.
    pub(crate) fn of(app: &App, begun: Begun) -> Trainer {
        let (run, artifact) = (begun.run.name, begun.run.artifact);
        Trainer {
            app: app.clone(),
            artifact: ArtifactName { project: run.project.clone(), artifact },
            run,
            attempt: begun.attempt,
            sequence: begun.next_sequence,
        }
    }

    /// A report of events from the next sequence on.
    pub(crate) fn events(&self, events: Vec<Event>) -> NewEvents {
        let (run, attempt, first_sequence) = (self.run.clone(), self.attempt, self.sequence);
        NewEvents { run, attempt, writer: None, first_sequence, events }
    }

    /// Reports events and goes on behind them.
    pub(crate) async fn report(&mut self, events: Vec<Event>) -> Result<Answer, Error> {
        let answer = self.app.report_events(self.events(events)).await?;
        self.sequence = answer.next_sequence;
        Ok(answer)
    }

    /// Reports the end of an epoch and answers its one decision.
    pub(crate) async fn epoch(&mut self, epoch: i64, value: f64) -> DecisionRow {
        self.report(vec![val_loss(epoch, value)]).await.unwrap().decisions.pop().unwrap()
    }

    /// Reports the end of an epoch that is saved.
    pub(crate) async fn saved(&mut self, epoch: i64, value: f64) -> CheckpointName {
        let decision = self.epoch(epoch, value).await;
        self.checkpoint(&decision.checkpoint_uid.expect("it is saved"))
    }

    /// The checkpoint of this uid.
    pub(crate) fn checkpoint(&self, uid: &str) -> CheckpointName {
        CheckpointName { run: self.run.clone(), checkpoint: id(uid) }
    }

    /// A version of the run's artifact.
    pub(crate) fn version(&self, version: &str) -> VersionName {
        VersionName { artifact: self.artifact.clone(), version: id(version) }
    }

    /// Writes small files whole.
    pub(crate) async fn write(
        &self,
        checkpoint: &CheckpointName,
        files: &[(&str, &[u8])],
    ) -> Result<Vec<StoredFile>, Error> {
        let small = |(path, data): &(&str, &[u8])| SmallFile {
            path: (*path).to_owned(),
            data: Bytes::copy_from_slice(data),
            sha256: None,
        };
        let files = files.iter().map(small).collect();
        self.app.write_small_files(checkpoint.clone(), self.attempt, files).await
    }

    /// Declares a file and writes what is missing of it in messages of 1 MiB.
    pub(crate) async fn stream(
        &self,
        checkpoint: &CheckpointName,
        path: &str,
        data: &[u8],
    ) -> Result<StoredFile, Error> {
        let target = self.target(checkpoint, path);
        let size = i64::try_from(data.len()).unwrap();
        let durable = self.app.prepare_file(target.clone(), size, None).await?.durable_bytes;
        let rest = &data[usize::try_from(durable).unwrap()..];
        self.app.write_file(target, durable, futures::stream::iter(pieces(rest)).map(Ok)).await
    }

    pub(crate) fn target(&self, checkpoint: &CheckpointName, path: &str) -> Target {
        Target { checkpoint: checkpoint.clone(), attempt: self.attempt, path: path.to_owned() }
    }

    pub(crate) async fn commit(&self, checkpoint: &CheckpointName) -> Result<VersionRow, Error> {
        self.app.commit(checkpoint.clone(), self.attempt, None, None).await
    }

    pub(crate) async fn abandon(&self, checkpoint: &CheckpointName) -> Result<(), Error> {
        self.app.abandon(checkpoint.clone(), self.attempt).await.map(drop)
    }

    /// Reports an epoch that is saved, writes one file and commits it.
    pub(crate) async fn save(&mut self, epoch: i64, value: f64, data: &[u8]) -> VersionRow {
        let (checkpoint, files) = (self.saved(epoch, value).await, [("model.keras", data)]);
        patience::patiently(|| self.write(&checkpoint, &files)).await.unwrap();
        patience::patiently(|| self.commit(&checkpoint)).await.unwrap()
    }

    /// The version's number and aliases.
    pub(crate) async fn named(&self, version: &str) -> Result<(i64, Vec<String>), Error> {
        let row = self.app.version(&self.version(version)).await?;
        Ok((row.number, row.aliases))
    }

    /// Versions of the run's artifact.
    pub(crate) async fn versions(&self, filter: &str, order: &str) -> Vec<VersionRow> {
        let listed = self.app.list_versions(&self.artifact, filter, order, None, 1_000).await.unwrap();
        listed.versions.into_iter().map(|it| it.0).collect()
    }

    /// All requests with events that are stored.
    pub(crate) async fn rows(&self) -> Vec<EventRow> {
        let run = self.app.run(&self.run).await.unwrap();
        let mut rows: Vec<EventRow> = Vec::new();
        loop {
            let position = rows.last().map_or(0, |it| it.position + i64::try_from(it.events.len()).unwrap());
            let page = self.app.list_events(&run, position).await.unwrap();
            if page.is_empty() {
                return rows;
            }
            rows.extend(page);
        }
    }

    /// The value that the next one has to beat.
    pub(crate) async fn to_beat(&self) -> Option<f64> {
        let run = self.app.run(&self.run).await.unwrap();
        run.monitor_state.value_to_beat(run.direction)
    }

    /// All bytes of a file, or those that came before the error, with the error.
    pub(crate) async fn read(&self, version: &str, path: &str) -> (Vec<u8>, Result<(), Error>) {
        let mut data = Vec::new();
        let pieces = match self.app.read_file(&self.version(version), path, 0, 0).await {
            Ok((_, pieces)) => pieces,
            Err(error) => return (data, Err(error)),
        };
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => {
                    assert_eq!(usize::try_from(piece.offset_bytes).unwrap(), data.len());
                    data.extend_from_slice(&piece.data);
                }
                Err(error) => return (data, Err(error)),
            }
        }
        (data, Ok(()))
    }
}
