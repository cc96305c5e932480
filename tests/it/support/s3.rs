//! A real S3 server for the tests: `SeaweedFS`, one for this test binary, with signatures checked.
//!
//! Chosen because it is a whole store of its own (not a stand-in made for tests), lives, and comes as one program in a
//! Python wheel, so that no machine needs more than the environment that `make setup` makes anyhow.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::support::ports::free_ports;

/// The one bucket; each test has a prefix of its own in it.
const BUCKET: &str = "keepbest";
const ACCESS_KEY: &str = "keeper";
const SECRET_KEY: &str = "only-for-tests";

/// A place for objects that no other test sees.
#[derive(Clone, Debug)]
pub(crate) struct S3 {
    pub(crate) endpoint: String,
    pub(crate) url: String,
}

/// A fresh place in the one S3 server of this test binary.
pub(crate) async fn s3() -> S3 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static SERVER: OnceLock<Server> = OnceLock::new();
    let start = || SERVER.get_or_init(Server::start).port;
    let port = tokio::task::spawn_blocking(start).await.unwrap();
    let url = format!("s3://{BUCKET}/test-{}", NEXT.fetch_add(1, Ordering::SeqCst));
    S3 { endpoint: format!("http://127.0.0.1:{port}"), url }
}

impl S3 {
    /// What the driver needs to know, by its own names.
    pub(crate) fn options(&self) -> [(&'static str, String); 4] {
        [
            ("aws_endpoint", self.endpoint.clone()),
            ("aws_region", "us-east-1".to_owned()),
            ("aws_access_key_id", ACCESS_KEY.to_owned()),
            ("aws_secret_access_key", SECRET_KEY.to_owned()),
        ]
    }

    /// The same for the environment of a process.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let options = self.options().into_iter().map(|(name, value)| (name.to_uppercase(), value));
        options.chain([("KEEPBEST_STORE_URL".to_owned(), self.url.clone())]).collect()
    }
}

struct Server {
    port: u16,
    // Its input is held open: when this process ends, however it ends, the shell stops the server and cleans up.
    _guard: Child,
}

/// Where the Python environment put it.
fn program() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/weed");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let elsewhere = std::env::split_paths(&path).map(|folder| folder.join("weed"));
    let found = [ours].into_iter().chain(elsewhere).find(|it| it.is_file());
    found.expect("SeaweedFS (`weed`) is installed: `make setup` puts it into .venv")
}

impl Server {
    fn start() -> Server {
        let folder = tempfile::Builder::new().prefix("keepbest-s3-").tempdir().unwrap().keep();
        let identities = serde_json::json!({ "identities": [{
            "name": ACCESS_KEY,
            "credentials": [{ "accessKey": ACCESS_KEY, "secretKey": SECRET_KEY }],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        fs::write(folder.join("identities.json"), identities.to_string()).unwrap();
        let [port, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc] = free_ports();
        let data = folder.display();
        let script = format!(
            "'{weed}' mini -dir='{data}' -ip=127.0.0.1 -ip.bind=127.0.0.1 -bucket={BUCKET} -s3.autoCreateBucket=false \
             -s3.config='{data}/identities.json' \
             -s3.port={port} -s3.port.grpc={s3_grpc} -s3.port.iceberg=0 -s3.port.lance=0 \
             -master.port={master} -master.port.grpc={master_grpc} -master.telemetry=false \
             -volume.port={volume} -volume.port.grpc={volume_grpc} -filer.port={filer} -filer.port.grpc={filer_grpc} \
             -webdav=false -admin.ui=false >'{data}/log' 2>&1 </dev/null & p=$!; cat; kill -KILL $p; \
             wait $p; rm -rf '{data}'",
            weed = program().display(),
        );
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let server = Server { port, _guard: shell.spawn().unwrap() };
        let begun = Instant::now();
        while !(server.has_bucket() && TcpStream::connect(("127.0.0.1", volume)).is_ok()) {
            let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(60), "SeaweedFS did not start: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    /// The bucket is made last of all.
    fn has_bucket(&self) -> bool {
        let place =
            S3 { endpoint: format!("http://127.0.0.1:{}", self.port), url: format!("s3://{BUCKET}/start") };
        let options = place.options();
        let named: Vec<_> = options.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let named: Vec<_> = named.into_iter().chain([("aws_allow_http", "true")]).collect();
        let store = keepbest::store::Store::open(&place.url, &named, &[]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        TcpStream::connect(("127.0.0.1", self.port)).is_ok() && runtime.block_on(store.probe()).is_ok()
    }
}
