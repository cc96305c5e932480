"""Every model that is set aside while the server is away is saved, removed because nobody wants it, or told of."""

from __future__ import annotations

from pathlib import Path

import plain
import pytest
from conftest import Server

import keepbest
from keepbest import _outage
from keepbest._spool import Spool, spools_in
from keepbest.client import start_request


@pytest.fixture(autouse=True)
def probes_at_once(monkeypatch):
    monkeypatch.setattr(_outage, "_PROBE_SECONDS", 0.0)


def held_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("keepbest-held/*") if path.suffix != ".spool")


@pytest.fixture
def by_batches(own_server: Server, project, tmp_path):
    """Makes a callback that saves every two batches; a `plain.fit` has one batch an epoch."""

    def make(**arguments):
        arguments = {"server": own_server.address, "project": project, "run": "r", "retry_seconds": 0.2, **arguments}
        return plain.Callback(tmp_path / "m-{epoch}-{batch}.txt", save_freq=2, **arguments)

    return make


def saved(address: str, run: str) -> list[int]:
    with keepbest.Client(address, timeout=30) as client:
        return sorted(version.epoch for version in client.versions(client.run(run).artifact))


def test_spools_are_brought_in_in_the_order_in_which_they_were_begun(project, tmp_path):
    for name in ("b", "a"):
        spool = Spool(tmp_path / f"{name}.spool", lambda: start_request(project, "r", None))
        spool.keep([], 1)
        spool.close()
    with (tmp_path / "b.spool").open("a") as file:  # as a sync does that is cut off
        file.write('{"attempt": 2}\n')
    assert [path.name for path in spools_in(tmp_path)] == ["b.spool", "a.spool"]


@pytest.mark.filterwarnings("ignore:Keepbest")
def test_no_model_gets_the_name_of_one_that_gave_way_in_an_earlier_training(own_server: Server, project, tmp_path):
    """Else the earlier spool, which names it still, would bring in the model of another training."""
    arguments = {"server": "127.0.0.1:1", "project": project, "run": "r", "retry_seconds": 0.1}
    for epochs in (2, 1):  # the loss is 1 in the first epoch, and less in the second
        plain.fit(plain.Callback(tmp_path / "m-{epoch}.txt", save_best_only=True, **arguments), epochs=epochs)
    assert held_in(tmp_path) == ["r-epoch-1-2", "r-epoch-2"]
    with keepbest.Client(own_server.address, timeout=30) as client:
        done = list(client.sync(tmp_path))
    assert [(synced.losses, [version.epoch for version in synced.versions]) for synced in done] == [([], [1]), ([], [])]
    assert not (tmp_path / "keepbest-held").exists()


@pytest.mark.filterwarnings("ignore:Keepbest")
@pytest.mark.parametrize(
    "text", ["[]", '{"spool": 1}', '{"spool": 1, "start": "AAAA", "directory": "", "metadata": null}']
)
def test_a_file_that_is_no_spool_is_none_and_ends_no_training(own_server: Server, by_batches, tmp_path, text):
    (tmp_path / "keepbest-held").mkdir()
    (tmp_path / "keepbest-held" / "x.spool").write_text(f"{text}\n")
    callback = by_batches()
    plain.fit(callback, epochs=2)
    assert saved(own_server.address, callback.run_name) == [1]
    own_server.kill()
    plain.fit(by_batches(), epochs=2)
    assert held_in(tmp_path) == ["r-epoch-2-batch-1"]
