//! Names of things: ids, and the resource names made of them. Parsed at the door; a value that exists is valid.

use std::fmt;

use keepbest_rules::names;
use keepbest_rules::names::ALL;
use keepbest_rules::token::masked;
use serde::Deserialize;
use serde::Serialize;

use crate::domain::refusal::Refusal;

pub use keepbest_rules::names::MAX_ID_BYTES;

/// An id of a team, project, run, artifact, writer: `[A-Za-z0-9._-]{1,128}`, not `.`, `..` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

/// Before the uid of a deleted thing; no id that is parsed has it.
const GONE: char = '~';

impl TryFrom<String> for Id {
    type Error = Refusal;

    fn try_from(text: String) -> Result<Id, Refusal> {
        Id::stored(&text)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> String {
        id.0
    }
}

impl Id {
    /// Parses an id; `what` names the thing in the error.
    pub fn parse(what: &str, text: &str) -> Result<Id, Refusal> {
        if names::is_id(text) && text != ALL {
            return Ok(Id(text.to_owned()));
        }
        Err(Refusal::invalid(
            "BAD_NAME",
            format!(
                "{what} id `{}` is not valid: 1 to {MAX_ID_BYTES} of the characters A-Z a-z 0-9 . _ - are, except `.`, `..` \
                 and `-`",
                shown(text)
            ),
        ))
    }

    /// Reads an id that was stored. `-` is let through: an earlier version gave it out, and what it named must stay readable. So is
    /// that of a thing that was deleted.
    pub fn stored(text: &str) -> Result<Id, Refusal> {
        let is_gone = text.strip_prefix(GONE).is_some_and(names::is_id);
        if text == ALL || is_gone { Ok(Id(text.to_owned())) } else { Id::parse("stored", text) }
    }

    /// What a deleted thing is called, so that its id is free: nobody can ask for it.
    pub fn of_gone(uid: &str) -> Id {
        Id(format!("{GONE}{uid}"))
    }

    /// Whether the thing of this id was deleted.
    pub fn is_gone(&self) -> bool {
        self.0.starts_with(GONE)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// User text in a message: escaped, and cut so that a message stays a sentence.
pub fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let text = masked(text);
    let escaped: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() { format!("{escaped}...") } else { escaped }
}

/// `teams/{team}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamName {
    pub team: Id,
}

/// `teams/{team}/projects/{project}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProjectName {
    pub team: Id,
    pub project: Id,
}

/// `teams/{team}/projects/{project}/runs/{run}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RunName {
    pub project: ProjectName,
    pub run: Id,
}

/// `.../runs/{run}/checkpoints/{checkpoint}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CheckpointName {
    pub run: RunName,
    pub checkpoint: Id,
}

/// `teams/{team}/projects/{project}/artifacts/{artifact}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactName {
    pub project: ProjectName,
    pub artifact: Id,
}

/// `.../artifacts/{artifact}/versions/{version or alias}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionName {
    pub artifact: ArtifactName,
    /// `vN` or an alias.
    pub version: Id,
}

/// Where runs and artifacts are listed: one project, or all of a team (`projects/-`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListParent {
    pub team: Id,
    /// The project; none: all.
    pub project: Option<Id>,
}

/// Where the best version is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BestParent {
    Run(RunName),
    Artifact(ArtifactName),
    Project(ProjectName),
    Team(TeamName),
}

/// Whose files are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilesParent {
    /// A version's.
    Version(VersionName),
    /// A checkpoint's, whatever its state.
    Checkpoint(CheckpointName),
}

fn segments<'a, const N: usize>(
    name: &'a str,
    words: [&str; N],
    form: &str,
) -> Result<[&'a str; N], Refusal> {
    let refused =
        || Refusal::invalid("BAD_NAME", format!("name `{}` is not of the form `{form}`", shown(name)));
    names::segments(name, words).ok_or_else(refused)
}

impl TeamName {
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        let [team] = segments(name, ["teams"], "teams/{team}")?;
        Ok(TeamName { team: Id::parse("team", team)? })
    }
}

impl ProjectName {
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        let [team, project] = segments(name, ["teams", "projects"], "teams/{team}/projects/{project}")?;
        Ok(ProjectName { team: Id::parse("team", team)?, project: Id::parse("project", project)? })
    }
}

impl RunName {
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        let form = "teams/{team}/projects/{project}/runs/{run}";
        let [team, project, run] = segments(name, ["teams", "projects", "runs"], form)?;
        let project = ProjectName { team: Id::parse("team", team)?, project: Id::parse("project", project)? };
        Ok(RunName { project, run: Id::parse("run", run)? })
    }
}

impl CheckpointName {
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        let form = "teams/{team}/projects/{project}/runs/{run}/checkpoints/{checkpoint}";
        let words = ["teams", "projects", "runs", "checkpoints"];
        let [team, project, run, checkpoint] = segments(name, words, form)?;
        let project = ProjectName { team: Id::parse("team", team)?, project: Id::parse("project", project)? };
        let run = RunName { project, run: Id::parse("run", run)? };
        Ok(CheckpointName { run, checkpoint: Id::parse("checkpoint", checkpoint)? })
    }
}

impl ArtifactName {
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        let form = "teams/{team}/projects/{project}/artifacts/{artifact}";
        let [team, project, artifact] = segments(name, ["teams", "projects", "artifacts"], form)?;
        let project = ProjectName { team: Id::parse("team", team)?, project: Id::parse("project", project)? };
        Ok(ArtifactName { project, artifact: Id::parse("artifact", artifact)? })
    }
}

