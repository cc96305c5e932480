"""Addresses at which no Keepbest server answers: what is told, how soon, and when nothing is tried again."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import subprocess
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import plain
import pytest
from conftest import Server

import keepbest
from keepbest import _contact, _retry
from keepbest._tls import Tls


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
    names += ["-addext", "subjectAltName=IP:127.0.0.1"]
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


def test_a_training_whose_address_cannot_work_says_so_before_its_first_batch_is_over(server: Server, tmp_path):
    """Something answers there, so that this is no node which the server cannot be reached from."""
    callback = plain.Callback(tmp_path / "m.txt", server=f"https://{server.address}", run="r")
    seen: list[int] = []
    with pytest.raises(keepbest.Unavailable, match=f"it speaks no TLS: write http://127.0.0.1:{server.port}") as failed:
        plain.fit(callback, 3, in_epoch=seen.append)
    assert seen == [] and not failed.value.retryable
    with pytest.raises(keepbest.Unavailable, match=r"^the server at `https:.*it speaks no TLS"):
        plain.Callback(tmp_path / "m.txt", server=f"https://{server.address}", run="r").resume(plain.Model())


def test_a_server_that_ends_in_the_handshake_is_only_away(tmp_path):
    """What closes each connection may be a server on its way down or up: the training goes on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_all():
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        threading.Thread(target=close_all, daemon=True).start()
        callback = plain.Callback(
            tmp_path / "m.txt", server=f"https://127.0.0.1:{listener.getsockname()[1]}", run="r", retry_seconds=0.1
        )
        with pytest.warns(UserWarning, match="the server is away.*no TLS came about"):
            plain.fit(callback, 2)
        listener.shutdown(socket.SHUT_RDWR)
    assert list((tmp_path / "keepbest-held").glob("*.spool"))


