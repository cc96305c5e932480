"""Fits of a small Keras model under random faults of the server, the network, the disk and the trainer itself.

What was told as saved is there; `best` is the best of what was saved; no fit is ended by us; and each decision is the
one that the same fit came to without faults, wherever the rules make that possible.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Proxy, Server

import keepbest
from keepbest.types import Action, Decision, EventKind, Reason, RunState, Version

pytest.importorskip("keras", minversion="3.0")
import storm

FITS = 200 if os.environ.get("KEEPBEST_SOAK") else 12
_DISK_BYTES = 8 << 30
# What is never a fault of ours, but tells why something is not on the server: the training was told so.
_TOLD_AWAY = ("the server is away", "the server does not take what waits")


class Disk:
    """A disk for the server, which is full as long as the storm wants it to be. Mounting takes root."""

    def __init__(self, at: Path) -> None:
        at.mkdir()
        self.at = at
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(at)], check=True)

    def fill(self) -> None:
        """Leave no room: the disk becomes as small as what is on it."""
        while True:  # what is written meanwhile makes the size too small, which is refused
            room = os.statvfs(self.at)
            used = (room.f_blocks - room.f_bfree) * room.f_frsize
            if self._resize(used):
                return

    def empty(self) -> None:
        assert self._resize(_DISK_BYTES)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.at)], check=True)

    def _resize(self, size_bytes: int) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", f"remount,size={size_bytes}", "tmpfs", str(self.at)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Network(Proxy):
    """A network between trainers and server that can be slow, and loses all its connections now and then."""

    def __init__(self, server: Server) -> None:
        super().__init__(server, [])
        self.delay_seconds = 0.0

    def cut(self) -> None:
        self._cut_all()

    def _count(self, size_bytes: int) -> None:
        time.sleep(self.delay_seconds)


class Weather(threading.Thread):
    """The faults of the server, of its disk and of the network, one after the other until all fits are over."""

    def __init__(self, server: Server, disk: Disk, network: Network, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._server, self._disk, self._network, self._chance = server, disk, network, chance
        self.over = threading.Event()
        self.faults: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        kinds = {"killed": self._kill, "frozen": self._freeze, "slow": self._slow, "cut": self._cut, "full": self._fill}
        try:
            while not self.over.is_set():
                for kind in self._chance.sample(sorted(kinds), len(kinds)):
                    if self._wait(0.2, 1.5):
                        return
                    kinds[kind]()
                    self.faults[kind] += 1
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        """End it, and leave all as it should be."""
        self.over.set()
        self.join()
        if self.error is not None:
            raise self.error

    def _wait(self, least_seconds: float, most_seconds: float) -> bool:
        return self.over.wait(self._chance.uniform(least_seconds, most_seconds))

    def _kill(self) -> None:
        self._server.kill()
        self._wait(0.0, self._chance.choice([0.1, 3.0]))
        self._server.start()

    def _freeze(self) -> None:
        self._server.pause()
        # A training counts a server as away that says nothing for ten seconds.
        self._wait(*self._chance.choice([*[(0.2, 3.0)] * 4, (8.0, 13.0)]))
        self._server.resume()

    def _slow(self) -> None:
        self._network.delay_seconds = self._chance.choice([0.02, 0.2])
        self._wait(1.0, 3.0)
        self._network.delay_seconds = 0.0

    def _cut(self) -> None:
        for _ in range(self._chance.randrange(1, 5)):
            self._network.cut()
            self._wait(0.0, 0.3)

    def _fill(self) -> None:
        self._disk.fill()
        self._wait(0.5, 3.0)
        if self._chance.random() < 0.3:
            self._kill()
            self._wait(0.0, 1.0)
        self._disk.empty()


class Trainers:
    """The program that trains; see `storm.py`."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, storm.__file__, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, phase: str, fits: list[int]) -> int:
        """Have fits trained to their end; how often a process was started again for it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(phase, *fits, file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        if answer["code"] != 0:
            text = "\n".join(Path(answer["log"]).read_text().splitlines()[-60:])
            pytest.fail(f"a trainer ended with {answer['code']} ({storm.ENDED_BY_US}: by our code):\n{text}")
        return int(answer["restarts"])

    def close(self) -> None:
        self._process.communicate()


def rule(fit: dict[str, Any], decision: Decision) -> tuple[Action, Reason]:
    """What there is to do at a decision's moment and why, if the value to beat is what the decision says."""
    arguments, moment = fit["arguments"], fit["epochs"][decision.epoch]
    if decision.HasField("batch"):
        moment = fit["batches"][decision.epoch][decision.batch]
    number = storm.number_of(moment)
    assert (decision.value if decision.HasField("value") else None) == number, decision
    if not arguments["save_best_only"]:
        every = Reason.REASON_EVERY_EPOCH if arguments["save_freq"] == "epoch" else Reason.REASON_EVERY_BATCHES
        return Action.ACTION_SAVE, every
    if moment["value"] in ("missing", "none"):
        return Action.ACTION_SAVE, Reason.REASON_MONITOR_MISSING
    if moment["value"] in ("array", "text"):
        return Action.ACTION_SAVE, Reason.REASON_MONITOR_NOT_SCALAR
    if number is None:
        return Action.ACTION_SKIP, Reason.REASON_MONITOR_NAN
    if is_better(fit, number, best_before(decision)):
        return Action.ACTION_SAVE, Reason.REASON_IMPROVED
    return Action.ACTION_SKIP, Reason.REASON_NOT_IMPROVED


