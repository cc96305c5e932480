"""The runbook's backup and restore of SQLite and a folder, as its commands stand there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import Server, doomed_chunks, keepbest, runbook, runbook_try


def _push(server: Server, path: Path) -> None:
    keepbest("push", path, "cnn", "--server", server.url)


def _model(folder: Path, name: str) -> Path:
    # Two chunks, so that a version is more than one object.
    path = folder / name
    path.write_bytes(os.urandom((8 << 20) + 4096))
    return path


def _objects(data: Path) -> set[str]:
    return {path.name for path in (data / "objects" / "chunks").rglob("*") if path.is_file()}


def _serve(servers: list[Server], tmp_path: Path, data: Path) -> Server:
    server = Server(tmp_path / f"log-{len(servers)}", {"KEEPBEST_DATA_DIR": str(data)})
    servers.append(server)
    return server


def test_a_backup_beside_live_traffic_restores_every_version_it_names(tmp_path: Path, servers: list[Server]) -> None:
    data, backup, restored = tmp_path / "data", tmp_path / "backup", tmp_path / "restored"
    models = [_model(tmp_path, f"model-{number}") for number in range(3)]
    server = _serve(servers, tmp_path, data)
    for model in models[:2]:
        _push(server, model)
    runbook("backup-folder", {"DATA": str(data), "BACKUP": str(backup)})

    # What happens after the database's copy and while the objects are copied: a commit, a deletion, the collector.
    _push(server, models[2])
    keepbest("rm", "cnn:v0", "--server", server.url)
    assert doomed_chunks({"KEEPBEST_DATA_DIR": str(data)}) == 2
    subprocess.run(["cp", "-Ru", f"{data}/objects/.", f"{backup}/objects/"], check=True)

    runbook("restore-folder", {"DATA": str(restored), "BACKUP": str(backup)})
    # Those of v2 are there too, without a row: they harm nothing and nobody deletes them.
    unnamed = _objects(restored) - _named(restored)
    assert len(unnamed) == 2
    server.stop()
    again = _serve(servers, tmp_path, restored)
    for number, model in enumerate(models[:2]):
        pulled = tmp_path / f"pulled-{number}"
        keepbest("pull", f"cnn:v{number}", pulled, "--server", again.url)
        assert next(path for path in pulled.rglob("*") if path.is_file()).read_bytes() == model.read_bytes()
    versions = json.loads(keepbest("--json", "versions", "cnn", "--server", again.url))
    assert len(versions["versions"]) == 2
    # The number of the version that was lost is given out again, as the runbook says.
    keepbest("push", _model(tmp_path, "other"), "cnn", "--server", again.url)
    keepbest("show", "cnn:v2", "--server", again.url)
    keepbest("gc", "--now", "--data", restored)
    assert unnamed <= _objects(restored)
    assert json.loads(keepbest("--json", "check", "--read-data", "--data", restored))["problems"] == []


def test_objects_that_were_freed_before_their_copy_are_found_missing(tmp_path: Path, servers: list[Server]) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    server = _serve(servers, tmp_path, data)
    _push(server, _model(tmp_path, "model"))
    runbook("backup-folder", {"DATA": str(data), "BACKUP": str(backup)})
    for path in (backup / "objects").rglob("*"):
        if path.is_file():
            path.unlink()
    # As the collector would without its graces, which is why the runbook forbids it here.
    keepbest("rm", "cnn:v0", "--server", server.url)
    keepbest("gc", "--now", "--data", data)
    subprocess.run(["cp", "-Ru", f"{data}/objects/.", f"{backup}/objects/"], check=True)
    checked = subprocess.run(
        [os.environ["KEEPBEST_BIN"], "--json", "check", "--data", str(backup)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 1
    # Two chunks and the manifest.
    assert len(json.loads(checked.stdout)["problems"]) == 3


@pytest.mark.parametrize("failure", ["no database", "a broken database", "no objects", "a name that is taken"])
def test_a_backup_that_fails_leaves_the_last_one_as_it_was(tmp_path: Path, servers: list[Server], failure: str) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    server = _serve(servers, tmp_path, data)
    _push(server, _model(tmp_path, "model"))
    runbook("backup-folder", {"DATA": str(data), "BACKUP": str(backup)})
    last = (backup / "keepbest.db").read_bytes()

    _push(server, _model(tmp_path, "newer"))
    server.stop()
    match failure:
        case "no database":
            (data / "keepbest.db").unlink()
        case "a broken database":
            (data / "keepbest.db").write_bytes(bytes(8192))
        case "no objects":
            (data / "objects").rename(tmp_path / "away")
        case "a name that is taken":
            # Neither removed nor written.
            (backup / "keepbest.db.new" / "folder").mkdir(parents=True)
    assert runbook_try("backup-folder", {"DATA": str(data), "BACKUP": str(backup)}).returncode != 0
    assert (backup / "keepbest.db").read_bytes() == last
    assert json.loads(keepbest("--json", "check", "--read-data", "--data", backup))["problems"] == []


def _named(data: Path) -> set[str]:
    """The names of the objects that the database's chunks have."""
    query = "SELECT object_key FROM chunks"
    found = subprocess.run(["sqlite3", data / "keepbest.db", query], capture_output=True, text=True, check=True)
    return {line.rpartition("/")[2] for line in found.stdout.splitlines()}
