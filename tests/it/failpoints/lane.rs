//! A server that goes through a script of failpoints: it is started again whenever a step ended it, and everybody is told
//! which step is armed.

use std::path::Path;
use std::sync::Arc;

use keepbest::failpoint::Action;
use keepbest::failpoint::Step;
use tokio::sync::watch;

use crate::support::server::ServerProcess;

/// How far the script is.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// Steps that happened.
    pub(super) fired: usize,
    /// Those of them that sleep: at each, callers cancel.
    pub(super) sleeps: usize,
    /// Whether the last step ended the server, and it is not back yet.
    pub(super) away: bool,
}

/// What trainers know of the server.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) address: String,
    pub(super) script: Arc<[Step]>,
    pub(super) progress: watch::Receiver<Progress>,
}

impl Lane {
    /// The step that happens next; none when the script is over.
    pub(super) fn armed(&self) -> Option<Step> {
        self.script.get(self.progress.borrow().fired).copied()
    }

    /// Returns when the server is there, as far as one knows.
    pub(super) async fn back(&self) {
        let back = self.progress.clone().wait_for(|it| !it.away).await.is_ok();
        assert!(back, "the server is gone for good");
    }

    /// Returns when a step begins to sleep after there were so many.
    pub(super) async fn slept(&self, before: usize) {
        let mut progress = self.progress.clone();
        let slept = progress.wait_for(|it| it.sleeps > before).await.is_ok();
        assert!(slept, "the server is gone for good");
    }
}

/// The server and its script.
pub(super) struct Supervisor {
    server: ServerProcess,
    settings: Vec<(String, String)>,
    script: Arc<[Step]>,
    progress: watch::Sender<Progress>,
}

impl Supervisor {
    /// Starts the server with the script's first steps.
    pub(super) fn start(data_dir: &Path, database_url: &str, script: Vec<Step>) -> (Supervisor, Lane) {
        let (progress, told) = watch::channel(Progress::default());
        let script: Arc<[Step]> = script.into();
        let settings = vec![("KEEPBEST_DATABASE_URL".to_owned(), database_url.to_owned())];
        let first: Vec<(String, String)> = with_steps(&settings, &script);
        let first: Vec<(&str, &str)> = first.iter().map(|(name, value)| (&**name, &**value)).collect();
        let server = ServerProcess::start_with(data_dir, &first);
        let lane = Lane { address: server.address(), script: Arc::clone(&script), progress: told };
        (Supervisor { server, settings, script, progress }, lane)
    }

    /// Follows the script to its end, when the server is up. Who drops it ends the server.
    pub(super) async fn follow(mut self) -> Supervisor {
        let mut last = None;
        loop {
            let fired = self.progress.borrow().fired;
            if fired == self.script.len() && last != Some(Action::Abort) {
                return self;
            }
            match self.server.line().await {
                Some(line) => {
                    let Some(told) = line.strip_prefix("failpoint ") else { continue };
                    let Step { point, action, .. } = self.script[fired];
                    assert_eq!(told, format!("{point} {action}"), "steps happen in the script's order");
                    last = Some(action);
                    self.progress.send_modify(|progress| {
                        progress.fired += 1;
                        progress.sleeps += usize::from(action == Action::Sleep);
                        progress.away = action == Action::Abort;
                    });
                }
                None => {
                    let ended = last.take();
                    assert_eq!(ended, Some(Action::Abort), "it ended by itself: {}", self.server.log());
                    let settings = with_steps(&self.settings, &self.script[fired..]);
                    tokio::task::block_in_place(|| self.server.restart_with(settings));
                    self.progress.send_modify(|progress| progress.away = false);
                }
            }
        }
    }
}

/// The settings of a process with the steps up to the one that ends it.
fn with_steps(settings: &[(String, String)], left: &[Step]) -> Vec<(String, String)> {
    let end = left.iter().position(|step| step.action == Action::Abort).map_or(left.len(), |at| at + 1);
    let steps: Vec<String> = left[..end].iter().map(Step::to_string).collect();
    let script = ("KEEPBEST_FAILPOINTS".to_owned(), steps.join(","));
    settings.iter().cloned().chain([script]).collect()
}