def is_better(fit: dict[str, Any], value: float, best: float | None) -> bool:
    return best is None or (value > best if fit["arguments"]["mode"] == "max" else value < best)


def best_of(fit: dict[str, Any], values: list[float]) -> float | None:
    return (max if fit["arguments"]["mode"] == "max" else min)(values, default=None)


class Kept:
    """What the server has of a fit, and what its trainer was told."""

    def __init__(self, client: keepbest.Client, fit: dict[str, Any], folder: Path) -> None:
        self.fit = fit
        self.journal = storm.Journal(folder / "journal")
        self.name = self.journal.all("begun")[0]["run"]
        self.run = client.run(self.name)
        self.versions = {version.checkpoint: version for version in client.versions(self.run.artifact)}
        self.decisions = list(client.decisions(self.name))
        self.events = [event for event in client.events(self.name, metrics=["-"]) if not event.writer]
        self.told = [line["text"] for line in self.journal.all("warned")]
        self.is_whole = not self.journal.all("ended")

    def moments(self) -> list[tuple[int, int | None]]:
        return [moment_of(decision) for decision in self.decisions]

    def check_versions(self) -> None:
        """One for each checkpoint that was decided, without gaps; `best` is the best, and `latest` the newest."""
        numbers = sorted(version.number for version in self.versions.values())
        assert numbers == list(range(len(numbers))), "version numbers have a gap or repeat"
        latest = [version.number for version in self.versions.values() if "latest" in version.aliases]
        assert latest == numbers[-1:], self.name
        decided = {decision.checkpoint: decision for decision in self.decisions if decision.checkpoint}
        values = []
        for checkpoint, version in self.versions.items():
            decision = decided[checkpoint]
            assert moment_of(version) == moment_of(decision)
            values += [decision.value] if decision.HasField("value") else []
        best = [version.metrics["score"] for version in self.versions.values() if "best" in version.aliases]
        assert best == ([best_of(self.fit, values)] if values else []), (self.name, values)

    def check_decisions(self) -> None:
        """Decided was what was due, by the rules, against the best of what is saved or was about to be."""
        assert {decision.sequence for decision in self.decisions} == set(due(self.fit, self.events)), self.name
        begin = self.fit["arguments"]["initial_value_threshold"]
        saved, hoped = [] if begin is None else [begin], []
        for decision in self.decisions:
            assert (decision.action, decision.reason) == rule(self.fit, decision), decision
            if not self.fit["arguments"]["save_best_only"]:
                continue
            before = best_before(decision)
            # What this attempt has decided to save counts as long as it is not given up.
            in_flight = [value for attempt, value in hoped if attempt == decision.attempt]
            best = best_of(self.fit, saved)
            assert before == best or (before in in_flight and is_better(self.fit, before, best)), (decision, saved)
            if decision.improvement and decision.checkpoint in self.versions:
                saved.append(decision.value)
            elif decision.improvement:
                hoped.append((decision.attempt, decision.value))

    def check_told(self) -> None:
        """What a training that came through did not save, it told; at its path is the newest model, and no litter."""
        if not self.is_whole:
            return
        for decision in self.decisions:
            is_saved = decision.action != Action.ACTION_SAVE or decision.checkpoint in self.versions
            assert is_saved or self.was_told(f"epoch {decision.epoch + 1}: ", "but kept in `"), decision
        out, saved = self.journal.path.parent / "out", {line["checkpoint"]: line for line in self.journal.all("saved")}
        newest = [decision for decision in self.decisions if decision.action == Action.ACTION_SAVE][-1:]
        for decision in newest if self.fit["arguments"]["keep_local"] else []:
            if decision.checkpoint in saved:
                assert sha256(out / decision.path) == saved[decision.checkpoint]["files"][decision.path]
        left = [path for path in out.glob("*keepbest*") if not self.was_told(f"its model is at {path}")]
        assert left == []

    def check_held(self) -> None:
        """A model that was set aside and still lies there is one that somebody was told of, who is told where it is."""
        told = [*self.told, *(loss for line in self.journal.all("synced") for loss in line["losses"])]
        held = self.journal.path.parent / "out" / "keepbest-held"
        for path in held.glob("[!.]*"):  # hidden is the half of one whose process was killed
            assert any(f" at {path}" in text for text in told), (path, told)

    def was_told(self, *texts: str) -> bool:
        return any(text in told for text in texts for told in self.told)

    def is_finished(self) -> bool:
        """Whether the run has ended well. If not, its trainer was told, or had nothing to train when it went on."""
        if self.run.state == RunState.RUN_STATE_FINISHED:
            return True
        had_nothing = self.journal.all("started")[-1]["epoch"] == len(self.fit["epochs"])
        assert had_nothing or self.was_told(*_TOLD_AWAY), (self.name, self.run, self.told)
        why = "had nothing to train when it went on" if had_nothing else "was told that the server is away"
        print(f"not finished: {self.name} ({RunState.Name(self.run.state)}), whose trainer {why}")
        return False


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def moment_of(of: Decision | Version) -> tuple[int, int | None]:
    return of.epoch, of.batch if of.HasField("batch") else None


