"""The server's address, and the gRPC channel to it: one for each process, opened by the first call."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import grpc

from keepbest import _environment
from keepbest._arguments import check_number, check_text
from keepbest._contact import Contact
from keepbest._proto.keepbest.v1 import (
    artifacts_pb2_grpc,
    checkpoints_pb2_grpc,
    projects_pb2_grpc,
    runs_pb2_grpc,
)
from keepbest._retry import Patience, Timeout
from keepbest._tls import Tls
from keepbest._token import Token, with_token

ADDRESS_VARIABLE = "KEEPBEST_ADDRESS"
DEFAULT_ADDRESS = "http://127.0.0.1:7400"
_DEFAULT_PORT = 7400
# What stands in no host's name: all of ASCII but these. Other letters become ASCII, see IDNA.
_NO_HOST = re.compile(r"(?![A-Za-z0-9._-])[\x00-\x7f]|\s")
# As DNS has it.
_LABEL_CHARACTERS = 63
# How long a call is repeated before its error is raised, if nobody says: once a server has answered, which may restart;
# and before that, when the address is probably wrong or nothing was started.
DEFAULT_SECONDS = 300.0
FIRST_SECONDS = 5.0

# Answered without a look at anything, and by every server of ours.
_HEALTH = "/grpc.health.v1.Health/Check"

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.max_receive_message_length", 8 << 20),
    # Downloads cost twice the CPU with HTTP/2's default of 16 KiB.
    ("grpc.http2.max_frame_size", 1 << 20),
    # gRPC servers close connections that ping more often than every five minutes.
    ("grpc.keepalive_time_ms", 5 * 60 * 1000),
    ("grpc.keepalive_timeout_ms", 20 * 1000),
    # Reconnect to a restarted server within seconds; the default backs off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # How long one try to connect may last. A second was over before a busy server's first frame was read.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 3000),
    # Calls are repeated in `_retry`. A shared pool would hand the parent's connections to a forked child.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True)
class Address:
    """A server's `host:port`, and whether to use TLS."""

    target: str
    tls: bool

    @classmethod
    def parse(cls, text: str | None) -> Address:
        """Read `host:port`, `http://host:port` or `https://host:port`.

        None means the environment's KEEPBEST_ADDRESS, else http://127.0.0.1:7400.

        Raises:
            ValueError: it is none of these.
        """
        if text is not None:
            check_text("address", text, "host:port, http://host:port or https://host:port")
        if not text:
            return cls._of_environment()
        parts = urlsplit(text if "://" in text else f"http://{text}")
        wrong = f"address `{text}` is not host:port, http://host:port or https://host:port"
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"{wrong}: {error}") from None
        if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/") or parts.query:
            raise ValueError(wrong)
        _check_host(host, wrong)
        port = port or (443 if parts.scheme == "https" else _DEFAULT_PORT)
        return cls(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", parts.scheme == "https")

    @classmethod
    def _of_environment(cls) -> Address:
        address = _environment.read(ADDRESS_VARIABLE, "host:port, http://host:port or https://host:port")
        try:
            return cls.parse(address or DEFAULT_ADDRESS)
        except ValueError as error:
            raise _environment.wrong(ADDRESS_VARIABLE, error) from None

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine, which must not be reached through an HTTP proxy."""
        return self.target.startswith(("127.", "localhost:", "[::1]:"))


def _check_host(host: str, wrong: str) -> None:
    """Refuse what can be no host's name: it would fail at the first call, as something else.

    Raises:
        ValueError: it can be none; the text begins with `wrong`.
    """
    if ":" in host:  # IPv6
        return
    if _NO_HOST.search(host):
        raise ValueError(f"{wrong}: a host's name has letters, digits, `.`, `-` and `_`")
    if not all(0 < len(label) <= _LABEL_CHARACTERS for label in host.removesuffix(".").split(".")):
        raise ValueError(f"{wrong}: between the dots of a host's name stand 1 to {_LABEL_CHARACTERS} characters")
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise ValueError(f"{wrong}: {error}") from None


@dataclass
class Stubs:
    """A channel, and the stubs of the services on it."""

    channel: grpc.Channel
    runs: runs_pb2_grpc.RunsStub
    checkpoints: checkpoints_pb2_grpc.CheckpointsStub
    artifacts: artifacts_pb2_grpc.ArtifactsStub
    projects: projects_pb2_grpc.ProjectsStub


@dataclass
class Connection:
    """What a client and its runs share: where the server is, the channel to it, and how long calls are repeated.

    The channel is opened by the first call, and anew in a forked child.
    """

    address: Address
    # How long a call is repeated before its error is raised, unless its caller gives a time. None: DEFAULT_SECONDS, but
    # FIRST_SECONDS until a server has answered.
    timeout_seconds: float | None
    # For an address with TLS.
    tls: Tls = field(default_factory=Tls)
    # Whether transfers draw a bar. None: where a person sees it.
    progress: bool | None = None
    # What shows who calls. None: nothing does.
    token: Token | None = None
    # By process id. A forked child keeps its parent's, because closing them would disturb the parent's connection.
    _stubs: dict[int, Stubs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Know nothing of the server yet."""
        if self.timeout_seconds is not None:
            check_number("timeout", self.timeout_seconds, "a number of seconds, or None")
        self._contact = Contact(self.address.target, self.address.tls, self.tls)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has in common with this one: it opens a channel of its own."""
        return self.__dict__ | {"_stubs": {}}

    def patience(self, timeout: Timeout = None) -> Patience:
        """The patience for a call: of its caller's timeout, or of this client's if there is none."""
        if isinstance(timeout, Patience):
            most = float("inf") if self._contact.reached else timeout.unreached_seconds
            budget = min(timeout.budget_seconds, most)
            return replace(timeout, budget_seconds=budget, contact=self._contact, rest=self._rest)
        if timeout is not None:
            check_number("timeout", timeout, "a number of seconds, or None")
        seconds = self.timeout_seconds if timeout is None else timeout
        if seconds is None:
            seconds = DEFAULT_SECONDS if self._contact.reached else FIRST_SECONDS
        return Patience(seconds, contact=self._contact, rest=self._rest)

    def stubs(self) -> Stubs:
        """The stubs on this process's own channel."""
        pid = os.getpid()
        if pid in self._stubs:
            return self._stubs[pid]
        # A lock could be copied by a fork while another thread holds it. So two threads may both open a channel, and
        # the one that comes second closes its own.
        opened = self._open()
        stubs = self._stubs.setdefault(pid, opened)
        if stubs is not opened:
            opened.channel.close()
        return stubs

    def _rest(self, seconds: float) -> None:
        """Sleep, and meanwhile go on connecting: gRPC up to 1.71 does so only while a call waits for it."""
        end = time.monotonic() + seconds
        check = self.stubs().channel.unary_unary(_HEALTH, None, None)
        with contextlib.suppress(grpc.RpcError):
            check(b"", timeout=seconds, wait_for_ready=True)
        time.sleep(max(end - time.monotonic(), 0.0))

    def close(self) -> None:
        """Close this process's channel; the next call opens a new one."""
        stubs = self._stubs.pop(os.getpid(), None)
        if stubs is not None:
            stubs.channel.close()

    def _open(self) -> Stubs:
        options = [*_OPTIONS]
        if self.address.is_loopback:
            options.append(("grpc.enable_http_proxy", 0))
        if self.address.tls:
            channel = grpc.secure_channel(self.address.target, self.tls.credentials(), options)
        else:
            channel = grpc.insecure_channel(self.address.target, options)
        channel = with_token(channel, self.token)
        return Stubs(
            channel=channel,
            runs=runs_pb2_grpc.RunsStub(channel),  # type: ignore[no-untyped-call]
            checkpoints=checkpoints_pb2_grpc.CheckpointsStub(channel),  # type: ignore[no-untyped-call]
            artifacts=artifacts_pb2_grpc.ArtifactsStub(channel),  # type: ignore[no-untyped-call]
            projects=projects_pb2_grpc.ProjectsStub(channel),  # type: ignore[no-untyped-call]
        )
