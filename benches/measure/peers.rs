//! What the server stands beside: a gRPC sink with the same settings, the bare disk, bare SQLite; and how a process is
//! started and watched.

use std::convert::Infallible;
use std::fs::File;
use std::fs::OpenOptions;
use std::future::Future;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::task::Context;
use std::task::Poll;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use bytes::Bytes;
use futures::StreamExt;
use keepbest_client::v1;
use rustix::fs::OFlags;
use sqlx::ConnectOptions;
use sqlx::Connection;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::sqlite::SqliteJournalMode;
use sqlx::sqlite::SqliteSynchronous;
use tonic::Status;
use tonic::Streaming;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::server::NamedService;
use tonic_prost::ProstCodec;

use crate::bytes::BLOCK_BYTES;
use crate::bytes::MESSAGE_BYTES;
use crate::bytes::Source;

/// A process that was started for the measurement; it is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: String,
}

impl Process {
    /// The built server on a folder of its own.
    pub(crate) fn server(data: &Path) -> Result<Process> {
        Process::server_of(Path::new(env!("CARGO_BIN_EXE_keepbest")), data, &[])
    }

    /// A server of any version, with further settings in its environment.
    pub(crate) fn server_of(program: &Path, data: &Path, settings: &[(&str, &str)]) -> Result<Process> {
        let mut command = Command::new(program);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .env("KEEPBEST_LOG_FILTER", "warn")
            .envs(settings.iter().copied());
        Process::start(&mut command)
    }

    /// This program as the sink.
    pub(crate) fn sink() -> Result<Process> {
        Process::start(Command::new(std::env::current_exe()?).arg("--sink"))
    }

    fn start(command: &mut Command) -> Result<Process> {
        let mut child = command.stdout(Stdio::piped()).spawn().context("start a process")?;
        let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let line = lines.next().context("it ended at once")??;
        std::thread::spawn(move || lines.for_each(drop));
        let address =
            line.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).context("its address")?;
        Ok(Process { child, address: address.to_owned() })
    }

    /// User and system time so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("stat has a name")?;
        let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
        // USER_HZ is 100 on every architecture that Linux still has.
        Ok(ticks.iter().sum::<f64>() / 100.0)
    }

    /// A size in MiB from the process' status: `VmRSS`, `VmHWM`.
    pub(crate) fn memory_mib(&self, name: &str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a size")?;
        Ok(line.trim_matches(|it: char| !it.is_ascii_digit()).parse::<f64>()? / 1024.0)
    }

    /// Begins a new peak.
    pub(crate) fn clear_peak(&self) -> Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Takes uploads and forgets them, makes downloads of one buffer, and answers reports without looking at them.
#[derive(Clone)]
struct Sink<const SERVICE: usize> {
    data: Bytes,
}

impl NamedService for Sink<0> {
    const NAME: &'static str = "keepbest.v1.Runs";
}

impl NamedService for Sink<1> {
    const NAME: &'static str = "keepbest.v1.Checkpoints";
}

impl NamedService for Sink<2> {
    const NAME: &'static str = "keepbest.v1.Artifacts";
}

impl<const SERVICE: usize> tower::Service<http::Request<Body>> for Sink<SERVICE> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let data = self.data.clone();
        Box::pin(async move {
            Ok(match SERVICE {
                0 => {
                    let echo = |_: tonic::Request<v1::ReportEventsRequest>| async {
                        Ok(tonic::Response::new(v1::ReportEventsResponse::default()))
                    };
                    Grpc::new(ProstCodec::default()).unary(tower::service_fn(echo), request).await
                }
                1 => {
                    Grpc::new(ProstCodec::default())
                        .client_streaming(tower::service_fn(discard), request)
                        .await
                }
                _ => {
                    let read = move |request| produce(data.clone(), request);
                    Grpc::new(ProstCodec::default()).server_streaming(tower::service_fn(read), request).await
                }
            })
        })
    }
}

async fn discard(
    request: tonic::Request<Streaming<v1::WriteFileRequest>>,
) -> Result<tonic::Response<v1::File>, Status> {
    let mut messages = request.into_inner();
    let mut file = v1::File::default();
    while let Some(message) = messages.message().await? {
        file.size_bytes += i64::try_from(message.data.len()).unwrap_or(0);
    }
    Ok(tonic::Response::new(file))
}

