//! What a team holds is stored once, and an upload that lost its place writes nothing.

use keepbest::db::Db;
use keepbest::db::Error;
use keepbest::db::ExpireTimes;
use keepbest::db::FileStep;
use keepbest::db::PlacedChunk;
use keepbest::db::Stored;
use keepbest::db::WriteFiles;
use keepbest::domain::digest::Digest;
use keepbest::domain::file::NewFile;
use keepbest::domain::file::StoredFile;
use keepbest::domain::ids::CheckpointName;
use keepbest::domain::refusal::Refusal;
use keepbest::store::new_key;

use crate::support::apps::BEGIN_US;
use crate::support::apps::HOUR_US;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::every_epoch;
use crate::support::apps::shown;
use crate::support::apps::start;
use crate::support::databases::TestDatabase;
use crate::support::databases::on_all_databases;

on_all_databases! {
    a_chunk_is_new_until_it_is_settled
    bytes_that_were_found_wrong_are_stored_again_under_their_key
    equal_bytes_are_one_object_in_a_team_and_two_in_two_teams
    of_two_uploads_of_the_same_bytes_the_slower_one_takes_the_others_object
    a_newer_stream_supersedes_an_older_one
    a_file_is_declared_once
    an_upload_whose_object_was_collected_is_refused
    the_same_file_declared_again_after_the_commit_is_complete
}

/// One stream into a file of one chunk of five bytes.
struct Stream {
    db: Db,
    write: WriteFiles,
    path: String,
    file_uid: String,
}

impl Stream {
    async fn begin(test: &TestApp, checkpoint: &CheckpointName, token: &str, path: &str) -> Stream {
        let db = test.database.open().await;
        let write = WriteFiles {
            checkpoint: checkpoint.clone(),
            attempt: 1,
            token: token.to_owned(),
            expire: ExpireTimes { pending_us: BEGIN_US + 100 * HOUR_US, parts_us: BEGIN_US + HOUR_US },
            now_us: BEGIN_US,
            files: Vec::new(),
        };
        let mut stream = Stream { db, write, path: path.to_owned(), file_uid: String::new() };
        let declare = NewFile { path: path.to_owned(), size_bytes: 5, sha256: None };
        let step = FileStep { declare: Some(declare), ..FileStep::default() };
        stream.file_uid = stream.step(step).await.unwrap().uid;
        stream.step(FileStep { take_over: Some(0), ..FileStep::default() }).await.unwrap();
        stream
    }

    /// Writes one step of the file.
    async fn step(&self, step: FileStep) -> Result<StoredFile, Error> {
        let step = FileStep { path: self.path.clone(), ..step };
        let files = self.db.write_files(WriteFiles { files: vec![step], ..self.write.clone() }).await?;
        Ok(files.into_iter().next().unwrap())
    }

    fn chunk(&self, stored: Stored) -> PlacedChunk {
        PlacedChunk {
            offset_bytes: 0,
            size_bytes: 5,
            digest: Digest::of_pieces([b"bytes".as_slice()]),
            stored,
        }
    }

    /// Looks whether the team holds the bytes: else reserves a key for them.
    async fn look(&self) -> Stored {
        let team = self.write.checkpoint.run.project.team.as_str();
        let digest = self.chunk(Stored::Held).digest;
        match self.db.held_chunks(team, [digest]).await.unwrap().remove(&digest) {
            Some(held) if held.is_suspect => Stored::Healed(held.object_key),
            Some(_) => Stored::Held,
            None => {
                let key = new_key(BEGIN_US);
                self.db.reserve_keys(vec![key.clone()], BEGIN_US + 24 * HOUR_US).await.unwrap();
                Stored::New(key)
            }
        }
    }

    async fn settle(&self, stored: Stored) -> Result<StoredFile, Error> {
        self.step(FileStep { chunks: vec![self.chunk(stored)], ..FileStep::default() }).await
    }

    async fn finish(&self) -> Result<StoredFile, Error> {
        self.step(FileStep { finish: true, ..FileStep::default() }).await
    }

    async fn pinned(&self) -> Vec<String> {
        let chunks = self.db.file_chunks(&self.file_uid, 0, 5).await.unwrap();
        chunks.into_iter().map(|it| it.object_key).collect()
    }
}

fn key(stored: &Stored) -> String {
    match stored {
        Stored::New(key) | Stored::Healed(key) => key.clone(),
        Stored::Held => panic!("it is held"),
    }
}

fn reason<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Refused(Refusal { reason, .. })) => reason.to_owned(),
        other => shown(&other),
    }
}

async fn pending(test: &TestApp, project: &str, run: &str) -> (Trainer, CheckpointName) {
    let mut trainer = Trainer::start(&test.app, start(project, run, every_epoch())).await.unwrap();
    let checkpoint = trainer.saved(0, 0.5).await;
    (trainer, checkpoint)
}

const MINE: &str = "teams/mine/projects/p";
const THEIRS: &str = "teams/theirs/projects/p";
const DOOMED: &str = "SELECT object_key FROM doomed_objects ORDER BY object_key";
const CHUNKS: &str = "SELECT team FROM chunks ORDER BY team";

