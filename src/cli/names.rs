//! Reads names as people type them: `TEAM/PROJECT/ID`, `ID` in the default project, or the full resource name.

use keepbest_client::{Error, ProjectName, Target, parse_target, short_name};

use super::epochs;
use super::failure::Failure;

/// What a name stands for, as far as its form tells; the strings are resource names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    Run(InProject),
    Version(Target),
    Artifact(InProject),
    /// `TEAM/PROJECT/ID` can be either.
    ArtifactOrRun(InProject),
}

/// Where the best version is looked for, as far as the form of what was typed tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The resource name of a team, a project, a run or an artifact.
    Told(String),
    /// `TEAM/PROJECT/ID`: an artifact, or else a run.
    ArtifactOrRun(InProject),
    /// `NAME`: an artifact or a run of the default project, or else a team.
    Name(InProject),
}

/// A run or an artifact: its project, and its id there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InProject {
    pub(super) project: ProjectName,
    pub(super) id: String,
}

impl InProject {
    /// The resource name of the artifact of this id.
    pub(super) fn artifact(&self) -> String {
        self.project.artifact(&self.id)
    }

    /// The resource name of the run of this id.
    pub(super) fn run(&self) -> String {
        self.project.run(&self.id)
    }
}

/// Reads a name of a run, an artifact or a version.
pub(super) fn any(text: &str, default: &ProjectName) -> Result<Named, Failure> {
    if text.contains("/runs/") {
        return Ok(Named::Run(of_kind(text, default, "RUN")?));
    }
    if text.contains(':') || text.contains("/versions/") {
        return Ok(Named::Version(version(text, default)?));
    }
    let named = of_kind(text, default, "ARTIFACT")?;
    Ok(if text.contains("/artifacts/") { Named::Artifact(named) } else { Named::ArtifactOrRun(named) })
}

/// Reads `TEAM/PROJECT/RUN`; refuses the name of a version.
pub(super) fn run(text: &str, default: &ProjectName) -> Result<InProject, Failure> {
    of_kind(text, default, "RUN")
}

/// Reads `TEAM/PROJECT/ARTIFACT`; refuses the name of a version.
pub(super) fn artifact(text: &str, default: &ProjectName) -> Result<InProject, Failure> {
    of_kind(text, default, "ARTIFACT")
}

/// Reads `TEAM/PROJECT/ARTIFACT:ALIAS`, or with `vN` for the alias. An epoch in a short name is counted from 1, in a full one as the
/// server does.
pub(super) fn version(text: &str, default: &ProjectName) -> Result<Target, Failure> {
    let short = short_name(text);
    if !short.contains(':') {
        return Err(Failure::usage(format!(
            "`{text}` names no version, but TEAM/PROJECT/ARTIFACT:ALIAS does, as `{short}:best` or `{short}:v3`"
        )));
    }
    let full = if short.contains('/') { short } else { format!("{default}/{short}") };
    let target = parse_target(&full)?;
    if text.contains("/versions/") {
        return Ok(target);
    }
    let version = epochs::typed_alias(&target.version)?.into_owned();
    Ok(Target { version, ..target })
}

/// Whether the text can be an id or an alias at all.
pub(super) fn is_id(text: &str) -> bool {
    // As a project of some team, so that it is checked like one. `-` stands for all projects.
    text != "-" && !text.contains('/') && ProjectName::parse(&format!("team/{text}")).is_ok()
}

/// Reads `TEAM`, and returns the resource name.
pub(super) fn team(text: &str) -> Result<String, Failure> {
    // As the team of some project, so that it is checked like one.
    Ok(format!("teams/{}", ProjectName::parse(&format!("{}/-", short_name(text)))?.team))
}

/// Reads `TEAM/PROJECT`, or `TEAM` or `TEAM/-` for all projects of a team, and returns the resource name; that of the default without a
/// text.
pub(super) fn projects(text: Option<&str>, default: &ProjectName) -> Result<String, Failure> {
    match text {
        Some(text) => match short_name(text) {
            team if !team.contains('/') => Ok(ProjectName::parse(&format!("{team}/-"))?.name()),
            short => Ok(ProjectName::parse(&short)?.name()),
        },
        None => Ok(default.name()),
    }
}

/// Reads where to look for the best version.
pub(super) fn place(text: &str, default: &ProjectName) -> Result<Place, Failure> {
    let short = short_name(text);
    let is_full = short != text;
    match short.matches('/').count() {
        0 if is_full => Ok(Place::Told(team(&short)?)),
        0 => Ok(Place::Name(of_kind(text, default, "ARTIFACT")?)),
        1 => Ok(Place::Told(ProjectName::parse(&short)?.name())),
        2 => {
            let named = of_kind(text, default, "ARTIFACT")?;
            Ok(match is_full {
                true if text.contains("/runs/") => Place::Told(named.run()),
                true => Place::Told(named.artifact()),
                false => Place::ArtifactOrRun(named),
            })
        }
        _ => Err(other_form(text, "TEAM, TEAM/PROJECT or TEAM/PROJECT/ARTIFACT")),
    }
}