type Produced = futures::stream::BoxStream<'static, Result<v1::ReadFileResponse, Status>>;

async fn produce(
    data: Bytes,
    request: tonic::Request<v1::ReadFileRequest>,
) -> Result<tonic::Response<Produced>, Status> {
    let count = request.into_inner().length_bytes / i64::try_from(MESSAGE_BYTES).unwrap_or(1);
    let messages = (0..count).map(move |number| {
        let start = usize::try_from(number).unwrap_or(0) * MESSAGE_BYTES % data.len();
        Ok(v1::ReadFileResponse { data: data.slice(start..start + MESSAGE_BYTES), ..Default::default() })
    });
    Ok(tonic::Response::new(futures::stream::iter(messages).boxed()))
}

/// Serves the sink until this process is killed, with the settings of `src/server.rs`.
pub(crate) async fn serve_sink() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    crate::say(&format!("sink listens on {}", listener.local_addr()?))?;
    let data = Source::new().base;
    tonic::transport::Server::builder()
        .max_frame_size(1 << 20)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(64)
        .add_service(Sink::<0> { data: data.clone() })
        .add_service(Sink::<1> { data: data.clone() })
        .add_service(Sink::<2> { data })
        .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

/// Writes a file past the page cache in blocks of 8 MiB and syncs it once: what the disk can do.
pub(crate) fn write_direct(source: &Source, path: &Path, size_bytes: usize) -> Result<()> {
    let flags = i32::try_from(OFlags::DIRECT.bits())?;
    let file = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags).open(path);
    let mut file = file.context("open with O_DIRECT")?;
    let mut buffer = vec![0; BLOCK_BYTES + 4096];
    let start = buffer.as_ptr().align_offset(4096);
    let block = &mut buffer[start..start + BLOCK_BYTES];
    for number in 0..size_bytes / BLOCK_BYTES {
        source.fill(number, block);
        file.write_all(block)?;
    }
    Ok(file.sync_data()?)
}

/// Writes files of 8 MiB, each synced, and the folder at the end: the same bytes in the server's layout.
pub(crate) fn write_blocks(source: &Source, folder: &Path, size_bytes: usize) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut block = vec![0; BLOCK_BYTES];
    for number in 0..size_bytes / BLOCK_BYTES {
        source.fill(number, &mut block);
        let mut file = File::create(folder.join(format!("{number}")))?;
        file.write_all(&block)?;
        file.sync_data()?;
    }
    Ok(File::open(folder)?.sync_all()?)
}

/// `cp FROM TO && sync TO`.
pub(crate) fn copy_and_sync(from: &Path, to: &Path) -> Result<()> {
    let script = "cp \"$0\" \"$1\" && sync \"$1\"";
    let status = Command::new("sh").args(["-c", script]).arg(from).arg(to).status()?;
    ensure!(status.success(), "cp or sync failed");
    Ok(())
}

/// SQLite with the server's settings, and rows as small as they can be.
pub(crate) struct BareSqlite {
    connection: SqliteConnection,
    next: i64,
}

impl BareSqlite {
    pub(crate) async fn open(path: &Path) -> Result<BareSqlite> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let mut connection = options.connect().await?;
        let table =
            "CREATE TABLE events (run INTEGER, sequence INTEGER, body BLOB, PRIMARY KEY (run, sequence))";
        sqlx::query(table).execute(&mut connection).await?;
        Ok(BareSqlite { connection, next: 0 })
    }

    /// One durable commit of so many rows in one statement.
    pub(crate) async fn commit(&mut self, rows: i64) -> Result<()> {
        let mut transaction = self.connection.begin().await?;
        let mut insert = sqlx::QueryBuilder::new("INSERT INTO events (run, sequence, body) ");
        insert.push_values(self.next..self.next + rows, |mut row, sequence| {
            row.push_bind(1_i64).push_bind(sequence).push_bind(vec![7_u8; 40]);
        });
        insert.build().execute(&mut *transaction).await?;
        transaction.commit().await?;
        self.next += rows;
        Ok(())
    }
}
