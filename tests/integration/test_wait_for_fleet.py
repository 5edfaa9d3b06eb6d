"""`agentd fire --wait` and `publish --wait` on real Consul: the test writes what relays and nodes would."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from agentd.cli import main
from agentd.fleet.acknowledgement import Name, Tried
from agentd.fleet.head import parse_head
from tests.servers.acknowledgers import NAME, Acknowledgers, acknowledgers
from tests.servers.consul import ConsulAgent
from tests.servers.ports import free_port
from tests.servers.waiting import PATIENCE, wait_until

Fire = Callable[..., "Future[int]"]


@pytest.fixture
def fleet(consul: ConsulAgent) -> Iterator[Acknowledgers]:
    """Three nodes that have message 20 in force."""
    with acknowledgers(consul, f"waits-{free_port()}", 3) as made:
        yield made


@pytest.fixture
def fire(fleet: Acknowledgers) -> Iterator[Fire]:
    """Fire and wait in another thread; the event is relayed as message `num`, if that is given."""
    with ThreadPoolExecutor(1) as thread:

        def start(*words: str, name: str = NAME, num: int | None = 30) -> Future[int]:
            heard = {event["ID"] for event in fleet.consul.events()}
            argv = ["fire", name, "--wait", "--timeout", "100s", "--fleet", fleet.keys.fleet]
            future = thread.submit(main, [*argv, "--http-addr", fleet.consul.url, *words])
            if num is not None:

                def new() -> list[str]:
                    found = [one for one in fleet.consul.events() if one["Name"] == name]
                    return [one["ID"] for one in found if one["ID"] not in heard]

                fleet.publish(num, event=wait_until(new, "the event")[0])
            return future

        yield start


def test_status_is_0_once_all_have_it_in_force(
    fleet: Acknowledgers, fire: Fire, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last node may have come to a later message already."""
    future = fire()
    for number, live in enumerate((30, 30, 31)):
        fleet.acknowledge(number, live)
    assert future.result(PATIENCE) == 0
    identity, last = capsys.readouterr().out.splitlines()
    assert len(identity) == 36
    assert last.startswith(f"{NAME} 30: in force on 3 of 3 nodes after ")


def test_a_refusal_ends_the_wait_with_its_reason(
    fleet: Acknowledgers, fire: Fire, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without waiting for the others, since all were wanted."""
    future = fire()
    refused = Name(live=20, tried=Tried(30, "refused", "line 3: not an address"))
    fleet.acknowledge(1, None, names={NAME: refused})
    assert future.result(PATIENCE) == 1
    said = capsys.readouterr()
    assert f"agentd: {fleet.node(1)}: refused: line 3: not an address" in said.err
    rows = [line.split()[0] for line in said.out.splitlines()[2:]]
    assert rows == ["STATE", "refused", "waiting"]


def test_a_quorum_is_enough(fleet: Acknowledgers, fire: Fire, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of three, though one refuses; a program gets the same."""
    future = fire("--quorum", "60%", "--json")
    fleet.acknowledge(0, None, names={NAME: Name(tried=Tried(30, "failed", "no disk"))})
    fleet.acknowledge(1, 30)
    fleet.acknowledge(2, 30)
    assert future.result(PATIENCE) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)["wait"]
    assert (told["nodes"], told["needed"], told["confirmed"]) == (3, 2, 2)
    assert told["others"] == [{"node": fleet.node(0), "state": "refused", "reason": "failed: no disk"}]


def test_laggards_are_named_with_what_holds_them_up(
    fleet: Acknowledgers, fire: Fire, capsys: pytest.CaptureFixture[str]
) -> None:
    """One was stopped, the agent of another is down, and the third tries."""
    fleet.join(1, alive=False)
    fleet.acknowledge(0, 20, stopped=1.0)
    future = fire("--timeout", "10s")
    fleet.acknowledge(2, None, names={NAME: Name(live=20, tried=Tried(30, "", "nginx is down"))})

    def ended() -> bool:
        fleet.join(1, alive=False)
        return future.done()

    wait_until(ended, "the end", pause=0.2)
    assert future.result(PATIENCE) == 1
    said = capsys.readouterr().out
    for reason in ("agentd is stopped", "its Consul agent is down", "still applying it: nginx is down"):
        assert reason in said