fn of_kind(text: &str, default: &ProjectName, kind: &str) -> Result<InProject, Failure> {
    let short = short_name(text);
    if let Some((name, version)) = short.split_once(':') {
        let what = kind.to_lowercase();
        return Err(Failure::usage(format!(
            "`{text}` names a version, but the name of {what} alone is right: `{name}`, without `:{version}`"
        )));
    }
    let full = if short.contains('/') { short } else { format!("{default}/{short}") };
    // Runs have names of the same form as artifacts. The alias is only there to complete it.
    match parse_target(&format!("{full}:latest")) {
        Ok(target) => Ok(InProject { project: target.project, id: target.artifact }),
        Err(Error::Invalid(text)) if text.contains("is no name") => Err(Failure::usage(text)),
        Err(_) => Err(other_form(text, &format!("TEAM/PROJECT/{kind}"))),
    }
}

fn other_form(text: &str, form: &str) -> Failure {
    Failure::usage(format!("`{text}` is not of the form {form}"))
}

#[cfg(test)]
mod tests {
    use keepbest_client::ProjectName;

    use super::{Named, Place, any, artifact, place, projects, run, version};

    fn project() -> ProjectName {
        ProjectName::parse("t/p").unwrap()
    }

    #[test]
    fn short_names_are_in_the_default_project() {
        assert_eq!(run("r", &project()).unwrap().run(), "teams/t/projects/p/runs/r");
        assert_eq!(run("a/b/r", &project()).unwrap().run(), "teams/a/projects/b/runs/r");
        assert_eq!(version("c:best", &project()).unwrap().to_string(), "t/p/c:best");
        assert_eq!(artifact("c", &project()).unwrap().project, project());
    }

    #[test]
    fn full_names_say_what_they_are() {
        let artifact = "teams/t/projects/p/artifacts/c";
        let Named::Artifact(named) = any(artifact, &project()).unwrap() else { panic!("an artifact") };
        assert_eq!(named.artifact(), artifact);
        let run = "teams/t/projects/p/runs/c";
        let Named::Run(named) = any(run, &project()).unwrap() else { panic!("a run") };
        assert_eq!(named.run(), run);
        let version = "teams/t/projects/p/artifacts/c/versions/v1";
        for text in [version, "t/p/c:v1"] {
            let Named::Version(named) = any(text, &project()).unwrap() else { panic!("a version") };
            assert_eq!(named.name(), version);
        }
        let Named::ArtifactOrRun(named) = any("c", &project()).unwrap() else { panic!("either") };
        assert_eq!((named.artifact().as_str(), named.run().as_str()), (artifact, run));
    }

    #[test]
    fn epochs_are_counted_from_1_in_short_names_and_from_0_in_full_ones() {
        assert_eq!(version("c:epoch_7", &project()).unwrap().version, "epoch_6");
        let full = "teams/t/projects/p/artifacts/c/versions/epoch_6";
        assert_eq!(version(full, &project()).unwrap().version, "epoch_6");
        assert!(version("c:epoch_0", &project()).unwrap_err().to_string().contains("from 1"));
    }

    #[test]
    fn places_are_told_apart_by_their_segments() {
        let told = |text: &str| match place(text, &project()).unwrap() {
            Place::Told(name) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(told("t/p"), "teams/t/projects/p");
        for full in
            ["teams/t", "teams/t/projects/p", "teams/t/projects/p/runs/r", "teams/t/projects/p/artifacts/c"]
        {
            assert_eq!(told(full), full);
        }
        let named = artifact("t/p/c", &project()).unwrap();
        assert_eq!(place("c", &project()).unwrap(), Place::Name(named.clone()));
        assert_eq!(place("t/p/c", &project()).unwrap(), Place::ArtifactOrRun(named));
        assert!(place("t/p/c/d", &project()).is_err() && place("", &project()).is_err());
    }

    #[test]
    fn a_team_alone_stands_for_its_projects() {
        for (text, name) in [
            (Some("vision"), "teams/vision/projects/-"),
            (Some("teams/vision"), "teams/vision/projects/-"),
            (Some("vision/mnist"), "teams/vision/projects/mnist"),
            (None, "teams/t/projects/p"),
        ] {
            assert_eq!(projects(text, &project()).unwrap(), name, "{text:?}");
        }
        let error = projects(Some("a b"), &project()).unwrap_err().to_string();
        assert!(error.contains("`a b`"), "{error}");
    }

    #[test]
    fn another_form_is_refused_with_the_right_one() {
        let error = version("t/p/c", &project()).unwrap_err().to_string();
        assert!(error.contains("`t/p/c:best`"), "{error}");
        assert_eq!(
            run("p/r", &project()).unwrap_err().to_string(),
            "`p/r` is not of the form TEAM/PROJECT/RUN"
        );
        assert!(run("a b", &project()).unwrap_err().to_string().contains("is no name"));
    }
}