impl VersionName {
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        let form = "teams/{team}/projects/{project}/artifacts/{artifact}/versions/{version or alias}";
        let words = ["teams", "projects", "artifacts", "versions"];
        let [team, project, artifact, version] = segments(name, words, form)?;
        let project = ProjectName { team: Id::parse("team", team)?, project: Id::parse("project", project)? };
        let artifact = ArtifactName { project, artifact: Id::parse("artifact", artifact)? };
        Ok(VersionName { artifact, version: Id::parse("version", version)? })
    }
}

impl ListParent {
    /// Parses the resource name; `-` as project means all of the team.
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        let form = "teams/{team}/projects/{project, or - for all}";
        let [team, project] = segments(name, ["teams", "projects"], form)?;
        let project = if project == ALL { None } else { Some(Id::parse("project", project)?) };
        Ok(ListParent { team: Id::parse("team", team)?, project })
    }
}

impl fmt::Display for BestParent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BestParent::Run(name) => name.fmt(formatter),
            BestParent::Artifact(name) => name.fmt(formatter),
            BestParent::Project(name) => name.fmt(formatter),
            BestParent::Team(name) => name.fmt(formatter),
        }
    }
}

impl BestParent {
    /// What it is, in a word.
    pub fn what(&self) -> &'static str {
        match self {
            BestParent::Run(_) => "run",
            BestParent::Artifact(_) => "artifact",
            BestParent::Project(_) => "project",
            BestParent::Team(_) => "team",
        }
    }

    /// Parses the resource name of a run, an artifact, a project or a team.
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        let count = name.split('/').count();
        match name.split('/').nth(4) {
            Some("runs") => Ok(BestParent::Run(RunName::parse(name)?)),
            Some("artifacts") => Ok(BestParent::Artifact(ArtifactName::parse(name)?)),
            None if count == 2 => Ok(BestParent::Team(TeamName::parse(name)?)),
            None if count == 4 => Ok(BestParent::Project(ProjectName::parse(name)?)),
            _ => Err(Refusal::invalid(
                "BAD_NAME",
                format!("name `{}` is not the name of a run, an artifact, a project or a team", shown(name)),
            )),
        }
    }
}

impl FilesParent {
    /// Parses the resource name of a version or a checkpoint.
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        match name.split('/').nth(6) {
            Some("versions") => Ok(FilesParent::Version(VersionName::parse(name)?)),
            Some("checkpoints") => Ok(FilesParent::Checkpoint(CheckpointName::parse(name)?)),
            _ => Err(Refusal::invalid(
                "BAD_NAME",
                format!("name `{}` is not the name of a version or a checkpoint", shown(name)),
            )),
        }
    }
}

impl fmt::Display for TeamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "teams/{}", self.team)
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "teams/{}/projects/{}", self.team, self.project)
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/runs/{}", self.project, self.run)
    }
}

impl fmt::Display for CheckpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/checkpoints/{}", self.run, self.checkpoint)
    }
}

impl fmt::Display for ArtifactName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/artifacts/{}", self.project, self.artifact)
    }
}

impl fmt::Display for VersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/versions/{}", self.artifact, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print_as_they_were_parsed() {
        for name in ["teams/a/projects/b/runs/c", "teams/a/projects/b.x/runs/c_1-2"] {
            assert_eq!(RunName::parse(name).unwrap().to_string(), name);
        }
        let name = "teams/a/projects/b/runs/c/checkpoints/d";
        assert_eq!(CheckpointName::parse(name).unwrap().to_string(), name);
        let name = "teams/a/projects/b/artifacts/c/versions/best";
        assert_eq!(VersionName::parse(name).unwrap().to_string(), name);
    }

    #[test]
    fn anything_but_the_allowed_characters_is_refused() {
        let long = "x".repeat(MAX_ID_BYTES + 1);
        for id in ["", ".", "..", "-", "a b", "a/b", "ü", "a\0", "%2e", long.as_str()] {
            let error = Id::parse("run", id).unwrap_err();
            assert_eq!(error.reason, "BAD_NAME", "{id:?}");
        }
    }

    #[test]
    fn what_bears_the_name_of_all_is_still_read() {
        assert_eq!(Id::stored("-").unwrap().as_str(), "-");
        assert_eq!(serde_json::from_str::<Id>("\"-\"").unwrap().as_str(), "-");
        for id in ["", ".", "a/b"] {
            assert!(Id::stored(id).is_err(), "{id}");
        }
        assert_eq!(ListParent::parse("teams/a/projects/-").unwrap().project, None);
        assert!(ListParent::parse("teams/-/projects/-").is_err());
    }

    #[test]
    fn the_best_is_looked_for_in_four_kinds_of_places() {
        assert!(matches!(BestParent::parse("teams/a"), Ok(BestParent::Team(_))));
        assert!(matches!(BestParent::parse("teams/a/projects/b"), Ok(BestParent::Project(_))));
        assert!(matches!(BestParent::parse("teams/a/projects/b/runs/c"), Ok(BestParent::Run(_))));
        assert!(matches!(BestParent::parse("teams/a/projects/b/artifacts/c"), Ok(BestParent::Artifact(_))));
        for bad in ["", "teams", "teams/a/projects", "teams/a/projects/b/c/d", "runs/a"] {
            assert!(BestParent::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_are_those_of_a_version_or_a_checkpoint() {
        let parsed = |name: &str| FilesParent::parse(name);
        assert!(matches!(parsed("teams/a/projects/b/artifacts/c/versions/v1"), Ok(FilesParent::Version(_))));
        assert!(matches!(parsed("teams/a/projects/b/runs/c/checkpoints/d"), Ok(FilesParent::Checkpoint(_))));
        let bad = ["", "teams/a/projects/b/artifacts/c", "teams/a/projects/b/runs/c/versions/v1"];
        for name in bad {
            assert_eq!(parsed(name).unwrap_err().reason, "BAD_NAME", "{name}");
        }
    }
}
