"""TLS of a client: whom it trusts and what it shows, and what a handshake that fails means to whoever set that up."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from keepbest import _environment
from keepbest._arguments import wrong

CA_VARIABLE = "KEEPBEST_CA"
CLIENT_CERT_VARIABLE = "KEEPBEST_CLIENT_CERT"
CLIENT_KEY_VARIABLE = "KEEPBEST_CLIENT_KEY"
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_KEY = b"PRIVATE KEY-----"
# gRPC's own variable for whom to trust.
_GRPC_ROOTS = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
# Where systems keep whom they trust. gRPC for Python has a list of its own, in which no company's authority stands.
_SYSTEM_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
# Of OpenSSL: what is wrong with a certificate.
_EXPIRED, _NOT_YET = 10, 9
# A wrong signature is that of another authority which has the same name.
_UNKNOWN_AUTHORITY = (7, 18, 19, 20, 21)
_OTHER_HOST, _OTHER_ADDRESS = 62, 64

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Tls:
    """Files for addresses that begin with https, each with its bytes, which are never shown."""

    ca: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    roots: bytes | None = field(default=None, repr=False)
    chain: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)

    @classmethod
    def of(cls, ca: PathLike | None, client_cert: PathLike | None, client_key: PathLike | None) -> Tls:
        """Read the files that are named here, or by the environment.

        Raises:
            TypeError: one is named by no path.
            ValueError: one has not what it should have, or a certificate is named without its key.
            OSError: one cannot be read.
        """
        ca_path = _path("ca", ca, CA_VARIABLE)
        cert_path = _path("client_cert", client_cert, CLIENT_CERT_VARIABLE)
        key_path = _path("client_key", client_key, CLIENT_KEY_VARIABLE)
        if (cert_path is None) != (key_path is None):
            alone, missing = ("certificate", "client_key") if key_path is None else ("key", "client_cert")
            variable = CLIENT_KEY_VARIABLE if key_path is None else CLIENT_CERT_VARIABLE
            raise ValueError(
                f"`{cert_path or key_path}` is a client {alone} alone: name the other file by {missing} or {variable}"
            )
        return cls.read(ca_path, cert_path, key_path)

    @classmethod
    def read(cls, ca_path: Path | None, cert_path: Path | None, key_path: Path | None) -> Tls:
        """Read these files; errors as of `of`."""
        roots = _read(ca_path, _CERTIFICATE, "certificate of an authority")
        chain = _read(cert_path, _CERTIFICATE, "certificate")
        key = _read(key_path, _KEY, "private key")
        if key is not None and b"ENCRYPTED" in key:
            raise ValueError(
                f"`{key_path}` has a password: write the key without one (`openssl pkey -in KEY -out NEW`)"
            )
        tls = cls(ca_path, cert_path, key_path, roots, chain, key)
        try:
            tls.context()
        except ssl.SSLError as error:
            raise ValueError(tls._unusable(error)) from None
        return tls

    def __reduce__(self) -> tuple[Callable[..., Tls], tuple[Path | None, ...]]:
        """What a copy is made of, in a pickle too: the paths, and never a key."""
        return Tls.read, (self.ca, self.client_cert, self.client_key)

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel."""
        roots = self.roots
        if roots is None and not os.environ.get(_GRPC_ROOTS):
            file = system_roots()
            roots = None if file is None else file.read_bytes()
        return grpc.ssl_channel_credentials(roots, self.key, self.chain)

    def context(self) -> ssl.SSLContext:
        """For a handshake as gRPC has it, but one that says why it fails."""
        context = ssl.create_default_context(cafile=self.ca or os.environ.get(_GRPC_ROOTS) or system_roots())
        # Since Python 3.13 it refuses what gRPC takes.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.set_alpn_protocols(["h2"])
        if self.client_cert is not None:
            # Never asks for a password, for which a server without a terminal would wait.
            context.load_cert_chain(self.client_cert, self.client_key, password="")
        return context

    def why(self, connected: socket.socket, host: str, preface: bytes) -> str | None:
        """What a server and this client have against each other; None: nothing.

        Args:
            connected: to the server; it is closed.
            host: as its address names it.
            preface: what to say, so that the server answers: in TLS 1.3 that tells what it thinks of a certificate.
        """
        try:
            with self.context().wrap_socket(connected, server_hostname=host) as speaking:
                speaking.sendall(preface)
                speaking.recv(1)
        except ssl.SSLCertVerificationError as error:
            return self._distrusted(error, host)
        except ssl.SSLError as error:
            return self._alerted(error.reason or "")
        except OSError:
            return None
        return None

    def _distrusted(self, error: ssl.SSLCertVerificationError, host: str) -> str:
        begin = "its certificate is not trusted"
        if error.verify_code in _UNKNOWN_AUTHORITY:
            if self.ca is not None:
                return (
                    f"{begin}: it is of no authority in `{self.ca}`; name the file of its authority (ca, {CA_VARIABLE})"
                )
            return (
                f"{begin}: it is of an authority that this system does not know; name the file of that (ca=..., "
                f"{CA_VARIABLE})"
            )
        if error.verify_code in (_EXPIRED, _NOT_YET):
            when = "has expired" if error.verify_code == _EXPIRED else "is not good yet"
            return f"{begin}: it {when}; a new one is needed there, or the clock here is wrong"
        if error.verify_code in (_OTHER_HOST, _OTHER_ADDRESS):
            return (
                f"{begin}: it is not of `{host}`; write a name that it has, or have one made with this name among its "
                "alternative names (SAN)"
            )
        return f"{begin}: {error.verify_message}"

    def _alerted(self, reason: str) -> str | None:
        if "CERTIFICATE_REQUIRED" in reason or ("HANDSHAKE_FAILURE" in reason and self.client_cert is None):
            return (
                "it lets in only callers that show a certificate; name one of its authority (client_cert=..., "
                f"client_key=..., {CLIENT_CERT_VARIABLE}, {CLIENT_KEY_VARIABLE})"
            )
        if self.client_cert is None or "ALERT" not in reason:
            return None
        shown = f"`{self.client_cert}`"
        if "UNKNOWN_CA" in reason or "DECRYPT_ERROR" in reason:
            return f"it does not trust the authority of the certificate {shown}; name one of an authority that it knows"
        if "EXPIRED" in reason:
            return f"the certificate {shown} has expired; name a new one"
        return f"it does not take the certificate {shown} ({reason})"

    def _unusable(self, error: ssl.SSLError) -> str:
        if self.client_cert is None or self._loads_ca() is not None:
            return f"`{self.ca}` cannot be used: {self._loads_ca() or error.reason}"
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"`{self.client_key}` is not the key of the certificate `{self.client_cert}`"
        return f"the certificate `{self.client_cert}` and its key `{self.client_key}` cannot be used: {error.reason}"

    def _loads_ca(self) -> str | None:
        """What is wrong with the file of authorities."""
        with contextlib.suppress(OSError):
            try:
                ssl.create_default_context(cafile=self.ca)
            except ssl.SSLError as error:
                return error.reason or str(error)
        return None


def system_roots() -> Path | None:
    """The file of those whom the system trusts; None: it has none, and gRPC's own list counts."""
    default = ssl.get_default_verify_paths().cafile
    found = (Path(file) for file in (default, *_SYSTEM_ROOTS) if file)
    return next((file for file in found if file.is_file()), None)


def _path(name: str, given: PathLike | None, variable: str) -> Path | None:
    if given is not None and not isinstance(given, (str, os.PathLike)):
        raise TypeError(wrong(name, given, "the path of a file"))
    text = given if given is not None else _environment.read(variable, "the path of a file")
    return None if text is None else Path(text)


def _read(path: Path | None, sign: bytes, what: str) -> bytes | None:
    if path is None:
        return None
    read = path.read_bytes()
    if sign not in read:
        raise ValueError(f"`{path}` has no {what} as PEM, with a line `{sign.decode()}`")
    return read
