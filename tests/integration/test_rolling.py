"""`agentd rolling` with real Consul: the lock, the record, the command, the wait, every early end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentd.cli import main
from tests.servers.consul import ConsulAgent
from tests.servers.dynamic_upstream import FakeBalancer, FakeBalancers, Member
from tests.servers.ports import free_port
from tests.servers.waiting import PATIENCE, wait_until

AGENTD = str(Path(sys.executable).with_name("agentd"))


@dataclass
class Site:
    """Two load balancers and three servers, all in Consul; the servers exist by name only."""

    consul: ConsulAgent
    suffix: str
    directory: Path
    balancers: list[FakeBalancer]
    ports: list[int]

    @property
    def servers(self) -> list[str]:
        """As nginx spells them."""
        return [f"127.0.0.1:{port}" for port in self.ports]

    @property
    def log(self) -> list[str]:
        """What the command wrote down."""
        file = self.directory / "log"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def go(self) -> Path:
        """What the script `held` waits for."""
        return self.directory / "go"

    @property
    def held(self) -> str:
        """A script that does not end before the test says so."""
        return f"while [ ! -e {self.go} ]; do sleep 0.05; done"

    def words(self, *options: str, script: str = "true") -> list[str]:
        """The command line; the command notes its server and runs `script`."""
        command = ["/bin/sh", "-c", f'echo "$1:$2" >> {self.directory}/log; {script}']
        return [
            *("rolling", "--config", str(self.directory / "agentd.yaml")),
            *("--upstream", "app", "--on", f"lb-{self.suffix}", "--servers", f"app-{self.suffix}"),
            *("--lock", self.prefix, "--timeout", "20s", "--networks", "127.0.0.0/8", *options),
            *("--", *command, "sh", "{address}", "{port}"),
        ]

    @property
    def prefix(self) -> str:
        """Of the lock and the record."""
        return f"test/rolling-{self.suffix}"

    @property
    def record(self) -> dict[str, Any] | None:
        """The record, if one is left."""
        value = self.consul.kv_get(f"{self.prefix}/rolling")
        return None if value is None else json.loads(value)

    def down(self) -> list[list[str]]:
        """The servers that are down on each balancer."""
        return [one.down("app") for one in self.balancers]

    def set_status(self, at: int, status: str) -> None:
        """The check of a server."""
        self.consul.set_status(f"app-{self.suffix}-{at}", status)


@pytest.fixture
def site(consul: ConsulAgent, tmp_path: Path) -> Iterator[Site]:
    """All passing."""
    ports = sorted(free_port() for _ in range(3))
    zone = [f"127.0.0.1:{port}" for port in ports]
    balancers = [
        FakeBalancer(("127.0.0.1", free_port()), {"app": {server: Member() for server in zone}})
        for _ in range(2)
    ]
    made = Site(consul, str(free_port()), tmp_path, balancers, ports)
    (tmp_path / "agentd.yaml").write_text(
        f"consul: {{address: '{consul.address}:{consul.ports['http']}'}}\n"
        "handlers: {a: {use: command, options: {argv: [/bin/true]}}}\n"
    )
    with FakeBalancers(balancers):
        for at, port in enumerate(ports):
            consul.register(f"app-{made.suffix}", port, identity=f"app-{made.suffix}-{at}")
        for at, one in enumerate(balancers):
            consul.register(f"lb-{made.suffix}", one.address[1], identity=f"lb-{made.suffix}-{at}")
        yield made
        for at in range(3):
            consul.deregister(f"app-{made.suffix}-{at}")
        for at in range(2):
            consul.deregister(f"lb-{made.suffix}-{at}")


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(site: Site) -> Iterator[Start]:
    """Start it as a process of its own, for signals."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*options: str, script: str) -> subprocess.Popen[bytes]:
        argv = [AGENTD, *site.words(*options, script=script)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_one_after_the_other_each_down_meanwhile(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is left: no server down, no record, no lock."""
    assert main(site.words()) == 0
    assert site.log == site.servers
    assert site.down() == [[], []]
    assert site.record is None
    assert site.consul.kv_get(f"{site.prefix}/.lock") is None
    assert capfd.readouterr().out.splitlines() == [f"{server} done" for server in site.servers]
    changes = [query for query in site.balancers[0].queries if "server=" in query]
    assert changes == [
        f"upstream=app&server={server}&{state}=" for server in site.servers for state in ("down", "up")
    ]


def test_json_is_one_document_though_the_command_prints(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the command prints goes to standard error, beside the steps."""
    assert main(site.words("--json", "--batch", "100%", "--min-servers", "0", script="echo hello")) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["done"] == site.servers
    assert said.err.count("hello") == 3


def test_failure_stops_it_and_resume_goes_on(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """The server that failed is left down and named, with what puts it back; it is the first to go on."""
    flag = site.directory / "mended"
    script = f'[ "$2" != {site.ports[1]} ] || [ -e {flag} ] || exit 3'
    assert main(site.words(script=script)) == 1
    said = capfd.readouterr()
    assert f"{site.servers[1]} failed, DOWN: the command ended with status 3; it is left down" in said.out
    assert f"agentd upstream up {site.servers[1]} --upstream app" in said.err
    assert site.down() == [[site.servers[1]]] * 2
    assert (site.record or {})["taken_down"] == [site.servers[1]]

    flag.touch()
    assert main(site.words(script=script)) == 1
    assert "--resume continues it, --restart starts over" in capfd.readouterr().err
    assert main(site.words("--resume", script="true")) == 1
    assert "a different command" in capfd.readouterr().err
    assert main(site.words("--resume", script=script)) == 0
    assert site.log == [*site.servers[:2], *site.servers[1:]]
    assert (site.down(), site.record) == ([[], []], None)


def test_restart_begins_anew_and_puts_up_what_was_taken_down(site: Site) -> None:
    """Though it was found down."""
    assert main(site.words(script="exit 1")) == 1
    assert main(site.words("--restart")) == 0
    assert site.log == [site.servers[0], *site.servers]
    assert site.down() == [[], []]


def test_it_waits_until_consul_says_passing(site: Site, start: Start) -> None:
    """And the server stays down until then."""
    process = start(script=site.held)
    wait_until(lambda: site.log, "the first deployment")
    site.set_status(0, "critical")
    site.go.touch()
    wait_until(lambda: b"waiting" in (process.stderr.readline() if process.stderr else b""), "the wait")
    assert (site.down(), len(site.log)) == ([[site.servers[0]]] * 2, 1)
    site.set_status(0, "passing")
    assert process.wait(PATIENCE) == 0
    assert site.log == site.servers


def test_server_that_never_passes_is_left_down(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """After the time that was given."""
    site.set_status(0, "critical")
    assert main(site.words("--wait", "600ms")) == 1
    assert "not passing after 600 ms; it is left down" in capfd.readouterr().out
    assert site.down() == [[site.servers[0]]] * 2


def test_min_servers_by_consul_stops_it(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing was touched."""
    site.set_status(1, "critical")
    assert main(site.words("--min-servers", "2")) == 1
    assert "only 1 other servers are passing, and min_servers is 2" in capfd.readouterr().err
    assert (site.log, site.down()) == ([], [[], []])


def test_hanging_balancer_keeps_the_server_in_use(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """In bounded time, and named."""
    site.balancers[1].fault = "hang"
    assert main(site.words("--timeout", "3s")) == 1
    assert f"(127.0.0.1:{site.balancers[1].address[1]}): timed out after 3 s" in capfd.readouterr().out
    assert (site.log, site.down()[0]) == ([], [])


def test_second_rolling_is_kept_away(site: Site, start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    """While the first one runs."""
    process = start(script=site.held)
    wait_until(lambda: site.log, "the first deployment")
    assert main(site.words()) == 1
    site.go.touch()
    assert "the lock is not free: held by session" in capfd.readouterr().err
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_command_and_names_the_server(
    site: Site, start: Start, number: signal.Signals
) -> None:
    """It stays down, half deployed as it may be; --resume finishes the work."""
    script = f"[ -e {site.directory}/again ] || sleep 600"
    process = start(script=script)
    wait_until(lambda: site.log, "the first deployment")
    process.send_signal(number)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert f"{site.servers[0]} may be down".encode() in error
    assert (site.down(), len(site.log)) == ([[site.servers[0]]] * 2, 1)

    (site.directory / "again").touch()
    assert main(site.words("--resume", script=script)) == 0
    assert site.down() == [[], []]


def test_lost_lock_ends_the_command(site: Site, start: Start) -> None:
    """Another may begin any moment; what was in hand is named and recorded."""
    process = start(script="sleep 600")
    wait_until(lambda: site.log, "the first deployment")
    session = site.consul.get(f"/v1/kv/{site.prefix}/.lock")[0]["Session"]
    site.consul.put(f"/v1/session/destroy/{session}")
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert b"the lock was lost: " in error
    assert f"{site.servers[0]} may be down".encode() in error
    assert (site.record or {})["taken_down"] == [site.servers[0]]


def test_command_that_runs_too_long_is_ended(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """And counts as a failure."""
    assert main(site.words("--command-timeout", "500ms", script="sleep 600")) == 1
    assert "ran longer than 500 ms and was ended" in capfd.readouterr().out


@pytest.mark.parametrize(
    "address, node",
    [
        ("-oProxyCommand=id", "plain"),
        ("10.0.0.9; id", "plain"),
        ("169.254.169.254", "plain"),
        ("127.0.0.9", "-oProxyCommand=id"),
        ("127.0.0.9", "a b"),
        ("127.0.0.9", "$(id)"),
    ],
)
def test_an_odd_server_never_reaches_the_command(
    site: Site, capfd: pytest.CaptureFixture[str], address: str, node: str
) -> None:
    """The others are deployed to; the odd one is named, and the status says so."""
    service = {"Service": f"app-{site.suffix}", "ID": "odd", "Address": address, "Port": 80}
    site.consul.put("/v1/catalog/register", {"Node": node, "Address": "127.0.0.9", "Service": service})
    try:
        assert main(site.words()) == 1
    finally:
        site.consul.put("/v1/catalog/deregister", {"Node": node})
    said = capfd.readouterr()
    assert site.log == site.servers
    assert said.out.splitlines() == [f"{server} done" for server in site.servers]
    assert f"instance 'odd' on node {node!r} is refused as a server: " in said.err


def test_program_that_is_not_there_ends_with_127(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is asked or taken down."""
    where = ["--upstream", "app", "--on", "lb", "--servers", "app"]
    assert main(["rolling", *where, "--", "no-such-program"]) == 127
    assert "no-such-program cannot be found" in capsys.readouterr().err


def test_killed_rolling_is_resumed(site: Site, start: Start) -> None:
    """The record names what was in hand; the command died with its rolling."""
    script = f"[ -e {site.directory}/again ] || {{ sleep 600; echo late >> {site.directory}/log; }}"
    process = start(script=script)
    wait_until(lambda: site.log, "the first deployment")
    process.kill()
    process.wait()
    assert site.down() == [[site.servers[0]]] * 2
    assert (site.record or {})["taken_down"] == [site.servers[0]]
    site.consul.kv_delete(f"{site.prefix}/.lock")  # in place of the half minute until its session ends

    (site.directory / "again").touch()
    assert main(site.words("--resume", script=script)) == 0
    assert site.down() == [[], []]
    assert site.log == [site.servers[0], *site.servers]
