//! A server of a few lines that keeps bytes in memory, cuts streams, and does worse.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keepbest_client::v1::artifacts_server::{Artifacts, ArtifactsServer};
use keepbest_client::v1::checkpoints_server::{Checkpoints, CheckpointsServer};
use keepbest_client::{Client, FileDigest, Retry, v1, version_digest};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const MIB: usize = 1 << 20;
pub(crate) const VERSION: &str = "teams/t/projects/p/artifacts/a/versions/v0";

/// A checkpoint, a version of it, and how often streams are cut.
#[derive(Default)]
pub(crate) struct Fake {
    /// Path to size and bytes.
    pub(crate) files: Mutex<BTreeMap<String, (usize, Vec<u8>)>>,
    /// How many streams began, and the newest of each file: an older one writes nothing more.
    streams: Mutex<(u64, BTreeMap<String, u64>)>,
    /// Files whose upload was finished, by their paths.
    pub(crate) complete: Mutex<BTreeSet<String>>,
    /// Each stream ends after so many messages.
    pub(crate) messages_per_stream: AtomicU64,
    pub(crate) messages_written: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    /// Flips a bit of what is read.
    pub(crate) corrupt: AtomicU64,
    /// Says another size of the version's first file than its digest was made of.
    pub(crate) other_list: AtomicBool,
    /// Done once, when the first message of an upload has come.
    pub(crate) meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// So many streams are taken and never answered.
    pub(crate) hanging_streams: AtomicU64,
}

fn digest(data: &[u8]) -> Vec<u8> {
    let mut digest = FileDigest::default();
    digest.update(data);
    digest.finish().to_vec()
}

fn file(path: &str, size: usize, data: &[u8], complete: bool) -> v1::File {
    v1::File {
        path: path.to_owned(),
        size_bytes: size as i64,
        durable_bytes: data.len() as i64,
        state: if complete { v1::FileState::Complete } else { v1::FileState::Open }.into(),
        digest: if complete { digest(data).into() } else { Default::default() },
        ..Default::default()
    }
}

impl Fake {
    pub(crate) fn cut_after(&self, messages: u64) {
        self.messages_per_stream.store(messages, Ordering::SeqCst);
    }

    /// The number of a stream that begins to write a file.
    fn begin(&self, path: &str) -> u64 {
        let (count, newest) = &mut *self.streams.lock().unwrap();
        *count += 1;
        newest.insert(path.to_owned(), *count);
        *count
    }

    fn is_newest(&self, path: &str, stream: u64) -> bool {
        self.streams.lock().unwrap().1[path] == stream
    }

    pub(crate) fn do_meanwhile(&self, what: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Box::new(what));
    }

    /// Waits for ever, if this stream is one that hangs.
    async fn perhaps_hang(&self) {
        let one_less = |left: u64| left.checked_sub(1);
        if self.hanging_streams.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            std::future::pending::<()>().await;
        }
    }

    fn is_cut(&self, messages: u64) -> bool {
        let limit = self.messages_per_stream.load(Ordering::SeqCst);
        limit > 0 && messages >= limit
    }

    fn version(&self) -> v1::Version {
        let mut files: Vec<_> = self
            .files
            .lock()
            .unwrap()
            .iter()
            .map(|(path, (size, data))| file(path, *size, data, true))
            .collect();
        let digest = version_digest(&files).to_vec().into();
        if self.other_list.load(Ordering::SeqCst) {
            files[0].size_bytes -= 1;
        }
        v1::Version {
            name: VERSION.to_owned(),
            file_count: files.len() as i64,
            digest,
            files,
            ..Default::default()
        }
    }
}

