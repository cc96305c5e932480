"""Whether the server at an address ever answered; and if it does not, what stands in its place, for people to read."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from dataclasses import dataclass, field

import grpc

from keepbest._tls import Tls
from keepbest.errors import KeepbestError, Unavailable

_log = logging.getLogger("keepbest")

# For each step of a look at an address: it delays the first error by some of these at most.
_LOOK_SECONDS = 2.0
# How HTTP/2 begins on a connection, and the number of the frame that a server must begin with.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
# How a TLS port answers what is no TLS: with an alert, or as nginx does. A server without TLS may say the latter too.
_TLS_ANSWERS = (b"\x15\x03", b"HTTP/1.0 400", b"HTTP/1.1 400")
# What a server of ours says on a port with TLS to what is no TLS, behind its first frame.
_WANTS_TLS = b"HTTP/2 with TLS"
_BEGIN_BYTES = 256
_ANOTHER = "what answers there is no gRPC server: is it the right port?"
# The variables by which gRPC finds a proxy. Behind one, what this machine sees of the address says nothing.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY")


@dataclass(frozen=True)
class Finding:
    """Why an address gives no answer.

    Attributes:
        text: what is there, and what would be right.
        for_good: whether the same address cannot answer later either, unless somebody changes it.
        answers: whether something answers there, so that this is no machine which the server cannot be reached from.
    """

    text: str
    for_good: bool = False
    answers: bool = False


@dataclass
class Contact:
    """What a client and its runs know of the server at their address.

    Attributes:
        target: `host:port`.
        tls: whether the address is an https one.
        files: whom it trusts then, and what it shows.
        reached: whether anything ever answered as a Keepbest server does.
    """

    target: str
    tls: bool
    files: Tls = field(default_factory=Tls)
    reached: bool = False
    # Whether this outage was told of.
    _told: bool = False
    # What was found when gRPC last said something new.
    _found: Finding | None = field(default=None, repr=False)
    _said: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """The address as a user writes it."""
        return f"{'https' if self.tls else 'http'}://{self.target}"

    def answered(self) -> None:
        """Take note of an answer, if only of a refusal."""
        if self._told:
            _log.warning("Keepbest: the server at `%s` is back", self.url)
        self.reached, self._told, self._found = True, False, None

    def explain(self, error: KeepbestError) -> tuple[KeepbestError, bool]:
        """Say what an error of the transport means; if no server ever answered, look what is at the address.

        Returns:
            The error, with what was found in its text; and whether to try no more.
        """
        if error.reason:
            self.answered()
        if self.reached and not error.reason and error.code is grpc.StatusCode.UNAVAILABLE:
            return self._went_away(error), False
        if self.reached or error.code is not grpc.StatusCode.UNAVAILABLE:
            return error, False
        if self._found is None or self._said != str(error):
            self._said = str(error)
            self._found = look(self.target, self.tls, self._said, self.files)
        found = self._found
        told = Unavailable(f"the server at `{self.url}` cannot be reached: {found.text}", code=error.code)
        told.unanswered = error.unanswered
        told.is_misaddressed = found.for_good and found.answers
        return told, found.for_good

    def tell(self, error: KeepbestError, seconds_left: float, then: str = "") -> None:
        """Log that a call is repeated: once in each outage.

        Args:
            error: why.
            seconds_left: for how long.
            then: what comes if that does not help.
        """
        if not self._told and not error.reason:
            self._told = True
            again = ": trying" if self.reached else ". Trying"
            _log.warning("Keepbest: %s%s again for up to %.0f s%s", error, again, seconds_left, then)

    def _went_away(self, error: KeepbestError) -> KeepbestError:
        """The error without what only gRPC calls so: addresses, proxies and codes."""
        cause = str(error).rpartition(":")[2].strip()
        told = Unavailable(f"the server at `{self.url}` went away ({cause[:1].lower()}{cause[1:]})", code=error.code)
        told.unanswered = error.unanswered
        return told


def look(target: str, tls: bool, said: str, files: Tls | None = None) -> Finding:
    """See what is at an address.

    Args:
        target: `host:port`.
        tls: whether it is an https address.
        said: what gRPC said of it.
        files: whom to trust at an https address, and what to show there.
    """
    host, _, port = target.rpartition(":")
    host = host.strip("[]")
    start = f"start a server (`keepbest serve --listen {target}`), or name another address (KEEPBEST_ADDRESS)"
    if not host.startswith(("127.", "localhost", "::1")) and any(os.environ.get(name) for name in _PROXIES):
        return Finding(f"{said} (through a proxy)")
    try:
        ends = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        text = f"there is no host `{host}` ({error.strerror}): name another address (KEEPBEST_ADDRESS)"
        return Finding(text, for_good=error.errno == socket.EAI_NONAME)
    except UnicodeError as error:  # what Python cannot look up, gRPC may
        return Finding(f"{said} (`{host}` is no host's name: {error})")
    try:
        with socket.create_connection((str(ends[0][4][0]), int(port)), _LOOK_SECONDS) as connected:
            if tls:
                return _greet_tls(connected, host, int(port), said, files or Tls())
            return _greet(connected, host, int(port), said)
    except ConnectionRefusedError:
        return Finding(f"nobody listens there: {start}")
    except TimeoutError:
        return Finding(f"no answer came within {_LOOK_SECONDS:g} s: is it the right host, and is its port open?")
    except OSError as error:
        return Finding(f"{error.strerror or error}: {start}")


def _greet(connected: socket.socket, host: str, port: int, said: str) -> Finding:
    begin = _begin_of(connected)
    if _is_http2(begin) and _WANTS_TLS not in begin and _WANTS_TLS.decode() not in said:
        return Finding(said)
    with socket.create_connection((host, port), _LOOK_SECONDS) as again:
        if _speaks_tls(again, host):
            return Finding(f"it speaks TLS: write https://{host}:{port}", for_good=True, answers=True)
    if begin:
        return Finding(_ANOTHER, for_good=True, answers=True)
    return Finding(said)


def _greet_tls(connected: socket.socket, host: str, port: int, said: str, files: Tls) -> Finding:
    if not _speaks_tls(connected, host) and not _tries_tls_again(host, port):
        # A server that ends in this moment speaks none either, so it has to say what it does speak.
        with socket.create_connection((host, port), _LOOK_SECONDS) as again:
            begin = _begin_of(again)
        if _is_http2(begin):
            return Finding(f"it speaks no TLS: write http://{host}:{port}", for_good=True, answers=True)
        if begin and not begin.startswith(_TLS_ANSWERS):
            return Finding(_ANOTHER, for_good=True, answers=True)
        return Finding(f"no TLS came about ({said}): does it speak https?")
    with socket.create_connection((host, port), _LOOK_SECONDS) as again:
        why = files.why(again, host, _PREFACE)
    if why is not None:
        return Finding(why, for_good=True, answers=True)
    if "VERIFY_FAILED" in said or "erification" in said:
        return Finding(f"its certificate is not trusted ({said})", for_good=True, answers=True)
    return Finding(said)


def _tries_tls_again(host: str, port: int) -> bool:
    """Whether a second handshake succeeds: the first may have met the one server behind a balancer that is down."""
    with socket.create_connection((host, port), _LOOK_SECONDS) as again:
        return _speaks_tls(again, host)


def _begin_of(connected: socket.socket) -> bytes:
    """What comes first in answer to the begin of HTTP/2; empty if the connection ends instead."""
    connected.sendall(_PREFACE)
    try:
        return connected.recv(_BEGIN_BYTES)
    except ConnectionResetError:
        return b""


def _is_http2(begin: bytes) -> bool:
    return len(begin) > 3 and begin[3] == _SETTINGS


def _speaks_tls(connected: socket.socket, host: str) -> bool:
    """Whether a TLS handshake succeeds, with whatever certificate: this asks only which protocol is spoken."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        context.wrap_socket(connected, server_hostname=host).close()
    except TimeoutError:
        raise
    except (ssl.SSLError, OSError):
        return False
    return True