def test_a_name_that_nobody_keeps_is_not_fired(
    fleet: Acknowledgers, fire: Fire, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody would ever confirm it."""
    assert fire(name="unkept", num=None).result(PATIENCE) == 1
    assert f"no node of the fleet {fleet.keys.fleet!r} keeps 'unkept'" in capsys.readouterr().err
    assert "unkept" not in {event["Name"] for event in fleet.consul.events()}


def test_an_event_that_nobody_relays_is_told(fire: Fire, capsys: pytest.CaptureFixture[str]) -> None:
    """It was fired, but no log has it."""
    assert fire("--timeout", "1s", num=None).result(PATIENCE) == 1
    said = capsys.readouterr()
    assert f"the event {said.out.strip()} did not reach the log within 1" in said.err


def test_publish_waits_for_its_own_message(fleet: Acknowledgers, capsys: pytest.CaptureFixture[str]) -> None:
    """Its number is known at once; nodes that are not meant do not count."""
    args = ["--fleet", fleet.keys.fleet, "--http-addr", fleet.consul.url, "--node", f"{fleet.node(1)}$"]
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(main, ["publish", NAME, "add 192.0.2.9", "--wait", "--timeout", "100s", *args])

        def newest() -> int:
            head = fleet.consul.kv_get(fleet.keys.head(NAME))
            return parse_head(head or b"").newest

        num = wait_until(lambda: (num := newest()) > 20 and num, "the message")
        fleet.acknowledge(1, num)
        assert future.result(PATIENCE) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"{NAME} {num}"
    assert last.startswith(f"{NAME} {num}: in force on 1 of 1 nodes after ")


def test_what_else_a_node_says_is_told(
    fleet: Acknowledgers, fire: Fire, capsys: pytest.CaptureFixture[str]
) -> None:
    """It confirms, since nginx reads the current generation when it starts; but nobody serves it now."""
    future = fire()
    why = "committed; nginx is not running, it will serve this when it starts"
    fleet.acknowledge(0, None, names={NAME: Name(live=30, tried=Tried(30, "applied", why))})
    fleet.acknowledge(1, 30)
    fleet.acknowledge(2, 30)
    assert future.result(PATIENCE) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1].split(maxsplit=3) == ["confirmed", "1", fleet.node(0), why]


def test_nodes_that_do_not_acknowledge_are_named(
    fleet: Acknowledgers, fire: Fire, capsys: pytest.CaptureFixture[str]
) -> None:
    """Agentd runs on one of them, without the right to; what another wrote cannot be read."""
    fleet.join(3)
    fleet.register(3)
    fleet.consul.kv_put(fleet.keys.node(fleet.node(2)), b"junk")
    future = fire("--timeout", "6s")
    fleet.acknowledge(0, 30)
    fleet.acknowledge(1, 30)
    assert future.result(PATIENCE) == 1
    said = capsys.readouterr().out
    assert f"{NAME} 30: in force on 2 of 4 nodes" in said
    for number, why in (
        (2, "its document cannot be read"),
        (3, "agentd runs there but does not acknowledge"),
    ):
        assert any(fleet.node(number) in line and why in line for line in said.splitlines())


def test_nodes_whose_documents_are_lost_are_waited_for(
    fleet: Acknowledgers, fire: Fire, capsys: pytest.CaptureFixture[str]
) -> None:
    """The store was wiped, and one of them has already written its own anew."""
    for number in range(3):
        fleet.register(number)
    future = fire("--timeout", "8s")
    wait_until(lambda: fleet.consul.kv_get(fleet.keys.message(NAME, 30)), "the message")
    fleet.consul.kv_delete(fleet.keys.nodes, recurse=True)
    fleet.acknowledge(0, 30)
    assert future.result(PATIENCE) == 1
    assert f"{NAME} 30: in force on 1 of 3 nodes" in capsys.readouterr().out


def test_an_agent_that_restarts_is_waited_for(
    new_consul: Callable[..., ConsulAgent], capsys: pytest.CaptureFixture[str]
) -> None:
    """The message is in the log, so the end is worth waiting for; without one, a program gets the number."""
    consul = new_consul()
    name = "restarts"
    with acknowledgers(consul, name, 2) as fleet, ThreadPoolExecutor(1) as thread:

        def publish(timeout: str) -> tuple[Future[int], int]:
            before = parse_head(consul.kv_get(fleet.keys.head(NAME)) or b"").newest
            words = ["publish", NAME, "add 192.0.2.9", "--wait", "--json", "--timeout", timeout]
            future = thread.submit(main, [*words, "--fleet", name, "--http-addr", consul.url])

            def newest() -> int:
                return parse_head(consul.kv_get(fleet.keys.head(NAME)) or b"").newest

            num = wait_until(lambda: (num := newest()) > before and num, "the message")
            fleet.acknowledge(0, num)
            return future, num

        future, num = publish("100s")
        consul.stop()
        consul.start()
        fleet.acknowledge(1, num)
        assert future.result(PATIENCE) == 0
        assert json.loads(capsys.readouterr().out)["wait"]["confirmed"] == 2

        future, num = publish("3s")
        consul.stop()
        assert future.result(PATIENCE) == 1
        told = json.loads(capsys.readouterr().out)
        assert told["num"] == num
        assert "which nodes have applied the message is not known" in told["wait"]["error"]
        consul.start()