/// What the tests do not call.
macro_rules! uncalled {
    ($($method:ident: $request:ident -> $response:ident),*) => {
        $(fn $method<'a, 'f>(
            &'a self,
            _: Request<v1::$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<v1::$response>, Status>> + Send + 'f>>
        where
            'a: 'f,
            Self: 'f,
        {
            Box::pin(async { Err(Status::unimplemented("")) })
        })*
    };
}

#[tonic::async_trait]
impl Checkpoints for Shared {
    async fn prepare_file(
        &self,
        request: Request<v1::PrepareFileRequest>,
    ) -> Result<Response<v1::File>, Status> {
        let request = request.into_inner();
        let mut files = self.0.files.lock().unwrap();
        let (size, data) =
            files.entry(request.path.clone()).or_insert((request.size_bytes as usize, Vec::new()));
        let complete = self.0.complete.lock().unwrap().contains(&request.path);
        Ok(Response::new(file(&request.path, *size, data, complete)))
    }

    async fn write_file(
        &self,
        request: Request<Streaming<v1::WriteFileRequest>>,
    ) -> Result<Response<v1::File>, Status> {
        self.0.perhaps_hang().await;
        let mut stream = request.into_inner();
        let mut path = String::new();
        let (mut messages, mut number) = (0, 0);
        while let Some(message) = stream.next().await {
            let message = message?;
            let mut files = self.0.files.lock().unwrap();
            if !message.path.is_empty() {
                path = message.path;
                number = self.0.begin(&path);
                let data = &mut files.get_mut(&path).unwrap().1;
                if message.offset_bytes == 0 {
                    data.clear();
                }
                assert_eq!(message.offset_bytes as usize, data.len());
            }
            if !self.0.is_newest(&path, number) {
                return Err(Status::aborted("another stream writes the file"));
            }
            if message.data.is_empty() && !message.finish {
                continue;
            }
            assert_eq!(message.crc32c.unwrap_or(0), crc_fast::crc32_iscsi(&message.data));
            assert_eq!(message.known, []);
            let (size, data) = files.get_mut(&path).unwrap();
            data.extend_from_slice(&message.data);
            self.0.messages_written.fetch_add(1, Ordering::SeqCst);
            if let Some(what) = self.0.meanwhile.lock().unwrap().take() {
                what();
            }
            if message.finish {
                assert_eq!(*size, data.len());
                self.0.complete.lock().unwrap().insert(path.clone());
                return Ok(Response::new(file(&path, *size, data, true)));
            }
            messages += 1;
            if self.0.is_cut(messages) {
                return Err(Status::unavailable("cut"));
            }
        }
        Err(Status::invalid_argument("no finish"))
    }

    async fn write_small_files(
        &self,
        request: Request<v1::WriteSmallFilesRequest>,
    ) -> Result<Response<v1::WriteSmallFilesResponse>, Status> {
        let mut files = Vec::new();
        for small in request.into_inner().files {
            files.push(file(&small.path, small.data.len(), &small.data, true));
            self.0.files.lock().unwrap().insert(small.path, (small.data.len(), small.data.to_vec()));
        }
        Ok(Response::new(v1::WriteSmallFilesResponse { files }))
    }

    /// As an older server.
    async fn find_missing_chunks(
        &self,
        _: Request<v1::FindMissingChunksRequest>,
    ) -> Result<Response<v1::FindMissingChunksResponse>, Status> {
        Err(Status::unimplemented("FindMissingChunks"))
    }

    uncalled! {
        commit_checkpoint: CommitCheckpointRequest -> Version,
        abandon_checkpoint: AbandonCheckpointRequest -> Checkpoint,
        get_checkpoint: GetCheckpointRequest -> Checkpoint
    }
}

#[tonic::async_trait]
impl Artifacts for Shared {
    type WatchVersionsStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::WatchVersionsResponse, Status>> + Send>>;
    type ReadFileStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::ReadFileResponse, Status>> + Send>>;

    async fn get_version(&self, _: Request<v1::GetVersionRequest>) -> Result<Response<v1::Version>, Status> {
        Ok(Response::new(self.0.version()))
    }

    async fn read_file(
        &self,
        request: Request<v1::ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        self.0.perhaps_hang().await;
        let request = request.into_inner();
        assert_eq!(request.version, VERSION);
        let start = request.offset_bytes as usize;
        let data = self.0.files.lock().unwrap()[&request.path].1
            [start..start + request.length_bytes as usize]
            .to_vec();
        let mut responses = Vec::new();
        for (number, piece) in data.chunks(MIB).enumerate() {
            if self.0.is_cut(number as u64) {
                responses.push(Err(Status::unavailable("cut")));
                break;
            }
            let mut piece = piece.to_vec();
            piece[0] ^= self.0.corrupt.load(Ordering::SeqCst) as u8;
            self.0.bytes_read.fetch_add(piece.len() as u64, Ordering::SeqCst);
            let offset_bytes = (start + number * MIB) as i64;
            responses.push(Ok(v1::ReadFileResponse { file: None, offset_bytes, data: piece.into() }));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(responses))))
    }

    async fn watch_versions(
        &self,
        _: Request<v1::WatchVersionsRequest>,
    ) -> Result<Response<Self::WatchVersionsStream>, Status> {
        Err(Status::unimplemented("WatchVersions"))
    }

    uncalled! {
        get_best_version: GetBestVersionRequest -> Version,
        list_versions: ListVersionsRequest -> ListVersionsResponse,
        get_artifact: GetArtifactRequest -> Artifact,
        list_artifacts: ListArtifactsRequest -> ListArtifactsResponse,
        list_files: ListFilesRequest -> ListFilesResponse,
        list_aliases: ListAliasesRequest -> ListAliasesResponse,
        set_alias: SetAliasRequest -> Version,
        delete_alias: DeleteAliasRequest -> DeleteAliasResponse,
        delete_version: DeleteVersionRequest -> DeleteVersionResponse,
        delete_versions: DeleteVersionsRequest -> Deletion,
        delete_artifact: DeleteArtifactRequest -> Deletion
    }
}

#[derive(Clone)]
struct Shared(Arc<Fake>);

pub(crate) async fn start() -> (Arc<Fake>, Client) {
    let fake = Arc::new(Fake::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(CheckpointsServer::new(Shared(Arc::clone(&fake))).max_decoding_message_size(4 * MIB))
        .add_service(ArtifactsServer::new(Shared(Arc::clone(&fake))));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let retry = Retry { first_delay: Duration::from_millis(1), ..Retry::default() };
    (fake, Client::builder(format!("http://{address}")).retry(retry).connect_lazy().unwrap())
}

pub(crate) fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 3 % 251) as u8).collect()
}
