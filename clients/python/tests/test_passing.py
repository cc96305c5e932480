"""What may pass and what may not: one table, and all who ask it agree."""

from __future__ import annotations

import grpc
import pytest
from conftest import Interposer, Refused, nothing_told, random_file

import keepbest
from keepbest._events import DueCounter, EventBuffer, make_event
from keepbest._passing import may_pass
from keepbest.types import Event, EventKind

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "reason", "retry_seconds", "text", "passes"),
    [
        (Code.UNAVAILABLE, "", None, "connection refused", True),
        (Code.DEADLINE_EXCEEDED, "", None, "", True),
        (Code.CANCELLED, "", None, "Timeout expired", True),
        (Code.UNKNOWN, "", None, "Stream removed", True),
        (Code.INTERNAL, "", None, "Received RST_STREAM with error code 2", True),
        (Code.RESOURCE_EXHAUSTED, "", None, "a proxy's limit", True),
        (Code.UNIMPLEMENTED, "", None, "Method not found!", False),
        (Code.UNAUTHENTICATED, "", None, "Received http2 header with status: 401", False),
        (Code.PERMISSION_DENIED, "", None, "Received http2 header with status: 403", False),
        (Code.RESOURCE_EXHAUSTED, "", None, "CLIENT: Sent message larger than max (9 vs. 8)", False),
        (Code.INTERNAL, "", None, "Exception serializing request!", False),
        (Code.UNAVAILABLE, "BUSY", 1.0, "", True),
        (Code.UNAVAILABLE, "STOPPING", None, "", True),
        (Code.DEADLINE_EXCEEDED, "IDLE_TIMEOUT", None, "", True),
        (Code.ABORTED, "UPLOAD_SUPERSEDED", None, "", True),
        (Code.ABORTED, "PARTS_MISSING", 1.0, "", True),
        (Code.RESOURCE_EXHAUSTED, "OVERLOADED", 1.0, "", True),
        (Code.RESOURCE_EXHAUSTED, "STORE_FULL", 1.0, "", True),
        (Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", None, "", False),
        (Code.RESOURCE_EXHAUSTED, "QUERY_TIMEOUT", None, "", False),
        (Code.FAILED_PRECONDITION, "ALIAS_MOVED", None, "", False),
        (Code.FAILED_PRECONDITION, "STALE_ATTEMPT", None, "", False),
        (Code.INVALID_ARGUMENT, "BAD_EVENT", None, "", False),
        (Code.NOT_FOUND, "NOT_FOUND", None, "", False),
        (Code.INTERNAL, "INTERNAL", None, "", False),
        (Code.DATA_LOSS, "DATA_LOSS", None, "", False),
        (None, "", None, "a file changed", False),
    ],
)
def test_what_may_pass_is_what_the_contract_says(code, reason, retry_seconds, text, passes):
    assert may_pass(code, reason, retry_seconds, text) is passes


def refusal(code, reason, retry_seconds=None):
    def refuse(request, forward):
        raise Refused(code, reason, retry_seconds)

    return refuse


@pytest.mark.parametrize(
    ("code", "reason", "retry_seconds", "kept"),
    [
        (Code.RESOURCE_EXHAUSTED, "STORE_FULL", 0.1, True),
        (Code.RESOURCE_EXHAUSTED, "OVERLOADED", 0.1, True),
        (Code.ABORTED, "UPLOAD_SUPERSEDED", None, True),
        (Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", None, False),
        (Code.DATA_LOSS, "DATA_LOSS", None, False),
    ],
)
def test_a_save_stays_open_exactly_if_its_error_may_pass(
    interposer: Interposer, project, tmp_path, code, reason, retry_seconds, kept
):
    random_file(tmp_path / "m.bin", 100)
    client = keepbest.Client(interposer.address, timeout=30)
    run = client.start_run(project, "r", keepbest.strategy("m-{epoch}.bin"))
    decision = run.report_epoch(0, {"val_loss": 1.0})
    interposer.hooks["CommitCheckpoint"] = refusal(code, reason, retry_seconds)
    with pytest.raises(keepbest.KeepbestError) as failed:
        run.save(decision, tmp_path / "m.bin", timeout=0.0)
    assert failed.value.retryable is kept
    assert ("AbandonCheckpoint" in interposer.calls) is not kept
    del interposer.hooks["CommitCheckpoint"]
    if kept:
        assert run.save(decision, tmp_path / "m.bin").number == 0


def test_one_refused_event_takes_no_other_with_it(client, project):
    run = client.start_run(project, "r", keepbest.strategy("m-{epoch}.bin", save_freq=1_000))
    for batch in range(100):
        name = "x" * 300 if batch == 41 else "loss"
        run.report(Event(kind=EventKind.EVENT_KIND_BATCH_END, epoch=0, batch=batch, metrics={name: 1.0}))
    with pytest.warns(UserWarning, match="refuses what was reported of epoch 1, batch 42"):
        run.flush()
    assert [recorded.event.batch for recorded in client.events(run.name)] == [*range(41), *range(42, 100)]


def test_a_refused_group_is_halved_until_its_fault_stands_alone():
    buffer = EventBuffer(DueCounter(None))
    entries = [buffer.add(make_event(EventKind.EVENT_KIND_BATCH_END, 0, {}, batch=batch)) for batch in range(7)]
    bad, tried = entries[3], []
    while group := buffer.group():
        tried.append(len(group))
        if bad not in group:
            buffer.confirm(len(group), keepbest.types.NextDue())
        elif given_up := buffer.refuse():
            assert given_up == [bad]
    assert (buffer.refused, len(buffer)) == (1, 0)
    assert tried[0] == 7 and len(tried) < 12


def test_an_event_that_is_refused_is_no_outage(interposer: Interposer, client, project, tmp_path):
    keras = pytest.importorskip("keras", minversion="3.0")
    from keepbest.keras import ModelCheckpoint

    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = ModelCheckpoint(str(tmp_path / "m-{epoch}.keras"), server=interposer.address, project=project, run="r")
    callback.set_model(model)
    callback.on_epoch_end(0, {"loss": 1.0})
    interposer.hooks["ReportEvents"] = refusal(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    with pytest.warns(UserWarning, match="refuses.*LIMIT_EXCEEDED"):
        callback.on_epoch_end(1, {"loss": 0.5})
    del interposer.hooks["ReportEvents"]
    with nothing_told():
        callback.on_epoch_end(2, {"loss": 0.4})
    with pytest.warns(UserWarning, match="1 event: refused by the server"):
        callback.on_train_end({})
    saved = client.versions(client.run(callback.run_name).artifact)
    assert sorted(version.epoch for version in saved) == [0, 2]
