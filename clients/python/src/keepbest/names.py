"""Convert short names, which people type, to the resource names of the API."""

from __future__ import annotations

import re

from keepbest import _environment
from keepbest._arguments import check_text

PROJECT_VARIABLE = "KEEPBEST_PROJECT"
DEFAULT_PROJECT = "default/default"
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Aliases that the server sets itself.
_OF_THE_SERVER = re.compile(r"latest|best|epoch_.*|v[0-9]+")
_SHAPE = "teams/{team}/projects/{project}"


def default_project() -> str:
    """The project of what names none: the environment's KEEPBEST_PROJECT, else `default/default`.

    Raises:
        ValueError: the variable is empty or malformed.
    """
    project = _environment.read(PROJECT_VARIABLE, "`team/project`")
    if project is None:
        return DEFAULT_PROJECT
    try:
        for part, what in zip(project_name(project).split("/")[1::2], ("team", "project"), strict=True):
            check_id(what, part)
    except ValueError as error:
        raise _environment.wrong(PROJECT_VARIABLE, error) from None
    return project


def project_name(text: str) -> str:
    """`teams/T/projects/P` for `T/P` or for itself.

    Raises:
        ValueError: it is neither.
    """
    check_text("project", text, f"`team/project` or `{_SHAPE}`")
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
    check_text("parent", text, "a team, a project, an artifact or a run by its name")
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


def listed_name(text: str) -> str:
    """The resource name of a project whose things are listed; of a team it stands for all its projects.

    Raises:
        ValueError: it is neither.
    """
    return f"{team_name(text)}/projects/-" if _names_a_team(text) else project_name(text)


def team_name(text: str) -> str:
    """The resource name of a team, or of the team of `team/project`.

    Raises:
        ValueError: it is neither.
    """
    if _names_a_team(text):
        return f"teams/{text.removeprefix('teams/')}"
    return project_name(text).partition("/projects/")[0]


def _names_a_team(text: str) -> bool:
    check_text("team", text, "the name of a team or a project")
    match text.split("/"):
        case [team] | ["teams", team]:
            return bool(team)
    return False


def run_name(project: str, run: str) -> str:
    """The resource name of a run: of an id inside `project`, of `T/P/R`, or a full name taken as it is.

    Raises:
        ValueError: it is none of these.
    """
    return _in_project(project, run, "run")


def artifact_name(project: str, artifact: str) -> str:
    """The resource name of an artifact: of an id inside `project`, of `T/P/A`, or a full name taken as it is.

    Raises:
        ValueError: it is none of these.
    """
    if artifact == "":
        raise ValueError(
            "the name of the artifact is empty, as `Run.artifact` is once the artifact was deleted and until the run "
            "is started again: name one, as `team/project/artifact`"
        )
    return _in_project(project, artifact, "artifact")


def version_name(text: str, project: str = "") -> str:
    """The resource name of a version: `T/P/A:vN`, `T/P/A:alias`, or a full name taken as it is.

    Args:
        text: the name.
        project: where `A:vN` and `A:alias` are looked up; empty: nowhere.

    Raises:
        ValueError: it is none of these.
    """
    check_text("version", text, "its name, as `team/project/artifact:alias`")
    if text.startswith("teams/") and "/versions/" in text:
        return text
    artifact, colon, version = text.rpartition(":")
    if colon and version and artifact and "/" not in version:
        if "/" not in artifact and project:
            return f"{artifact_name(project, artifact)}/versions/{version}"
        match artifact.split("/"):
            case [team, name, artifact] if team and name and artifact:
                return f"teams/{team}/projects/{name}/artifacts/{artifact}/versions/{version}"
            case ["teams", _, "projects", _, "artifacts", _]:
                return f"{artifact}/versions/{version}"
    raise ValueError(
        f"version `{text}` is neither `team/project/artifact:alias` nor a full resource name"
        + (f" nor `artifact:alias` in {project}" if project else "")
    )


def _in_project(project: str, text: str, kind: str) -> str:
    check_text(kind, text, f"the name of one, as `team/project/{kind}`")
    match text.split("/"):
        case ["teams", team, "projects", name, kinds, identifier] if kinds == f"{kind}s" and team and name:
            return text if identifier else _refuse(text, kind)
        case [team, name, identifier] if team and name and identifier:
            return f"{project_name(f'{team}/{name}')}/{kind}s/{identifier}"
        case [identifier] if identifier:
            return f"{project_name(project)}/{kind}s/{identifier}"
    return _refuse(text, kind)


def _refuse(text: str, kind: str) -> str:
    raise ValueError(
        f"{kind} `{text}` is none of `{kind}`, `team/project/{kind}` or `teams/{{team}}/projects/{{project}}/{kind}s/"
        f"{{{kind}}}`"
    )


def check_id(what: str, text: str) -> None:
    """Refuse what is no id of a team, project, run or artifact.

    Raises:
        ValueError: it is none; the text says what one looks like.
    """
    if not _ID.fullmatch(text) or text in (".", "..", "-"):
        raise ValueError(
            f"{what} id `{text[:80]}` is not valid: an id is 1 to 128 of the characters A-Z a-z 0-9 . _ -, and "
            "none of `.`, `..` and `-`"
        )


def check_alias(alias: str) -> None:
    """Refuse what is no alias that a user may set, as the server does.

    Raises:
        TypeError: it is no text.
        ValueError: it is no name, or one of the server's.
    """
    check_text("alias", alias)
    if not _ID.fullmatch(alias) or alias in (".", "..", "-"):
        raise ValueError(f"alias `{alias[:80]}` is no name: a name is 1 to 128 of the characters A-Z a-z 0-9 . _ -")
    if _OF_THE_SERVER.fullmatch(alias):
        raise ValueError(
            f"alias `{alias}` belongs to the server, as `latest`, `best`, `epoch_*` and `vN` do: choose another name"
        )
