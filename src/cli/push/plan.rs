//! What a push will do, checked as far as it can be before anything is begun.

use std::path::{Path, PathBuf};

use keepbest_client::well_known::Struct;
use keepbest_client::{FileDigest, Survey, hex, short_name, survey, v1};
use serde_json::{Map, Value};

use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::names::{self, InProject};
use crate::cli::{args, human, json, show};
use crate::near::nearest;

/// The most that the server keeps of a version's metadata.
const MAX_METADATA_BYTES: usize = 64 << 10;
/// Characters of a run's name that tell one push from another: 64 bits, so that two of one project never meet.
const KEY_CHARACTERS: usize = 16;

/// A push that can be begun.
pub(super) struct Plan {
    pub(super) artifact: InProject,
    pub(super) path: PathBuf,
    pub(super) follow_links: bool,
    pub(super) sha256: bool,
    pub(super) aliases: Vec<String>,
    pub(super) metadata: Option<Struct>,
    metrics: Vec<(String, f64)>,
    monitor: Option<String>,
    mode: Option<args::Mode>,
    /// From 0.
    epoch: i64,
    filepath: String,
    survey: Survey,
    key: String,
}

impl Plan {
    /// Checks the arguments and looks at the files.
    pub(super) async fn of(arguments: args::Push, context: &Context) -> Result<Plan, Failure> {
        let artifact = names::artifact(&arguments.artifact, &context.project)?;
        let absolute = arguments.path.canonicalize().map_err(|error| {
            Failure::usage(format!("`{}` cannot be read: {error}", arguments.path.display()))
        })?;
        let filepath = template(&arguments.path, &absolute)?;
        check_metrics(&arguments.metrics, arguments.monitor.as_deref())?;
        arguments.aliases.iter().try_for_each(|alias| check_alias(alias))?;
        let metadata = metadata(arguments.metadata)?;
        let survey = survey(&arguments.path, arguments.follow_links).await?;
        let mut plan = Plan {
            artifact,
            path: arguments.path,
            follow_links: arguments.follow_links,
            sha256: arguments.sha256,
            aliases: arguments.aliases,
            metadata,
            metrics: arguments.metrics,
            monitor: arguments.monitor,
            mode: arguments.mode,
            epoch: arguments.epoch - 1,
            filepath,
            survey,
            key: String::new(),
        };
        plan.key = plan.key_of(&absolute);
        Ok(plan)
    }

    /// The same for the same push: of the same files, as they are now, to the same artifact as the same epoch with the same metrics.
    fn key_of(&self, absolute: &Path) -> String {
        let Plan { artifact, metrics, monitor, epoch, survey, .. } = self;
        let mut digest = FileDigest::default();
        digest.update(format!("{artifact:?} {absolute:?} {metrics:?} {monitor:?} {epoch}").as_bytes());
        digest.update(&survey.fingerprint);
        let mut key = hex(&digest.finish());
        key.truncate(KEY_CHARACTERS);
        key
    }

    /// The id of the run of this push; of equal pushes the first has the number 0.
    pub(super) fn run_id(&self, number: u32) -> String {
        match number {
            0 => format!("push-{}", self.key),
            number => format!("push-{}-{number}", self.key),
        }
    }

    /// What of the files will not come back.
    pub(super) fn notes(&self) -> Vec<String> {
        let count = |number: u64, what| human::count(i64::try_from(number).unwrap_or(i64::MAX), what);
        let Survey { empty_folders, executable_files, .. } = self.survey;
        let mut notes = Vec::new();
        if empty_folders > 0 {
            notes
                .push(format!("{} without files will not be in the version", count(empty_folders, "folder")));
        }
        if executable_files > 0 {
            let which = count(executable_files, "executable file");
            notes.push(format!("{which} will come back without that right: only bytes are kept"));
        }
        notes
    }

    fn has(&self, metric: &str) -> bool {
        self.metrics.iter().any(|(name, _)| name == metric)
    }

