//! What a team holds is stored once, and an upload that lost its place writes nothing.

use keepbest::db::Db;
use keepbest::db::Error;
use keepbest::db::ExpireTimes;
use keepbest::db::NewFile;
use keepbest::db::Upload;
use keepbest::db::WantedChunk;
use keepbest::domain::digest::Digest;
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
use crate::support::databases::on_both_databases;

on_both_databases! {
    a_claimed_chunk_is_new_until_it_is_settled
    equal_bytes_are_one_object_in_a_team_and_two_in_two_teams
    of_two_uploads_of_the_same_bytes_the_slower_one_takes_the_others_object
    a_newer_stream_supersedes_an_older_one
    a_file_is_declared_once
    an_upload_whose_object_was_collected_is_refused
}

/// One stream into a file of one chunk of five bytes.
struct Stream {
    db: Db,
    upload: Upload,
    file_uid: String,
}

impl Stream {
    async fn begin(test: &TestApp, checkpoint: &CheckpointName, token: &str, path: &str) -> Stream {
        let db = test.database.open().await;
        let upload = Upload {
            checkpoint: checkpoint.clone(),
            attempt: 1,
            token: token.to_owned(),
            expire: ExpireTimes { pending_us: BEGIN_US + 100 * HOUR_US, parts_us: BEGIN_US + HOUR_US },
        };
        let new = NewFile { path: path.to_owned(), size_bytes: 5, sha256: None };
        let file_uid = db.prepare_file(upload.clone(), new).await.unwrap().uid;
        db.begin_write(upload.clone(), path.to_owned(), 0).await.unwrap();
        Stream { db, upload, file_uid }
    }

    fn chunk(&self) -> WantedChunk {
        let (digest, file_uid) = (Digest::of_pieces([b"bytes".as_slice()]), self.file_uid.clone());
        WantedChunk {
            file_uid,
            offset_bytes: 0,
            size_bytes: 5,
            digest,
            object_key: new_key(&digest, BEGIN_US),
        }
    }

    async fn claim(&self) -> Result<Vec<WantedChunk>, Error> {
        self.db.claim_chunks(self.upload.clone(), vec![self.chunk()], BEGIN_US).await
    }

    async fn settle(&self, stored: Vec<WantedChunk>) -> Result<(), Error> {
        self.db.settle_chunks(self.upload.clone(), stored, BEGIN_US).await
    }

