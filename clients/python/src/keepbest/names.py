"""Convert short names, which people type, to the resource names of the API."""

from __future__ import annotations

_SHAPE = "teams/{team}/projects/{project}"


def project_name(text: str) -> str:
    """`teams/T/projects/P` for `T/P` or for itself.

    Raises:
        ValueError: it is neither.
    """
    match text.split("/"):
        case [team, project] if team and project:
            return f"teams/{team}/projects/{project}"
        case ["teams", team, "projects", project] if team and project:
            return text
    raise ValueError(f"project `{text}` is neither `team/project` nor `{_SHAPE}`")


def parent_name(text: str) -> str:
    """The resource name of what holds versions.

    `T` is a team, `T/P` a project, `T/P/A` an artifact; full resource names (of a run too) are taken as they are.

    Raises:
        ValueError: it is none of these.
    """
    if text.startswith("teams/") and len(text.split("/")) % 2 == 0:
        return text
    match text.split("/"):
        case [team] if team:
            return f"teams/{team}"
        case [team, project] if team and project:
            return f"teams/{team}/projects/{project}"
        case [team, project, artifact] if team and project and artifact:
            return f"teams/{team}/projects/{project}/artifacts/{artifact}"
    raise ValueError(f"`{text}` is none of `team`, `team/project`, `team/project/artifact` or a full resource name")


def run_name(project: str, run: str) -> str:
    """The resource name of a run: of an id inside `project`, or a full name taken as it is."""
    return run if run.startswith("teams/") else f"{project_name(project)}/runs/{run}"


def version_name(text: str) -> str:
    """The resource name of a version: `T/P/A:vN`, `T/P/A:alias`, or a full name taken as it is.

    Raises:
        ValueError: it is neither.
    """
    if text.startswith("teams/") and "/versions/" in text:
        return text
    artifact, colon, version = text.rpartition(":")
    parts = artifact.split("/")
    if colon and version and len(parts) == 3 and all(parts):
        return f"teams/{parts[0]}/projects/{parts[1]}/artifacts/{parts[2]}/versions/{version}"
    raise ValueError(f"version `{text}` is neither `team/project/artifact:alias` nor a full resource name")
