"""A model that is saved again and again while a part of it changes: what is sent, stored, and how long it takes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
from book import Line
from servers import Server
from sides import Bench, copied, decided, mlflow_run, saving_run, seconds

import keepbest

_LARGE_BYTES = 16 << 20
# What is stored may be 1.05 times what changed, and this.
_SLACK_BYTES = 64 << 10


@dataclass
class Model:
    """Large tensors with small ones between them, of which some change from save to save."""

    name: str
    tensors: dict[str, np.ndarray]
    changing: list[str]

    @property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return sum(it.nbytes for it in self.tensors.values())

    @property
    def changing_bytes(self) -> int:
        """Of those that change."""
        return sum(self.tensors[name].nbytes for name in self.changing)

    def train(self) -> None:
        """Change what changes."""
        for name in self.changing:
            self.tensors[name] += np.float32(1)


def models(size_bytes: int) -> list[Model]:
    """One whose small tensors change, all over the file; and one of whose tensors the last ones change."""
    random = np.random.default_rng(1)
    count = size_bytes // _LARGE_BYTES
    large = {f"layer{number:03}.kernel": random.random(_LARGE_BYTES // 4, np.float32) for number in range(count)}
    small = {f"layer{number:03}.lora": random.random((64, 256), np.float32) for number in range(count)}
    tuned = Model("small tensors all over it", large | small, sorted(small))
    head = sorted(large)[-max(1, count // 32) :]
    return [tuned, Model("its last layers", dict(large), head)]


def stored_bytes(server: Server) -> int:
    """Bytes of all chunks that a server keeps."""
    chunks = server.data / "objects" / "chunks"
    return sum(path.stat().st_size for path in chunks.rglob("*") if path.is_file())


def measure(bench: Bench) -> None:
    """All lines."""
    for number, model in enumerate(models(bench.size_mib << 20)):
        _measure(bench, model, f"repeats{number}")


def _measure(bench: Bench, model: Model, name: str) -> None:
    from safetensors.numpy import save_file

    room = bench.room(name)
    source = room / "model.safetensors"
    save_file(model.tensors, source)
    size_bytes, changing_bytes = source.stat().st_size, model.changing_bytes
    with bench.keepbest(name) as ours, bench.mlflow(name) as theirs:
        client = keepbest.Client(ours.address, progress=False)
        runs = {what: saving_run(client, what) for what in ("file", "memory")}
        mlflow, run_id = mlflow_run(theirs, name)
        epochs = iter(range(1_000))

        def cp() -> dict[str, float]:
            took = seconds(lambda: copied(source, room / "copy"))
            (room / "copy").unlink()
            return {"cp": size_bytes / took / 1e9}

        def of_ours(what: str) -> dict[str, float]:
            model.train()
            save_file(model.tensors, source)
            epoch, run = next(epochs), runs[what]
            before = stored_bytes(ours), ours.cpu_seconds()
            decision = decided(run, epoch, 1.0 / (epoch + 1))
            took = seconds(
                lambda: run.save(decision, source) if what == "file" else run.save(decision, tensors=model.tensors)
            )
            stored = stored_bytes(ours) - before[0]
            over = max(0, stored - _SLACK_BYTES) / changing_bytes
            cpu = ours.cpu_seconds() - before[1]
            return {what: size_bytes / took / 1e9, f"{what} stored": over, f"{what} cpu": cpu}

        def mlflow_side() -> dict[str, float]:
            took = seconds(lambda: mlflow.log_artifact(run_id, str(source)))
            for kept in (theirs.data / "artifacts").rglob(source.name):
                kept.unlink()
            return {"mlflow": size_bytes / took / 1e9}

        seen = bench.book.in_turns([cp, lambda: of_ours("file"), lambda: of_ours("memory"), mlflow_side])
        client.close()
    shutil.rmtree(room)
    _lines(bench, model, seen)


def _lines(bench: Bench, model: Model, seen: dict[str, list[float]]) -> None:
    for what, named in (("file", "a file"), ("memory", "tensors in memory")):
        saved = f"repeated save of {bench.size_mib} MiB, {named}; {model.name} changed"
        bench.book.add(
            Line(saved, "rate", "GB/s", seen[what], "`cp` and `sync`", seen["cp"], at_least=3),
            Line(saved, "rate", "GB/s", seen[what], "MLflow log_artifact, not synced", seen["mlflow"], at_least=8),
            Line("stored of it / changed", "cost", "", seen[f"{what} stored"], at_most=1.05),
            Line("server CPU of it", "cost", "s", seen[f"{what} cpu"]),
        )
