//! What the client does when a stream takes its file over: one of its own that broke off, or somebody else's.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use keepbest_client::Client;
use keepbest_client::OnProgress;
use keepbest_client::Progress;
use keepbest_client::UploadOptions;
use keepbest_client::upload_file;
use tokio::runtime::Handle;

use crate::support::proxy::Fate;
use crate::support::proxy::Proxy;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::noise;
use crate::support::requests::read;
use crate::support::server;
use crate::support::server::TestServer;
use crate::support::transfers::CHUNK;
use crate::support::transfers::OpenUpload;

const MODEL: &str = "model.keras";
const CHUNKS: usize = 6;
/// Where the file is taken over: no begin of a chunk, so that only the thread which reads for a stream tells of it; far
/// behind the first cut, whatever the buffers on the way hold.
const TAKEN_AT: u64 = ((CHUNKS - 2) * CHUNK + (1 << 20)) as u64;

/// The upload of a file, which other streams take over so many times when most of it was sent.
struct Contest {
    server: TestServer,
    trainer: Arc<Trainer>,
    checkpoint: String,
    data: Vec<u8>,
}

impl Contest {
    async fn new() -> Contest {
        let server = server::start().await;
        let mut trainer = Trainer::start(&server, "contest", best_only()).await;
        let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
        Contest { server, trainer: Arc::new(trainer), checkpoint, data: noise(7, CHUNKS * CHUNK) }
    }

    /// How it ended, and how often the file was taken over.
    async fn upload(&self, address: String, takeovers: usize) -> (Result<(), String>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(MODEL);
        std::fs::write(&path, &self.data).unwrap();
        let taken = Arc::new(AtomicUsize::new(0));
        let (runtime, trainer) = (Handle::current(), Arc::clone(&self.trainer));
        let (checkpoint, count) = (self.checkpoint.clone(), Arc::clone(&taken));
        let on_progress = OnProgress::new(move |progress: Progress| {
            if progress.bytes_done == TAKEN_AT && count.load(Ordering::Relaxed) < takeovers {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::task::block_in_place(|| runtime.block_on(take_over(&trainer, &checkpoint)));
            }
        });
        let client = Client::connect_lazy(address).unwrap();
        let options = UploadOptions { on_progress, ..UploadOptions::default() };
        let uploaded =
            upload_file(&client, &self.checkpoint, self.trainer.attempt, &path, MODEL, &options).await;
        let uploaded = uploaded.map(drop).map_err(|error| error.reason().to_owned());
        (uploaded, taken.load(Ordering::Relaxed))
    }

    /// The same where the first stream breaks off.
    async fn upload_with_a_break(&self, takeovers: usize) -> (Result<(), String>, usize) {
        let proxy = Proxy::start(&self.server.address(), Fate::CutAfter(CHUNK as u64 + 1)).await;
        let heal = async {
            proxy.limit_reached().await;
            proxy.set(Fate::Pass);
        };
        tokio::join!(self.upload(proxy.address(), takeovers), heal).0
    }
}

/// A stream that begins the file anew, and ends.
async fn take_over(trainer: &Trainer, checkpoint: &str) {
    let stream = OpenUpload::begin(trainer.channel.clone(), trainer, checkpoint, MODEL, 0).await;
    stream.end().await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_own_stream_took_after_a_break_is_taken_back() {
    let contest = Contest::new().await;
    assert_eq!(contest.upload_with_a_break(2).await, (Ok(()), 2));
    let version = contest.trainer.commit(&contest.checkpoint).await.unwrap();
    assert!(read(&contest.server, &version.name, MODEL).await.unwrap() == contest.data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_others_take_again_and_again_is_left_to_them() {
    let contest = Contest::new().await;
    assert_eq!(contest.upload_with_a_break(9).await, (Err("UPLOAD_SUPERSEDED".to_owned()), 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_break_too_a_file_is_taken_back_three_times() {
    let contest = Contest::new().await;
    let ended = contest.upload(contest.server.address(), 9).await;
    assert_eq!(ended, (Err("UPLOAD_SUPERSEDED".to_owned()), 4));
}