def due(fit: dict[str, Any], events: list[Any]) -> Iterator[int]:
    """The sequences of the events at which a save was due."""
    period, seen, last = fit["arguments"]["save_freq"], 0, -1
    for recorded in events:
        event = recorded.event
        if period == "epoch" and event.kind == EventKind.EVENT_KIND_EPOCH_END:
            yield recorded.sequence
        if period != "epoch" and event.kind == EventKind.EVENT_KIND_BATCH_END:
            seen, last = seen + (event.batch - last if event.batch > last else event.batch + 1), event.batch
            if seen >= period:
                seen = 0
                yield recorded.sequence


def compare(calm: Kept, stormy: Kept) -> tuple[int, int]:
    """How many decisions are the same as without faults, and of how many that can be said.

    It can wherever the value to beat is the same. What an end of the trainer takes away is trained again, so a moment
    may be decided twice, and with saves by batches, whose count goes on, other batches may be due.
    """
    if stormy.is_whole:
        assert stormy.moments() == calm.moments(), stormy.name
    elif stormy.fit["arguments"]["save_freq"] == "epoch":
        assert set(stormy.moments()) == set(calm.moments()), stormy.name
    without, best_only = (
        dict(zip(calm.moments(), calm.decisions, strict=True)),
        stormy.fit["arguments"]["save_best_only"],
    )
    compared = 0
    for moment, decision in zip(stormy.moments(), stormy.decisions, strict=True):
        other = without.get(moment)
        if other is None or (best_only and best_before(decision) != best_before(other)):
            continue
        for field in ("action", "reason", "path", "weights_only", "warnings"):
            assert getattr(decision, field) == getattr(other, field), (decision, other)
        compared += 1
    return compared, len(stormy.decisions)


