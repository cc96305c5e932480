"""The certificates of the runbook: a server takes them, callers need one, and they are renewed while it runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from conftest import Server, keepbest, runbook, until


def test_the_certificates_of_the_runbook_let_in_who_has_one(servers: list[Server], tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    made = {"TLS": str(folder), "HOST": "gpu7.example"}
    runbook("certificates", made)
    server = Server(
        tmp_path / "log",
        {
            "KEEPBEST_DATA_DIR": str(tmp_path / "data"),
            "KEEPBEST_TLS_CERTIFICATE": str(folder / "server.pem"),
            "KEEPBEST_TLS_KEY": str(folder / "server.key"),
            "KEEPBEST_TLS_CLIENT_CA": str(folder / "ca.pem"),
            "KEEPBEST_TLS_REQUIRE_CLIENT_CERTIFICATE": "true",
        },
    )
    servers.append(server)
    url = f"https://localhost:{server.port}"
    ours = ["--ca", folder / "ca.pem", "--client-cert", folder / "trainer.pem", "--client-key", folder / "trainer.key"]
    keepbest("projects", "--server", url, *ours)
    assert "spiffe://keepbest/trainer" in server.log.read_text()
    stranger = subprocess.run(
        [os.environ["KEEPBEST_BIN"], "projects", "--server", url, "--ca", folder / "ca.pem"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert stranger.returncode == 1 and "lets in only callers that show a certificate" in stranger.stderr

    runbook("certificates", made)
    read = "Read the certificate"
    until("the new certificate is read", lambda: server.log.read_text().count(read) == 2)
    keepbest("projects", "--server", url, *ours)
