"""How Sphinx makes the site (`make book`) of the Markdown of this repository, where it lies.

The sources are the pages as the forge shows them: links go from file to file, and here to the page of that file. What
is no page, as a file of settings, comes along as a download. A link that leads nowhere is an error.
"""

from __future__ import annotations

import os
import re
import sys
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import pages  # noqa: E402

project = "Keepbest"
author = "the Keepbest authors"
copyright = author
release = version = pages.version()
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/adr/*.md",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "clients/*/README.md",
    "clients/examples/*/README.md",
    "demo/README.md",
    "migrations/README.md",
    "tests/*/README.md",
]
# Not even looked into: what is built, and others' sources.
exclude_patterns = ["target", ".venv*", ".git", ".azurite", ".helm", "data", "**/node_modules", "gen"]

# Headings can be linked to, as on the forge.
myst_heading_anchors = 4
# A page that `docs/index.md` does not list is reached by links alone.
suppress_warnings = ["toc.not_included"]

html_theme = "furo"
html_title = "Keepbest"
html_copy_source = False
html_show_sourcelink = False
html_extra_path = ["index.html"]
html_theme_options = {"navigation_with_keys": True}

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
# What `__init__` says of its arguments, too.
autoclass_content = "both"
napoleon_numpy_docstring = False
# A docstring's single backticks are code.
default_role = "code"


def _pretend_keras() -> None:
    """As much of Keras as the callback needs to be looked at: the real one would be 200 MB."""
    for name in ("keras", "keras.src", "keras.src.saving", "keras.src.saving.saving_lib"):
        sys.modules[name] = types.ModuleType(name)
    keras: Any = sys.modules["keras"]
    keras.__version__ = "3.15.1"
    keras.callbacks = types.SimpleNamespace(Callback=type("Callback", (), {}))
    saving: Any = sys.modules["keras.src.saving"]
    saving.saving_lib = sys.modules["keras.src.saving.saving_lib"]
    saving.saving_lib.NpzIOStore = type("NpzIOStore", (), {})


_pretend_keras()


def _rewritten(app: object, docname: str, source: list[str]) -> None:
    """Put in what is generated, and let links to folders go to their pages."""
    text = source[0]
    for name, make in {"commands": pages.commands, "contract": pages.contract}.items():
        marker = f"<!-- generated: {name} -->"
        if marker in text:
            text = text.replace(marker, make())
    folder = (ROOT / docname).parent

    def linked(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        path = Path(os.path.normpath(folder / target))
        if not path.is_dir():
            return found[0]
        page = pages.PAGES.get(path.relative_to(ROOT).as_posix(), path / "README.md")
        if not (ROOT / page).is_file():
            return words
        return f"[{words}]({os.path.relpath(ROOT / page, folder)})"

    source[0] = re.sub(r"\[([^\]\n]+)\]\(([^)#:\s]+)\)", linked, text)


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _rewritten)  # type: ignore[attr-defined]
