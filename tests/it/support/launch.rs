//! Starts the built server as a process and waits until it tells its address.

use std::fs;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Lines;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// A server that listens.
pub(crate) struct Launched {
    pub(crate) child: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    /// What it prints from here on; to be read at once, so that the server never blocks on it.
    pub(crate) lines: Lines<BufReader<ChildStdout>>,
}

/// How long a server is started again and again: one that finds its database or its store away ends, and whoever runs it
/// starts it again. A loaded machine may take its time.
const PATIENCE: Duration = Duration::from_secs(300);
/// What its log says then.
const AWAY: [&str; 2] = ["the database is not available", "the object store is not available"];

/// Starts the server, which `command` names, and leaves its log in a file. An error: there is no such program.
pub(crate) fn launch(
    mut command: Command,
    listen: &str,
    data_dir: &Path,
    log: &Path,
) -> io::Result<Launched> {
    command.args(["serve", "--listen", listen, "--data"]).arg(data_dir).stdout(Stdio::piped());
    let begun = Instant::now();
    loop {
        let mut child = command.stderr(File::create(log)?).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        if let Some(Ok(line)) = lines.next() {
            let address =
                line.split_whitespace().find(|word| word.contains("127.0.0.1:")).unwrap().to_owned();
            return Ok(Launched { child, address, lines });
        }
        child.wait()?;
        let said = fs::read_to_string(log).unwrap_or_default();
        let away = AWAY.iter().any(|it| said.contains(it));
        assert!(away && begun.elapsed() < PATIENCE, "the server did not start: {said}");
    }
}
