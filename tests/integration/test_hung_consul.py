"""`--wait --timeout` while the Consul agent hangs: each command ends in time, and says what is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentd.cli import main
from agentd.commands.fleet_watch import FleetWatch
from agentd.commands.publication import Publication
from agentd.commands.wait_for_fleet import FleetWait
from agentd.watch.client import ConsulClient
from tests.servers.acknowledgers import NAME, Acknowledgers, acknowledgers
from tests.servers.consul import ConsulAgent

_TIMEOUT = 3.0
_LATE = 3.0  # seconds for a busy machine; a request would have gone on for 10

Hang = Callable[..., None]
Run = Callable[..., str]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """An agent that no other test has."""
    consul = ConsulAgent(tmp_path_factory.mktemp("consul"))
    consul.start()
    yield consul
    consul.thaw()
    consul.stop()


@pytest.fixture
def fleet(own: ConsulAgent) -> Iterator[Acknowledgers]:
    """Two nodes that have message 20 in force; the agent goes on at the end."""
    with acknowledgers(own, "hangs", 2) as made:
        yield made
        own.thaw()


@pytest.fixture
def hang(own: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> Hang:
    """Have the agent hang from just before or just after a method is called."""

    def arrange(owner: type, method: str, *, before: bool) -> None:
        original = getattr(owner, method)

        def changed(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 (whatever the method has)
            if before:
                own.freeze()
                return original(*arguments, **named)
            found = original(*arguments, **named)
            own.freeze()
            return found

        monkeypatch.setattr(owner, method, changed)

    return arrange


@pytest.fixture
def run(fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that fails, in time; what it says."""

    def wait(*words: str) -> str:
        where = ["--fleet", fleet.keys.fleet, "--http-addr", fleet.consul.url]
        began = time.monotonic()
        status = main([*words, "--wait", "--timeout", f"{_TIMEOUT:g}s", *where])
        took = time.monotonic() - began
        assert status == 1
        assert took < _TIMEOUT + _LATE
        return capsys.readouterr().err

    return wait


@pytest.mark.parametrize("command, done", [("fire", "fired"), ("publish", "published")])
def test_from_the_start(run: Run, own: ConsulAgent, command: str, done: str) -> None:
    """Nothing can have been written."""
    own.freeze()
    assert f"nothing was {done}" in run(command, NAME, "add 192.0.2.9")


def test_once_the_nodes_are_known_to_keep_the_name(run: Run, hang: Hang) -> None:
    """What is looked at before publishing takes no longer either."""
    hang(FleetWait, "begin", before=False)
    assert "nothing was published" in run("publish", NAME, "add 192.0.2.9")


def test_while_it_fires(run: Run, hang: Hang) -> None:
    """The agent may get to it later."""
    hang(ConsulClient, "fire", before=True)
    assert "the event may or may not have been fired" in run("fire", NAME, "add 192.0.2.9")


def test_while_it_publishes(run: Run, hang: Hang) -> None:
    """The agent may get to it later."""
    hang(Publication, "write", before=True)
    assert "it may or may not have been published" in run("publish", NAME, "add 192.0.2.9")


@pytest.mark.parametrize("command, method", [("fire", "find_event"), ("publish", "published")])
def test_once_it_is_out(run: Run, hang: Hang, command: str, method: str) -> None:
    """How far the nodes are is not known."""
    hang(FleetWait, method, before=True)
    assert "which nodes have applied the message is not known" in run(command, NAME, "add 192.0.2.9")


def test_while_it_waits_for_the_nodes(run: Run, hang: Hang) -> None:
    """In the middle of a blocking query, or between two."""
    hang(FleetWatch, "members", before=False)
    assert "which nodes have applied the message is not known" in run("publish", NAME, "add 192.0.2.9")
