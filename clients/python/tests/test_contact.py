"""Addresses at which no Keepbest server answers: what is told, how soon, and when nothing is tried again."""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from conftest import Server

import keepbest
from keepbest import _retry


@pytest.fixture
def pauses(monkeypatch):
    """The pauses before further tries, which take no time here."""
    taken: list[float] = []
    monkeypatch.setattr(_retry.time, "sleep", taken.append)
    return taken


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def certificate(tmp_path):
    """A key and a certificate that nobody trusts, as PEM."""
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-keyout", str(key), "-out", str(chain), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*make, *names], check=True, capture_output=True)
    return key.read_bytes(), chain.read_bytes()


def test_an_address_without_a_server_says_at_once_how_to_start_one(free_port, caplog):
    address = f"127.0.0.1:{free_port}"
    with caplog.at_level(logging.WARNING, "keepbest"), pytest.raises(keepbest.Unavailable) as failed:
        keepbest.Client(address, timeout=0.5).best("nobody")
    assert f"the server at `http://{address}` cannot be reached: nobody listens there" in str(failed.value)
    assert f"`keepbest serve --listen {address}`" in str(failed.value)
    (told,) = caplog.messages
    assert "keepbest serve" in told and "Trying again for up to" in told


def test_without_a_timeout_a_first_call_is_short_and_later_ones_are_long(own_server: Server, project):
    client = keepbest.Client(own_server.address)
    assert client.connection.patience().budget_seconds == 5.0
    client.start_run(project, "r", keepbest.strategy("m.bin"))
    assert (client.connection.patience().budget_seconds, client.timeout) == (300.0, 300.0)
    assert keepbest.Client(own_server.address, timeout=60).connection.patience().budget_seconds == 60.0


def test_https_to_a_server_without_tls_is_given_up_at_once(server: Server, pauses):
    with pytest.raises(keepbest.Unavailable, match=f"it speaks no TLS: write http://127.0.0.1:{server.port}"):
        keepbest.Client(f"https://{server.address}", timeout=300).best("nobody")
    assert pauses == []


def test_a_host_that_does_not_exist_is_given_up_at_once(pauses, monkeypatch):
    def unknown(*arguments, **named):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(keepbest.Unavailable, match=r"there is no host `no-such-host\.invalid`"):
        keepbest.Client("http://no-such-host.invalid:7400", timeout=300).best("nobody")
    assert pauses == []


def test_another_servers_port_is_given_up_at_once(pauses):
    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    web = HTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with pytest.raises(keepbest.Unavailable, match="no gRPC server: is it the right port"):
        keepbest.Client(f"127.0.0.1:{web.server_port}", timeout=300).best("nobody")
    web.shutdown()
    web.server_close()
    assert pauses == []


def test_a_server_with_tls_is_named_as_one(pauses, certificate):
    key, chain = certificate
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    server.start()
    with pytest.raises(keepbest.Unavailable, match=f"it speaks TLS: write https://127.0.0.1:{port}"):
        keepbest.Client(f"http://127.0.0.1:{port}", timeout=300).best("nobody")
    with pytest.raises(keepbest.Unavailable, match="its certificate is not trusted"):
        keepbest.Client(f"https://127.0.0.1:{port}", timeout=300).best("nobody")
    server.stop(0).wait()
    assert pauses == []


def test_a_method_that_nobody_knows_is_not_asked_for_again(pauses):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.raises(keepbest.KeepbestError, match="Method not found"):
        keepbest.Client(f"127.0.0.1:{port}", timeout=300).best("nobody")
    server.stop(0).wait()
    assert pauses == []
