"""`agentd upstream` on load balancers that real Consul knows and that misbehave in every way."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.cli import main
from tests.servers.consul import ConsulAgent
from tests.servers.dynamic_upstream import FakeBalancer, FakeBalancers, Fault, Member
from tests.servers.equipment import require
from tests.servers.ports import free_port
from tests.servers.waiting import PATIENCE, wait_until

ONE, TWO = "10.0.0.1:80", "10.0.0.2:80"


@pytest.fixture
def service() -> str:
    """A service of this test's own."""
    return f"lb-{free_port()}"


@pytest.fixture
def balancers(consul: ConsulAgent, service: str) -> Iterator[list[FakeBalancer]]:
    """Three, each with the same two servers, in the order of their ports."""
    ports = sorted(free_port() for _ in range(3))
    made = [FakeBalancer(("127.0.0.1", port), {"app": {ONE: Member(), TWO: Member()}}) for port in ports]
    with FakeBalancers(made):
        for port in ports:
            consul.register(service, port, identity=f"{service}-{port}")
        yield made
        for port in ports:
            consul.deregister(f"{service}-{port}")


@pytest.fixture
def configuration(consul: ConsulAgent, tmp_path: Path) -> Path:
    """Of an agentd beside the shared Consul agent."""
    file = tmp_path / "agentd.yaml"
    file.write_text(
        f"consul: {{address: '{consul.address}:{consul.ports['http']}'}}\n"
        "handlers: {a: {use: command, options: {argv: [/bin/true]}}}\n"
    )
    return file


@pytest.fixture
def upstream(configuration: Path, service: str, balancers: list[FakeBalancer]) -> Callable[..., int]:
    """Run `agentd upstream ...` on them; a time-out that is not to pass is long, or a busy machine fails."""
    assert balancers

    def run(*words: str, timeout: str = "20s") -> int:
        where = ["--upstream", "app", "--on", service, "--timeout", timeout, "--networks", "127.0.0.0/8"]
        return main(["upstream", *words, *where, "--config", str(configuration)])

    return run


def states(balancers: list[FakeBalancer]) -> list[list[str]]:
    """The servers that are down on each."""
    return [one.down("app") for one in balancers]


