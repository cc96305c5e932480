"""TLS: whom the client trusts, what it shows, and what is said where that fails; with certificates of openssl."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import plain
import pytest
from conftest import Proxy, Server, random_file

import keepbest
from keepbest import _contact, _retry, _tls
from keepbest._tls import Tls

_LOCAL = "DNS:localhost,IP:127.0.0.1"
EVERY = keepbest.strategy("m.bin", monitor="loss", mode="min")


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key."""

    cert: Path
    key: Path

    @property
    def shown(self) -> dict[str, Path]:
        return {"client_cert": self.cert, "client_key": self.key}

    @property
    def settings(self) -> dict[str, str]:
        return {"KEEPBEST_TLS_CERTIFICATE": str(self.cert), "KEEPBEST_TLS_KEY": str(self.key)}


class Authority:
    """Makes certificates in a folder of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self._folder = folder
        self.file = folder / "ca.pem"
        self._key = folder / "ca.key"
        self._new(self._key, "-x509", "-subj", f"/CN={name}", "-days", "2", "-out", str(self.file))

    def issue(self, name: str, alternative_names: str, days: tuple[str, ...] = ("-days", "2")) -> Pair:
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        self._new(pair.key, "-subj", f"/CN={name}", "-out", str(request))
        extensions.write_text(f"basicConstraints=CA:FALSE\nsubjectAltName={alternative_names}\n")
        signed = ["-in", str(request), "-CA", str(self.file), "-CAkey", str(self._key), "-CAcreateserial"]
        _openssl("x509", "-req", *signed, *days, "-extfile", str(extensions), "-out", str(pair.cert))
        return pair

    @staticmethod
    def _new(key: Path, *arguments: str) -> None:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        _openssl("req", *curve, "-keyout", str(key), *arguments)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The server's."""
    return Authority(tmp_path / "authority", "Authority of servers")


