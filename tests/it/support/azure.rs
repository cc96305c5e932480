//! Microsoft's emulator of Azure's object store, one for this test binary: `make test-azure` installs it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::support::ports::free_port;

/// The account and the key that Azurite documents for everybody.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const CONTAINER: &str = "keepbest";

/// What a server needs to know of a place of its own, for its environment.
pub(crate) async fn environment() -> Vec<(String, String)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static SERVER: OnceLock<(u16, Child)> = OnceLock::new();
    let port = tokio::task::spawn_blocking(|| SERVER.get_or_init(start).0).await.unwrap();
    let place = NEXT.fetch_add(1, Ordering::SeqCst);
    [
        ("KEEPBEST_STORE_URL", format!("az://{CONTAINER}/test-{place}")),
        ("AZURE_STORAGE_ENDPOINT", format!("http://127.0.0.1:{port}/{ACCOUNT}")),
        ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
        ("AZURE_STORAGE_ACCOUNT_KEY", KEY.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// It runs until this process ends, however it ends: the shell then loses its input.
fn start() -> (u16, Child) {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = home.join(".azurite/node_modules/.bin/azurite-blob");
    assert!(program.is_file(), "Azurite is installed: `scripts/setup-azurite` puts it into .azurite");
    let folder = tempfile::Builder::new().prefix("keepbest-azure-").tempdir().unwrap().keep();
    let port = free_port();
    let script = format!(
        "'{program}' --blobHost 127.0.0.1 --blobPort {port} --location '{data}' --silent --skipApiVersionCheck \
         --disableTelemetry >'{data}/log' 2>&1 </dev/null & p=$!; cat; kill -KILL $p; wait $p; rm -rf '{data}'",
        program = program.display(),
        data = folder.display(),
    );
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let server = (port, shell.spawn().unwrap());
    let begun = Instant::now();
    // The driver has no call that makes a container.
    let make = || {
        Command::new("python3")
            .arg(home.join("tests/azure_container.py"))
            .args([&format!("http://127.0.0.1:{port}"), ACCOUNT, KEY, CONTAINER])
            .output()
            .unwrap()
    };
    let mut made = make();
    while !made.status.success() {
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(begun.elapsed() < Duration::from_secs(90), "Azurite did not start: {log} {said}");
        std::thread::sleep(Duration::from_millis(200));
        made = make();
    }
    server
}
