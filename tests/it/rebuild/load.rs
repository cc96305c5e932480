//! A random load on two teams, and everything that the service tells of its versions.

use std::collections::BTreeMap;

use bytes::Bytes;
use keepbest::app::App;
use keepbest::app::Error;
use keepbest::app::StoredFile;
use keepbest::app::uploads::SmallFile;
use keepbest::domain::digest::CHUNK_BYTES;
use keepbest::domain::digest::Sha256;
use keepbest::domain::event::Event;
use keepbest::domain::ids::ArtifactName;
use keepbest::domain::ids::BestParent;
use keepbest::domain::ids::CheckpointName;
use keepbest::domain::ids::ListParent;
use keepbest::domain::ids::VersionName;
use keepbest::domain::metric::Direction;
use keepbest::domain::metric::MetricValue;
use keepbest::domain::strategy::Strategy;

use crate::support::apps::HOUR_US;
use crate::support::apps::SECOND_US;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::best_only;
use crate::support::apps::epoch_end;
use crate::support::apps::every_epoch;
use crate::support::apps::id;
use crate::support::apps::reason;
use crate::support::apps::start;
use crate::support::apps::towards;
use crate::support::pieces::stream_cut;
use crate::support::random::Random;
use crate::support::requests::noise;

const TEAMS: [&str; 2] = ["vision", "speech"];
const PROJECTS: [&str; 2] = ["a", "b"];
const VALUES: [f64; 10] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::MAX,
    5e-324,
    -0.0,
    0.1 + 0.2,
    1.0,
    9_007_199_254_740_993.0,
    -1.0,
];
/// An alias of users'. It is not in the manifests, which tell what a version got at its commit.
const USERS: &str = "production";

/// Trainers that do what comes to them.
pub(super) struct Load<'t> {
    test: &'t TestApp,
    random: Random,
    runs: Vec<(keepbest::app::runs::Start, Trainer)>,
    epoch: i64,
    has_large: bool,
}

