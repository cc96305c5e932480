"""Every command of docs/teams.md, as it stands there, in one shell."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "teams.md"


def test_two_teams_come_of_nothing(tmp_path: Path) -> None:
    commands = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(commands) == 10
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Whatever fails ends it, and the server with it.
    script = "set -eu -o pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + "\n".join(commands)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEEPBEST_")}
    environment["PATH"] = f"{Path(os.environ['KEEPBEST_BIN']).resolve().parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script.replace("7400", str(port))],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "service-admin of the service" in done.stdout
    assert "vision/digits/cnn:v0" in done.stdout
    assert "no problem was found" in done.stdout
    assert "was revoked" in done.stderr
