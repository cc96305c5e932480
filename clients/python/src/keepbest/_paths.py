"""Paths as trainers write them, as the server takes them, and as they come back; on the wire `/` separates."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

# Windows' separator counts on every system: a script goes on to work where it was not written.
_SEPARATORS = "/\\"


def split_template(filepath: str) -> tuple[str, str]:
    """Split a template into its beginning, which has no placeholders, and the rest, as the server takes it.

    The path of a decision put behind the beginning is where Keras would save. `"runs/a/{epoch}/m.keras"` is `"runs/a/"`
    and `"{epoch}/m.keras"`; `"m.keras"` is `""` and itself; a drive, as in `"e:{epoch}.keras"`, belongs to the
    beginning, and so do `./`, `//` and the like.

    Raises:
        ValueError: it is a URL.
    """
    if "://" in filepath:
        raise ValueError(f"filepath `{filepath}` is remote; pass a local path, the server keeps the copy that lasts")
    filepath = filepath.rstrip(_SEPARATORS) or filepath
    brace = min((at for at in (filepath.find("{"), filepath.find("}")) if at >= 0), default=len(filepath))
    end = max(filepath.rfind(separator, 0, brace) for separator in _SEPARATORS) + 1
    if filepath[end + 1 : end + 2] == ":":  # a drive, or what would be one where the file is pulled to
        end += 2
    return filepath[:end], plain_template(filepath[end:])


def plain_template(template: str) -> str:
    """The same path, in the form that the server takes: `./a//b\\c/` is `a/b/c`. What is between braces stays."""
    parts: list[str] = [""]
    depth = 0
    for character in template:
        depth += (character == "{") - (character == "}")
        if depth <= 0 and character in _SEPARATORS:
            parts.append("")
        else:
            parts[-1] += character
    plain = [part for part in parts if part not in ("", ".")]
    # An absolute path stays one, so that the server can say what is wrong with it.
    return ("/" if parts[0] == "" and len(parts) > 1 else "") + "/".join(plain)


def target_path(directory: Path, path: str) -> Path:
    """The local path for a file of a version.

    Raises:
        ValueError: `path` is absolute, has `..`, a backslash or a drive in it, or leads through a symlink.
    """
    relative = PurePosixPath(path)
    parts = relative.parts
    leads_out = not parts or relative.is_absolute() or ".." in parts or "\\" in path or "\0" in path
    if leads_out or Path(path).drive or (os.name == "nt" and ":" in path):
        raise ValueError(f"path `{path}` of the version leaves the directory; it must be relative and without `..`")
    target = directory
    for part in parts:
        target = target / part
        if target.is_symlink():
            raise ValueError(f"`{target}` is a symlink; move it away to pull `{path}`")
    return target