impl<'t> Load<'t> {
    pub(super) async fn new(test: &'t TestApp, random: Random) -> Load<'t> {
        let mut runs = Vec::new();
        for team in TEAMS {
            for project in PROJECTS {
                let strategies: [(&str, Strategy, Option<&str>); 5] = [
                    ("best", best_only(), None),
                    ("all", every_epoch(), None),
                    ("most", towards(Direction::Max, best_only()), None),
                    // Two runs with one artifact.
                    ("one", every_epoch(), Some("shared")),
                    ("two", best_only(), Some("shared")),
                ];
                for (run, strategy, artifact) in strategies {
                    let mut start = start(&format!("teams/{team}/projects/{project}"), run, strategy);
                    start.artifact = artifact.map(id);
                    start.config = artifact.map(|it| format!("{{\"name\":\"{it}\"}}"));
                    runs.push((start.clone(), Trainer::start(&test.app, start).await.unwrap()));
                }
            }
        }
        Load { test, random, runs, epoch: 0, has_large: false }
    }

    /// One thing that a trainer, a user or the collector does.
    pub(super) async fn step(&mut self) {
        self.test.turn(i64::try_from(self.random.below(1_000)).unwrap() * SECOND_US / 10);
        let which = self.random.below(self.runs.len());
        match self.random.below(20) {
            0 => {
                // Its process died.
                let begin = self.runs[which].0.clone();
                self.runs[which].1 = Trainer::start(&self.test.app, begin).await.unwrap();
            }
            1..=3 => self.delete(which).await,
            4 => self.name(which).await,
            5 => {
                self.test.turn(HOUR_US);
                self.test.app.collect().await.unwrap();
            }
            _ => self.save(which).await,
        }
    }

    fn value(&mut self) -> f64 {
        match self.random.below(3) {
            0 => VALUES[self.random.below(VALUES.len())],
            _ => self.random.fraction(),
        }
    }

    async fn save(&mut self, which: usize) {
        self.epoch += i64::from(self.random.below(3) > 0);
        let metrics = [("val_loss", self.value()), ("acc \"ü\"", self.value())];
        let mut event: Event = epoch_end(self.epoch, &metrics);
        event.metrics.insert("count".to_owned(), MetricValue::Integer(i64::MAX - self.epoch));
        event.step = (self.random.below(2) == 0).then_some(self.epoch * 100);
        let trainer = &mut self.runs[which].1;
        let decision = trainer.report(vec![event]).await.unwrap().decisions.pop().unwrap();
        let Some(uid) = decision.checkpoint_uid else { return };
        let checkpoint = trainer.checkpoint(&uid);
        let fate = self.random.below(10);
        self.write(which, &checkpoint).await;
        let trainer = &self.runs[which].1;
        match fate {
            0 => trainer.abandon(&checkpoint).await.unwrap(),
            // It is never heard of again.
            1 => {}
            _ => {
                let metadata = (fate > 5).then(|| format!("{{\"epoch\":{}e-3}}", self.epoch));
                self.test.app.commit(checkpoint, trainer.attempt, None, metadata).await.unwrap();
            }
        }
    }

    async fn write(&mut self, which: usize, checkpoint: &CheckpointName) {
        let mut files = vec![small("frozen/weights", &noise(self.random.next() % 3, 500), false)];
        for number in 0..self.random.below(4) {
            let data = noise(self.random.next() % 40, self.random.below(300));
            files.push(small(&format!("own/ü {number}"), &data, self.random.below(2) == 0));
        }
        let trainer = &self.runs[which].1;
        self.test.app.write_small_files(checkpoint.clone(), trainer.attempt, files).await.unwrap();
        if !self.has_large || self.random.below(60) == 0 {
            self.has_large = true;
            let data = noise(1, 2 * CHUNK_BYTES as usize + 5);
            trainer.stream(checkpoint, "large", &data).await.unwrap();
            stream_cut(trainer, checkpoint, "cut", &data, 3_000_001).await.unwrap();
        }
    }

    async fn versions(&self, which: usize) -> Vec<i64> {
        let trainer = &self.runs[which].1;
        trainer.versions("", "").await.iter().map(|it| it.number).collect()
    }

    async fn delete(&mut self, which: usize) {
        let versions = self.versions(which).await;
        if !versions.is_empty() {
            let number = versions[self.random.below(versions.len())];
            let name = self.runs[which].1.version(&format!("v{number}"));
            self.test.app.delete_version(&name, true).await.unwrap();
        }
    }

    async fn name(&mut self, which: usize) {
        let versions = self.versions(which).await;
        if !versions.is_empty() {
            let version = format!("v{}", versions[self.random.below(versions.len())]);
            self.test.app.set_alias(&self.runs[which].1.artifact, USERS, &version, "").await.unwrap();
        }
    }

    /// Every run goes on with another database: with the numbers and the best that it had. One that never committed begins.
    pub(super) async fn resume(&mut self, app: &App) {
        for (begin, old) in &self.runs {
            let run = self.test.app.run(&old.run).await.unwrap();
            let numbers = match app.artifact(&old.artifact).await {
                Ok(artifact) => artifact.version_count,
                Err(Error::Refused(_)) => 0,
                Err(error) => panic!("{error:?}"),
            };
            let known = app.run(&old.run).await.is_ok();
            let mut trainer = Trainer::start(app, begin.clone()).await.unwrap();
            if known {
                assert!(trainer.attempt > run.attempt, "{}", old.run);
                let state = app.run(&old.run).await.unwrap().monitor_state;
                assert_eq!(state.best_checkpoint, run.monitor_state.best_checkpoint, "{}", old.run);
                assert_eq!(state.best, run.monitor_state.best, "{}", old.run);
            }
            let better = match run.direction {
                Direction::Min => f64::NEG_INFINITY,
                Direction::Max => f64::INFINITY,
            };
            let decision = trainer.epoch(self.epoch, better).await;
            // Nothing is better than an infinite best.
            if let Some(uid) = decision.checkpoint_uid {
                let checkpoint = trainer.checkpoint(&uid);
                trainer.write(&checkpoint, &[("model", b"goes on")]).await.unwrap();
                let version = trainer.commit(&checkpoint).await.unwrap();
                assert_eq!(version.number, numbers, "{}", old.run);
            }
        }
    }
}

fn small(path: &str, data: &[u8], declares: bool) -> SmallFile {
    let mut sha256 = Sha256::default();
    sha256.update(data);
    let sha256 = declares.then(|| sha256.finish());
    SmallFile { path: path.to_owned(), data: Bytes::copy_from_slice(data), sha256 }
}

/// How many versions there are.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) versions: u64,
    pub(super) deleted: u64,
}

