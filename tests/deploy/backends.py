"""A Postgres server, an S3 server and the load balancer, as processes that end with the test, however it ends."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.request
from pathlib import Path

import yaml
from conftest import DEPLOY, keepbest, until

# The shell lives as long as its input is open, which the system closes with this process.
_GUARD = '"$@" </dev/null & p=$!; cat; kill -KILL $p; wait $p'


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at this moment."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [it.getsockname()[1] for it in held]
    for it in held:
        it.close()
    return ports


class Guarded:
    """A process, its log, and its end."""

    def __init__(self, log: Path, command: list[str], **more: object) -> None:
        with log.open("w") as output:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "guard", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **more,
            )
        self.log = log

    def signal(self, what: signal.Signals) -> None:
        """Tell the process itself, not its shell."""
        for child in subprocess.run(
            ["ps", "-o", "pid=,comm=", "--ppid", str(self._shell.pid)], capture_output=True, text=True, check=True
        ).stdout.splitlines():
            pid, name = child.split()
            if name != "cat":
                os.kill(int(pid), what)

    def end(self) -> None:
        self._shell.communicate()


class Postgres:
    """A throwaway cluster from the installed programs, reached by its socket."""

    def __init__(self) -> None:
        self.bin = max(Path("/usr/lib/postgresql").glob("*/bin/initdb")).parent
        self._folder = Path(tempfile.mkdtemp(prefix="keepbest-deploy-"))
        user = {}
        if os.getuid() == 0:
            # It refuses to run as root.
            owner = pwd.getpwnam("postgres")
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
            user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        data = self._folder / "data"
        made = ["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run([self.bin / "initdb", *made, "-D", data], cwd="/", check=True, capture_output=True, **user)
        settings = ["-c", "listen_addresses=", "-c", "fsync=off"]
        self._server = Guarded(
            self._folder / "log",
            [str(self.bin / "postgres"), "-D", str(data), "-k", str(self._folder), *settings],
            cwd="/",
            **user,
        )
        ready = [self.bin / "pg_isready", "-q", "-h", self._folder]
        until("Postgres accepts connections", lambda: subprocess.run(ready, check=False).returncode == 0)

    def create(self, name: str) -> str:
        """Make a database and return its address."""
        subprocess.run([self.bin / "createdb", "-h", self._folder, "-U", "postgres", name], check=True)
        return f"postgres://postgres@localhost/{name}?host={self._folder}"

    def end(self) -> None:
        self._server.end()
        shutil.rmtree(self._folder)


class S3:
    """SeaweedFS with one bucket, as in the tests of the server."""

    _BUCKET = "keepbest"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        key = {"accessKey": "keeper", "secretKey": "only-for-tests"}
        identity = {"name": "keeper", "credentials": [key], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
        names = ["s3", "s3.port.grpc", "master", "master.port.grpc", "volume", "volume.port.grpc", "filer"]
        ports = dict(zip([*names, "filer.port.grpc"], free_ports(8), strict=True))
        options = [f"-{name if '.' in name else name + '.port'}={port}" for name, port in ports.items()]
        off = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-webdav=false", "-admin.ui=false"]
        fixed = [f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={self._BUCKET}"]
        identities = ["-s3.autoCreateBucket=false", f"-s3.config={folder / 'identities.json'}"]
        self._server = Guarded(folder / "log", ["weed", "mini", *fixed, *identities, *options, *off])
        self.settings = {
            "KEEPBEST_STORE_URL": f"s3://{self._BUCKET}/deploy",
            "AWS_ENDPOINT": f"http://127.0.0.1:{ports['s3']}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": key["accessKey"],
            "AWS_SECRET_ACCESS_KEY": key["secretKey"],
        }
        # The bucket is made last of all; a server writes, reads and deletes an object before it says where it listens.
        until("SeaweedFS takes an object", lambda: _starts(self.settings | {"KEEPBEST_DATA_DIR": str(folder)}), 60)

    def pause(self) -> None:
        self._server.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._server.signal(signal.SIGCONT)

    def end(self) -> None:
        self._server.end()


def _starts(settings: dict[str, str]) -> bool:
    command = [os.environ["KEEPBEST_BIN"], "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        command, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        server.kill()
    return line != ""


class Balancer:
    """Envoy with the file of deploy/: only addresses and ports are replaced."""

    def __init__(self, folder: Path, replicas: list[int], most_connections: int | None = None) -> None:
        folder.mkdir()
        config = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())
        resources = config["static_resources"]
        self.port, self._alive, self._admin = free_ports(3)
        listeners = {it["name"]: it["address"]["socket_address"] for it in resources["listeners"]}
        listeners["keepbest"] |= {"address": "127.0.0.1", "port_value": self.port}
        listeners["alive"] |= {"address": "127.0.0.1", "port_value": self._alive}
        config["admin"]["address"]["socket_address"]["port_value"] = self._admin
        if most_connections is not None:
            [monitor] = config["overload_manager"]["resource_monitors"]
            monitor["typed_config"]["max_active_downstream_connections"] = most_connections
        [cluster] = resources["clusters"]
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
            for port in replicas
        ]
        (folder / "envoy.yaml").write_text(yaml.safe_dump(config))
        # As in the containers; one thread is enough here.
        options = ["--disable-hot-restart", "--log-level", "warn", "--concurrency", "1"]
        self._server = Guarded(folder / "log", ["envoy", "-c", str(folder / "envoy.yaml"), *options])
        until("Envoy is alive", self.alive)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def alive(self) -> bool:
        """What the probes of containers ask, on a connection of its own each time."""
        return self._get(self._alive, "/alive") == "alive\n"

    @staticmethod
    def _get(port: int, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.read().decode()
        except OSError:
            return ""

    def _of_hosts(self, what: str) -> dict[int, str]:
        lines = [line.split("::") for line in self._get(self._admin, "/clusters").splitlines()]
        found = [it for it in lines if len(it) == 4 and it[2] == what]
        return {int(host.rpartition(":")[2]): value for _, host, _, value in found}

    def healthy(self) -> set[int]:
        return {port for port, flags in self._of_hosts("health_flags").items() if flags == "healthy"}

    def busy(self) -> list[int]:
        """Ports of replicas that answer a call at this moment."""
        return [port for port, count in self._of_hosts("rq_active").items() if int(count) > 0]

    def received_bytes(self) -> int:
        line = self._get(self._admin, "/stats?filter=^http.keepbest.downstream_cx_rx_bytes_total$")
        return int(line.rpartition(":")[2])

    def end(self) -> None:
        self._server.end()


def migrated(settings: dict[str, str]) -> None:
    """Bring the schema of the settings' database up to date."""
    keepbest("migrate", settings=settings)
