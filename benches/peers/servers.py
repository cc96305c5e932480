"""The servers that are compared: each on a free loopback port, measured by `/proc`, and ended with the bench."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")
# MLflow imports for long, and makes its tables.
_READY_SECONDS = 180.0
_END_SECONDS = 10.0


class Server:
    """A process group of its own, with the CPU time and the memory of all that is in it."""

    def __init__(
        self, log: Path, command: list[str], env: dict[str, str] | None = None, user: int | None = None
    ) -> None:
        """Start it; its output goes to a file."""
        self._log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                env=os.environ | (env or {}),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )

    def __enter__(self) -> Self:
        """The server."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all its processes, however this came about."""
        self.end()

    def end(self) -> None:
        """End all its processes: politely, then not."""
        for how, seconds in ((signal.SIGTERM, _END_SECONDS), (signal.SIGKILL, _END_SECONDS)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        self.process.wait()

    def until_ready(self, is_ready: Callable[[], bool]) -> None:
        """Wait until `is_ready()`, or end it and raise with the end of its log."""
        give_up = time.monotonic() + _READY_SECONDS
        try:
            while not is_ready():
                if self.process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"{self.process.args!r} did not start:\n{self._log.read_text()[-3000:]}")
                time.sleep(0.05)
        except BaseException:
            self.end()
            raise

    def cpu_seconds(self) -> float:
        """User and system time of all its processes, and of those that ended."""
        return sum(sum(map(int, fields[11:15])) for _, fields in self._processes()) / _TICKS

    def forget_peak(self) -> None:
        """Begin the peak of the memory anew."""
        for folder, _ in self._processes():
            (folder / "clear_refs").write_text("5")

    def peak_mib(self) -> float:
        """The highest resident memory of its largest process: MLflow's workers are not added up."""
        return max(_peak_kib(folder) for folder, _ in self._processes()) / 1024

    def _processes(self) -> Iterator[tuple[Path, list[str]]]:
        """The folder and the fields of `stat` behind the name, of each process of the group."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.process.pid:
                    yield folder, fields


class Keepbest(Server):
    """`keepbest serve` on a folder, with SQLite or another database.

    Attributes:
        address: `host:port`.
        data: its folder.
    """

    def __init__(self, program: str, data: Path, database: str | None = None) -> None:
        """Start it and wait until it says where it listens."""
        data.mkdir(parents=True, exist_ok=True)
        self.data, self._log = data, data / "server.log"
        command = [program, "--json", "serve", "--data", str(data), "--listen", "127.0.0.1:0"]
        env = {} if database is None else {"KEEPBEST_DATABASE_URL": database, "KEEPBEST_DATABASE_MIGRATE": "true"}
        super().__init__(self._log, command, env)
        self.until_ready(self._is_ready)

    def _is_ready(self) -> bool:
        for line in self._log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict) and "address" in found:
                    self.address = found["address"]
                    return True
        return False


class Mlflow(Server):
    """`mlflow server` with proxied artifacts and its own number of workers, on SQLite or another database.

    Attributes:
        uri: of the tracking server.
        data: its folder.
    """

    def __init__(self, data: Path, database: str | None = None) -> None:
        """Start it and wait until it answers."""
        data.mkdir(parents=True, exist_ok=True)
        self.data = data
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        store = database or f"sqlite:///{data}/mlflow.db"
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
            *("--backend-store-uri", store, "--artifacts-destination", str(data / "artifacts"), "--serve-artifacts"),
        ]
        # Without the processes that run its jobs, which nothing here needs.
        super().__init__(data / "server.log", command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
        self.until_ready(self._is_ready)

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False


class Postgres(Server):
    """A throwaway cluster of the installed programs, which syncs as it does for anybody; reached by its socket."""

    def __init__(self) -> None:
        """Make and start it."""
        programs = list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not programs:
            raise RuntimeError("there is no /usr/lib/postgresql/*/bin/initdb; scripts/setup-postgres installs it")
        self._bin = max(programs).parent
        # A socket's path must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="keepbest-peers-"))
        user = pwd.getpwnam("postgres").pw_uid if os.getuid() == 0 else None  # it refuses to run as root
        if user is not None:
            os.chown(self._folder, user, user)
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]
        make = [str(self._bin / "initdb"), *options, "-D", f"{self._folder}/data"]
        subprocess.run(
            make, cwd="/", check=True, capture_output=True, user=user, extra_groups=None if user is None else []
        )
        serve = [str(self._bin / "postgres"), "-D", f"{self._folder}/data", "-k", str(self._folder)]
        log = self._folder.parent / f"{self._folder.name}.log"
        super().__init__(log, [*serve, "-c", "listen_addresses=", "-c", "max_connections=200"], user=user)
        ready = [str(self._bin / "pg_isready"), "-q", "-h", str(self._folder)]
        self.until_ready(lambda: subprocess.run(ready, check=False).returncode == 0)

    def create(self, name: str) -> tuple[str, str]:
        """Make a database; its address for Keepbest, and for SQLAlchemy."""
        subprocess.run([self._bin / "createdb", "-h", self._folder, "-U", "postgres", name], check=True)
        where = f"postgres@localhost/{name}?host={self._folder}"
        return f"postgres://{where}", f"postgresql+psycopg2://{where}"

    def end(self) -> None:
        """End it, and remove what it kept."""
        super().end()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._log.unlink(missing_ok=True)


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


def _peak_kib(folder: Path) -> int:
    with contextlib.suppress(OSError):
        for line in (folder / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
