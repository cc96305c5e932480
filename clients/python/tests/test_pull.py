"""Downloads of several files: at once, and ended together where one of them fails."""

from __future__ import annotations

import threading

import pytest
from conftest import random_file

import keepbest
from keepbest import _pull


@pytest.fixture
def version(client, project, tmp_path):
    """A version of ten files."""
    folder = tmp_path / "saved"
    folder.mkdir()
    for number in range(10):
        random_file(folder / f"f{number}", 300_000)
    run = client.start_run(project, "r", keepbest.strategy("m-{epoch}"))
    return run.save(run.report_epoch(0, {"val_loss": 1.0}), folder)


def test_several_files_are_received_at_once(client, version, tmp_path, monkeypatch):
    receive, together = _pull.receive, threading.Barrier(8)

    def receive_together(connection, name, file, *rest):
        if file.path != "f8" and file.path != "f9":
            together.wait(60)  # broken unless eight files are under way
        receive(connection, name, file, *rest)

    monkeypatch.setattr(_pull, "receive", receive_together)
    told = []
    client.pull(version.name, tmp_path / "pulled", on_progress=lambda received, of: told.append((received, of)))
    for number in range(10):
        assert (tmp_path / "pulled" / f"f{number}").read_bytes() == (tmp_path / "saved" / f"f{number}").read_bytes()
    assert told == sorted(told)
    assert told[-1] == (10 * 300_000, 10 * 300_000)


def test_where_one_file_fails_the_others_end_and_the_next_pull_goes_on(client, version, tmp_path, monkeypatch):
    write, failed = _pull.Part.write, threading.Event()

    def fails_or_waits(part, data):
        if part._file.path == "f3":
            failed.set()
            raise OSError(28, "No space left on device")
        assert failed.wait(60)
        write(part, data)

    with monkeypatch.context() as patch:
        patch.setattr(_pull.Part, "write", fails_or_waits)
        with pytest.raises(OSError, match="No space left"):
            client.pull(version.name, tmp_path / "pulled")
    assert not (tmp_path / "pulled" / "f3").exists()
    client.pull(version.name, tmp_path / "pulled")
    assert sorted(path.name for path in (tmp_path / "pulled").iterdir()) == [f"f{number}" for number in range(10)]
