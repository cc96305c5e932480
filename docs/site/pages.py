"""The pages that are made of what the product says itself: of `--help`, and of the comments in the contract."""

from __future__ import annotations

import importlib.resources
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    SourceCodeInfo,
)

ROOT = Path(__file__).resolve().parents[2]
# Where a link to a folder leads, if that has no README of its own.
PAGES = {"proto/keepbest/v1": "docs/api.md", "docs/adr": "docs/adr/index.md", "docs": "docs/index.md"}
# Numbers of the fields of descriptors by which comments are found.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_FIELDS, _METHODS, _VALUES = 2, 2, 2
_OPTIONS_OF_ALL = re.compile(r"^Options of all commands:\n(?:[ ]{2,}.*\n|\s*\n(?=[ ]))*", re.MULTILINE)
_SCALARS = {
    getattr(FieldDescriptorProto, name): name.removeprefix("TYPE_").lower()
    for name in FieldDescriptorProto.Type.keys()  # noqa: SIM118
}


def version() -> str:
    """Of the product."""
    return str(tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"])


def commands() -> str:
    """Every command with its help, as the program prints it; KEEPBEST_BIN says which program."""
    whole = _help([])
    sections = [f"## keepbest\n\n{_block(whole)}"]
    for path in _subcommands(whole, []):
        # What every command takes stands above, once.
        own, count = _OPTIONS_OF_ALL.subn("", _help(path))
        assert count == 1, f"`keepbest {' '.join(path)}` has not the options of all commands"
        sections.append(f"{'#' * (len(path) + 1)} keepbest {' '.join(path)}\n\n{_block(own)}")
    return "\n\n".join(sections)


def _subcommands(shown: str, path: list[str]) -> list[list[str]]:
    listed = re.search(r"^Commands:\n((?:  .*\n|\n(?=  \S))*)", shown, re.MULTILINE)
    names = re.findall(r"^  (\S+)", listed[1], re.MULTILINE) if listed else []
    found = []
    for name in names:
        if name != "help":
            found += [[*path, name], *_subcommands(_help([*path, name]), [*path, name])]
    return found


def _help(path: list[str]) -> str:
    # The environment's own values would stand in the help.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEEPBEST_")}
    command = [os.environ["KEEPBEST_BIN"], *path, "--help"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def _block(text: str) -> str:
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    return f"```text\n{text}\n```"


def contract() -> str:
    """Every service, message and enumeration with its comments."""
    files = [it for it in _descriptors().file if it.name.startswith("keepbest/")]
    # What is talked about stands last, behind the services that talk about it.
    files.sort(key=lambda it: (not it.service, it.name))
    return "\n\n".join(_of_file(it) for it in files)


def _descriptors() -> FileDescriptorSet:
    protos = sorted((ROOT / "proto/keepbest/v1").glob("*.proto"))
    includes = importlib.resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"-I{includes}"]
        options = ["--include_source_info", f"--descriptor_set_out={out}"]
        subprocess.run([*command, *options, *map(str, protos)], check=True)
        return FileDescriptorSet.FromString(out.read_bytes())


class _Comments:
    """The comments of one file, by the path of what they are about."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._of: dict[tuple[int, ...], SourceCodeInfo.Location] = {
            tuple(it.path): it for it in file.source_code_info.location
        }

    def text(self, *path: int) -> str:
        """Of it, and behind it on its line; lines that are indented are drawings."""
        location = self._of.get(path)
        if location is None:
            return ""
        lines = (location.leading_comments + location.trailing_comments).splitlines()
        out: list[str] = []
        drawing = False
        for line in [it.removeprefix(" ") for it in lines]:
            if line.startswith("  ") != drawing and line:
                drawing = not drawing
                out.append("```text" if drawing else "```")
            out.append(line if drawing else _escaped(line))
        return "\n".join([*out, "```"] if drawing else out).strip()

    def line(self, *path: int) -> str:
        """The same for a cell of a table."""
        return " ".join(self.text(*path).split()).replace("|", "\\|")


def _escaped(text: str) -> str:
    """As Markdown that means the text: code stays, and nothing else is marked up."""
    parts = re.split(r"(`[^`]*`|https?://\S+)", text)
    return "".join(re.sub(r"([*_<>\[\]{}])", r"\\\1", it) if not number % 2 else it for number, it in enumerate(parts))


def _of_file(file: FileDescriptorProto) -> str:
    comments = _Comments(file)
    sections = [f"## {Path(file.name).name}"]
    # The first comment of a file is about all of it; protoc keeps it before `syntax`.
    about = _Comments(file)._of.get((12,))
    if about is not None:
        sections += ["\n\n".join(_escaped(it) for it in about.leading_detached_comments)]
        sections += [comments.text(12)]
    for number, service in enumerate(file.service):
        sections += [f"(wire-{service.name})=\n### Service {service.name}", comments.text(_SERVICES, number)]
        for index, method in enumerate(service.method):
            asks = f"{'stream of ' if method.client_streaming else ''}{_link(method.input_type)}"
            answers = f"{'stream of ' if method.server_streaming else ''}{_link(method.output_type)}"
            said = comments.text(_SERVICES, number, _METHODS, index)
            sections += [f"#### {service.name}.{method.name}", f"{asks} → {answers}", said]
    for number, message in enumerate(file.message_type):
        sections += _of_message(message, comments, (_MESSAGES, number))
    for number, enum in enumerate(file.enum_type):
        sections += _of_enum(enum, comments, (_ENUMS, number))
    return "\n\n".join(it for it in sections if it)


def _of_message(message: DescriptorProto, comments: _Comments, path: tuple[int, ...]) -> list[str]:
    rows = []
    maps = {it.name: it for it in message.nested_type if it.options.map_entry}
    for index, field in enumerate(message.field):
        said = comments.line(*path, _FIELDS, index)
        choice = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
        if choice and not field.proto3_optional:
            said = f"One of `{choice}`. {said}"
        rows.append(f"| `{field.name}` | {_type(field, maps)} | {said} |")
    table = "\n".join(["| field | type | |", "|---|---|---|", *rows]) if rows else "It has no fields."
    return [f"(wire-{message.name})=\n### {message.name}", comments.text(*path), table]


def _of_enum(enum: EnumDescriptorProto, comments: _Comments, path: tuple[int, ...]) -> list[str]:
    rows = [
        f"| `{value.name}` | {value.number} | {comments.line(*path, _VALUES, index)} |"
        for index, value in enumerate(enum.value)
    ]
    table = "\n".join(["| value | number | |", "|---|---|---|", *rows])
    return [f"(wire-{enum.name})=\n### {enum.name}", comments.text(*path), table]


def _type(field: FieldDescriptorProto, maps: dict[str, DescriptorProto]) -> str:
    entry = maps.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        return f"map of {_type(entry.field[0], {})} to {_type(entry.field[1], {})}"
    named = _link(field.type_name) if field.type_name else f"`{_SCALARS[field.type]}`"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"list of {named}"
    return f"optional {named}" if field.proto3_optional else named


def _link(type_name: str) -> str:
    name = type_name.rpartition(".")[2]
    return f"[{name}](#wire-{name})" if type_name.startswith(".keepbest.") else f"`{type_name.removeprefix('.')}`"
