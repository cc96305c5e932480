//! Reads names as people type them: `TEAM/PROJECT/ID`, `ID` in the default project, or the full resource name.

use keepbest_client::{Error, ProjectName, Target, parse_target, short_name};

use super::failure::Failure;

/// What a name stands for, as far as its form tells; the strings are resource names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    Run(String),
    Version(String),
    Artifact(String),
    /// `TEAM/PROJECT/ID` can be either. These are the names that they would have.
    ArtifactOrRun {
        artifact: String,
        run: String,
    },
}

/// A run or an artifact: its project, and its id there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InProject {
    pub(super) project: ProjectName,
    pub(super) id: String,
}

/// Reads a name of a run, an artifact or a version.
pub(super) fn any(text: &str, default: &ProjectName) -> Result<Named, Failure> {
    if text.contains("/runs/") {
        let InProject { project, id } = of_kind(text, default, "RUN")?;
        return Ok(Named::Run(project.run(&id)));
    }
    if text.contains(':') || text.contains("/versions/") {
        return Ok(Named::Version(version(text, default)?.name()));
    }
    let InProject { project, id } = of_kind(text, default, "ARTIFACT")?;
    if text.contains("/artifacts/") {
        return Ok(Named::Artifact(project.artifact(&id)));
    }
    Ok(Named::ArtifactOrRun { artifact: project.artifact(&id), run: project.run(&id) })
}

/// Reads `TEAM/PROJECT/RUN`, and returns the resource name.
pub(super) fn run(text: &str, default: &ProjectName) -> Result<String, Failure> {
    of_kind(text, default, "RUN").map(|InProject { project, id }| project.run(&id))
}

/// Reads `TEAM/PROJECT/ARTIFACT`; refuses the name of a version.
pub(super) fn artifact(text: &str, default: &ProjectName) -> Result<InProject, Failure> {
    of_kind(text, default, "ARTIFACT")
}

/// Reads `TEAM/PROJECT/ARTIFACT:ALIAS`, or with `vN` for the alias.
pub(super) fn version(text: &str, default: &ProjectName) -> Result<Target, Failure> {
    let short = short_name(text);
    if !short.contains(':') {
        return Err(Failure::usage(format!(
            "`{text}` names no version, but TEAM/PROJECT/ARTIFACT:ALIAS does, as `{short}:best` or `{short}:v3`"
        )));
    }
    let full = if short.contains('/') { short } else { format!("{default}/{short}") };
    Ok(parse_target(&full)?)
}

/// The resource name of `TEAM`, `TEAM/PROJECT` or `TEAM/PROJECT/ARTIFACT`.
pub(super) fn parent(text: &str) -> Result<String, Failure> {
    let short = short_name(text);
    match short.matches('/').count() {
        // As the team of some project, so that it is checked like one.
        0 => Ok(format!("teams/{}", ProjectName::parse(&format!("{short}/-"))?.team)),
        1 => Ok(ProjectName::parse(&short)?.name()),
        2 => {
            let target = parse_target(&format!("{short}:latest"))?;
            Ok(target.artifact_name())
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

    use super::{Named, any, artifact, parent, run, version};

    fn project() -> ProjectName {
        ProjectName::parse("t/p").unwrap()
    }

    #[test]
    fn short_names_are_in_the_default_project() {
        assert_eq!(run("r", &project()).unwrap(), "teams/t/projects/p/runs/r");
        assert_eq!(run("a/b/r", &project()).unwrap(), "teams/a/projects/b/runs/r");
        assert_eq!(version("c:best", &project()).unwrap().to_string(), "t/p/c:best");
        assert_eq!(artifact("c", &project()).unwrap().project, project());
    }

    #[test]
    fn full_names_say_what_they_are() {
        let artifact = "teams/t/projects/p/artifacts/c";
        assert_eq!(any(artifact, &project()).unwrap(), Named::Artifact(artifact.to_owned()));
        let run = "teams/t/projects/p/runs/c";
        assert_eq!(any(run, &project()).unwrap(), Named::Run(run.to_owned()));
        let version = "teams/t/projects/p/artifacts/c/versions/v1";
        assert_eq!(any(version, &project()).unwrap(), Named::Version(version.to_owned()));
        assert_eq!(any("t/p/c:v1", &project()).unwrap(), Named::Version(version.to_owned()));
        let both = Named::ArtifactOrRun { artifact: artifact.to_owned(), run: run.to_owned() };
        assert_eq!(any("c", &project()).unwrap(), both);
    }

    #[test]
    fn parents_are_told_apart_by_their_segments() {
        assert_eq!(parent("t").unwrap(), "teams/t");
        assert_eq!(parent("t/p").unwrap(), "teams/t/projects/p");
        assert_eq!(parent("t/p/c").unwrap(), "teams/t/projects/p/artifacts/c");
        assert_eq!(parent("teams/t/projects/p").unwrap(), "teams/t/projects/p");
        assert!(parent("t/p/c/d").is_err() && parent("").is_err());
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