async fn a_chunk_is_new_until_it_is_settled(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let (_, checkpoint) = pending(&test, MINE, "a").await;
    let one = Stream::begin(&test, &checkpoint, "one", "one").await;
    let new = one.look().await;
    assert_eq!(one.pinned().await.len(), 0, "a reservation is no reference");
    assert_eq!(test.database.texts(DOOMED).await, [key(&new)]);
    one.settle(new.clone()).await.unwrap();
    assert_eq!(one.pinned().await, [key(&new)]);
    assert_eq!(test.database.texts(DOOMED).await, Vec::<String>::new());
    for (later, name) in ["two", "three"].into_iter().enumerate() {
        let next = Stream::begin(&test, &checkpoint, name, name).await;
        let held = next.look().await;
        assert!(matches!(held, Stored::Held), "the team holds it");
        next.settle(held).await.unwrap();
        assert_eq!(next.pinned().await, [key(&new)]);
        // A collector that saw the chunk unused sees that it was used since, also within the same microsecond.
        let touched = test.database.texts("SELECT CAST(touch_time_us AS TEXT) FROM chunks").await;
        assert_eq!(touched, [(BEGIN_US + i64::try_from(later).unwrap() + 1).to_string()]);
    }
}

async fn bytes_that_were_found_wrong_are_stored_again_under_their_key(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let (_, checkpoint) = pending(&test, MINE, "a").await;
    let one = Stream::begin(&test, &checkpoint, "one", "one").await;
    let new = one.look().await;
    one.settle(new.clone()).await.unwrap();
    let late = Stream::begin(&test, &checkpoint, "late", "late").await;
    let held = late.look().await;
    one.db.suspect_chunk("mine", one.chunk(Stored::Held).digest, key(&new)).await.unwrap();
    assert_eq!(reason(late.settle(held).await), "RACE", "what was held a moment ago is suspect now");
    let again = late.look().await;
    assert!(matches!(&again, Stored::Healed(healed) if *healed == key(&new)), "{again:?}");
    late.settle(again).await.unwrap();
    let next = Stream::begin(&test, &checkpoint, "next", "next").await;
    assert!(matches!(next.look().await, Stored::Held), "it is whole again");
    assert_eq!((one.pinned().await, late.pinned().await), (vec![key(&new)], vec![key(&new)]));
}