@pytest.fixture
def tls_port(certificate, tmp_path):
    """Listens as a server with TLS: what it answers to what is no TLS, and which connections it closes at once."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    context.set_alpn_protocols(["h2"])
    with contextlib.ExitStack() as closing:

        def answer(connected, plain_answer):
            with contextlib.suppress(OSError):
                if connected.recv(1, socket.MSG_PEEK) == b"\x16":
                    context.wrap_socket(connected, server_side=True).close()
                else:
                    connected.recv(100)
                    connected.sendall(plain_answer)
                    connected.close()

        def accept(listener, plain_answer, closes):
            number = 0
            with contextlib.suppress(OSError):
                while True:
                    connected, _ = listener.accept()
                    number += 1
                    if closes(number):
                        connected.close()
                    else:
                        threading.Thread(target=answer, args=(connected, plain_answer), daemon=True).start()

        def listen(plain_answer, closes):
            listener = closing.enter_context(socket.create_server(("127.0.0.1", 0)))
            closing.callback(listener.shutdown, socket.SHUT_RDWR)
            threading.Thread(target=accept, args=(listener, plain_answer, closes), daemon=True).start()
            return listener.getsockname()[1]

        yield listen


NGINX = b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n"
ALERT = bytes([0x15, 3, 3, 0, 2, 2, 70])


@pytest.mark.parametrize("plain_answer", [NGINX, ALERT, b"220 smtp ready\r\n"])
def test_one_handshake_that_fails_is_no_proof_of_another_program(tls_port, plain_answer, tmp_path):
    """One of the servers behind a balancer is down."""
    port = tls_port(plain_answer, lambda number: number == 1)
    found = _contact.look(f"127.0.0.1:{port}", True, "Socket closed", Tls.of(tmp_path / "chain.pem", None, None))
    assert (found.text, found.for_good) == ("Socket closed", False)


@pytest.mark.parametrize(("plain_answer", "for_good"), [(NGINX, False), (ALERT, False), (b"220 smtp ready\r\n", True)])
def test_what_a_tls_port_says_to_what_is_no_tls_is_no_proof_either(tls_port, plain_answer, for_good):
    port = tls_port(plain_answer, lambda number: number < 3)
    found = _contact.look(f"127.0.0.1:{port}", True, "Socket closed")
    assert ("no TLS came about" in found.text, found.for_good) == (not for_good, for_good)


def test_a_node_that_does_not_know_the_servers_host_trains_on(tmp_path, monkeypatch):
    def unknown(*arguments, **named):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    callback = plain.Callback(tmp_path / "m.txt", server="http://no-such-host.invalid", run="r", retry_seconds=0.1)
    with pytest.warns(UserWarning, match="the server is away.*there is no host"):
        plain.fit(callback, 2)
    assert list((tmp_path / "keepbest-held").glob("*.spool"))


def test_what_is_at_an_address_is_looked_at_again_when_it_fails_in_another_way(own_server: Server, pauses):
    own_server.kill()
    client = keepbest.Client(f"https://{own_server.address}", timeout=0.1)
    with pytest.raises(keepbest.Unavailable, match="nobody listens there"):
        client.best("nobody")
    own_server.start()
    client.close()  # whose channel waits before it connects again
    with pytest.raises(keepbest.Unavailable, match="it speaks no TLS"):
        client.best("nobody")


def test_a_method_that_nobody_knows_is_not_asked_for_again(pauses):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.raises(keepbest.KeepbestError, match="Method not found"):
        keepbest.Client(f"127.0.0.1:{port}", timeout=300).best("nobody")
    server.stop(0).wait()
    assert pauses == []


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("a..b", "between the dots of a host's name stand 1 to 63 characters"),
        ("a" * 64 + ".de", "between the dots of a host's name stand 1 to 63 characters"),
        ("ü" * 63 + ".de", "label"),
        ("x y", "a host's name has letters, digits"),
        ("a,b", "a host's name has letters, digits"),
    ],
)
def test_what_is_no_hosts_name_is_refused_when_the_client_is_made(tmp_path, host, text):
    for address in (host, f"http://{host}:7400", f"https://{host}"):
        with pytest.raises(ValueError, match=f"address `.*` is not host:port, .*{text}"):
            plain.Callback(tmp_path / "m.txt", server=address, run="r")
    for right in ("a.b.", "my_server-1.local", "bücher.de", "[fe80::1]", "10.0.0.1"):
        keepbest.Client(right)


def test_a_host_that_python_cannot_look_up_ends_no_training(tmp_path, monkeypatch):
    def refuses(*arguments, **named):
        raise UnicodeError("label too long")

    monkeypatch.setattr(socket, "getaddrinfo", refuses)
    callback = plain.Callback(tmp_path / "m.txt", server="no-such-host.invalid", run="r", retry_seconds=0.1)
    with pytest.warns(UserWarning, match="the server is away.*is no host's name: label too long"):
        plain.fit(callback, 2)


def test_a_server_that_stops_and_comes_back_in_a_training_is_told_in_plain_words(own_server: Server, tmp_path, caplog):
    address = f"http://{own_server.address}"
    callback = plain.Callback(tmp_path / "m.txt", server=address, run="r", retry_seconds=30.0)

    def restart(epoch):
        if epoch == 1:
            own_server.kill()
            threading.Timer(1.0, own_server.start).start()

    with caplog.at_level(logging.WARNING, "keepbest"):
        plain.fit(callback, 3, in_epoch=restart)
    away, back = caplog.messages
    assert away.startswith(f"Keepbest: the server at `{address}` went away (")
    assert away.endswith("): trying again for up to 30 s, then the training goes on without it")
    assert "ipv4" not in away and "UNKNOWN" not in away
    assert back == f"Keepbest: the server at `{address}` is back"


def test_resume_without_a_server_says_how_to_train_without_one(free_port, tmp_path):
    callback = plain.Callback(tmp_path / "m.txt", server=f"127.0.0.1:{free_port}", run="r", retry_seconds=0.1)
    with pytest.raises(keepbest.Unavailable) as failed:
        callback.resume(plain.Model())
    assert str(failed.value).endswith(
        "; to train without a server pass `initial_epoch=` yourself: what the training tells is kept in "
        f"`{tmp_path}/keepbest-held/` and brought in by `python -m keepbest sync`"
    )


def test_a_training_that_never_reaches_a_server_waits_5_s_at_its_begin_and_1_s_at_its_end(
    free_port, tmp_path, monkeypatch
):
    budgets = []
    pause = _retry.Backoff.pause

    def spent(self, error):
        budgets.append(self._patience.budget_seconds)
        self._end = 0.0  # as if they were over
        pause(self, error)

    monkeypatch.setattr(_retry.Backoff, "pause", spent)
    callback = plain.Callback(tmp_path / "m.txt", server=f"127.0.0.1:{free_port}", run="r", retry_seconds=30.0)
    with pytest.warns(UserWarning, match="the server is away"):
        plain.fit(callback, 1)
    assert budgets == [5.0, 1.0]
    budgets.clear()
    again = plain.Callback(tmp_path / "m.txt", server=f"127.0.0.1:{free_port}", run="r", retry_seconds=30.0)
    with pytest.warns(UserWarning, match="the server is away"):
        plain.fit(again, 1)  # which has something to bring in
    assert budgets == [5.0, 1.0]
