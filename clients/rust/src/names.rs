//! Resource names, as requests and answers hold them, and the short forms of them that people type.

use std::fmt;

use keepbest_rules::names::is_id;

use crate::error::{Error, Result};

/// A project, as `TEAM/PROJECT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectName {
    /// Its team's id.
    pub team: String,
    /// Its own id in the team.
    pub project: String,
}

/// A version of an artifact, as `TEAM/PROJECT/ARTIFACT:ALIAS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where the artifact is.
    pub project: ProjectName,
    /// The artifact's id in the project.
    pub artifact: String,
    /// A number as `v3`, or an alias as `best`.
    pub version: String,
}

impl ProjectName {
    /// Reads `TEAM/PROJECT`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the text has another form.
    pub fn parse(text: &str) -> Result<ProjectName> {
        match segments(text, "TEAM/PROJECT")?.as_slice() {
            [team, project] => Ok(ProjectName { team: (*team).to_owned(), project: (*project).to_owned() }),
            _ => Err(other_form(text, "TEAM/PROJECT")),
        }
    }

    /// `teams/{team}/projects/{project}`
    pub fn name(&self) -> String {
        format!("teams/{}/projects/{}", self.team, self.project)
    }

    /// `teams/{team}/projects/{project}/runs/{run}`
    pub fn run(&self, run: &str) -> String {
        format!("{}/runs/{run}", self.name())
    }

    /// `teams/{team}/projects/{project}/artifacts/{artifact}`
    pub fn artifact(&self, artifact: &str) -> String {
        format!("{}/artifacts/{artifact}", self.name())
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.team, self.project)
    }
}

impl Target {
    /// `teams/{team}/projects/{project}/artifacts/{artifact}`
    pub fn artifact_name(&self) -> String {
        self.project.artifact(&self.artifact)
    }

    /// `teams/{team}/projects/{project}/artifacts/{artifact}/versions/{version}`
    pub fn name(&self) -> String {
        format!("{}/versions/{}", self.artifact_name(), self.version)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}:{}", self.project, self.artifact, self.version)
    }
}

/// Reads `TEAM/PROJECT/ARTIFACT:ALIAS`; the alias may be a version as `v3`.
///
/// # Errors
/// [`Error::Invalid`] if the text has another form, or one of its parts is no name.
pub fn parse_target(text: &str) -> Result<Target> {
    const FORM: &str = "TEAM/PROJECT/ARTIFACT:ALIAS";
    let (path, version) = text.split_once(':').ok_or_else(|| other_form(text, FORM))?;
    check_segment(text, version)?;
    match segments(path, FORM)?.as_slice() {
        [team, project, artifact] => Ok(Target {
            project: ProjectName { team: (*team).to_owned(), project: (*project).to_owned() },
            artifact: (*artifact).to_owned(),
            version: version.to_owned(),
        }),
        _ => Err(other_form(text, FORM)),
    }
}

/// The short form of a resource name: `a/b/c:v3` for `teams/a/projects/b/artifacts/c/versions/v3`, and `a/b/r` for a run. Any
/// other text is returned as it is.
pub fn short_name(name: &str) -> String {
    match name.split('/').collect::<Vec<_>>().as_slice() {
        ["teams", team] => (*team).to_owned(),
        ["teams", team, "projects", project] => format!("{team}/{project}"),
        ["teams", team, "projects", project, "runs" | "artifacts", id] => format!("{team}/{project}/{id}"),
        ["teams", team, "projects", project, "artifacts", artifact, "versions", version] => {
            format!("{team}/{project}/{artifact}:{version}")
        }
        _ => name.to_owned(),
    }
}

fn segments<'a>(text: &'a str, form: &str) -> Result<Vec<&'a str>> {
    let segments: Vec<_> = text.split('/').collect();
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err(other_form(text, form));
    }
    segments.iter().try_for_each(|segment| check_segment(text, segment))?;
    Ok(segments)
}

fn check_segment(text: &str, segment: &str) -> Result<()> {
    if is_id(segment) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "`{segment}` in `{text}` is no name, but a name is 1 to 128 letters, digits, `.`, `_` or `-`"
    )))
}

fn other_form(text: &str, form: &str) -> Error {
    Error::Invalid(format!("`{text}` is not of the form {form}"))
}

#[cfg(test)]
mod tests {
    use super::{ProjectName, parse_target, short_name};

    #[test]
    fn a_target_is_read_and_written() {
        let target = parse_target("vision/mnist/cnn:best").unwrap();
        assert_eq!(target.name(), "teams/vision/projects/mnist/artifacts/cnn/versions/best");
        assert_eq!(target.to_string(), "vision/mnist/cnn:best");
        assert_eq!(short_name(&target.name()), "vision/mnist/cnn:best");
    }

    #[test]
    fn another_form_is_refused_with_the_right_one() {
        for text in ["cnn", "vision/mnist/cnn", "mnist/cnn:best", "a/b/c/d:best", "/b/c:best", "a//c:best"] {
            let error = parse_target(text).unwrap_err().to_string();
            assert!(error.ends_with("is not of the form TEAM/PROJECT/ARTIFACT:ALIAS"), "{error}");
        }
        for text in
            ["a/b/c:", "a/../c:best", "a/b/c d:best", "a/b/c:b:c", &format!("a/b/{}:v1", "x".repeat(129))]
        {
            assert!(parse_target(text).unwrap_err().to_string().contains("is no name"), "{text}");
        }
    }

    #[test]
    fn names_of_the_wire_have_short_forms() {
        let project = ProjectName::parse("a/b").unwrap();
        assert_eq!(short_name(&project.name()), "a/b");
        assert_eq!(short_name(&project.run("r")), "a/b/r");
        assert_eq!(short_name(&project.artifact("c")), "a/b/c");
        assert_eq!(short_name("else/where"), "else/where");
    }
}
