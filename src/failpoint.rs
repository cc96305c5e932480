//! Failpoints: places where a test lets a server process die, fail or wait. A release build has none of them.
//!
//! A script says what happens, as in `KEEPBEST_FAILPOINTS=commit.numbered=abort,chunk.stored=error@2,event.locked=sleep`.
//! Only its first step is armed. When the point is reached for the n-th time since then, the step is told on the standard
//! output and happens, and the next one is armed: so a caller that repeats what failed meets each step exactly once.
//! `docs/adr/0014-failpoints-follow-a-script.md` says why.

/// Passes a point: a statement of an async function whose error can be made of [`Injected`].
macro_rules! failpoint {
    ($point:literal) => {
        #[cfg(debug_assertions)]
        crate::failpoint::reach($point).await?;
    };
}
pub(crate) use failpoint;

#[cfg(debug_assertions)]
pub use armed::*;

#[cfg(debug_assertions)]
mod armed {
    use std::collections::VecDeque;
    use std::fmt;
    use std::io::Write;
    use std::str::FromStr;
    use std::sync::Mutex;
    use std::sync::OnceLock;
    use std::sync::PoisonError;
    use std::time::Duration;

    /// Every point, in the order in which a trainer's calls reach them. `*.begun`: before the run's row is locked.
    /// `*.written`: all rows are, and the transaction is about to commit. `*.committed`: it did, and nobody was told.
    pub const POINTS: [&str; 36] = [
        "start.begun",
        "start.locked",
        "start.written",
        "start.committed",
        "event.begun",
        "event.locked",
        "event.recorded",
        "event.written",
        "event.committed",
        "prepare.written",
        "prepare.committed",
        "upload.written",
        "upload.committed",
        "chunk.begun",
        "chunk.claiming",
        "chunk.claimed",
        "chunk.stored",
        "chunk.settling",
        "chunk.settled",
        "finish.written",
        "finish.committed",
        "commit.begun",
        "commit.locked",
        "commit.numbered",
        "commit.published",
        "commit.written",
        "commit.committed",
        "abandon.begun",
        "abandon.locked",
        "abandon.written",
        "abandon.committed",
        "delete.locked",
        "delete.written",
        "delete.committed",
        "writer.commit",
        "writer.committed",
    ];

    /// How long a step sleeps: the caller cancels in that time. Much longer than a message takes, and a second would make
    /// Postgres' sessions idle in a transaction that long.
    const SLEEP: Duration = Duration::from_millis(50);

    /// What happens at a point.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Action {
        /// The process ends at once, as with `kill -9`.
        Abort,
        /// The step fails as it does when the database or the object store is away.
        Error,
        /// The step takes long.
        Sleep,
    }

    pub const ACTIONS: [Action; 3] = [Action::Abort, Action::Error, Action::Sleep];

    impl fmt::Display for Action {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self {
                Action::Abort => "abort",
                Action::Error => "error",
                Action::Sleep => "sleep",
            })
        }
    }

    /// A step of a script: `POINT=ACTION` or `POINT=ACTION@REACH`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Step {
        pub point: &'static str,
        pub action: Action,
        /// At which reach since the step was armed, from 1.
        pub reach: u32,
    }

    impl fmt::Display for Step {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}={}@{}", self.point, self.action, self.reach)
        }
    }

    impl FromStr for Step {
        type Err = String;

        fn from_str(text: &str) -> Result<Step, String> {
            let wrong = || format!("failpoint `{text}` is not POINT=ACTION or POINT=ACTION@REACH");
            let (point, what) = text.split_once('=').ok_or_else(wrong)?;
            let (action, reach) = what.split_once('@').unwrap_or((what, "1"));
            let unknown = || format!("`{point}` is no failpoint: `POINTS` in src/failpoint.rs lists them");
            Ok(Step {
                point: POINTS.into_iter().find(|it| *it == point).ok_or_else(unknown)?,
                action: ACTIONS.into_iter().find(|it| it.to_string() == action).ok_or_else(wrong)?,
                reach: reach.parse().ok().filter(|it| *it > 0).ok_or_else(wrong)?,
            })
        }
    }

    /// What a step that was told to fail says.
    #[derive(Debug, thiserror::Error)]
    #[error("the failpoint `{0}` fails")]
    pub struct Injected(&'static str);

    /// The steps that are left, the armed one first.
    static SCRIPT: OnceLock<Mutex<VecDeque<Step>>> = OnceLock::new();

    /// Reads a script.
    ///
    /// # Errors
    /// A step is malformed, or names a point that does not exist.
    pub fn parse(script: &str) -> Result<Vec<Step>, String> {
        script.split(',').filter(|step| !step.is_empty()).map(str::parse).collect()
    }

    /// Arms this process, once.
    pub fn arm(script: Vec<Step>) {
        SCRIPT.get_or_init(|| Mutex::new(script.into()));
    }

    /// Passes the point, unless its step is due.
    pub(crate) async fn reach(point: &'static str) -> Result<(), Injected> {
        let Some(due) = due(point) else { return Ok(()) };
        match due {
            Action::Abort => std::process::abort(),
            Action::Error => Err(Injected(point)),
            Action::Sleep => {
                tokio::time::sleep(SLEEP).await;
                Ok(())
            }
        }
    }

    /// The action of the armed step, if it is this point's turn; told before it happens.
    fn due(point: &'static str) -> Option<Action> {
        let mut steps = SCRIPT.get()?.lock().unwrap_or_else(PoisonError::into_inner);
        let armed = steps.front_mut().filter(|step| step.point == point)?;
        armed.reach -= 1;
        if armed.reach > 0 {
            return None;
        }
        let action = steps.pop_front()?.action;
        let mut out = std::io::stdout().lock();
        // Whoever reads it may be gone.
        drop(writeln!(out, "failpoint {point} {action}").and_then(|()| out.flush()));
        Some(action)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_step_is_read_as_it_is_written() {
            for text in ["commit.numbered=abort@3", "event.locked=sleep@1"] {
                assert_eq!(text.parse::<Step>().unwrap().to_string(), text);
            }
            assert_eq!("event.locked=error".parse::<Step>().unwrap().reach, 1);
        }

        #[test]
        fn a_step_that_could_never_happen_is_refused() {
            let slips = ["", "event.locked", "event.locked=", "event.locked=burn", "event.locked=error@0"];
            for text in slips.into_iter().chain(["event.lost=error", "event.locked=error@x"]) {
                assert!(text.parse::<Step>().is_err(), "{text}");
            }
        }
    }
}
