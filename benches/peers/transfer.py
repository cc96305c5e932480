"""One large file: upload and download by the Python clients, beside `cp` and `sync`; CPU and memory of the servers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import wandb
from book import Line
from servers import Server
from sides import Bench, copied, decided, make_file, mlflow_run, renew, saving_run, seconds

import keepbest
from keepbest._digest import FileDigest
from keepbest._proto.keepbest.v1.artifacts_pb2 import ReadFileRequest


def read_to_memory(client: keepbest.Client, version: str, buffer: bytearray) -> None:
    """Read a version's one file into a buffer that is used again and again, and verify it."""
    file = client.version(version, include_files=True).files[0]
    request = ReadFileRequest(version=version, path=file.path, length_bytes=file.size_bytes)
    digest = FileDigest()
    for message in client.connection.stubs().artifacts.ReadFile(request):
        data = message.data
        buffer[digest.size_bytes : digest.size_bytes + len(data)] = data
        digest.update(data)
    assert digest.digest() == file.digest and digest.size_bytes == len(buffer)


class Watch:
    """The time, the server's CPU and its peak memory while something is done, in the units of the table."""

    def __init__(self, server: Server, size_bytes: int) -> None:
        """Of a server, and of so many bytes each time."""
        self._server, self._size_bytes = server, size_bytes

    def times(self, name: str, work: Callable[[], object]) -> dict[str, float]:
        """Do it."""
        self._server.forget_peak()
        before = self._server.cpu_seconds()
        took = seconds(work)
        cpu = (self._server.cpu_seconds() - before) * (1 << 30) / self._size_bytes
        return {name: self._size_bytes / took / 1e9, f"{name} cpu": cpu, f"{name} peak": self._server.peak_mib()}


def measure(bench: Bench) -> None:
    """All lines."""
    room, size_bytes = bench.room("transfer"), bench.size_mib << 20
    source, buffer = make_file(room / "model.bin", size_bytes), bytearray(size_bytes)
    with bench.keepbest("transfer") as ours, bench.mlflow("transfer") as theirs:
        client = keepbest.Client(ours.address, progress=False)
        run = saving_run(client, "upload")
        mlflow, run_id = mlflow_run(theirs, "upload")
        epochs = iter(range(1_000))

        def cp() -> dict[str, float]:
            renew(source)
            up = seconds(lambda: copied(source, room / "copy"))
            down = seconds(lambda: copied(room / "copy", room / "copy of it"))
            for path in (room / "copy", room / "copy of it"):
                path.unlink()
            return {"cp up": size_bytes / up / 1e9, "cp down": size_bytes / down / 1e9}

        def keepbest_side() -> dict[str, float]:
            renew(source)
            watch, saved = Watch(ours, size_bytes), []

            def save() -> None:
                epoch = next(epochs)
                saved.append(run.save(decided(run, epoch, 1.0 / (epoch + 1)), source))

            seen = watch.times("ours up", save)
            seen |= watch.times("ours memory", lambda: read_to_memory(client, saved[0].name, buffer))
            seen |= watch.times("ours down", lambda: client.pull(saved[0].name, room / "pulled"))
            shutil.rmtree(room / "pulled")
            return seen

        def mlflow_side() -> dict[str, float]:
            renew(source)
            watch = Watch(theirs, size_bytes)
            (room / "got").mkdir()
            seen = watch.times("mlflow up", lambda: mlflow.log_artifact(run_id, str(source)))
            got = str(room / "got")
            seen |= watch.times("mlflow down", lambda: mlflow.download_artifacts(run_id, source.name, got))
            shutil.rmtree(room / "got")
            for kept in (theirs.data / "artifacts").rglob(source.name):
                kept.unlink()
            return seen

        seen = bench.book.in_turns([cp, keepbest_side, mlflow_side, lambda: wandb_side(source)])
        client.close()
    _lines(bench, seen)


def wandb_side(source: Path) -> dict[str, float]:
    """What wandb does of an upload without a server: the digest, and a copy in its folder."""
    artifact = wandb.Artifact("model", "model")
    took = seconds(lambda: artifact.add_file(str(source)))
    copy = artifact.manifest.entries[source.name].local_path
    assert copy is not None and Path(copy) != source
    Path(copy).unlink()
    return {"wandb up": source.stat().st_size / took / 1e9}


def _lines(bench: Bench, seen: dict[str, list[float]]) -> None:
    of = f"of {bench.size_mib} MiB"
    mlflow_up, mlflow_down = "MLflow log_artifact, not synced", "MLflow download_artifacts"
    peaks = [
        [max(pair) for pair in zip(seen[f"{side} up peak"], seen[f"{side} down peak"], strict=True)]
        for side in ("ours", "mlflow")
    ]
    up, memory, down = (seen[f"ours {what}"] for what in ("up", "memory", "down"))
    bench.book.add(
        Line(f"durable upload {of}", "rate", "GB/s", up, "`cp` and `sync`", seen["cp up"], at_least=0.9),
        Line(f"durable upload {of}", "rate", "GB/s", up, mlflow_up, seen["mlflow up"], at_least=2.5),
        Line(f"durable upload {of}", "rate", "GB/s", up, "wandb add_file, local, not synced", seen["wandb up"]),
        Line(
            *("server CPU of an uploaded GiB", "cost", "s", seen["ours up cpu"], "MLflow", seen["mlflow up cpu"]),
            at_most=0.2,
        ),
        Line(f"download {of} to memory", "rate", "GB/s", memory, mlflow_down, seen["mlflow down"], at_least=5),
        Line(f"download {of} to a file", "rate", "GB/s", down, mlflow_down, seen["mlflow down"], at_least=1.5),
        Line(f"download {of} to a file", "rate", "GB/s", down, "`cp` and `sync`", seen["cp down"], at_least=0.9),
        Line(
            *("server CPU of a downloaded GiB", "cost", "s", seen["ours down cpu"], "MLflow", seen["mlflow down cpu"]),
        ),
        Line(
            "peak memory of the server", "cost", "MiB", peaks[0], "MLflow, its largest process", peaks[1], at_most=0.5
        ),
    )
