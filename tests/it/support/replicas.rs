//! Several servers as processes of their own, on one Postgres database and one S3 store: nothing else is shared.

use std::process::Command;

use keepbest::config::Config;
use keepbest::config::Flags;
use tempfile::TempDir;

use crate::support::databases::postgres_url;
use crate::support::s3::s3;
use crate::support::server::ServerProcess;

/// Replicas and what they stand on.
pub(crate) struct Replicas {
    pub(crate) servers: Vec<ServerProcess>,
    environment: Vec<(String, String)>,
    // They must not write there; it is empty to the end.
    folder: TempDir,
}

/// What replicas of one service are told; `more` are further settings.
pub(crate) async fn environment(more: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut environment = s3().await.environment();
    environment.push(("KEEPBEST_DATABASE_URL".to_owned(), postgres_url().await));
    environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    environment
}

impl Replicas {
    /// Starts so many on an empty database and an empty place in the store.
    pub(crate) async fn start(count: usize, more: &[(&str, &str)]) -> Replicas {
        let environment = environment(more).await;
        let folder = tempfile::tempdir().unwrap();
        let start = move || {
            let mut replicas = Replicas { servers: Vec::new(), environment, folder };
            assert_eq!(replicas.run(&["migrate"]).0, Some(0));
            for _ in 0..count {
                let server = ServerProcess::start_in(replicas.folder.path(), replicas.environment.clone());
                replicas.servers.push(server);
            }
            replicas
        };
        tokio::task::spawn_blocking(start).await.unwrap()
    }

    /// Starts so many more, all at once.
    pub(crate) async fn add(&mut self, count: usize) {
        let (folder, environment) = (self.folder.path().to_owned(), self.environment.clone());
        let start = move || ServerProcess::start_in(&folder, environment.clone());
        let starting: Vec<_> = (0..count).map(|_| tokio::task::spawn_blocking(start.clone())).collect();
        for server in starting {
            self.servers.push(server.await.unwrap());
        }
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(ServerProcess::address).collect()
    }

    /// The address of their database.
    pub(crate) fn database_url(&self) -> &str {
        let url = self.environment.iter().rfind(|(name, _)| name == "KEEPBEST_DATABASE_URL");
        url.map(|(_, url)| url.as_str()).unwrap()
    }

    /// Their settings.
    pub(crate) fn config(&self) -> Config {
        Config::from_sources(None, self.environment.clone(), &Flags::default()).unwrap()
    }

    /// kill -9 for these at once, and start them again where they were; also at once.
    pub(crate) fn kill_and_restart(&mut self, which: &[usize]) {
        let chosen = self.servers.iter_mut().enumerate().filter(|(number, _)| which.contains(number));
        let mut chosen: Vec<_> = chosen.map(|(_, server)| server).collect();
        chosen.iter_mut().for_each(|server| server.kill());
        std::thread::scope(|scope| {
            for server in chosen {
                scope.spawn(|| server.kill_and_restart());
            }
        });
    }

    /// Runs the program beside the servers, with their settings: its exit code and what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepbest"));
        command.args(arguments).envs(self.environment.iter().cloned()).current_dir(self.folder.path());
        let done = command.output().unwrap();
        let text = [done.stdout, done.stderr].map(|it| String::from_utf8_lossy(&it).into_owned()).concat();
        (done.status.code(), text)
    }

    /// The folder that they were started in.
    pub(crate) fn is_folder_empty(&self) -> bool {
        std::fs::read_dir(self.folder.path()).unwrap().next().is_none()
    }
}
