//! Uploads piece by piece, and what is stored afterwards: what no client does and every test asks.

use std::fs;
use std::time::Duration;

use futures::StreamExt;
use keepbest::config::StoreOptions;
use keepbest_proto::v1;
use keepbest_proto::v1::checkpoints_client::CheckpointsClient;
use object_store::ObjectStore;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::Status;
use tonic::transport::Channel;

use crate::support::requests::Trainer;
use crate::support::server::TestServer;

/// A chunk of the store.
pub(crate) const CHUNK: usize = 8 << 20;

/// How long a test waits for something that must come; it never waits for nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// Declares a file and answers how it stands.
pub(crate) async fn prepare(
    trainer: &Trainer,
    checkpoint: &str,
    path: &str,
    size: usize,
) -> Result<v1::File, Status> {
    let request = v1::PrepareFileRequest {
        checkpoint: checkpoint.to_owned(),
        attempt: trainer.attempt,
        path: path.to_owned(),
        size_bytes: i64::try_from(size).unwrap(),
        ..v1::PrepareFileRequest::default()
    };
    let answer = CheckpointsClient::new(trainer.channel.clone()).prepare_file(request).await?;
    Ok(answer.into_inner())
}

/// Asks until so many bytes are durable: chunks are stored while a stream is open.
pub(crate) async fn until_durable(
    trainer: &Trainer,
    checkpoint: &str,
    path: &str,
    size: usize,
    expected: usize,
) {
    let asking = async {
        loop {
            let file = prepare(trainer, checkpoint, path, size).await.unwrap();
            if file.durable_bytes == i64::try_from(expected).unwrap() {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("the bytes that were sent become durable");
}

/// A WriteFile that is under way.
pub(crate) struct OpenUpload {
    messages: mpsc::Sender<v1::WriteFileRequest>,
    answer: JoinHandle<Result<v1::File, Status>>,
}

impl OpenUpload {
    /// Opens a stream that goes on at `offset`, without data.
    pub(crate) async fn begin(
        channel: Channel,
        trainer: &Trainer,
        checkpoint: &str,
        path: &str,
        offset: usize,
    ) -> OpenUpload {
        Self::begin_within(channel, trainer, checkpoint, path, offset, None).await
    }

    /// The same with a deadline.
    pub(crate) async fn begin_within(
        channel: Channel,
        trainer: &Trainer,
        checkpoint: &str,
        path: &str,
        offset: usize,
        deadline: Option<Duration>,
    ) -> OpenUpload {
        let (messages, receiver) = mpsc::channel(1);
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Some(deadline) = deadline {
            request.set_timeout(deadline);
        }
        let answer = tokio::spawn(async move {
            Ok(CheckpointsClient::new(channel).write_file(request).await?.into_inner())
        });
        let upload = OpenUpload { messages, answer };
        let first = v1::WriteFileRequest {
            checkpoint: checkpoint.to_owned(),
            attempt: trainer.attempt,
            path: path.to_owned(),
            offset_bytes: i64::try_from(offset).unwrap(),
            ..v1::WriteFileRequest::default()
        };
        upload.send_message(first).await;
        upload
    }

    /// Sends one message as it is.
    pub(crate) async fn send_message(&self, message: v1::WriteFileRequest) {
        // The server may have ended the call already: its answer says why.
        drop(self.messages.send(message).await);
    }

    /// Sends bytes in messages of at most 1 MiB.
    pub(crate) async fn send(&self, data: &[u8]) {
        for part in data.chunks(1 << 20) {
            let data = part.to_vec().into();
            self.send_message(v1::WriteFileRequest { data, ..v1::WriteFileRequest::default() }).await;
        }
    }

    /// Says `finish` and waits for the answer.
    pub(crate) async fn finish(self) -> Result<v1::File, Status> {
        self.send_message(v1::WriteFileRequest { finish: true, ..v1::WriteFileRequest::default() }).await;
        self.end().await
    }

    /// Ends the stream without a word and waits for the answer.
    pub(crate) async fn end(self) -> Result<v1::File, Status> {
        drop(self.messages);
        self.answer.await.unwrap()
    }

    /// Whether the server has answered.
    pub(crate) fn is_over(&self) -> bool {
        self.answer.is_finished()
    }

    /// Waits for the answer with the stream open.
    pub(crate) async fn answer(self) -> Result<v1::File, Status> {
        let answer = self.answer.await.unwrap();
        drop(self.messages);
        answer
    }

    /// Cancels the call, as a client whose future is dropped.
    pub(crate) async fn cancel(self) {
        self.answer.abort();
        drop(self.answer.await);
    }
}

/// Writes small files in one call.
pub(crate) async fn write_small(
    trainer: &Trainer,
    checkpoint: &str,
    files: &[(&str, &[u8])],
) -> Result<Vec<v1::File>, Status> {
    let file = |(path, data): &(&str, &[u8])| v1::SmallFile {
        path: (*path).to_owned(),
        data: data.to_vec().into(),
        ..v1::SmallFile::default()
    };
    let request = v1::WriteSmallFilesRequest {
        checkpoint: checkpoint.to_owned(),
        attempt: trainer.attempt,
        files: files.iter().map(file).collect(),
    };
    let answer = CheckpointsClient::new(trainer.channel.clone()).write_small_files(request).await?;
    Ok(answer.into_inner().files)
}

/// The artifact that a run's versions belong to, if nothing else was asked for.
pub(crate) fn artifact_of(run: &str) -> String {
    format!("{}-model", run.replace("/runs/", "/artifacts/run-"))
}

/// All versions of a run's artifact.
pub(crate) async fn versions(server: &TestServer, run: &str) -> Vec<v1::Version> {
    let request =
        v1::ListVersionsRequest { parent: artifact_of(run), page_size: 1_000, ..Default::default() };
    server.artifacts().list_versions(request).await.unwrap().into_inner().versions
}

/// The chunks' objects of the server's store with their sizes.
pub(crate) fn objects(server: &TestServer) -> Vec<(String, u64)> {
    let mut found = match &server.config().store_url {
        None => {
            let mut found = Vec::new();
            walk(&server.data_dir().join("objects"), &mut found);
            found
        }
        Some(url) => listed(url.as_str(), &server.config().store),
    };
    found.retain(|(path, _)| path.contains("chunks/"));
    found.sort();
    found
}

/// The objects below an address.
pub(crate) fn listed(url: &str, options: &StoreOptions) -> Vec<(String, u64)> {
    in_store(url, options, async |store, prefix| {
        let listed = store.list(Some(&prefix)).map(|it| it.unwrap());
        listed.map(|it| (it.location.to_string(), it.size)).collect().await
    })
}

/// The bytes of an object that `objects` tells of.
pub(crate) fn object(server: &TestServer, path: &str) -> Vec<u8> {
    let Some(url) = &server.config().store_url else { return fs::read(path).unwrap() };
    let path = Path::from(path);
    in_store(url.as_str(), &server.config().store, async move |store, _| {
        store.get(&path).await.unwrap().bytes().await.unwrap().to_vec()
    })
}

/// Replaces an object behind the server's back; by nothing: removes it.
pub(crate) fn damage(server: &TestServer, path: &str, bytes: Option<Vec<u8>>) {
    match (&server.config().store_url, bytes) {
        (None, Some(bytes)) => fs::write(path, bytes).unwrap(),
        (None, None) => fs::remove_file(path).unwrap(),
        (Some(url), bytes) => {
            let path = Path::from(path);
            in_store(url.as_str(), &server.config().store, async move |store, _| match bytes {
                Some(bytes) => store.put(&path, bytes.into()).await.map(drop).unwrap(),
                None => store.delete(&path).await.unwrap(),
            });
        }
    }
}

/// Calls a store on a runtime of its own, since the caller may be a task.
fn in_store<T: Send + 'static, F: Future<Output = T>>(
    url: &str,
    options: &StoreOptions,
    work: impl FnOnce(Box<dyn ObjectStore>, Path) -> F + Send + 'static,
) -> T {
    let options = options.environment().chain([("allow_http", "true")]);
    let (store, prefix) = object_store::parse_url_opts(&url.parse().unwrap(), options).unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(move || runtime().block_on(work(store, prefix))).join().unwrap()
}

fn walk(folder: &std::path::Path, found: &mut Vec<(String, u64)>) {
    // Made with the first object.
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path, found),
            false => found.push((path.display().to_string(), path.metadata().unwrap().len())),
        }
    }
}
