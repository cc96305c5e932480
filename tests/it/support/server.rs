//! Servers for tests: one in this process, and one as a process of its own that can be killed.

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;

use keepbest::config::Config;
use keepbest::config::Flags;
use keepbest::server::serve_until;
use keepbest_proto::v1::artifacts_client::ArtifactsClient;
use keepbest_proto::v1::checkpoints_client::CheckpointsClient;
use keepbest_proto::v1::runs_client::RunsClient;
use rustix::process::Pid;
use rustix::process::Signal;
use tempfile::NamedTempFile;
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::support::azure;
use crate::support::databases::postgres_url;
use crate::support::launch::Launched;
use crate::support::launch::launch;
use crate::support::ports::free_port;
use crate::support::replicas;
use crate::support::s3::s3;

/// A server in this process on a fresh data folder; it stops when it is dropped.
pub(crate) struct TestServer {
    config: Config,
    folder: TempDir,
    address: SocketAddr,
    stop: CancellationToken,
    serving: Option<JoinHandle<anyhow::Result<()>>>,
}

/// Settings for tests: a free port, and no waiting.
pub(crate) fn test_config(data_dir: &Path) -> Config {
    let mut config =
        Config { data_dir: data_dir.to_owned(), listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
    config.limits.drain_seconds = 1;
    config
}

/// `s3` or `azure` in the environment: servers in this process stand on Postgres and that store instead of a data folder, so
/// that the same tests run on all of them.
const REPLICA: &str = "KEEPBEST_TEST_REPLICA";

/// Puts empty ones into the settings, if they are asked for.
async fn stand_on_servers(config: &mut Config) {
    let Some(store) = std::env::var_os(REPLICA) else { return };
    let mut environment = match store.to_str() {
        Some("s3") => s3().await.environment(),
        Some("azure") => azure::environment().await,
        _ => panic!("{REPLICA} is {store:?}, neither `s3` nor `azure`"),
    };
    environment.push(("KEEPBEST_DATABASE_URL".to_owned(), postgres_url().await));
    environment.push(("KEEPBEST_DATABASE_MIGRATE".to_owned(), "true".to_owned()));
    stand_on(config, environment);
}

/// Puts a database and a store into the settings.
fn stand_on(config: &mut Config, environment: Vec<(String, String)>) {
    let loaded = Config::from_sources(None, environment, &Flags::default()).unwrap();
    config.database_url = loaded.database_url;
    config.database = loaded.database;
    config.store_url = loaded.store_url;
    config.store = loaded.store;
}

/// Starts a server with the usual settings.
pub(crate) async fn start() -> TestServer {
    start_with(|_| {}).await
}

/// Starts a server with other settings.
pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> TestServer {
    let folder = tempfile::tempdir().unwrap();
    let mut config = test_config(folder.path());
    change(&mut config);
    stand_on_servers(&mut config).await;
    start_as(folder, config).await
}

/// Starts a server on Postgres and S3, whatever the others stand on, with further settings of the database.
pub(crate) async fn start_on_postgres(more: &[(&str, &str)]) -> TestServer {
    let folder = tempfile::tempdir().unwrap();
    let mut config = test_config(folder.path());
    let migrate = ("KEEPBEST_DATABASE_MIGRATE", "true");
    stand_on(&mut config, replicas::environment(&[&[migrate], more].concat()).await);
    start_as(folder, config).await
}

async fn start_as(folder: TempDir, config: Config) -> TestServer {
    let mut server = TestServer {
        config,
        folder,
        address: ([127, 0, 0, 1], 0).into(),
        stop: CancellationToken::new(),
        serving: None,
    };
    server.begin().await;
    server
}

impl TestServer {
    async fn begin(&mut self) {
        let (ready, address) = tokio::sync::oneshot::channel();
        self.stop = CancellationToken::new();
        let serving = serve_until(self.config.clone(), |it| ready.send(it).unwrap(), self.stop.clone());
        self.serving = Some(tokio::spawn(serving));
        match address.await {
            Ok(address) => self.address = address,
            Err(_) => panic!("{:?}", self.serving.take().unwrap().await),
        }
    }

    /// Stops gracefully and starts again on the same folder, at another port.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.begin().await;
    }

    /// Stops gracefully and waits for the end.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(serving) = self.serving.take() {
            serving.await.unwrap().unwrap();
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The data folder.
    pub(crate) fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// The settings that it runs with.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// A bare channel, for calls that no client would make.
    pub(crate) fn channel(&self) -> Channel {
        Channel::from_shared(self.address()).unwrap().connect_lazy()
    }

    pub(crate) fn runs(&self) -> RunsClient<Channel> {
        RunsClient::new(self.channel())
    }

    pub(crate) fn checkpoints(&self) -> CheckpointsClient<Channel> {
        CheckpointsClient::new(self.channel())
    }

    pub(crate) fn artifacts(&self) -> ArtifactsClient<Channel> {
        ArtifactsClient::new(self.channel())
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// `keepbest serve` as a process; killed with -9 when it is dropped.
pub(crate) struct ServerProcess {
    data_dir: PathBuf,
    listen: String,
    settings: Vec<(String, String)>,
    child: Child,
    lines: UnboundedReceiver<String>,
    log: NamedTempFile,
}

/// So many lines of a log tell why its server ended.
const LAST_LINES: usize = 5;

impl ServerProcess {
    /// Starts the built program on the folder and waits for its address.
    pub(crate) fn start(data_dir: &Path) -> ServerProcess {
        Self::start_with(data_dir, &[])
    }

    /// The same with settings in its environment.
    pub(crate) fn start_with(data_dir: &Path, settings: &[(&str, &str)]) -> ServerProcess {
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self::start_at(data_dir, &listen(), settings)
    }

    /// As a replica: what it needs is in its environment, and the folder stays empty.
    pub(crate) fn start_in(folder: &Path, settings: Vec<(String, String)>) -> ServerProcess {
        Self::start_at(folder, &listen(), settings)
    }

    fn start_at(data_dir: &Path, listen: &str, settings: Vec<(String, String)>) -> ServerProcess {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepbest"));
        command.envs(settings.iter().cloned());
        let log = NamedTempFile::new().unwrap();
        let Launched { child, address: listen, lines } =
            launch(command, listen, data_dir, log.path()).unwrap();
        let (told, rest) = unbounded_channel();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(told.send(line))));
        ServerProcess { data_dir: data_dir.to_owned(), listen, settings, child, lines: rest, log }
    }

    /// `http://127.0.0.1:PORT`; the same after a restart.
    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// kill -9, and start again on the same folder and port.
    pub(crate) fn kill_and_restart(&mut self) {
        let settings = std::mem::take(&mut self.settings);
        self.restart_with(settings);
    }

    /// The same with other settings.
    pub(crate) fn restart_with(&mut self, settings: Vec<(String, String)>) {
        self.kill();
        *self = Self::start_at(&self.data_dir, &self.listen, settings);
    }

    /// The next line that the server prints; none when it has ended.
    pub(crate) async fn line(&mut self) -> Option<String> {
        self.lines.recv().await
    }

    /// The end of its log.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.log.path()).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    /// All of its log.
    pub(crate) fn whole_log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// What it has read since its start: from files and sockets, also what the kernel had in memory.
    pub(crate) fn read_bytes(&self) -> u64 {
        let counts = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap();
        counts.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    }

    /// The memory that it has now.
    pub(crate) fn memory_mib(&self) -> u64 {
        self.status_mib("VmRSS:")
    }

    /// The most that it had since the peak was cleared.
    pub(crate) fn peak_mib(&self) -> u64 {
        self.status_mib("VmHWM:")
    }

    /// Begins a new peak.
    pub(crate) fn clear_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    fn status_mib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.child.wait().unwrap().code()
    }

    /// SIGHUP: with TLS it reads its certificate again.
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// How many lines of its log say this.
    pub(crate) fn logged(&self, text: &str) -> usize {
        let log = std::fs::read_to_string(self.log.path()).unwrap();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// Waits until so many lines of its log say this.
    pub(crate) async fn until_logged(&self, text: &str, count: usize) {
        while self.logged(text) < count {
            tokio::task::yield_now().await;
        }
    }

    /// Takes all its time away, as a machine that swaps or moves does.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// And gives it back.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

/// Where a server listens that may be started again there.
fn listen() -> String {
    format!("127.0.0.1:{}", free_port())
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
