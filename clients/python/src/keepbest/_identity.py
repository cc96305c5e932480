"""Which run a callback reports to: the one it was told, its own, or one beside another callback's in one training."""

from __future__ import annotations

import re
import uuid
import weakref
import zlib
from typing import Any, Literal

from keepbest import _environment
from keepbest._arguments import check_text
from keepbest.names import check_id, default_project, project_name
from keepbest.types import Strategy

RUN_VARIABLE = "KEEPBEST_RUN"
# So that what is put behind an id leaves it within 128 characters.
_STEM_CHARACTERS = 96

Copies = Literal["own", "same"]


class Identity:
    """The name of a callback's run.

    Attributes:
        project: resource name of the project.
        run: id of the run.
        told: whether the id was given, by an argument or the environment.
        is_new: whether the run was never started, as far as this callback knows.
    """

    def __init__(self, project: str | None, run: str | None, copies: Copies) -> None:
        """Take the name that was given, or make one.

        Raises:
            ValueError: project or run is no name, or `copies` is neither `own` nor `same`.
        """
        if copies not in ("own", "same"):
            raise ValueError(f"copies `{copies}` is neither `own` nor `same`")
        if run is not None:
            check_text("run", run, "the id of a run, or None")
        named = run or _environment.read(RUN_VARIABLE, "the id of a run")
        try:
            project, named = _parsed(project, named)
        except ValueError as error:
            raise error if run else _environment.wrong(RUN_VARIABLE, error) from None
        self.project = project_name(project or default_project())
        for part, what in zip(self.project.split("/")[1::2], ("team", "project"), strict=True):
            check_id(what, part)
        self.told = bool(named)
        self.is_new = not named
        self.run = named or _new_id()
        self._copies = copies

    @property
    def name(self) -> str:
        """The run's resource name."""
        return f"{self.project}/runs/{self.run}"

    def of_a_copy(self) -> None:
        """Become the identity of a copy of the callback: a run of its own, unless it was told otherwise."""
        if self._copies == "own":
            self.run = f"{self.run[:_STEM_CHARACTERS]}-{uuid.uuid4().hex[:6]}" if self.told else _new_id()
            self.is_new = True


def _parsed(project: str | None, named: str | None) -> tuple[str | None, str | None]:
    """The project and the id of a run that is named by its id, in full, or not at all."""
    if named and named.startswith("teams/"):
        parts = named.split("/")
        if len(parts) != 6 or parts[2] != "projects" or parts[4] != "runs":
            raise ValueError(f"run `{named}` is neither an id nor `teams/{{team}}/projects/{{project}}/runs/{{run}}`")
        project, named = "/".join(parts[:4]), parts[5]
    if named:
        check_id("run", named)
    return project, named


def beside(run: str, mine: Strategy, other: Strategy) -> str:
    """The id for a second callback in a training whose first one has `run`: always the same for the same two."""
    if mine.monitor != other.monitor:
        suffix = re.sub(r"[^A-Za-z0-9._-]+", "-", mine.monitor)
    elif mine.save_best_only != other.save_best_only:
        suffix = "best" if mine.save_best_only else "each"
    else:
        suffix = "second"
    return f"{run[:_STEM_CHARACTERS]}-{suffix[:24]}"


def third(run: str, mine: Strategy) -> str:
    """The id for a further callback of that training: by its template, so that a restart finds it again."""
    return f"{run[:_STEM_CHARACTERS]}-{zlib.crc32(mine.filepath.encode()):08x}"


def same_saves(mine: Strategy, other: Strategy) -> bool:
    """Whether two strategies are of one callback, or of its successor after a restart."""
    names = ("filepath", "monitor", "save_best_only")
    return all(getattr(mine, name) == getattr(other, name) for name in names)


def _new_id() -> str:
    return f"run-{uuid.uuid4().hex[:12]}"


# Callbacks whose training runs in this process, by the name of their run.
_IN_TRAINING: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def in_training(name: str) -> Any:
    """The callback in this process that trains under this name of a run; None if there is none."""
    return _IN_TRAINING.get(name)


def enter_training(name: str, callback: Any) -> None:
    """Take note that a callback's training has begun."""
    _IN_TRAINING[name] = callback


def leave_training(name: str, callback: Any) -> None:
    """Take note that it has ended."""
    if _IN_TRAINING.get(name) is callback:
        _IN_TRAINING.pop(name, None)
