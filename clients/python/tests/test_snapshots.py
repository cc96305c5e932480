"""Tensors saved in the background: copied once into memory that is kept, and no error is lost."""

from __future__ import annotations

import threading
import tracemalloc

import grpc
import numpy as np
import pytest
from conftest import Interposer, Refused, nothing_told

import keepbest
from keepbest._snapshots import SNAPSHOTS, SnapshotBuffers
from keepbest._tensors import TensorFile

ALWAYS = keepbest.strategy("m-{epoch}.bin")
MIB = 1 << 20


@pytest.fixture
def held(interposer: Interposer):
    """A client whose commits wait until `go_on` is set."""
    go_on = threading.Event()

    def wait(request, forward):
        assert go_on.wait(60)
        return forward(request)

    interposer.hooks["CommitCheckpoint"] = wait
    client = keepbest.Client(interposer.address, timeout=30)
    yield client, go_on
    go_on.set()
    client.close()


def test_what_is_saved_is_what_the_tensors_were_at_the_call(held, client, project):
    slow, go_on = held
    run = slow.start_run(project, "r", ALWAYS)
    value = np.arange(4.0)
    saves = []
    for epoch in range(SNAPSHOTS):
        saves.append(run.save(run.report_epoch(epoch, {}), tensors={"a": value}, asynchronous=True))
        value += 10
    assert not any(save.done() for save in saves)
    go_on.set()
    run.wait()
    assert all(save.done() for save in saves)
    for epoch, save in enumerate(saves):
        assert list(client.load(save.result().name)["a"]) == [
            10 * epoch,
            10 * epoch + 1,
            10 * epoch + 2,
            10 * epoch + 3,
        ]


def test_of_snapshots_there_are_two_and_the_next_save_waits_for_one(held, project):
    slow, go_on = held
    run = slow.start_run(project, "r", ALWAYS)
    decisions = [run.report_epoch(epoch, {}) for epoch in range(3)]
    for decision in decisions[:2]:
        run.save(decision, tensors={"a": np.ones(3)}, asynchronous=True)
    waiting = threading.Event()
    wait_for = run._snapshots._changed.wait_for

    def noted(predicate):
        waiting.set()
        return wait_for(predicate)

    run._snapshots._changed.wait_for = noted
    third = []
    thread = threading.Thread(
        target=lambda: third.append(run.save(decisions[2], tensors={"a": np.ones(3)}, asynchronous=True))
    )
    thread.start()
    assert waiting.wait(30)
    assert (run._snapshots._taken, third) == (2, [])
    go_on.set()
    thread.join(60)
    assert third[0].result(60).number == 2


def test_a_snapshot_is_one_copy_and_its_memory_is_used_again():
    buffers = SnapshotBuffers()
    whole = {str(number): np.ones((4, MIB)).T for number in range(2)}  # 32 MiB each, and not contiguous
    first = buffers.copy(TensorFile.of(whole))
    memory = first._blocks[1].value.ctypes.data
    first.release()
    first.release()  # nothing more
    tracemalloc.start()
    again = buffers.copy(TensorFile.of(whole))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < MIB
    assert again._blocks[1].value.ctypes.data == memory
    other = buffers.copy(TensorFile.of({"small": np.ones(2)}))
    again.release()
    other.release()
    # A larger one takes the place of the smaller one, and so there are never more than two.
    large = buffers.copy(TensorFile.of({"large": np.ones((9, MIB))}))
    assert sorted(buffer.nbytes for buffer in buffers._free) == [64 * MIB]
    large.release()
    assert len(buffers._free) == 2
    buffers.clear()
    assert buffers._free == []


def test_a_copy_that_fails_takes_no_buffer():
    class Gone:
        dtype, shape = np.dtype("f4"), (2,)

        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("Array has been deleted")

    buffers = SnapshotBuffers(1)
    with pytest.raises(RuntimeError, match="deleted"):
        buffers.copy(TensorFile.of({"a": Gone()}))
    buffers.copy(TensorFile.of({"a": np.ones(1)})).release()
    assert buffers._taken == 0


def test_an_error_is_told_at_once_and_raised_by_wait_and_its_buffer_is_free(interposer: Interposer, project):
    def refuse(request, forward):
        raise Refused(grpc.StatusCode.DATA_LOSS, "DATA_LOSS")

    run = keepbest.Client(interposer.address, timeout=30).start_run(project, "r", ALWAYS)
    interposer.hooks["CommitCheckpoint"] = refuse
    with pytest.warns(UserWarning, match="epoch [123]: not saved: DATA_LOSS"):
        for epoch in range(3):  # one more than there are buffers
            run.save(run.report_epoch(epoch, {}), tensors={"a": np.ones(3)}, asynchronous=True)
        with pytest.raises(keepbest.DataLoss):
            run.wait()
    del interposer.hooks["CommitCheckpoint"]
    with nothing_told():
        run.wait()  # it was raised
        assert run.save(run.report_epoch(3, {}), tensors={"a": np.ones(3)}, asynchronous=True).result(60).epoch == 3
        run.wait()
    assert run._snapshots._taken == 0


def test_a_save_that_is_taken_back_gives_its_buffer_back(held, project):
    slow, go_on = held
    run = slow.start_run(project, "r", ALWAYS)
    kept, cancelled = [
        run.save(run.report_epoch(epoch, {}), tensors={"a": np.ones(3)}, asynchronous=True) for epoch in range(2)
    ]
    assert cancelled.cancel()
    with pytest.raises(TimeoutError, match="did not end within 0 s"):
        run.wait(timeout=0)
    go_on.set()
    run.wait()
    assert (kept.result().number, run._snapshots._taken) == (0, 0)


def test_how_long_a_save_held_the_training_up_is_told_with_its_version(client, project, tmp_path):
    run = client.start_run(project, "r", ALWAYS)
    decision = run.report_epoch(0, {})
    saved = run.save(decision, tensors={"a": np.ones(MIB)}, metadata={"by": "me"}, asynchronous=True)
    version = saved.result(60)
    assert version.metadata["by"] == "me"
    assert 0 < version.metadata["blocked_seconds"] <= saved.blocked_seconds
    # Repeated, in the background or not, it is the same version. What others say under that name stays.
    for asynchronous in (True, False):
        again = run.save(decision, tensors={"a": np.ones(MIB)}, metadata={"by": "me"}, asynchronous=asynchronous)
        assert (again.result(60) if asynchronous else again).name == version.name
    (tmp_path / "m.bin").write_bytes(b"1")
    mine = {"blocked_seconds": "mine"}
    of_file = run.save(run.report_epoch(1, {}), tmp_path / "m.bin", mine, asynchronous=True).result(60)
    assert dict(of_file.metadata) == mine
    assert dict(run.save(run.report_epoch(2, {}), tmp_path / "m.bin").metadata) == {}