async fn equal_bytes_are_one_object_in_a_team_and_two_in_two_teams(database: TestDatabase) {
    let test = TestApp::over(database).await;
    for (project, run) in [(MINE, "a"), (MINE, "b"), ("teams/mine/projects/q", "a"), (THEIRS, "a")] {
        let (trainer, checkpoint) = pending(&test, project, run).await;
        trainer.write(&checkpoint, &[("one", b"bytes"), ("empty", b"")]).await.unwrap();
        trainer.stream(&checkpoint, "two", b"bytes").await.unwrap();
        trainer.commit(&checkpoint).await.unwrap();
        assert_eq!(trainer.read("v0", "two").await.0, b"bytes");
    }
    assert_eq!(test.database.texts(CHUNKS).await, ["mine", "theirs"]);
    assert_eq!(test.keys().await.len(), 2);
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn of_two_uploads_of_the_same_bytes_the_slower_one_takes_the_others_object(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let (_, checkpoint) = pending(&test, MINE, "a").await;
    let (_, other) = pending(&test, THEIRS, "a").await;
    let late = Stream::begin(&test, &checkpoint, "late", "late").await;
    let late_new = late.look().await;
    let collected = late.db.claim_doomed(BEGIN_US + 24 * HOUR_US).await.unwrap();
    let fast = Stream::begin(&test, &checkpoint, "fast", "fast").await;
    let slow = Stream::begin(&test, &checkpoint, "slow", "slow").await;
    let foreign = Stream::begin(&test, &other, "foreign", "foreign").await;
    let (slow_new, fast_new) = (slow.look().await, fast.look().await);
    let foreign_new = foreign.look().await;
    fast.settle(fast_new.clone()).await.unwrap();
    assert_eq!(collected, [key(&late_new)]);
    assert_eq!(reason(late.settle(late_new).await), "RACE", "its object would stay without a reservation");
    late.db.forget_doomed(collected).await.unwrap();
    slow.settle(slow_new.clone()).await.unwrap();
    let fast_key = key(&fast_new);
    assert_eq!((fast.pinned().await, slow.pinned().await), (vec![fast_key.clone()], vec![fast_key.clone()]));
    let mut left = vec![key(&slow_new), key(&foreign_new)];
    left.sort();
    assert_eq!(test.database.texts(DOOMED).await, left, "what nobody refers to will be collected");
    foreign.settle(foreign_new.clone()).await.unwrap();
    assert_eq!(foreign.pinned().await, [key(&foreign_new)], "another team never takes ours");
    fast.settle(fast_new).await.unwrap();
    assert_eq!(fast.pinned().await, [fast_key], "settled twice is settled once");
}

async fn a_newer_stream_supersedes_an_older_one(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let (trainer, checkpoint) = pending(&test, MINE, "a").await;
    let old = Stream::begin(&test, &checkpoint, "old", "file").await;
    let late = old.look().await;
    let new = Stream::begin(&test, &checkpoint, "new", "file").await;
    assert_eq!(reason(old.settle(late).await), "UPLOAD_SUPERSEDED");
    assert_eq!(reason(old.finish().await), "UPLOAD_SUPERSEDED");
    assert_eq!(new.pinned().await, Vec::<String>::new());
    assert_eq!(reason(new.finish().await), "SIZE_MISMATCH");
    new.settle(new.look().await).await.unwrap();
    let done = new.finish().await.unwrap();
    assert_eq!((done.durable_bytes, done.digest.is_some()), (5, true));
    assert_eq!(
        reason(new.settle(new.look().await).await),
        "UPLOAD_SUPERSEDED",
        "a complete file takes no chunk"
    );
    // A repeated upload of a complete file is told that it is complete, and writes nothing.
    let again = trainer.stream(&checkpoint, "file", b"bytes").await.unwrap();
    assert_eq!(shown(&again), shown(&done));
}

async fn a_file_is_declared_once(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let (trainer, checkpoint) = pending(&test, MINE, "a").await;
    let target = trainer.target(&checkpoint, "file");
    let prepare = |size, sha256| test.app.prepare_file(target.clone(), size, sha256);
    let sha256 = Some(Digest([7; 32]));
    let first = prepare(5, sha256).await.unwrap();
    assert_eq!(shown(&prepare(5, sha256).await.unwrap()), shown(&first));
    assert_eq!(shown(&prepare(5, None).await.unwrap()), shown(&first));
    for (size, sha256) in [(6, None), (5, Some(Digest([8; 32])))] {
        assert_eq!(crate::support::apps::reason(prepare(size, sha256).await), "FILE_EXISTS");
    }
    for path in ["", "/a", "../a", "a/../b", "a//b", "a\\b", "a\0b"] {
        let refused = test.app.prepare_file(trainer.target(&checkpoint, path), 1, None).await;
        assert_eq!(crate::support::apps::reason(refused), "BAD_PATH", "{path:?}");
    }
    assert_eq!(test.app.checkpoint(&checkpoint).await.unwrap().file_count, 1);
}

async fn an_upload_whose_object_was_collected_is_refused(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let (trainer, checkpoint) = pending(&test, MINE, "a").await;
    let stream = Stream::begin(&test, &checkpoint, "slow", "file").await;
    let new = stream.look().await;
    test.turn(24 * HOUR_US - 1);
    assert_eq!(test.app.collect().await.unwrap().removed_objects, 0);
    test.turn(1);
    // Between the claim and the end of a collection the row still stands, and must not count.
    let claimed = stream.db.claim_doomed(BEGIN_US + 24 * HOUR_US).await.unwrap();
    assert_eq!(claimed, [key(&new)]);
    assert_eq!(reason(stream.settle(new.clone()).await), "RACE");
    stream.db.forget_doomed(claimed).await.unwrap();
    assert_eq!(reason(stream.settle(new).await), "RACE");
    assert_eq!((stream.pinned().await.len(), test.database.texts(CHUNKS).await.len()), (0, 0));
    trainer.stream(&checkpoint, "file", b"bytes").await.unwrap();
    trainer.commit(&checkpoint).await.unwrap();
    assert_eq!(test.problems().await, Vec::<String>::new());
}

async fn the_same_file_declared_again_after_the_commit_is_complete(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let (trainer, checkpoint) = pending(&test, MINE, "a").await;
    trainer.write(&checkpoint, &[("small", b"bytes"), ("empty", b"")]).await.unwrap();
    trainer.stream(&checkpoint, "large", b"bytes").await.unwrap();
    let version = trainer.commit(&checkpoint).await.unwrap();
    let again = trainer.write(&checkpoint, &[("small", b"bytes"), ("empty", b"")]).await.unwrap();
    assert!(again.iter().all(|file| file.digest.is_some()), "{again:?}");
    let prepare = |path, size| test.app.prepare_file(trainer.target(&checkpoint, path), size, None);
    let file = prepare("large", 5).await.unwrap();
    assert_eq!((file.durable_bytes, file.digest.is_some()), (5, true));
    assert_eq!(shown(&trainer.commit(&checkpoint).await.unwrap()), shown(&version));
    // Other bytes, another size, and a file that was not there are no repetition.
    assert_eq!(
        crate::support::apps::reason(trainer.write(&checkpoint, &[("small", b"BYTES")]).await),
        "FILE_EXISTS"
    );
    assert_eq!(
        crate::support::apps::reason(trainer.write(&checkpoint, &[("small", b"byte")]).await),
        "FILE_EXISTS"
    );
    assert_eq!(crate::support::apps::reason(prepare("large", 6).await), "FILE_EXISTS");
    assert_eq!(crate::support::apps::reason(prepare("more", 5).await), "CHECKPOINT_COMMITTED");
    assert_eq!(
        crate::support::apps::reason(trainer.write(&checkpoint, &[("more", b"bytes")]).await),
        "CHECKPOINT_COMMITTED"
    );
}
