"""Paths: those that trainers write, those of versions, and where a pull puts what was saved."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Interposer, random_file

import keepbest
from keepbest import _pull
from keepbest._digest import CHUNK_BYTES
from keepbest._part import unfinished_folder
from keepbest._paths import plain_template, split_template
from keepbest._proto.keepbest.v1.artifacts_pb2 import ReadFileRequest

EVERY = keepbest.strategy("m-{epoch}", monitor="loss", mode="min")


@pytest.mark.parametrize(
    ("typed", "beginning", "rest"),
    [
        ("m.keras", "", "m.keras"),
        ("a/b/m-{epoch}.keras", "a/b/", "m-{epoch}.keras"),
        ("/a/{epoch}/m.keras", "/a/", "{epoch}/m.keras"),
        ("/m.keras", "/", "m.keras"),
        ("a{epoch}/b/m.keras", "", "a{epoch}/b/m.keras"),
        ("./a//b/./m.keras", "./a//b/./", "m.keras"),
        ("{epoch}//b/./m.keras", "", "{epoch}/b/m.keras"),
        ("models/sm-{epoch}/", "models/", "sm-{epoch}"),
        ("e:{epoch}.keras", "e:", "{epoch}.keras"),
        ("b14\\models\\m-{epoch:02d}.keras", "b14\\models\\", "m-{epoch:02d}.keras"),
        ("C:\\runs\\{epoch}\\m.keras", "C:\\runs\\", "{epoch}/m.keras"),
        ("{a/b}.keras", "", "{a/b}.keras"),
        ("", "", ""),
    ],
)
def test_what_a_trainer_writes_is_a_beginning_and_a_template(typed, beginning, rest):
    assert split_template(typed) == (beginning, rest)


def test_a_remote_path_is_refused():
    with pytest.raises(ValueError, match="is remote"):
        split_template("gs://bucket/m.keras")


def test_a_template_outside_of_callbacks_may_be_written_as_any_path():
    assert plain_template("./a//b/./{epoch}\\m.bin/") == "a/b/{epoch}/m.bin"
    assert keepbest.strategy("./a//m-{epoch}.bin").filepath == "a/m-{epoch}.bin"
    assert plain_template("/etc/m.bin") == "/etc/m.bin", "the server says what is wrong with it"


def test_what_was_saved_lies_at_the_versions_path_after_a_pull(client, project, tmp_path):
    run = client.start_run(project, "r", EVERY)
    (tmp_path / "folder" / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "variables/v.index"):
        random_file(tmp_path / "folder" / name, 10)
    random_file(tmp_path / "weights.bin", 10)
    whats = [
        tmp_path / "folder",
        tmp_path / "weights.bin",
        {"m-3/config.json": tmp_path / "weights.bin", "notes": tmp_path / "weights.bin"},
        {"m-4": tmp_path / "weights.bin", "notes": tmp_path / "weights.bin"},
    ]
    for epoch, (what, path) in enumerate(zip(whats, ["", "weights.bin", "m-3", "m-4"], strict=True)):
        version = run.save(run.report_epoch(epoch, {"loss": 1.0}), what)
        target = tmp_path / f"pulled-{epoch}"
        assert version.path == client.pull(version.name, target).path == path
        assert (target / version.path).exists()
        assert (target / version.path).is_dir() == (path in ("", "m-3"))


def shards(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        random_file(folder / f"model-{number + 1:05d}-of-{count:05d}.safetensors", 20)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def saved(client, project, *whats) -> list[keepbest.Version]:
    run = client.start_run(project, "r", EVERY)
    return [run.save(run.report_epoch(epoch, {"loss": 1.0}), what) for epoch, what in enumerate(whats)]


@pytest.mark.parametrize("first", ["client", "program"])
def test_the_client_and_the_program_remove_what_the_other_pulled(client, project, tmp_path, first):
    def pull(who, version):
        if who == "client":
            client.pull(f"{project}/a:{version}", tmp_path / "out")
        else:
            command = [os.environ["KEEPBEST_BIN"], "pull", f"{project}/a:{version}", str(tmp_path / "out")]
            address = {"KEEPBEST_ADDRESS": client.connection.address.target}
            subprocess.run(command, env=os.environ | address, check=True, capture_output=True)

    for shards in (2, 3, 2):
        files = {f"{it}-of-{shards}": tmp_path / f"{it}-of-{shards}" for it in range(shards)}
        for file in files.values():
            random_file(file, 10)
        client.push(files, f"{project}/a")
    second = "program" if first == "client" else "client"
    for who, version, shards in ((first, "v0", 2), (second, "v1", 3), (first, "v2", 2)):
        pull(who, version)
        assert [it.name for it in sorted((tmp_path / "out").iterdir())] == [f"{it}-of-{shards}" for it in range(shards)]


def test_a_pull_removes_what_an_earlier_one_put_there_and_nothing_else(client, project, tmp_path):
    deep = tmp_path / "deep"
    (deep / "a" / "b").mkdir(parents=True)
    random_file(deep / "a" / "b" / "x", 5)
    random_file(deep / "config", 5)
    three, two = shards(tmp_path / "three", 3), shards(tmp_path / "two", 2)
    versions = saved(client, project, three, deep, two)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.warns(UserWarning, match=r"holds files that are not of .*mine\.txt"):
        client.pull(versions[0].name, out)
    changed = out / "model-00001-of-00003.safetensors"
    changed.write_bytes(b"changed by its owner")
    with pytest.warns(UserWarning, match=r"model-00001-of-00003\.safetensors"):
        client.pull(versions[1].name, out)
    assert names(out) == ["a", "a/b", "a/b/x", "config", "mine.txt", changed.name]
    changed.unlink()
    (out / "mine.txt").unlink()
    client.pull(versions[2].name, out)
    assert names(out) == names(two)


def test_a_file_that_was_there_before_is_not_taken_for_a_pulled_one(client, project, tmp_path):
    """As a trainer's own folder of checkpoints, to which it pulls the newest."""
    for name in ("m-1.bin", "m-2.bin"):
        random_file(tmp_path / name, 30)
    first, second = saved(client, project, tmp_path / "m-1.bin", tmp_path / "m-2.bin")
    for version in (first, second):
        client.pull(version.name, tmp_path)
    assert {"m-1.bin", "m-2.bin"} <= set(names(tmp_path))