def test_down_and_up_on_all(
    upstream: Callable[..., int], balancers: list[FakeBalancer], capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each; the last request to each was a list."""
    assert upstream("down", ONE) == 0
    assert states(balancers) == [[ONE]] * 3
    assert capsys.readouterr().out.count("changed") == 3
    assert all(one.queries[-1] == "upstream=app&verbose=" for one in balancers)

    assert upstream("up", ONE) == 0
    assert states(balancers) == [[]] * 3


def test_an_odd_load_balancer_does_not_disturb_the_others(
    upstream: Callable[..., int],
    balancers: list[FakeBalancer],
    consul: ConsulAgent,
    service: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever can register one chooses its address: it is named, and the status says so."""
    odd = ("-oProxyCommand=id", "127.0.0.1%lo", "localhost", "::ffff:127.0.0.1", "10.0.0.1/x?y=")
    for at, address in enumerate(odd):
        given = {"Name": service, "ID": f"{service}-odd{at}", "Address": address, "Port": 8500}
        consul.put("/v1/agent/service/register", given)
    known = f"/v1/health/service/{service}"
    wait_until(lambda: len(consul.get(known)) == len(balancers) + len(odd), "the catalog to know them")
    try:
        assert upstream("down", ONE) == 1
    finally:
        for at in range(len(odd)):
            consul.deregister(f"{service}-odd{at}")
    said = capsys.readouterr()
    assert states(balancers) == [[ONE]] * 3
    assert said.out.count("changed") == 3
    assert [f"'{service}-odd{at}'" in said.err for at in range(len(odd))] == [True] * len(odd)


def test_load_balancers_on_loopback_alone_are_none(
    configuration: Path, balancers: list[FakeBalancer], service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless the operator allows them: the message says how."""
    where = ["--upstream", "app", "--on", service, "--config", str(configuration)]
    assert main(["upstream", "down", ONE, *where]) == 1
    said = capsys.readouterr().err
    assert "127.0.0.1 is a loopback address: if a server is there, name 127.0.0.0/8 in --networks" in said
    assert f"no instance of {service!r} can be asked as a load balancer" in said
    assert [one.queries for one in balancers] == [[], [], []]


def test_weight_as_json(
    upstream: Callable[..., int], balancers: list[FakeBalancer], capsys: pytest.CaptureFixture[str]
) -> None:
    """One document with what was and what is."""
    assert upstream("weight", TWO, "7", "--json") == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [one["outcome"] for one in told["balancers"]] == ["changed"] * 3
    assert {(one["before"]["weight"], one["after"]["weight"]) for one in told["balancers"]} == {(1, 7)}
    assert [one["port"] for one in told["balancers"]] == [one.address[1] for one in balancers]


def test_list_names_each_server_of_each_balancer(
    upstream: Callable[..., int], balancers: list[FakeBalancer], capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain lines where a program reads."""
    balancers[1].zones["app"][ONE].down = True
    assert upstream("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[2] == f"node1 (127.0.0.1:{balancers[1].address[1]}) {ONE} down weight=1"


@pytest.mark.parametrize(
    "fault,said",
    [
        ("hang", "timed out after 3 s"),
        ("drip", "timed out after 3 s"),
        ("500", "with status 500: "),
        ("truncated", "the answer was cut off"),
        ("huge", "the answer has more than 1048576 bytes"),
        ("html", "the list of servers ends in the middle of a line"),
        ("close", "closed without an answer"),
        ("lie", "it accepted the change, but lists the server unchanged"),
    ],
)
@pytest.mark.parametrize("faulty_on", ["all", "changes"])
def test_faulty_balancer_is_named_and_the_rest_is_as_before(
    upstream: Callable[..., int],
    balancers: list[FakeBalancer],
    capsys: pytest.CaptureFixture[str],
    fault: Fault,
    said: str,
    faulty_on: Any,  # noqa: ANN401 (one of two literals)
) -> None:
    """Within a time that the time-out bounds."""
    balancers[1].fault, balancers[1].faulty_on = fault, faulty_on
    began = time.monotonic()
    status = upstream("down", ONE, timeout="3s" if fault in {"hang", "drip"} else "60s")
    took = time.monotonic() - began
    error = capsys.readouterr().err
    if (fault, faulty_on) == ("html", "changes"):  # it did what was asked, and its list says so
        assert (status, states(balancers)) == (0, [[ONE]] * 3)
        return
    assert status == 1
    assert f"node1 (127.0.0.1:{balancers[1].address[1]}): " in error
    assert said in error
    assert "1 of 3 load balancers failed" in error
    assert states(balancers)[::2] == [[], []]
    assert took < 50  # seconds; whoever hangs does it for a minute


def test_balancer_that_does_not_listen_is_named(
    upstream: Callable[..., int],
    balancers: list[FakeBalancer],
    consul: ConsulAgent,
    service: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is in Consul all the same; without it the others can be changed."""
    port = free_port()
    consul.register(service, port, identity=f"{service}-dead", status="critical")
    try:
        assert upstream("down", ONE) == 1
        assert f"(127.0.0.1:{port}): nothing is listening there" in capsys.readouterr().err
        assert states(balancers) == [[], [], []]
        assert upstream("down", ONE, "--passing") == 0
        assert upstream("up", ONE, "--keep-going") == 1
        assert states(balancers) == [[], [], []]
    finally:
        consul.deregister(f"{service}-dead")


def test_last_server_is_not_taken_down(
    upstream: Callable[..., int], balancers: list[FakeBalancer], capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless told to leave none."""
    balancers[2].zones["app"][TWO].down = True
    assert upstream("down", ONE) == 1
    assert "only 0 servers would stay up, and min_servers is 1" in capsys.readouterr().err
    assert upstream("down", ONE, "--min-servers", "0") == 0


def test_unknown_upstream_and_service_are_told(
    upstream: Callable[..., int],
    configuration: Path,
    balancers: list[FakeBalancer],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each with what to look at."""
    for one in balancers:
        one.zones["other"] = one.zones.pop("app")
    assert upstream("list") == 1
    assert "there is no upstream 'app'" in capsys.readouterr().err
    where = ["--upstream", "app", "--on", "no-such", "--config", str(configuration)]
    assert main(["upstream", "list", *where]) == 1
    assert "Consul knows no service 'no-such'" in capsys.readouterr().err


class Terminal(io.StringIO):
    """Standard output on a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


def test_terminal_shows_a_live_table(
    upstream: Callable[..., int], balancers: list[FakeBalancer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn anew in place at each result; what is left on it at the end is whole."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    assert upstream("down", ONE) == 0
    *drawn, last = terminal.getvalue().split("\033[J")
    assert len(drawn) >= 3
    assert "waiting" in drawn[0]
    assert last.count("changed") == 3
    assert f"node1 (127.0.0.1:{balancers[0].address[1]})" in last

    balancers[0].zones["app"][TWO].weight = 5
    terminal.truncate(0)
    assert upstream("list") == 0
    assert [line.split() for line in terminal.getvalue().strip("\0").splitlines()] == [
        ["SERVER", "STATE", "WEIGHT", "ON"],
        [ONE, "down", "1", "all", "3"],
        [TWO, "up", "1", "node1,", "node1"],
        [TWO, "up", "5", "node1"],
    ]


def test_signal_in_mid_change_leaves_nothing_half_way(
    configuration: Path, service: str, balancers: list[FakeBalancer]
) -> None:
    """What was changed is undone, and the exit status tells of the signal."""
    require("consul")
    balancers[0].fault, balancers[0].faulty_on = "hang", "changes"
    where = ["--upstream", "app", "--on", service, "--timeout", "10s", "--config", str(configuration)]
    where += ["--networks", "127.0.0.0/8"]
    argv = [str(Path(sys.executable).with_name("agentd")), "upstream", "down", ONE, *where]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_until(lambda: states(balancers)[1:] == [[ONE]] * 2, "the two that answer")
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1  # one failed, which says more than the signal
    assert b"timed out after 10 s" in error
    assert states(balancers)[1:] == [[], []]


def test_a_balancer_that_hangs_is_asked_once(
    upstream: Callable[..., int], balancers: list[FakeBalancer], capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even to undo: each question may hang one more of its workers, and what to do about it is said."""
    balancers[1].fault, balancers[1].faulty_on = "hang", "changes"

    status = upstream("down", ONE, timeout="3s")

    error = capsys.readouterr().err
    assert status == 1
    assert "reload it, then end (kill -9) the old workers" in error
    assert "it is unknown whether it was changed" in error
    assert len([query for query in balancers[1].queries if "server=" in query]) == 1
