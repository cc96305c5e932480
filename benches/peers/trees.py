"""`push` and `pull` of one large file and of a folder of many small ones, beside `cp -r` with a sync, and MLflow."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path

from book import Line
from sides import PROJECT, Bench, copied, make_file, mlflow_run, renew, seconds

import keepbest

_FILES = 1_000
_SMALL_BYTES = 4 << 10


def measure(bench: Bench) -> None:
    """All lines."""
    room = bench.room("trees")
    large = make_file(room / "model.bin", bench.size_mib << 20)
    _measure(bench, large, f"{bench.size_mib} MiB in one file")
    large.unlink()
    tree = room / "tree"
    tree.mkdir()
    for number in range(_FILES):
        make_file(tree / f"{number:04d}.bin", _SMALL_BYTES)
    _measure(bench, tree, f"{_FILES:,} files of {_SMALL_BYTES >> 10} KiB")


def _measure(bench: Bench, source: Path, what: str) -> None:
    out = bench.folder / "trees" / "out"
    name = f"trees-{source.name}"
    with bench.keepbest(name) as ours, bench.mlflow(name) as theirs:
        client = keepbest.Client(ours.address, progress=False)
        mlflow, _ = mlflow_run(theirs, "first")
        artifact = f"{PROJECT}/{source.stem}"

        def fresh() -> Path:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            renew(source)
            return out

        def cp() -> dict[str, float]:
            fresh()
            up = seconds(lambda: copied(source, out / "up"))
            return {"cp up": up, "cp down": seconds(lambda: copied(out / "up", out / "down"))}

        def command(*words: str | Path) -> None:
            subprocess.run(
                [bench.program, "--server", f"http://{ours.address}", *words], check=True, capture_output=True
            )

        def command_side() -> dict[str, float]:
            fresh()
            up = seconds(lambda: command("push", source, artifact))
            return {"command up": up, "command down": seconds(lambda: command("pull", f"{artifact}:latest", out))}

        def python_side() -> dict[str, float]:
            fresh()
            up = seconds(lambda: client.push(source, artifact))
            return {"python up": up, "python down": seconds(lambda: client.pull(f"{artifact}:latest", out))}

        def mlflow_side() -> dict[str, float]:
            fresh()
            run_id = mlflow.create_run("0", run_name=uuid.uuid4().hex).info.run_id
            log = mlflow.log_artifacts if source.is_dir() else mlflow.log_artifact
            up = seconds(lambda: log(run_id, str(source)))
            down = seconds(lambda: mlflow.download_artifacts(run_id, "", str(out)))
            shutil.rmtree(theirs.data / "artifacts")
            return {"mlflow up": up, "mlflow down": down}

        seen = bench.book.in_turns([cp, command_side, python_side, mlflow_side])
        client.close()
    shutil.rmtree(out)
    _lines(bench, what, seen)


def _lines(bench: Bench, what: str, seen: dict[str, list[float]]) -> None:
    for side, push, pull in (
        ("command", "`keepbest push`", "`keepbest pull`"),
        ("python", "Python push", "Python pull"),
    ):
        up, down = seen[f"{side} up"], seen[f"{side} down"]
        upload, download = "MLflow log_artifacts, not synced", "MLflow download_artifacts, not synced"
        bench.book.add(
            Line(f"{push}, {what}", "time", "s", up, "`cp -r` and sync of all", seen["cp up"], at_least=0.9),
            Line(f"{push}, {what}", "time", "s", up, upload, seen["mlflow up"], at_least=2.5),
            Line(f"{pull}, {what}", "time", "s", down, "`cp -r` and sync of all", seen["cp down"], at_least=0.9),
            Line(f"{pull}, {what}", "time", "s", down, download, seen["mlflow down"], at_least=1.5),
        )