def test_equal_files_are_not_received_again(interposer: Interposer, project, tmp_path):
    client = keepbest.Client(interposer.address, timeout=30)
    (version,) = saved(client, project, shards(tmp_path / "three", 3))
    client.pull(version.name, tmp_path / "out")
    (tmp_path / "out" / "model-00002-of-00003.safetensors").write_bytes(b"x" * 20)
    interposer.calls.clear()
    client.pull(version.name, tmp_path / "out")
    assert interposer.calls.count("ReadFile") == 1
    for file in (tmp_path / "three").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def leave_after_a_chunk(client, version, out, monkeypatch) -> None:
    """Pull until one chunk is whole, and stop as a trainer that is killed."""

    class Stopped(BaseException):
        pass

    write = _pull.Part.write

    def write_one_chunk(part, data):
        write(part, data)
        if part._chunks[0] is not None:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(_pull.Part, "write", write_one_chunk)
        client.pull(version.name, out)


def ranges_asked_for(client, monkeypatch) -> list[tuple[int, int]]:
    asked = []
    stub = client.connection.stubs().artifacts
    read = stub.ReadFile

    def asked_for(request: ReadFileRequest, timeout: float):
        asked.append((request.offset_bytes, request.length_bytes))
        return read(request, timeout=timeout)

    monkeypatch.setattr(stub, "ReadFile", asked_for)
    return asked


def test_a_pull_that_broke_off_goes_on_at_its_last_chunk(client, project, tmp_path, monkeypatch):
    data = random_file(tmp_path / "big.bin", 2 * CHUNK_BYTES + 7)
    (version,) = saved(client, project, tmp_path / "big.bin")
    leave_after_a_chunk(client, version, tmp_path / "out", monkeypatch)
    assert not (tmp_path / "out" / "big.bin").exists()
    asked = ranges_asked_for(client, monkeypatch)
    client.pull(version.name, tmp_path / "out")
    assert asked == [(CHUNK_BYTES, CHUNK_BYTES + 7)]
    assert (tmp_path / "out" / "big.bin").read_bytes() == data
    assert names(tmp_path / "out") == ["big.bin"]


def test_what_a_pull_left_is_only_used_if_it_is_still_right(client, project, tmp_path, monkeypatch):
    data = random_file(tmp_path / "big.bin", CHUNK_BYTES + 7)
    (version,) = saved(client, project, tmp_path / "big.bin")
    leave_after_a_chunk(client, version, tmp_path / "out", monkeypatch)
    (part,) = (tmp_path / "out" / ".keepbest-pull").glob("*.part")
    with part.open("r+b") as opened:
        opened.write(b"spoilt")
    client.pull(version.name, tmp_path / "out")
    assert (tmp_path / "out" / "big.bin").read_bytes() == data


