"""The load balancer of deploy/ by itself: what holds when it has all the connections that it may have."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from backends import Balancer, free_ports
from conftest import Server, keepbest, until

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


def test_json_and_the_page_come_through_the_balancer(servers: list[Server], tmp_path: Path) -> None:
    replica = Server(tmp_path / "log", {"KEEPBEST_DATA_DIR": str(tmp_path / "data")})
    servers.append(replica)
    balancer = Balancer(tmp_path / "balancer", [replica.port])
    try:
        until("the replica is healthy", lambda: balancer.healthy() == {replica.port})
        address = f"http://127.0.0.1:{balancer.port}"
        body = json.dumps({"parent": "teams/default/projects/default"}).encode()
        call = urllib.request.Request(
            f"{address}/keepbest.v1.Runs/ListRuns", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(call) as answer:
            assert json.load(answer) == {"runs": [], "nextPageToken": ""}
        with urllib.request.urlopen(f"{address}/") as answer:
            assert answer.headers["content-type"].startswith("text/html")
    finally:
        balancer.end()


def test_the_balancer_says_who_called_and_a_replica_that_trusts_it_believes_it(
    servers: list[Server], tmp_path: Path
) -> None:
    data = {"KEEPBEST_DATA_DIR": str(tmp_path / "data"), "KEEPBEST_PROXY_TRUSTED": "127.0.0.1"}
    replica = Server(tmp_path / "log", data)
    servers.append(replica)
    balancer = Balancer(tmp_path / "balancer", [replica.port])
    try:
        until("the replica is healthy", lambda: balancer.healthy() == {replica.port})
        keepbest("projects", "--server", balancer.url)
    finally:
        balancer.end()
    [line] = [line for line in replica.log.read_text().splitlines() if "/ListProjects" in line and "Answered" in line]
    # Without a port, as Envoy tells it: for a caller on its own machine that machine's address.
    assert re.search(r"peer\.address=[\d.]+ peer\.proxy=127\.0\.0\.1:\d+ ", line), line
