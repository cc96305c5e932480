"""The example with generated stubs alone saves a file while connections are cut and the server is killed."""

from __future__ import annotations

import importlib.resources
import os
import subprocess
import sys
from pathlib import Path

from conftest import Proxy, Server, random_file

import keepbest
from keepbest._proto.keepbest.v1.artifacts_pb2 import ReadFileRequest

REPOSITORY = Path(__file__).resolve().parents[3]


def stubs(directory: Path) -> Path:
    """Generate stubs from the protos, as any user would."""
    protos = sorted((REPOSITORY / "proto" / "keepbest" / "v1").glob("*.proto"))
    includes = importlib.resources.files("grpc_tools") / "_proto"
    directory.mkdir()
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{REPOSITORY / 'proto'}", f"-I{includes}"]
    outputs = [f"--python_out={directory}", f"--grpc_python_out={directory}"]
    subprocess.run([*command, *outputs, *map(str, protos)], check=True)
    # Without it, the installed SDK's package of the same name would be imported instead.
    (directory / "keepbest" / "__init__.py").touch()
    return directory


def test_the_example_saves_a_file_through_cuts_and_a_kill(own_server: Server, tmp_path):
    data = random_file(tmp_path / "model.bin", 64 << 20)

    def on_cut(index: int) -> None:
        if index == 2:
            own_server.kill()
            own_server.start()

    proxy = Proxy(own_server, [9 << 20, 25 << 20, 40 << 20, 60 << 20], on_cut)
    example = REPOSITORY / "clients" / "examples" / "minimal.py"
    done = subprocess.run(
        [sys.executable, str(example), proxy.address, str(tmp_path / "model.bin")],
        env={**os.environ, "PYTHONPATH": str(stubs(tmp_path / "gen"))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert proxy.cuts == 4
    version = done.stdout.strip()
    assert version.endswith("/versions/v0")

    client = keepbest.Client(own_server.address)
    read = client.connection.stubs().artifacts.ReadFile(ReadFileRequest(version=version, path="model.bin"))
    assert b"".join(message.data for message in read) == data
    proxy.close()
