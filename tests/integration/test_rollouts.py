"""`agentd publish --canary` and `agentd rollout` on five real daemons."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.servers.consul import ConsulAgent
from tests.servers.rollout_fleet import NAME, SIZE, SWIFT, RolloutFleet


@pytest.fixture(scope="module")
def daemons(consul: ConsulAgent) -> Iterator[RolloutFleet]:
    """All of them run."""
    with RolloutFleet.started(consul) as made:
        yield made


@pytest.fixture
def fleet(
    daemons: RolloutFleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[RolloutFleet]:
    """All have the payload `old` in force, and nothing else is in the log."""
    with daemons.ready(capsys, monkeypatch):
        yield daemons


def test_each_step_follows_the_one_before(fleet: RolloutFleet) -> None:
    """A canary, then a half, then all; each is confirmed by whom it admits."""
    told = fleet.json("publish", NAME, "new", *SWIFT, "--canary", "node2", "--steps", "50%,100%")
    assert (told["outcome"], told["resumed"], told["others"]) == ("released", False, [])
    steps = [(one["step"], one["nodes"], one["confirmed"]) for one in told["steps"]]
    assert steps == [("canary", 1, 1), ("50%", 3, 3), ("100%", 5, 5), ("release", 5, 5)]
    assert fleet.payloads() == ["new"] * SIZE


def test_a_canary_that_refuses_stops_it_and_abort_brings_back_the_old_payload(fleet: RolloutFleet) -> None:
    """Nobody else gets it; status names the node."""
    fleet.refuse("node2")
    status, out, err = fleet.publish("new", "--canary", "node2")
    assert status == 1
    assert "canary: 1 of 5 nodes admitted (node2)" in err
    assert "node2: refused: not here" in err
    assert "stopped at canary: in force on 0 of 1 nodes" in out
    assert "agentd rollout abort site" in out
    assert fleet.payloads() == ["old"] * SIZE
    [seen] = fleet.json("rollout", "status", status=1)["rollouts"]
    assert (seen["name"], seen["admitted"], seen["confirmed"]) == (NAME, ["node2"], [])
    assert seen["failed"] == [{"node": "node2", "reason": "refused: not here"}]
    fleet.refuse("node2", refuses=False)
    status, out, _ = fleet.run("rollout", "abort", NAME, "--wait", "--timeout", "100s")
    assert status == 0
    assert "all nodes get the payload of message" in out
    assert fleet.payloads() == ["old"] * SIZE
    assert fleet.json("rollout", "status")["rollouts"] == []


def test_the_same_command_has_nodes_that_failed_try_once_more(fleet: RolloutFleet) -> None:
    """Under another number, since a refusal is final; once for each run."""
    fleet.refuse("node2")
    words = ("--canary", "node1,node2", "--steps", "100%")
    assert fleet.publish("new", *words)[0] == 1
    status, out, err = fleet.publish("new", *words)
    assert status == 1
    assert "nodes that failed get it once more" in err
    assert "stopped at again: in force on 1 of 2 nodes" in out
    assert len([one for one in fleet.messages() if one.rollout]) == 2
    fleet.refuse("node2", refuses=False)
    told = fleet.json("publish", NAME, "new", *SWIFT, *words)
    assert [one["step"] for one in told["steps"]] == ["last step", "again", "100%", "release"]
    assert fleet.payloads() == ["new"] * SIZE


def test_the_running_command_notices_an_abort_from_elsewhere(fleet: RolloutFleet) -> None:
    """In the pause after the canary; it ends with 1, and the canary has the old payload again."""
    running = fleet.begin("new", "--canary", "node3", "--pause", "10m")
    fleet.await_payloads("old", "old", "new", "old", "old")
    told = fleet.json("rollout", "abort", NAME, "--wait", "--timeout", "100s")
    out, _ = running.communicate(timeout=100)
    assert running.returncode == 1
    assert f"aborted it: message {told['num']} brings back what all nodes had" in out
    assert fleet.payloads() == ["old"] * SIZE


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_the_same_command_goes_on_after_it_was_killed(fleet: RolloutFleet, step: int) -> None:
    """After any step, or the release; another payload is refused while it is open."""
    words = ("--canary", "node3", "--steps", "50%,100%")
    running = fleet.begin("new", *words)
    fleet.await_steps(step)
    running.send_signal(signal.SIGKILL)
    running.wait()
    if fleet.messages()[-1].kind == "admit":
        status, _, err = fleet.publish("other", *words)
        assert status == 1
        assert "a rollout of another payload is open" in err
        status, _, err = fleet.run("publish", NAME, "other")
        assert status == 1
        assert "a rollout of site is open" in err
    told = fleet.json("publish", NAME, "new", *SWIFT, *words)
    assert (told["outcome"], told["resumed"]) == ("released", True)
    assert fleet.payloads() == ["new"] * SIZE
    assert len({one.rollout for one in fleet.messages() if one.rollout}) == 1


def test_who_interrupts_it_is_told_what_to_do(fleet: RolloutFleet) -> None:
    """It stays open."""
    running = fleet.begin("new", "--canary", "node3", "--pause", "10m")
    fleet.await_payloads("old", "old", "new", "old", "old")
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=100)
    assert running.returncode == 130
    assert "interrupted: no more nodes are admitted" in err
    assert fleet.seen()["admitted"] == ["node3"]


def test_two_at_once_come_to_the_same_end(fleet: RolloutFleet) -> None:
    """Each step is written once, whoever of them does it."""
    both = [fleet.begin("new", "--canary", "2", "--steps", "50%,100%", "--json") for _ in range(2)]
    told = [json.loads(one.communicate(timeout=200)[0]) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert {one["outcome"] for one in told} == {"released"}
    assert fleet.payloads() == ["new"] * SIZE
    [first, second] = told
    assert first["rollout"] == second["rollout"]
    assert first["num"] == second["num"]


def test_some_failures_may_be_allowed(fleet: RolloutFleet) -> None:
    """One of five; two are too many."""
    fleet.refuse("node4")
    told = fleet.json("publish", NAME, "new", *SWIFT, "--canary", "node1,node4", "--max-failures", "1")
    assert told["outcome"] == "released"
    assert [one["node"] for one in told["others"]] == ["node4"]
    assert fleet.payloads() == ["new", "new", "new", "old", "new"]
    fleet.refuse("node5")
    status, out, _ = fleet.publish("newer", "--canary", "node4,node5", "--max-failures", "1")
    assert status == 1
    assert "2 nodes did not take it, and --max-failures allows for 1" in out


def test_a_stopped_node_is_named_and_blocks(fleet: RolloutFleet) -> None:
    """Until it is back; the same command then goes on."""
    fleet.nodes[4].stop()
    status, out, _ = fleet.publish("new", "--canary", "node1,node5", "--timeout", "12s")
    assert status == 1
    assert "agentd is stopped" in out
    assert fleet.payloads() == ["new", "old", "old", "old", "old"]
    fleet.nodes[4].start()
    assert fleet.publish("new", "--canary", "node1,node5")[0] == 0
    assert fleet.payloads() == ["new"] * SIZE


def test_a_node_that_joins_is_admitted_or_not_like_any_other(fleet: RolloutFleet) -> None:
    """One that the step does not admit takes what all nodes had; in the end all have the same."""
    running = fleet.begin("new", "--canary", "node3", "--steps", "100%", "--pause", "10m")
    fleet.await_payloads("old", "old", "new", "old", "old")
    fleet.add().start()
    fleet.await_payloads("old", "old", "new", "old", "old", "old")
    running.kill()
    running.wait()
    assert fleet.publish("new", "--canary", "node3", "--steps", "100%")[0] == 0
    assert fleet.payloads() == ["new"] * (SIZE + 1)


def test_nothing_is_admitted_while_the_fleet_is_frozen(fleet: RolloutFleet) -> None:
    """It stops and says why; after the thaw it goes on."""
    running = fleet.begin("new", "--canary", "node3", "--steps", "100%", "--pause", "5s", "--timeout", "4s")
    fleet.await_payloads("old", "old", "new", "old", "old")
    fleet.freeze(frozen=True)
    out, _ = running.communicate(timeout=100)
    assert running.returncode == 1
    assert "frozen by test: no changes" in out
    assert fleet.payloads() == ["old", "old", "new", "old", "old"]
    fleet.freeze(frozen=False)
    assert fleet.publish("new", "--canary", "node3")[0] == 0
    assert fleet.payloads() == ["new"] * SIZE


def test_without_an_earlier_payload_there_is_nothing_to_go_back_to(fleet: RolloutFleet) -> None:
    """Abort says what to do instead, and that works."""
    assert fleet.run("log", "forget", NAME, "--yes")[0] == 0
    running = fleet.begin("new", "--canary", "node3", "--pause", "10m", "--keep", "latest")
    fleet.await_payloads("old", "old", "new", "old", "old")
    running.kill()
    running.wait()
    status, _, err = fleet.run("rollout", "abort", NAME)
    assert status == 1
    assert "agentd log forget site --yes" in err
    assert fleet.run("log", "forget", NAME, "--yes")[0] == 0
    assert fleet.run("publish", NAME, "right", "--keep", "latest", "--wait", "--timeout", "100s")[0] == 0
    assert fleet.payloads() == ["right"] * SIZE
