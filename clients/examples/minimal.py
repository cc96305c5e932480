"""Save one checkpoint with nothing but the stubs that protoc generates from proto/: no SDK, no hashing, no threads.

Usage:
    python -m grpc_tools.protoc -I proto --python_out=gen --grpc_python_out=gen proto/keepbest/v1/*.proto
    touch gen/keepbest/__init__.py  # else an installed SDK, also named keepbest, hides the stubs
    PYTHONPATH=gen python clients/examples/minimal.py 127.0.0.1:7400 model.bin
"""

import os
import sys
import time
from pathlib import Path

import grpc
from keepbest.v1 import checkpoints_pb2, checkpoints_pb2_grpc, resources_pb2, runs_pb2, runs_pb2_grpc

# The server is away, busy or restarting.
AGAIN = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")


def may_pass(error):
    """Whether trying again may help: an error without ErrorInfo is the transport's, one with RetryInfo says so."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    said = b"google.rpc.ErrorInfo" in details and b"google.rpc.RetryInfo" not in details
    return error.code().name in AGAIN or not said


def retry(step, tries=100):
    """Repeat a call until it works: every call of the API may be repeated."""
    while True:
        try:
            return step()
        except grpc.RpcError as error:
            tries -= 1
            if tries == 0 or not may_pass(error):
                raise
            time.sleep(0.2)


def messages(checkpoint, attempt, path, start):
    """The file's bytes from `start` on, 1 MiB in a message. The first says where they belong, the last has `finish`."""
    size = path.stat().st_size
    message = checkpoints_pb2.WriteFileRequest(
        checkpoint=checkpoint, attempt=attempt, path=path.name, offset_bytes=start
    )
    with path.open("rb") as file:
        file.seek(start)
        while not message.finish:
            message.data = file.read(1 << 20)
            message.finish = file.tell() == size
            yield message
            message = checkpoints_pb2.WriteFileRequest(finish=message.finish)


def main(address, path):
    """StartRun -> ReportEvents -> PrepareFile -> WriteFile -> CommitCheckpoint."""
    channel = grpc.insecure_channel(address, [("grpc.max_reconnect_backoff_ms", 1000)])
    runs, checkpoints = runs_pb2_grpc.RunsStub(channel), checkpoints_pb2_grpc.CheckpointsStub(channel)

    start = runs_pb2.StartRunRequest(parent="teams/demo/projects/minimal", request_id=os.urandom(16).hex())
    start.strategy.filepath = "model-{epoch:02d}.bin"
    start.strategy.save_best_only = True
    started = retry(lambda: runs.StartRun(start, timeout=10))
    run, attempt = started.run.name, started.attempt

    event = resources_pb2.Event(kind=resources_pb2.EVENT_KIND_EPOCH_END, epoch=0, metrics={"val_loss": 0.25})
    report = runs_pb2.ReportEventsRequest(run=run, attempt=attempt, first_sequence=started.next_sequence)
    report.events.append(event)
    decision = retry(lambda: runs.ReportEvents(report, timeout=10)).decisions[0]
    if decision.action != resources_pb2.ACTION_SAVE:
        sys.exit(decision.reason_text)

    checkpoint, size = decision.checkpoint, path.stat().st_size
    prepare = checkpoints_pb2.PrepareFileRequest(
        checkpoint=checkpoint, attempt=attempt, path=path.name, size_bytes=size
    )

    def upload():
        """Ask how many bytes are durable, and send the rest."""
        file = checkpoints.PrepareFile(prepare, timeout=10)
        if file.state != resources_pb2.FILE_STATE_COMPLETE:
            checkpoints.WriteFile(messages(checkpoint, attempt, path, file.durable_bytes))

    retry(upload)
    commit = checkpoints_pb2.CommitCheckpointRequest(checkpoint=checkpoint, attempt=attempt, file_count=1)
    print(retry(lambda: checkpoints.CommitCheckpoint(commit, timeout=10)).name)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