    /// What is said if the version cannot become `best`, because it lacks the metric that decides.
    pub(super) fn note_about_monitor(&self, artifact: Option<&v1::Artifact>) -> Option<String> {
        let monitor = &artifact?.monitor;
        if self.monitor.is_some() || self.has(monitor) {
            return None;
        }
        let given = self.metrics.iter().map(|(name, _)| name.as_str());
        let meant =
            nearest(monitor, given).map(|it| format!("; did you mean it by `{it}`?")).unwrap_or_default();
        Some(format!("it has no --metric {monitor}=VALUE, so it cannot become `best`{meant}"))
    }

    /// What is said if the version settles without a metric what decides the `best` of a new artifact.
    pub(super) fn note_about_first(&self, artifact: Option<&v1::Artifact>) -> Option<String> {
        if artifact.is_some() || !self.metrics.is_empty() {
            return None;
        }
        let name = short_name(&self.artifact.artifact());
        let strategy = self.strategy(None);
        let judged = match (strategy.monitor.as_str(), human::mode(strategy.mode())) {
            // What the contract takes without a monitor.
            ("", "") => "`val_loss` (min)".to_owned(),
            ("", mode) => format!("`val_loss` ({mode})"),
            (monitor, "") => format!("`{monitor}`"),
            (monitor, mode) => format!("`{monitor}` ({mode})"),
        };
        Some(format!(
            "without --metric, {judged} decides the `best` of `{name}` from now on; to have another metric decide it, delete \
             `{name}` and push with --metric NAME=VALUE"
        ))
    }

    /// What can be done if the artifact is judged otherwise than this push asks for.
    pub(super) fn hint_about_conflict(&self, artifact: Option<&v1::Artifact>) -> String {
        let name = short_name(&self.artifact.artifact());
        let monitor = artifact.map_or("the metric", |it| it.monitor.as_str());
        format!(
            "; or leave --monitor and --mode out to store this version all the same; or, if no version of `{name}` has a value of \
             `{monitor}`, delete it (`keepbest rm {name}`) and push again"
        )
    }

    /// A strategy that saves in any case. It watches the monitor that the artifact has, so that `best` keeps its meaning; the
    /// monitor of a new artifact comes from the arguments.
    pub(super) fn strategy(&self, artifact: Option<&v1::Artifact>) -> v1::Strategy {
        let (monitor, direction) = match artifact {
            // A mode is that of a metric that was given. The server says that the artifact has another one.
            Some(artifact)
                if self.mode.is_some_and(|mode| show::wire_mode(Some(mode)) != artifact.direction())
                    && !self.has(&artifact.monitor)
                    && !self.metrics.is_empty() =>
            {
                (self.metrics[0].0.clone(), artifact.direction())
            }
            Some(artifact) => (artifact.monitor.clone(), artifact.direction()),
            None => {
                let first = self.metrics.first().map(|(name, _)| name.clone());
                (first.unwrap_or_default(), v1::Mode::Unspecified)
            }
        };
        let mode = match self.mode {
            None => direction,
            mode => show::wire_mode(mode),
        };
        v1::Strategy {
            filepath: self.filepath.clone(),
            monitor: self.monitor.clone().unwrap_or(monitor),
            mode: mode.into(),
            save_frequency: Some(v1::strategy::SaveFrequency::EveryEpoch(true)),
            ..Default::default()
        }
    }

    /// The one event that is reported.
    pub(super) fn event(&self) -> v1::Event {
        v1::Event {
            kind: v1::EventKind::EpochEnd.into(),
            epoch: self.epoch,
            metrics: self.metrics.iter().cloned().collect(),
            ..Default::default()
        }
    }
}

/// The file's name, escaped so that as a template it gives the name itself.
fn template(path: &Path, absolute: &Path) -> Result<String, Failure> {
    // `.` and `..` have no name, but what they stand for has. A link goes by its own name.
    let name = path.file_name().or(absolute.file_name()).and_then(|name| name.to_str());
    let name =
        name.ok_or_else(|| Failure::usage(format!("`{}` has no name that is Unicode", path.display())))?;
    Ok(name.replace('{', "{{").replace('}', "}}"))
}

