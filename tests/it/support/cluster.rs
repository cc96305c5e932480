//! A throwaway Postgres from the installed binaries.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// What names the socket where there is no port.
const SOCKET: u16 = 5432;

/// One cluster with its server. Without fsync: what it wrote outlives its processes, and no test cuts the power.
pub(crate) struct Cluster {
    folder: PathBuf,
    bin: PathBuf,
    user: Option<(u32, u32)>,
    port: Option<u16>,
    // Its input is held open: when this process ends, however it ends, the shell stops the server and cleans up.
    guard: Child,
    told: BufReader<ChildStdout>,
}

/// The folder with initdb and postgres: the newest installed.
fn binaries() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found
        .pop()
        .expect("the server programs of Postgres are installed (on Debian: apt-get install postgresql)")
}

/// Postgres refuses to run as root: then it runs as the user that its package made.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("the user `postgres` exists");
    let mut ids = line.split(':').skip(2).map(|it| it.parse::<u32>().unwrap());
    Some((ids.next().unwrap(), ids.next().unwrap()))
}

impl Cluster {
    /// Starts one on a socket in its folder, and on a port of this machine as well where there is to be one.
    pub(crate) fn start(port: Option<u16>) -> Cluster {
        let folder = tempfile::Builder::new().prefix("keepbest-postgres-").tempdir().unwrap().keep();
        let (bin, user) = (binaries(), user());
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let data = folder.join("data");
        let made = command(&bin.join("initdb"), user)
            .args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let script = format!(
            "start() {{ '{postgres}' -D '{data}' -k '{folder}' -c listen_addresses={listen} -c port={port} \
             -c fsync=off -c max_connections=500 >>'{folder}/log' 2>&1 </dev/null & p=$!; }}
             stop() {{ kill -QUIT $p; wait $p; }}
             start
             while read -r order; do $order; echo \"$order\"; done
             stop; rm -rf '{folder}'",
            postgres = bin.join("postgres").display(),
            data = data.display(),
            folder = folder.display(),
            listen = if port.is_some() { "127.0.0.1" } else { "" },
            port = port.unwrap_or(SOCKET),
        );
        let mut guard = command(Path::new("/bin/sh"), user)
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let told = BufReader::new(guard.stdout.take().unwrap());
        let cluster = Cluster { folder, bin, user, port, guard, told };
        cluster.until_it_answers();
        cluster
    }

    fn until_it_answers(&self) {
        let started = Instant::now();
        while !self.run("SELECT 1") {
            assert!(started.elapsed() < Duration::from_secs(60), "Postgres did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Has the shell do it, and waits for the end.
    fn order(&mut self, order: &str) {
        writeln!(self.guard.stdin.as_mut().unwrap(), "{order}").unwrap();
        let mut done = String::new();
        self.told.read_line(&mut done).unwrap();
        assert_eq!(done.trim(), order);
    }

    /// Ends it as a crash does: all its processes quit at once, and nothing is written any more.
    pub(crate) fn stop(&mut self) {
        self.order("stop");
    }

    /// Starts it again after a stop, and waits until it answers: it recovers first.
    pub(crate) fn start_again(&mut self) {
        self.order("start");
        self.until_it_answers();
    }

    fn run(&self, sql: &str) -> bool {
        let psql = command(&self.bin.join("psql"), self.user)
            .args(["-U", "postgres", "-d", "postgres", "-c", sql, "-h"])
            .arg(&self.folder)
            .args(["-p", &self.port.unwrap_or(SOCKET).to_string()])
            .output();
        psql.unwrap().status.success()
    }

    /// Makes an empty database and answers its address.
    pub(crate) fn create(&self, name: &str) -> String {
        assert!(self.run(&format!("CREATE DATABASE {name}")), "create database {name}");
        let (folder, port) = (self.folder.display(), self.port.unwrap_or(SOCKET));
        format!("postgres://postgres@localhost/{name}?host={folder}&port={port}")
    }
}

fn command(program: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}
