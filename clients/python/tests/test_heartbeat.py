"""Signs of life of a training that reports nothing, and when they end."""

from __future__ import annotations

import gc
import threading
import time

import pytest

import keepbest
from keepbest import _heartbeat

STRATEGY = keepbest.strategy("m.bin")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(_heartbeat, "_FIRST_SECONDS", 0.02)


def beating() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "keepbest-heartbeat"]


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.02)


def test_a_training_that_computes_and_reports_nothing_is_heard_of(client, project):
    run = client.start_run(project, "r", STRATEGY)
    begun = run.resource.heard_time.ToNanoseconds()
    until(lambda: client.run(run.name).heard_time.ToNanoseconds() > begun)


def test_ranks_above_0_leave_it_to_rank_0(client, project):
    # Those of other tests may end meanwhile.
    before = set(beating())
    client.start_run(project, "r", STRATEGY, rank=1, ranks=2, launch="l")
    assert set(beating()) <= before


def test_it_ends_when_another_process_takes_over(client, project, monkeypatch):
    monkeypatch.setattr(_heartbeat, "_FIRST_SECONDS", 0.5)
    before = set(beating())
    old = client.start_run(project, "r", STRATEGY)
    (thread,) = set(beating()) - before
    client.start_run(project, "r", STRATEGY)
    # If the machine is so slow that the first one was sent before, the second is 30 s later.
    thread.join(90)
    assert not thread.is_alive()
    with pytest.raises(keepbest.StaleAttempt):
        old.report_epoch(0, {"val_loss": 1.0})


@pytest.mark.parametrize("how", ["finished", "failed", "dropped"])
def test_it_ends_with_the_run_or_its_object(client, project, how):
    before = set(beating())
    run = client.start_run(project, "r", STRATEGY)
    (thread,) = set(beating()) - before
    if how == "finished":
        run.finish()
    elif how == "failed":
        run.fail("KeyError: 'x'")
    else:
        del run
        gc.collect()
    # The server's answer says to wait 30 s with the next, so nothing but the end itself ends the thread in time.
    thread.join(20)
    assert not thread.is_alive()