pub(super) async fn counts(test: &TestApp) -> Counts {
    let sql = "SELECT state FROM checkpoints WHERE version IS NOT NULL";
    let states = test.database.texts(sql).await;
    let count = |state| states.iter().filter(|it| *it == state).count() as u64;
    Counts { versions: count("COMMITTED"), deleted: count("DELETED") }
}

/// All that the service tells of every artifact, version and file, and which are best, by what it is about. Artifacts
/// without a version are left out, and what users named.
pub(super) async fn told(app: &App) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    for team in TEAMS {
        let parent = ListParent { team: id(team), project: None };
        for artifact in app.list_artifacts(&parent, None, 1_000).await.unwrap() {
            if artifact.version_count == 0 {
                continue;
            }
            let aliases = app.list_aliases(&artifact, "", 1_000).await.unwrap();
            let aliases = aliases.iter().filter(|it| it.alias != USERS).map(|it| (&it.alias, it.version));
            told.insert(artifact.name.to_string(), format!("{:?} {artifact:?}", aliases.collect::<Vec<_>>()));
            tell_versions(app, &artifact.name, &mut told).await;
        }
        for project in PROJECTS {
            let parent = BestParent::parse(&format!("teams/{team}/projects/{project}")).unwrap();
            for (metric, direction) in
                [("val_loss", Direction::Min), ("val_loss", Direction::Max), ("count", Direction::Min)]
            {
                let best = app.best_version(&parent, Some(metric.to_owned()), Some(direction)).await;
                let best = match best {
                    Ok(best) => format!("{} v{}", best.artifact, best.number),
                    error => reason(error),
                };
                told.insert(format!("best {team}/{project} {metric} {direction:?}"), best);
            }
        }
    }
    told
}

async fn tell_versions(app: &App, artifact: &ArtifactName, told: &mut BTreeMap<String, String>) {
    let listed = app.list_versions(artifact, "", "", None, 1_000).await.unwrap();
    for (mut version, _) in listed.versions {
        version.alias_count -= version.aliases.iter().filter(|it| *it == USERS).count() as i64;
        version.aliases.retain(|it| it != USERS);
        let name = format!("{artifact}/versions/v{}", version.number);
        told.insert(name.clone(), format!("{version:?}"));
        for file in app.list_files(&version.checkpoint.checkpoint, "", 1_000).await.unwrap() {
            // The row's own id is new.
            let file = StoredFile { uid: String::new(), ..file };
            let version = VersionName::parse(&name).unwrap();
            let (_, pieces) = app.read_file(&version, &file.path, 0, 0).await.unwrap();
            let mut sha256 = Sha256::default();
            let mut pieces = std::pin::pin!(pieces);
            while let Some(piece) = futures::StreamExt::next(&mut pieces).await {
                sha256.update(&piece.unwrap().data);
            }
            told.insert(format!("{name} {}", file.path), format!("{:?} {file:?}", sha256.finish()));
        }
    }
}
