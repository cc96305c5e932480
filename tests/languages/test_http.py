"""What needs no gRPC: curl as the README has it, Connect's own clients, and the document of OpenAPI."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Server
from openapi_spec_validator import validate

import keepbest

_CONNECT = Path(__file__).parent / "connect"
_PATIENCE_SECONDS = 300


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.process.kill()
    server.process.wait()


def test_curl_saves_a_small_file_and_asks_for_the_best_as_the_readme_says(server: Server) -> None:
    section = (ROOT / "README.md").read_text().split("\n## With curl\n", 1)[1].split("\n## ", 1)[0]
    script = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert script
    (server.folder / "model.bin").write_bytes(b"weights")
    code = script[1].replace("http://127.0.0.1:7400", f"http://127.0.0.1:{server.port}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=server.folder,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    best = json.JSONDecoder().raw_decode(done.stdout[done.stdout.rindex('{"name":') :])[0]
    assert best["metrics"] == {"val_loss": 0.25}
    client = keepbest.Client(f"127.0.0.1:{server.port}")
    client.pull("run-curl-1-model:best", server.folder / "pulled")
    assert (server.folder / "pulled/model.bin").read_bytes() == b"weights"


def test_connects_own_clients_call_in_all_their_protocols(server: Server) -> None:
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=_CONNECT, check=True)
    descriptors = server.folder / "keepbest.binpb"
    subprocess.run(["buf", "build", ROOT / "proto", "-o", descriptors], check=True)
    done = subprocess.run(
        ["node", "calls.mjs", f"http://127.0.0.1:{server.port}", descriptors],
        cwd=_CONNECT,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [it.pop("name") for it in told] == ["connect-json", "connect-proto", "connect-json-2", "grpc-web", "grpc"]
    for line in told:
        assert line.pop("best").endswith("/versions/v0")
        assert line == {"loss": 0.25, "code": "NotFound", "reason": "NOT_FOUND"}


def test_the_document_is_valid_openapi_and_answers_are_as_it_says(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}"
    with urllib.request.urlopen(f"{url}/openapi.json") as answer:
        document = json.load(answer)
    validate(document)
    request = urllib.request.Request(
        f"{url}/keepbest.v1.Runs/StartRun",
        json.dumps({"parent": "teams/default/projects/default", "runId": "r", "strategy": {"filepath": "x"}}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        started = json.load(answer)
    schemas = document["components"]["schemas"]
    assert set(started) <= set(schemas["StartRunResponse"]["properties"])
    assert set(started["run"]) <= set(schemas["Run"]["properties"])