def test_the_program_and_the_client_go_on_with_what_the_other_left(client, project, tmp_path, monkeypatch):
    data = random_file(tmp_path / "big.bin", CHUNK_BYTES + 7)
    (version,) = saved(client, project, tmp_path / "big.bin")
    leave_after_a_chunk(client, version, tmp_path / "out", monkeypatch)
    command = [os.environ["KEEPBEST_BIN"], "pull", version.name, str(tmp_path / "out"), "--json"]
    environment = {**os.environ, "KEEPBEST_ADDRESS": f"http://{client.connection.address.target}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["received_bytes"] == 7
    assert (tmp_path / "out" / "big.bin").read_bytes() == data


def test_two_pulls_do_not_write_one_file(client, project, tmp_path, monkeypatch):
    random_file(tmp_path / "big.bin", 10)
    (version,) = saved(client, project, tmp_path / "big.bin")
    finish = _pull.Part.finish

    def pull_meanwhile(part, name):
        with pytest.raises(ValueError, match="is being written by another pull"):
            client.pull(version.name, tmp_path / "out")
        finish(part, name)

    monkeypatch.setattr(_pull.Part, "finish", pull_meanwhile)
    client.pull(version.name, tmp_path / "out")
    assert names(tmp_path / "out") == ["big.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows locks otherwise")
@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EAGAIN, errno.EACCES])
def test_a_file_system_without_locks_can_be_pulled_to(client, project, tmp_path, monkeypatch, reason):
    import fcntl

    def refuse(descriptor, operation):
        raise OSError(reason, os.strerror(reason))

    data = random_file(tmp_path / "big.bin", 10)
    (version,) = saved(client, project, tmp_path / "big.bin")
    monkeypatch.setattr(fcntl, "flock", refuse)
    if reason in (errno.EAGAIN, errno.EACCES):
        with pytest.raises(ValueError, match="is being written by another pull"):
            client.pull(version.name, tmp_path / "out")
    else:
        client.pull(version.name, tmp_path / "out")
        assert (tmp_path / "out" / "big.bin").read_bytes() == data


def test_no_file_of_a_version_stands_where_unfinished_ones_do():
    assert unfinished_folder(Path("d"), ["a", "x/.keepbest-pull"]) == Path("d/.keepbest-pull")
    assert unfinished_folder(Path("d"), [".Keepbest-PULL", ".keepbest-pull-2/x"]) == Path("d/.keepbest-pull-3")


def test_links_are_told_as_what_they_are(client, project, tmp_path):
    run = client.start_run(project, "r", EVERY)
    folder = shards(tmp_path / "model", 1)
    (folder / "blob").symlink_to("../elsewhere")
    with pytest.raises(ValueError, match=r"is a symlink to `\.\./elsewhere`; .* pass a map"):
        run.save(run.report_epoch(0, {"loss": 1.0}), folder)
    with pytest.raises(FileNotFoundError, match=r"is a link to `\.\./elsewhere`, where nothing is"):
        run.save(run.report_epoch(1, {"loss": 1.0}), folder / "blob")
    data = random_file(tmp_path / "elsewhere", 10)
    version = run.save(run.report_epoch(2, {"loss": 1.0}), {"blob": folder / "blob"})
    client.pull(version.name, tmp_path / "out")
    assert (tmp_path / "out" / "blob").read_bytes() == data


@pytest.mark.parametrize("size_bytes", [1000, 1_000_000, CHUNK_BYTES + 5])
def test_files_are_saved_and_pulled_on_a_system_that_has_no_pread_and_no_umask(server, project, tmp_path, size_bytes):
    data = random_file(tmp_path / "m.bin", size_bytes)
    script = (
        "import os, sys, keepbest\n"
        "for name in ('pread', 'pwrite', 'umask', 'preadv', 'sendfile'): delattr(os, name)\n"
        "address, project, file, out = sys.argv[1:]\n"
        "client = keepbest.Client(address, timeout=30)\n"
        "run = client.start_run(project, 'r', keepbest.strategy('m', monitor='loss', mode='min'))\n"
        "client.pull(run.save(run.report_epoch(0, {'loss': 1.0}), file, sha256=True).name, out)\n"
    )
    command = [sys.executable, "-c", script, server.address, project, str(tmp_path / "m.bin"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "m.bin").read_bytes() == data