def best_before(decision: Decision) -> float | None:
    return decision.best_before if decision.HasField("best_before") else None


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk | None]:
    """Where `own_server` keeps its data. None: this process may not mount, and the test has passed in one that may."""
    if os.getuid() != 0:
        test = f"{__file__}::test_no_fault_ends_a_fit_or_takes_what_it_was_told_as_saved"
        again = ["unshare", "--map-root-user", "--mount", sys.executable, "-m", "pytest", "-s", test]
        code = subprocess.run(again, check=False).returncode
        assert code == 0, "needs root or user namespaces (`unshare -rm true`), or has failed there"
        yield None
        return
    disk = Disk(tmp_path / "server-data")
    yield disk
    disk.unmount()


def test_no_fault_ends_a_fit_or_takes_what_it_was_told_as_saved(disk: Disk | None, own_server: Server, tmp_path: Path):
    if disk is None:
        return
    seed = int(os.environ.get("KEEPBEST_STORM_SEED") or random.randrange(2**32))
    print(f"seed {seed}")
    chance = random.Random(seed)
    network = Network(own_server)
    fits = [storm.make_fit(chance, number) for number in range(FITS)]
    plan = {"server": own_server.address, "proxy": network.address, "fits": fits}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    trainers = Trainers(tmp_path)
    trainers.run("calm", list(range(FITS)))
    weather = Weather(own_server, disk, network, chance)
    weather.start()
    try:
        restarts = trainers.run("storm", list(range(FITS)))
    finally:
        weather.end()
        network.close()
    spools = [number for number in range(FITS) if list((tmp_path / f"storm/{number}").rglob("*.spool"))]
    trainers.run("sync", spools)
    trainers.close()

    figures: Counter[str] = Counter(fits=FITS, restarts=restarts, synced=len(spools), **weather.faults)
    with keepbest.Client(own_server.address, timeout=60.0) as client:
        for number, fit in enumerate(fits):
            calm, stormy = (Kept(client, fit, tmp_path / phase / str(number)) for phase in ("calm", "storm"))
            for kept in (calm, stormy):
                kept.check_versions()
                kept.check_decisions()
                kept.check_told()
                kept.check_held()
            assert calm.is_finished(), calm.name
            assert not calm.was_told("not saved", *_TOLD_AWAY), (calm.name, calm.told)
            figures["unfinished, told"] += not stormy.is_finished()
            figures["ended"] += len(stormy.journal.all("ended"))
            figures["told as saved"] += check_ledger(client, stormy, tmp_path / "pulled" / str(number))
            figures["versions"] += len(stormy.versions)
            figures["told as away"] += any("the server is away" in told for told in stormy.told)
            equal, decisions = compare(calm, stormy)
            figures["decisions equal"] += equal
            figures["decisions"] += decisions
            if fit["how"] in ("deepcopy", "pickle"):
                with pytest.raises(keepbest.NotFound):
                    client.run(f"teams/storm/projects/storm/runs/{fit['name']}")
    assert restarts == figures["ended"], "a trainer went on after a signal, or died of something else"
    assert figures["told as saved"] > FITS, "too little was saved for the storm to mean something"
    check = [os.environ["KEEPBEST_BIN"], "check", "--read-data", "--data", str(tmp_path / "server-data")]
    checked = subprocess.run(check, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    print("ledger:", ", ".join(f"{name} {count}" for name, count in figures.items()))


def check_ledger(client: keepbest.Client, kept: Kept, directory: Path) -> int:
    """Whether each version that was told as saved is there with its bytes; how many there are."""
    saved = kept.journal.all("saved")
    for line in saved:
        assert kept.versions[line["checkpoint"]].name == line["version"]
        client.pull(line["version"], directory)
        for path, digest in line["files"].items():
            assert sha256(directory / path) == digest, line
    return len(saved)
