"""A callback's local files: templates, saves that replace the old file atomically, and snapshots."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

# Formats are told apart by these endings, so temporary names must keep them.
_EXTENSIONS = (".weights.h5", ".keras", ".h5", ".safetensors")
# In the part of the path without placeholders: models that the server could not be asked about.
HELD_FOLDER = "keepbest-held"

Saver = Callable[[str], None]

T = TypeVar("T")


def extension_of(filepath: str) -> str:
    """The ending that tells a framework the format; empty if there is none."""
    return next((ending for ending in _EXTENSIONS if filepath.endswith(ending)), "")


def hidden(directory: Path, run: str, ending: str = "") -> Path:
    """A new name in a directory for what belongs to one process of a run, and is of no use after it."""
    return directory / f"{_of_run(run)}-{uuid.uuid4().hex}{ending}"


def _of_run(run: str) -> str:
    """What hidden names of a run, given by its resource name, begin with: runs of two projects may share an id."""
    return f".keepbest-{run.rpartition('/')[2]}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"


def remove_hidden(directory: Path, template: str, run: str) -> None:
    """Remove what earlier processes of a run left behind under `hidden` names because they were killed.

    Args:
        directory: the part of the callback's path without placeholders.
        template: the rest of that path.
        run: its resource name. Only call this once no earlier process of the run can save any more.
    """
    left = re.compile(rf"{re.escape(_of_run(run))}-[0-9a-f]{{32}}({'|'.join(map(re.escape, _EXTENSIONS))})?")
    folders = "/".join("*" if "{" in part else glob.escape(part) for part in template.split("/")[:-1])
    for folder in {directory, directory / HELD_FOLDER, *(directory.glob(folders) if folders else ())}:
        with contextlib.suppress(OSError):
            for path in list(folder.iterdir()):
                if left.fullmatch(path.name):
                    remove(path)
    with contextlib.suppress(OSError):
        (directory / HELD_FOLDER).rmdir()  # it holds nothing else


def replace(path: Path, save: Saver, run: str) -> None:
    """Save to `path`, making its directory. The old file stays until the new one is complete, and is then replaced.

    Args:
        path: where the file is to be.
        save: writes it.
        run: the resource name of the run for which it is saved.

    Raises:
        IsADirectoryError: `path` is a directory, but `save` wrote a file.
    """
    temporary = hidden(path.parent, run, extension_of(path.name))
    try:
        in_folder(path.parent, lambda: save(str(temporary)))
        move(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def in_folder(folder: Path, write: Callable[[], T]) -> T:
    """Make a folder, and write into it; once more if another run removed it in between, because it was still empty."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return write()
    except FileNotFoundError:
        if folder.exists():
            raise
    folder.mkdir(parents=True, exist_ok=True)
    return write()


def parts_of(path: Path) -> list[Path]:
    """The file or directory of this name; else the files of TensorFlow's weights format that begin with it."""
    if path.exists():
        return [path]
    return sorted([*path.parent.glob(f"{path.name}.index"), *path.parent.glob(f"{path.name}.data-*")])


def size_of(path: Path) -> int:
    """The size in bytes of all files of this name, as `parts_of` finds them."""
    files = [file for part in parts_of(path) for file in (part.rglob("*") if part.is_dir() else [part])]
    return sum(file.lstat().st_size for file in files if file.is_file())


def move(source: Path, target: Path) -> None:
    """Move all that `parts_of` finds to another name, replacing what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for part in parts_of(source):
        _move_one(part, target.with_name(target.name + part.name.removeprefix(source.name)))
    state = source.parent / "checkpoint"  # TensorFlow notes the name of the newest weights in it
    if not target.exists() and state.is_file():
        state.write_text(state.read_text().replace(source.name, target.name))


def _move_one(source: Path, target: Path) -> None:
    if source.is_dir() and target.is_dir() and any(target.iterdir()):
        # A directory cannot be renamed onto one that is not empty, so the old one is moved aside first.
        aside = target.with_name(f".keepbest-{uuid.uuid4().hex}")
        os.replace(target, aside)
        os.replace(source, target)
        remove(aside)
    else:
        os.replace(source, target)


def remove(path: Path) -> None:
    """Remove all that `parts_of` finds, if anything."""
    for part in parts_of(path):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                part.unlink()


def snapshot(path: Path, directory: Path) -> Path:
    """Give a file or directory tree a second name, under which later saves to the first name do not change it.

    It consists of hard links, which suffice because saves replace files instead of writing into them; or of copies,
    where the file system has no hard links.
    """
    target = directory / path.name
    target.parent.mkdir(parents=True)
    for part in parts_of(path):
        if part.is_dir():
            shutil.copytree(part, target, copy_function=_link)
        else:
            _link(part, target.with_name(part.name))
    return target


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
