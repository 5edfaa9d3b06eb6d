"""What reaches systemd, over a real datagram socket, and when the watchdog is fed."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agentd.heartbeat import Heartbeats
from agentd.report.systemd import Notifier, Watchdog


class Clock:
    """Monotonic seconds that move when told."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        """The present."""
        return self.now


class Systemd:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(address.replace("@", "\0"))
        self.environ = {"NOTIFY_SOCKET": address, "PATH": "/bin"}

    def heard(self) -> list[str]:
        """All datagrams since the last call."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        """Close the socket; its file stays, as after a crash."""
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    """A listening systemd on a path."""
    listening = Systemd(str(tmp_path / "notify"))
    yield listening
    listening.close()


def _watched(systemd: Systemd, clock: Clock, seconds: int = 30) -> tuple[Watchdog, Heartbeats]:
    heartbeats = Heartbeats(clock)
    notifier = Notifier(systemd.environ | {"WATCHDOG_USEC": str(seconds * 1_000_000)})
    return Watchdog(notifier, heartbeats, clock), heartbeats


def test_each_state_is_one_datagram(systemd: Systemd) -> None:
    """READY, STOPPING, STATUS and WATCHDOG are sent as sd_notify(3) writes them."""
    notifier = Notifier(systemd.environ)

    notifier.ready("serving generation 7")
    notifier.status("consul is away")
    notifier.watchdog()
    notifier.stopping()

    assert systemd.heard() == [
        "READY=1\nSTATUS=serving generation 7",
        "STATUS=consul is away",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


def test_reloading_tells_the_monotonic_time(systemd: Systemd) -> None:
    """Systemd takes a READY for the answer to a reload by the monotonic time, in microseconds."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    Notifier(systemd.environ).reloading()

    found = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", systemd.heard()[0])
    assert found is not None
    assert before <= int(found[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_an_abstract_socket_is_understood() -> None:
    """An address that begins with @ is in the abstract namespace."""
    systemd = Systemd(f"@agentd-test-{secrets.token_hex(8)}")

    Notifier(systemd.environ).ready()

    assert systemd.heard() == ["READY=1"]
    systemd.close()


def test_a_status_cannot_smuggle_in_a_second_line(systemd: Systemd) -> None:
    """A line break in a text, of an error for example, must not become another assignment."""
    Notifier(systemd.environ).status("broken\nMAINPID=1\nSTOPPING=1")

    assert systemd.heard() == ["STATUS=broken MAINPID=1 STOPPING=1"]


def test_the_variables_are_taken_out_of_the_environment(systemd: Systemd) -> None:
    """No program that agentd runs may speak to systemd in its name."""
    environ = systemd.environ | {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}

    Notifier(environ)

    assert environ == {"PATH": "/bin"}


def test_without_systemd_nothing_happens() -> None:
    """Started by hand, the same calls do nothing."""
    notifier = Notifier({})

    with capture_logs() as logged:
        notifier.ready("serving")
        notifier.watchdog()

    assert logged == []
    assert notifier.watchdog_timeout is None


def test_a_systemd_that_is_gone_stops_nobody(systemd: Systemd) -> None:
    """When the socket does not answer, that is logged and the service goes on."""
    systemd.close()

    with capture_logs() as logged:
        Notifier(systemd.environ).ready()

    assert [line["event"] for line in logged] == ["systemd.unreachable"]


def test_a_full_socket_does_not_block_for_long(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """With systemd stuck, and its queue full, a notification gives up."""
    monkeypatch.setattr("agentd.report.systemd._SEND_TIMEOUT", 0.02)
    notifier = Notifier(systemd.environ)

    with capture_logs() as logged:
        for _ in range(2000):
            notifier.watchdog()
            if logged:
                break

    assert [line["event"] for line in logged] == ["systemd.unreachable"]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"},
    ],
)
def test_nobody_watches_unless_told_so(variables: dict[str, str]) -> None:
    """No time, a wrong one, or one meant for another process: no watchdog."""
    notifier = Notifier(variables)

    assert notifier.watchdog_timeout is None
    assert Watchdog(notifier, Heartbeats()).interval is None


def test_the_watchdog_may_be_meant_for_this_process() -> None:
    """WATCHDOG_PID names whom systemd watches, in microseconds of WATCHDOG_USEC."""
    notifier = Notifier({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())})

    assert notifier.watchdog_timeout == 30.0
    assert Watchdog(notifier, Heartbeats()).interval == 10.0


def test_a_main_loop_that_keeps_the_interval_is_never_late(systemd: Systemd) -> None:
    """Fed once an interval, systemd hears from the service three times within its timeout."""
    clock = Clock()
    watchdog, _ = _watched(systemd, clock)

    for _ in range(6):
        watchdog.feed()
        clock.now += 10.0

    assert systemd.heard() == ["WATCHDOG=1"] * 6


def test_a_busy_main_loop_does_not_flood_systemd(systemd: Systemd) -> None:
    """Fed a hundred times a second, systemd hears at most twice an interval."""
    clock = Clock()
    watchdog, _ = _watched(systemd, clock)

    for _ in range(1000):
        watchdog.feed()
        clock.now += 0.01

    assert len(systemd.heard()) == 2


def test_a_stale_heartbeat_starves_the_watchdog(systemd: Systemd) -> None:
    """With one thread stuck nothing feeds the watchdog, and the log says once which thread it is."""
    clock = Clock()
    watchdog, heartbeats = _watched(systemd, clock)
    heartbeats.register("handler tls").beat(5.0)
    clock.now += 6.0

    with capture_logs() as logged:
        named = [watchdog.feed() for _ in range(3)]

    assert named == [["handler tls"]] * 3
    assert systemd.heard() == ["STATUS=stuck: handler tls"]
    assert logged == [{"event": "heartbeat.stale", "log_level": "error", "threads": ["handler tls"]}]


def test_a_thread_that_recovers_feeds_the_watchdog_again(systemd: Systemd) -> None:
    """The service that was only slow is not restarted."""
    clock = Clock()
    watchdog, heartbeats = _watched(systemd, clock)
    heartbeat = heartbeats.register("handler tls")
    heartbeat.beat(5.0)
    clock.now += 6.0
    watchdog.feed()
    systemd.heard()

    heartbeat.beat(5.0)

    assert watchdog.feed() == []
    assert systemd.heard() == ["STATUS=recovered", "WATCHDOG=1"]


def test_a_child_process_sees_none_of_it(systemd: Systemd) -> None:
    """By default the variables leave this process's own environment, which children inherit."""
    program = (
        "from agentd.report.systemd import Notifier; import subprocess\n"
        "Notifier().ready(); print(subprocess.run(['env'], capture_output=True, text=True).stdout)"
    )
    environ = systemd.environ | {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}

    ended = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True, timeout=120
    )

    assert systemd.heard() == ["READY=1"]
    assert "NOTIFY_SOCKET" not in ended.stdout
    assert "PATH=" in ended.stdout
