//! `keepbest serve` as a process whose log is kept and whose system calls may be watched; killed with -9 when it is dropped.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use keepbest_proto::v1;
use keepbest_proto::v1::runs_client::RunsClient;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::Channel;

use crate::support::launch::Launched;
use crate::support::launch::launch;
use crate::support::requests::Trainer;

/// How long the tracer may take to note the end of a process that has ended.
const NOTED: Duration = Duration::from_secs(60);
/// Time between two looks at what it noted.
const LOOK: Duration = Duration::from_millis(5);

/// The server and what it said.
pub(crate) struct Probed {
    child: Child,
    address: String,
    notes: TempDir,
}

impl Probed {
    /// Starts the built program on the folder and waits for its address.
    pub(crate) fn start(data_dir: &Path) -> Probed {
        Self::begin(Command::new(env!("CARGO_BIN_EXE_keepbest")), data_dir, tempfile::tempdir().unwrap())
    }

    /// The same under `strace` with these options; the server stays a child of this process.
    pub(crate) fn traced(data_dir: &Path, options: &[&str]) -> Probed {
        let notes = tempfile::tempdir().unwrap();
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-q", "-o"]).arg(notes.path().join("trace")).args(options);
        command.arg(env!("CARGO_BIN_EXE_keepbest"));
        Self::begin(command, data_dir, notes)
    }

    fn begin(command: Command, data_dir: &Path, notes: TempDir) -> Probed {
        let launched = launch(command, "127.0.0.1:0", data_dir, &notes.path().join("log"));
        let Launched { child, address, lines } =
            launched.expect("strace is installed (scripts/setup-strace)");
        std::thread::spawn(move || lines.for_each(drop));
        Probed { child, address, notes }
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A bare channel.
    pub(crate) fn channel(&self) -> Channel {
        Channel::from_shared(self.address()).unwrap().connect_lazy()
    }

    /// A run that was started, over a bare channel.
    pub(crate) async fn trainer(&self, request: v1::StartRunRequest) -> Result<Trainer, Status> {
        let channel = self.channel();
        let started = RunsClient::new(channel.clone()).start_run(request).await?.into_inner();
        let (run, attempt, sequence) = (started.run.unwrap().name, started.attempt, started.next_sequence);
        Ok(Trainer { channel, run, attempt, sequence })
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it ends, and answers its exit code. Channels of this runtime close meanwhile, so that the server need not
    /// wait for them.
    pub(crate) async fn wait(&mut self) -> Option<i32> {
        while self.is_running() {
            tokio::task::yield_now().await;
        }
        self.child.wait().unwrap().code()
    }

    /// SIGTERM, and the exit code.
    pub(crate) async fn terminate(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.wait().await
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.notes.path().join("log")).unwrap()
    }

    /// Its system calls, once it has ended: the tracer notes the end of each process last.
    pub(crate) fn trace(&mut self) -> String {
        let begun = Instant::now();
        loop {
            let trace = fs::read_to_string(self.notes.path().join("trace")).unwrap();
            if tells_the_end(&trace, self.child.id()) {
                return trace;
            }
            assert!(begun.elapsed() < NOTED, "strace noted no end of {}: {trace}", self.child.id());
            std::thread::sleep(LOOK);
        }
    }
}

/// Whether a trace has the line of a process' end: its number, filled up to five places, and `+++ exited with 1 +++`.
fn tells_the_end(trace: &str, pid: u32) -> bool {
    let pid = pid.to_string();
    trace.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(&*pid) && words.next() == Some("+++")
    })
}

#[test]
fn the_end_of_a_process_is_found_whatever_its_number() {
    for pid in [7, 912, 4_711, 32_768, 4_194_304] {
        let line = format!("{pid:<5} +++ exited with 1 +++\n");
        assert!(tells_the_end(&format!("{pid:<5} fsync(3) = 0\n{line}"), pid), "{line}");
        assert!(!tells_the_end(&line, pid + 1), "{line}");
    }
    assert!(!tells_the_end("912   --- SIGTERM {si_signo=SIGTERM} ---\n", 912));
}

impl Drop for Probed {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
