"""Local files of a callback: templates, saves that replace the old file at once, and snapshots."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

# Keras knows the format by the ending, so a temporary name must keep it.
_EXTENSIONS = (".weights.h5", ".keras", ".h5")

Saver = Callable[[str], None]


def split_template(filepath: str) -> tuple[str, str]:
    """The literal leading directory of a template, and the rest, which is relative.

    `"runs/a/{epoch}/m.keras"` is `("runs/a", "{epoch}/m.keras")`; without a directory the first is empty.

    Raises:
        ValueError: it names a remote place.
    """
    if "://" in filepath:
        raise ValueError(f"filepath `{filepath}` is remote; pass a local path, the server keeps the copy that lasts")
    brace = min((at for at in (filepath.find("{"), filepath.find("}")) if at >= 0), default=len(filepath))
    directory, slash, _ = filepath[:brace].rpartition("/")
    rest = filepath[len(directory) + len(slash) :]
    return directory or slash, rest


def extension_of(filepath: str) -> str:
    """The ending by which a framework knows the format; empty for none."""
    return next((ending for ending in _EXTENSIONS if filepath.endswith(ending)), "")


def replace(path: Path, save: Saver) -> None:
    """Make the directory of `path`, and save to it in a way that leaves the old file until the new one is whole.

    Raises:
        IsADirectoryError: `path` is a directory, and `save` writes a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".keepbest-{uuid.uuid4().hex}{extension_of(path.name)}")
    try:
        save(str(temporary))
        move(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def parts_of(path: Path) -> list[Path]:
    """What lies under a name: the file or directory; else the files of TensorFlow's weights format, which share it."""
    if path.exists():
        return [path]
    return sorted([*path.parent.glob(f"{path.name}.index"), *path.parent.glob(f"{path.name}.data-*")])


def size_of(path: Path) -> int:
    """How many bytes lie under a name."""
    files = [file for part in parts_of(path) for file in (part.rglob("*") if part.is_dir() else [part])]
    return sum(file.lstat().st_size for file in files if file.is_file())


def move(source: Path, target: Path) -> None:
    """Move what lies under a name to another one, replacing what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for part in parts_of(source):
        _move_one(part, target.with_name(target.name + part.name.removeprefix(source.name)))
    state = source.parent / "checkpoint"  # where TensorFlow notes the newest weights beside it
    if not target.exists() and state.is_file():
        state.write_text(state.read_text().replace(source.name, target.name))


def _move_one(source: Path, target: Path) -> None:
    if source.is_dir() and target.is_dir() and any(target.iterdir()):
        # A directory cannot replace one that is not empty: the old one steps aside for a moment.
        aside = target.with_name(f".keepbest-{uuid.uuid4().hex}")
        os.replace(target, aside)
        os.replace(source, target)
        remove(aside)
    else:
        os.replace(source, target)


def remove(path: Path) -> None:
    """Remove what lies under a name, if anything does."""
    for part in parts_of(path):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                part.unlink()


def snapshot(path: Path, directory: Path) -> Path:
    """A second name for a file or directory tree that a later save under the first one does not change.

    Hard links, since saves replace files instead of writing into them; copies where the file system has no links.
    """
    target = directory / uuid.uuid4().hex / path.name
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
