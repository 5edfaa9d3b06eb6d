"""The four endpoints, asked over HTTP as a probe asks them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import urllib3

from agentd.errors import ConfigError
from agentd.heartbeat import Heartbeats
from agentd.options import StatusOptions
from agentd.report.metrics import Metrics
from agentd.report.status import Status


@dataclass
class Daemon:
    """What stands behind the endpoints; a test changes it as it likes."""

    now: float = 100.0
    reasons: list[str] = field(default_factory=list)
    limited: list[str] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    heartbeats: Heartbeats = field(init=False)

    def __post_init__(self) -> None:
        self.heartbeats = Heartbeats(lambda: self.now)

    def status(self, address: str | None = "127.0.0.1:0") -> Status:
        """The endpoints of this daemon."""
        options = StatusOptions(address=address)
        metrics = Metrics(list)
        return Status(
            options,
            self.heartbeats,
            metrics,
            behind=lambda: (),
            limited=lambda: self.limited,
            not_ready=lambda: self.reasons,
            snapshot=lambda: self.state,
        )


@pytest.fixture
def daemon() -> Daemon:
    """A daemon in good health."""
    return Daemon()


Get = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def get(daemon: Daemon) -> Iterator[Get]:
    """Ask the daemon's endpoints: path -> status, content type, body."""
    status = daemon.status()
    status.start()
    assert status.address is not None
    host, port = status.address

    def ask(path: str) -> tuple[int, str, str]:
        with urllib3.HTTPConnectionPool(host, port, timeout=10, retries=False) as pool:
            answer = pool.request("GET", path)
        return answer.status, answer.headers["Content-Type"], answer.data.decode()

    yield ask
    status.stop()


def test_healthy_while_every_thread_beats(get: Get) -> None:
    """/healthz is 200."""
    status, kind, body = get("/healthz")

    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {"healthy": True, "stuck": []}


def test_a_stuck_thread_makes_it_unhealthy(get: Get, daemon: Daemon) -> None:
    """/healthz is 503 and names the thread."""
    daemon.heartbeats.register("handler tls").beat(1.0)
    daemon.now += 2.0

    status, _, body = get("/healthz")

    assert status == 503
    assert json.loads(body) == {"healthy": False, "stuck": ["handler tls"]}


def test_ready_once_nothing_stands_in_the_way(get: Get, daemon: Daemon) -> None:
    """/readyz is 503 with the reasons, and 200 when there are none left."""
    daemon.reasons = ["no generation is committed yet"]
    waiting = get("/readyz")
    daemon.reasons = []
    ready = get("/readyz")

    assert (waiting[0], json.loads(waiting[2])["reasons"]) == (503, ["no generation is committed yet"])
    assert (ready[0], json.loads(ready[2])) == (200, {"ready": True, "reasons": [], "behind": []})


def test_a_limit_of_consul_is_told_and_makes_nobody_unready(get: Get, daemon: Daemon) -> None:
    """All nodes would be unready at once."""
    daemon.limited = ["query event is limited"]

    status, _, body = get("/readyz")

    assert (status, json.loads(body)["limited"]) == (200, ["query event is limited"])


def test_metrics_are_what_prometheus_expects(get: Get) -> None:
    """/metrics has the text format's content type."""
    status, kind, body = get("/metrics")

    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "agentd_generation" in body


def test_the_state_is_json_without_secrets(get: Get, daemon: Daemon) -> None:
    """/status is the agent's snapshot; a path is told as text, bytes as their digest."""
    daemon.state = {"handlers": {"tls_ticket_keys": {"generation": 7}}, "path": Path("/x"), "key": b"secret"}

    status, _, body = get("/status")

    assert status == 200
    assert json.loads(body)["handlers"] == {"tls_ticket_keys": {"generation": 7}}
    assert json.loads(body)["path"] == "/x"
    assert "secret" not in body


def test_an_unknown_path_names_those_there_are(get: Get) -> None:
    """A 404 helps whoever mistyped, and does not repeat the path."""
    status, _, body = get("/secret-of-mine")

    assert status == 404
    assert json.loads(body)["paths"] == [
        *("/", "/fleet", "/healthz", "/icon.svg", "/metrics", "/page.css", "/page.js", "/readyz", "/status")
    ]
    assert "mine" not in body


def test_it_can_be_switched_off(daemon: Daemon) -> None:
    """`address: null` listens nowhere and expects no heartbeat."""
    status = daemon.status(None)

    status.start()

    daemon.now += 1e6
    assert status.address is None
    assert daemon.heartbeats.stale() == []
    status.stop()


def test_a_stopped_server_is_not_missed(daemon: Daemon) -> None:
    """After `stop` nobody waits for its heartbeat."""
    status = daemon.status()
    status.start()

    status.stop()

    daemon.now += 1e6
    assert daemon.heartbeats.stale() == []


def test_a_taken_port_is_told_and_leaves_nothing_behind(daemon: Daemon) -> None:
    """The second daemon on a port does not start, and expects no heartbeat."""
    first = daemon.status()
    first.start()
    assert first.address is not None
    host, port = first.address
    other = Daemon()

    with pytest.raises(ConfigError, match="cannot listen"):
        other.status(f"{host}:{port}").start()

    first.stop()
    other.now += 1e6
    assert other.heartbeats.stale() == []