@pytest.fixture
def clients(tmp_path: Path) -> Authority:
    """That of those who call."""
    return Authority(tmp_path / "clients", "Authority of clients")


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[[dict[str, str]], Server]]:
    """Starts servers with settings."""
    started: list[Server] = []

    def start(settings: dict[str, str]) -> Server:
        server = Server(tmp_path / f"data-{len(started)}", settings)
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before further tries, which take no time here."""
    taken: list[float] = []
    monkeypatch.setattr(_retry.time, "sleep", taken.append)
    return taken


def refused(address: str, **files: Path) -> str:
    """What the first call says, which is not tried again although it may last for long."""
    with pytest.raises(keepbest.Unavailable) as failed:
        keepbest.Client(address, timeout=300, **files).best("nobody")
    assert not failed.value.retryable
    return str(failed.value)


def test_a_model_goes_up_and_comes_back_whole_through_cuts_and_a_kill(authority, serving, tmp_path, project):
    server = serving(authority.issue("server", _LOCAL).settings)
    data = random_file(tmp_path / "m.bin", 40 << 20)

    def on_cut(index: int) -> None:
        if index == 1:
            server.kill()
            server.start()

    proxy = Proxy(server, [9 << 20, 25 << 20], on_cut)
    client = keepbest.Client(f"https://{proxy.address}", ca=authority.file, timeout=60)
    with client.start_run(project, "r", EVERY) as run:
        version = run.save(run.report_epoch(0, {"loss": 1.0}), tmp_path / "m.bin")
    assert proxy.cuts == 2
    client.pull(version.name, tmp_path / "pulled")
    assert (tmp_path / "pulled" / "m.bin").read_bytes() == data
    proxy.close()


def test_the_environment_names_the_files(authority, clients, serving, tmp_path, monkeypatch):
    asked = {"KEEPBEST_TLS_CLIENT_CA": str(clients.file), "KEEPBEST_TLS_REQUIRE_CLIENT_CERTIFICATE": "true"}
    server = serving(authority.issue("server", _LOCAL).settings | asked)
    own = clients.issue("own", "DNS:trainer.example")
    monkeypatch.setenv("KEEPBEST_ADDRESS", f"https://localhost:{server.port}")
    monkeypatch.setenv("KEEPBEST_CA", str(authority.file))
    monkeypatch.setenv("KEEPBEST_CLIENT_CERT", str(own.cert))
    monkeypatch.setenv("KEEPBEST_CLIENT_KEY", str(own.key))
    callback = plain.Callback(tmp_path / "m.txt", run="r")
    plain.fit(callback, 2)
    with keepbest.Client() as client:
        assert [it.epoch for it in client.versions("run-r-model")] == [1, 0]
    done = subprocess.run(
        [sys.executable, "-m", "keepbest", "sync", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_certificate_that_is_not_trusted_is_told_with_its_fault(authority, clients, serving, pauses):
    server = serving(authority.issue("server", _LOCAL).settings)
    address = f"https://{server.address}"
    assert "of an authority that this system does not know; name the file of that (ca=..., KEEPBEST_CA)" in refused(
        address
    )
    assert f"it is of no authority in `{clients.file}`" in refused(address, ca=clients.file)

    elsewhere = serving(authority.issue("elsewhere", "DNS:gpu7.example").settings)
    said = refused(f"https://{elsewhere.address}", ca=authority.file)
    assert "it is not of `127.0.0.1`; write a name that it has" in said

    past = ("-not_before", "20010101000000Z", "-not_after", "20020101000000Z")
    try:
        expired = authority.issue("expired", _LOCAL, past)
    except subprocess.CalledProcessError:  # before OpenSSL 3.4
        expired = authority.issue("expired", _LOCAL, ("-days", "-1"))
    server = serving(expired.settings)
    assert "it has expired; a new one is needed there" in refused(f"https://{server.address}", ca=authority.file)
    assert pauses == []


def test_the_same_name_of_another_authority_is_no_trust(authority, serving, tmp_path, pauses):
    same = Authority(tmp_path / "same", "Authority of servers")
    server = serving(authority.issue("server", _LOCAL).settings)
    assert f"it is of no authority in `{same.file}`" in refused(f"https://{server.address}", ca=same.file)
    assert pauses == []


def test_a_certificate_that_is_required_must_be_shown(authority, clients, serving, pauses):
    asked = {"KEEPBEST_TLS_CLIENT_CA": str(clients.file), "KEEPBEST_TLS_REQUIRE_CLIENT_CERTIFICATE": "true"}
    server = serving(authority.issue("server", _LOCAL).settings | asked)
    address = f"https://{server.address}"
    said = refused(address, ca=authority.file)
    assert "it lets in only callers that show a certificate" in said and "KEEPBEST_CLIENT_CERT" in said
    foreign = authority.issue("foreign", "DNS:trainer.example")
    said = refused(address, ca=authority.file, **foreign.shown)
    assert f"it does not trust the authority of the certificate `{foreign.cert}`" in said
    expired = clients.issue("expired", "DNS:trainer.example", ("-days", "-1"))
    said = refused(address, ca=authority.file, **expired.shown)
    assert f"the certificate `{expired.cert}` has expired" in said
    own = clients.issue("own", "DNS:trainer.example")
    with pytest.raises(keepbest.NotFound):
        keepbest.Client(address, ca=authority.file, **own.shown).best("nobody")
    assert pauses == []


def test_an_address_with_the_wrong_scheme_is_told_with_the_right_one(authority, serving, server, pauses):
    encrypted = serving(authority.issue("server", _LOCAL).settings)
    assert f"it speaks TLS: write https://{encrypted.address}" in refused(f"http://{encrypted.address}")
    said = refused(f"https://{server.address}", ca=authority.file)
    assert f"it speaks no TLS: write http://{server.address}" in said
    assert pauses == []


def test_what_a_server_of_ours_says_to_http_names_the_scheme(authority, serving):
    encrypted = serving(authority.issue("server", _LOCAL).settings)
    found = _contact.look(encrypted.address, False, "whatever gRPC says")
    assert found.for_good and found.text == f"it speaks TLS: write https://{encrypted.address}"


def test_files_that_cannot_be_used_are_named_when_the_client_is_made(authority, tmp_path, monkeypatch):
    one, other = authority.issue("one", _LOCAL), authority.issue("other", _LOCAL)
    locked = tmp_path / "locked.key"
    _openssl("pkey", "-in", str(one.key), "-aes256", "-passout", "pass:secret", "-out", str(locked))
    for files, error, text in [
        ({"ca": tmp_path / "missing"}, FileNotFoundError, "missing"),
        ({"ca": one.key}, ValueError, f"`{one.key}` has no certificate of an authority as PEM"),
        ({"ca": b"bytes"}, TypeError, "ca"),
        ({"client_cert": one.cert}, ValueError, "name the other file by client_key or KEEPBEST_CLIENT_KEY"),
        ({"client_key": one.key}, ValueError, "name the other file by client_cert or KEEPBEST_CLIENT_CERT"),
        ({"client_cert": one.cert, "client_key": one.cert}, ValueError, f"`{one.cert}` has no private key as PEM"),
        ({"client_cert": one.cert, "client_key": locked}, ValueError, f"`{locked}` has a password"),
        (
            {"client_cert": one.cert, "client_key": other.key},
            ValueError,
            f"`{other.key}` is not the key of the certificate `{one.cert}`",
        ),
    ]:
        with pytest.raises(error) as failed:
            keepbest.Client("https://localhost:7400", **files)
        assert text in str(failed.value)
    monkeypatch.setenv("KEEPBEST_CA", "")
    with pytest.raises(ValueError, match="the environment's KEEPBEST_CA is empty"):
        keepbest.Client("https://localhost:7400")
    # Nothing of it counts for an address without TLS.
    keepbest.Client("http://localhost:7400")


def test_keys_are_never_shown(authority):
    own = authority.issue("own", _LOCAL)
    client = keepbest.Client("https://localhost:7400", ca=authority.file, **own.shown)
    secret = own.key.read_text().splitlines()[1]
    assert secret not in repr(client) + repr(client.connection) + repr(client.connection.tls)
    kept = pickle.dumps(client.connection.tls)
    assert secret.encode() not in kept and pickle.loads(kept) == client.connection.tls


def test_the_systems_roots_are_trusted_unless_others_are_named(tmp_path, monkeypatch):
    bundle = tmp_path / "bundle.pem"
    bundle.touch()
    monkeypatch.setattr(_tls, "_SYSTEM_ROOTS", (str(tmp_path / "none"), str(bundle)))
    monkeypatch.setattr(_tls.ssl, "get_default_verify_paths", lambda: type("Paths", (), {"cafile": None}))
    assert _tls.system_roots() == bundle
    monkeypatch.setattr(_tls, "_SYSTEM_ROOTS", ())
    assert _tls.system_roots() is None


def test_a_server_of_a_systems_authority_is_trusted(authority, serving, monkeypatch):
    server = serving(authority.issue("server", _LOCAL).settings)
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    monkeypatch.setattr(_tls, "system_roots", lambda: authority.file)
    with pytest.raises(keepbest.NotFound):
        keepbest.Client(f"https://{server.address}").best("nobody")
    assert os.environ.get("KEEPBEST_CA") is None and Tls.of(None, None, None) == Tls()
