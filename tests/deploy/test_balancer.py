"""The load balancer of deploy/ by itself: what holds when it has all the connections that it may have."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from backends import Balancer, free_ports

# HTTP/2's first words of a client, with empty settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_MOST_CONNECTIONS = 4


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[Balancer]:
    # No replica is there, and none is asked.
    started = Balancer(tmp_path / "balancer", free_ports(3), _MOST_CONNECTIONS)
    yield started
    started.end()


def _connected(balancer: Balancer) -> socket.socket | None:
    """A connection that the balancer speaks on, unless it closes it at once."""
    connection = socket.create_connection(("127.0.0.1", balancer.port), timeout=10)
    try:
        connection.sendall(_PREFACE)
        if connection.recv(1):
            return connection
    except ConnectionError:
        pass
    connection.close()
    return None


def test_at_the_limit_of_connections_it_is_alive_and_the_limit_stands(balancer: Balancer) -> None:
    held = [_connected(balancer) for _ in range(_MOST_CONNECTIONS)]
    assert None not in held
    assert _connected(balancer) is None
    # Probes go on for weeks. None is refused, and none that ends makes room for a connection too many.
    for _ in range(5 * _MOST_CONNECTIONS):
        assert balancer.alive()
    assert [_connected(balancer) for _ in range(2 * _MOST_CONNECTIONS)] == [None] * (2 * _MOST_CONNECTIONS)
    for connection in held:
        connection.close()