    async fn pinned(&self) -> Vec<String> {
        let chunks = self.db.file_chunks(&self.file_uid, 0, 5).await.unwrap();
        chunks.into_iter().map(|it| it.object_key).collect()
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

async fn a_claimed_chunk_is_new_until_it_is_settled(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let (_, checkpoint) = pending(&test, MINE, "a").await;
    let one = Stream::begin(&test, &checkpoint, "one", "one").await;
    let new = one.claim().await.unwrap();
    assert_eq!((new.len(), one.pinned().await.len()), (1, 0), "an intent is no reference");
    assert_eq!(test.database.texts(DOOMED).await, [new[0].object_key.clone()]);
    one.settle(new.clone()).await.unwrap();
    assert_eq!(one.pinned().await, [new[0].object_key.clone()]);
    assert_eq!(test.database.texts(DOOMED).await, Vec::<String>::new());
    for (later, name) in ["two", "three"].into_iter().enumerate() {
        let next = Stream::begin(&test, &checkpoint, name, name).await;
        assert_eq!(shown(&next.claim().await.unwrap()), "[]", "the team holds it");
        assert_eq!(next.pinned().await, [new[0].object_key.clone()]);
        // A collector that saw the chunk unused sees that it was used since, also within the same microsecond.
        let touched = test.database.texts("SELECT CAST(touch_time_us AS TEXT) FROM chunks").await;
        assert_eq!(touched, [(BEGIN_US + i64::try_from(later).unwrap() + 1).to_string()]);
    }
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
    let late_new = late.claim().await.unwrap();
    let collected = late.db.claim_doomed(BEGIN_US + 24 * HOUR_US).await.unwrap();
    let fast = Stream::begin(&test, &checkpoint, "fast", "fast").await;
    let slow = Stream::begin(&test, &checkpoint, "slow", "slow").await;
    let foreign = Stream::begin(&test, &other, "foreign", "foreign").await;
    let (slow_new, fast_new) = (slow.claim().await.unwrap(), fast.claim().await.unwrap());
    let foreign_new = foreign.claim().await.unwrap();
    fast.settle(fast_new.clone()).await.unwrap();
    assert_eq!(collected, [late_new[0].object_key.clone()]);
    assert_eq!(reason(late.settle(late_new).await), "RACE", "its object would stay without an intent");
    late.db.forget_doomed(collected).await.unwrap();
    slow.settle(slow_new.clone()).await.unwrap();
    let key = fast_new[0].object_key.clone();
    assert_eq!((fast.pinned().await, slow.pinned().await), (vec![key.clone()], vec![key.clone()]));
    let mut left = vec![slow_new[0].object_key.clone(), foreign_new[0].object_key.clone()];
    left.sort();
    assert_eq!(test.database.texts(DOOMED).await, left, "what nobody refers to will be collected");
    foreign.settle(foreign_new.clone()).await.unwrap();
    assert_eq!(foreign.pinned().await, [foreign_new[0].object_key.clone()], "another team never takes ours");
    fast.settle(fast_new).await.unwrap();
    assert_eq!(fast.pinned().await, [key], "settled twice is settled once");
}

async fn a_newer_stream_supersedes_an_older_one(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let (trainer, checkpoint) = pending(&test, MINE, "a").await;
    let old = Stream::begin(&test, &checkpoint, "old", "file").await;
    let late = old.claim().await.unwrap();
    let new = Stream::begin(&test, &checkpoint, "new", "file").await;
    let file = test.app.checkpoint(&checkpoint).await.unwrap().1;
    assert_eq!(reason(old.claim().await), "UPLOAD_SUPERSEDED");
    assert_eq!(reason(old.settle(late).await), "UPLOAD_SUPERSEDED");
    assert_eq!(reason(old.db.finish_files(old.upload.clone(), file.clone()).await), "UPLOAD_SUPERSEDED");
    assert_eq!(new.pinned().await, Vec::<String>::new());
    assert_eq!(reason(new.db.finish_files(new.upload.clone(), file.clone()).await), "SIZE_MISMATCH");
    new.settle(new.claim().await.unwrap()).await.unwrap();
    let done = new.db.finish_files(new.upload.clone(), file.clone()).await.unwrap();
    assert_eq!((done[0].durable_bytes, done[0].digest.is_some()), (5, true));
    assert_eq!(reason(new.claim().await), "UPLOAD_SUPERSEDED", "a complete file takes no chunk");
    // A repeated upload of a complete file is told that it is complete, and writes nothing.
    let again = trainer.stream(&checkpoint, "file", b"bytes").await.unwrap();
    assert_eq!(shown(&again), shown(&done[0]));
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
    assert_eq!(test.app.checkpoint(&checkpoint).await.unwrap().0.file_count, 1);
}

async fn an_upload_whose_object_was_collected_is_refused(database: TestDatabase) {
    let test = TestApp::over(database).await;
    let (trainer, checkpoint) = pending(&test, MINE, "a").await;
    let stream = Stream::begin(&test, &checkpoint, "slow", "file").await;
    let new = stream.claim().await.unwrap();
    test.turn(24 * HOUR_US - 1);
    assert_eq!(test.app.collect().await.unwrap().removed_objects, 0);
    test.turn(1);
    // Between the claim and the end of a collection the row still stands, and must not count.
    let claimed = stream.db.claim_doomed(BEGIN_US + 24 * HOUR_US).await.unwrap();
    assert_eq!(claimed, [new[0].object_key.clone()]);
    assert_eq!(reason(stream.settle(new.clone()).await), "RACE");
    stream.db.forget_doomed(claimed).await.unwrap();
    assert_eq!(reason(stream.settle(new).await), "RACE");
    assert_eq!((stream.pinned().await.len(), test.database.texts(CHUNKS).await.len()), (0, 0));
    trainer.stream(&checkpoint, "file", b"bytes").await.unwrap();
    trainer.commit(&checkpoint).await.unwrap();
    assert_eq!(test.problems().await, Vec::<String>::new());
}