fn check_metrics(metrics: &[(String, f64)], monitor: Option<&str>) -> Result<(), Failure> {
    for (at, (name, _)) in metrics.iter().enumerate() {
        if metrics[..at].iter().any(|(other, _)| other == name) {
            return Err(Failure::usage(format!("--metric {name} is given twice: one value is right")));
        }
    }
    let Some(monitor) = monitor else { return Ok(()) };
    if metrics.iter().any(|(name, _)| name == monitor) {
        return Ok(());
    }
    let meant = match nearest(monitor, metrics.iter().map(|(name, _)| name.as_str())) {
        Some(meant) => format!(": did you mean `{meant}`?"),
        None => format!(": add `--metric {monitor}=VALUE`"),
    };
    Err(Failure::usage(format!("--monitor `{monitor}` is none of the metrics that are given{meant}")))
}

/// Refuses an alias that the server would refuse when everything is uploaded.
fn check_alias(alias: &str) -> Result<(), Failure> {
    if !names::is_id(alias) {
        return Err(Failure::usage(format!(
            "--alias `{alias}` is no name, but a name is 1 to 128 letters, digits, `.`, `_` or `-`"
        )));
    }
    let like_a_version =
        alias.strip_prefix('v').is_some_and(|it| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit()));
    if like_a_version || ["latest", "best"].contains(&alias) || alias.starts_with("epoch_") {
        return Err(Failure::usage(format!(
            "--alias `{alias}` belongs to the server, as `latest`, `best`, `epoch_*` and `vN` do: choose another name"
        )));
    }
    Ok(())
}

/// Free JSON for the version, of `NAME=VALUE`s: a value that is JSON is that, any other one a text.
fn metadata(given: Vec<(String, String)>) -> Result<Option<Struct>, Failure> {
    if given.is_empty() {
        return Ok(None);
    }
    let mut fields = Map::new();
    for (name, text) in given {
        let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        if fields.insert(name.clone(), value).is_some() {
            return Err(Failure::usage(format!("--metadata {name} is given twice: one value is right")));
        }
    }
    let size = Value::from(fields.clone()).to_string().len();
    if size > MAX_METADATA_BYTES {
        return Err(Failure::usage(format!(
            "--metadata has {size} bytes as JSON: at most {MAX_METADATA_BYTES} are kept with a version"
        )));
    }
    Ok(Some(json::to_struct(fields)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{check_alias, check_metrics, metadata, template};
    use crate::cli::json;

    #[test]
    fn braces_in_a_name_are_not_fields() {
        let of = |path: &str| template(Path::new(path), Path::new("/somewhere/folder")).unwrap();
        assert_eq!(of("/a/model-{epoch}.h5"), "model-{{epoch}}.h5");
        assert_eq!(of("."), "folder");
    }

    #[test]
    fn a_monitor_is_one_of_the_metrics() {
        let metrics = [("val_loss".to_owned(), 0.5), ("acc".to_owned(), 0.5)];
        assert!(check_metrics(&metrics, Some("val_loss")).is_ok() && check_metrics(&metrics, None).is_ok());
        let slip = check_metrics(&metrics, Some("val_los")).unwrap_err().to_string();
        assert!(slip.contains("`val_los`") && slip.contains("did you mean `val_loss`?"), "{slip}");
        let missing = check_metrics(&metrics, Some("f1")).unwrap_err().to_string();
        assert!(missing.contains("`--metric f1=VALUE`"), "{missing}");
        let twice = [("a".to_owned(), 1.0), ("a".to_owned(), 2.0)];
        assert!(check_metrics(&twice, None).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn the_servers_aliases_are_refused_before_anything_is_sent() {
        for alias in ["latest", "best", "epoch_3", "v0", "", "a/b", "-"] {
            assert!(check_alias(alias).is_err(), "{alias}");
        }
        for alias in ["production", "v", "vx", "Best"] {
            assert!(check_alias(alias).is_ok(), "{alias}");
        }
    }

    #[test]
    fn metadata_is_json_where_it_can_be() {
        let given = [("lr", "0.1"), ("data", "mnist"), ("tags", r#"["a",null]"#), ("seed", "007")];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let stored = json::object(&metadata(given).unwrap().unwrap());
        assert_eq!(
            stored,
            serde_json::json!({"lr": 0.1, "data": "mnist", "tags": ["a", null], "seed": "007"})
        );
        let long = vec![("a".to_owned(), "x".repeat(70_000))];
        assert!(metadata(long).unwrap_err().to_string().contains("65536"));
        assert!(metadata(Vec::new()).unwrap().is_none());
    }
}
