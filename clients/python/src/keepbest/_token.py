"""The API token that shows a server who calls: where it comes from, and how it goes along with each call."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from keepbest import _environment

TOKEN_VARIABLE = "KEEPBEST_TOKEN"
TOKEN_FILE_VARIABLE = "KEEPBEST_TOKEN_FILE"

# `kb_`, an id of 12 characters, `_`, the secret's 43, and a checksum of 6.
_PREFIX, _ID, _SECRET, _CHECKSUM = "kb_", 12, 43, 6
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# A token, or what gives one whenever a call needs it.
TokenSource = str | Callable[[], str]


@dataclass(frozen=True)
class Token:
    """Where the token comes from. It is read anew for each call, so that a file or a function may replace it."""

    source: Callable[[], str]

    def __repr__(self) -> str:
        """Without the token."""
        return "Token()"

    @classmethod
    def of(cls, token: TokenSource | None) -> Token | None:
        """The token that is given; None: the environment's, if it has one.

        Raises:
            ValueError: it is no token, or one that was copied wrongly; or the variable that it is of is empty.
            TypeError: it is neither a text nor a function.
        """
        if token is None:
            return cls._of_environment()
        if isinstance(token, str):
            text = checked(token)
            return cls(_Fixed(text))
        if callable(token):
            return cls(_Asked(token))
        raise TypeError(f"token is {type(token).__name__}, not an API token or a function that returns one")

    @classmethod
    def _of_environment(cls) -> Token | None:
        if (path := _environment.read(TOKEN_FILE_VARIABLE, "the path of a file that holds an API token")) is not None:
            return cls(_InFile(path))
        text = _environment.read(TOKEN_VARIABLE, "an API token")
        if text is None:
            return None
        try:
            return cls(_Fixed(checked(text)))
        except ValueError as error:
            raise _environment.wrong(TOKEN_VARIABLE, error) from None


@dataclass(frozen=True)
class _Fixed:
    text: str

    def __call__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return "_Fixed()"


@dataclass(frozen=True)
class _Asked:
    function: Callable[[], str]

    def __call__(self) -> str:
        return checked(self.function())


@dataclass(frozen=True)
class _InFile:
    path: str

    def __call__(self) -> str:
        try:
            text = Path(self.path).read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"the token in `{self.path}` cannot be read: {os.strerror(error.errno or 0)}") from None
        try:
            return checked(text)
        except ValueError as error:
            raise ValueError(f"`{self.path}`: {error}") from None


def checked(text: str) -> str:
    """The text of a token, without blanks around it.

    Raises:
        ValueError: it is none; it is not repeated in the error.
    """
    text = text.strip()
    if not text.startswith(_PREFIX):
        raise ValueError("the token cannot be read: it does not begin with `kb_`, as tokens of Keepbest do")
    head, _, tail = text.removeprefix(_PREFIX).partition("_")
    is_plain = text.isascii() and (head + tail).isalnum()
    if not is_plain or len(head) != _ID or len(tail) != _SECRET + _CHECKSUM:
        raise ValueError("the token cannot be read: a part of it is missing, or something was added")
    if _digits(zlib.crc32(text[:-_CHECKSUM].encode())) != text[-_CHECKSUM:]:
        raise ValueError("the token cannot be read: its checksum does not fit, so a character of it was changed")
    return text


def _digits(number: int) -> str:
    digits = ""
    for _ in range(_CHECKSUM):
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return digits


@dataclass
class _Details(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Shown(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamStreamClientInterceptor,  # type: ignore[type-arg]
):
    """Adds the token to each call."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def _with_token(self, details: Any) -> _Details:
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {self._token.source()}")]
        return _Details(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            getattr(details, "wait_for_ready", None),
            getattr(details, "compression", None),
        )

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._with_token(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._with_token(client_call_details), request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Iterator[Any]
    ) -> Any:
        return continuation(self._with_token(client_call_details), request_iterator)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Iterator[Any]
    ) -> Any:
        return continuation(self._with_token(client_call_details), request_iterator)


def with_token(channel: grpc.Channel, token: Token | None) -> grpc.Channel:
    """The channel, on which each call shows who calls."""
    return channel if token is None else grpc.intercept_channel(channel, _Shown(token))
