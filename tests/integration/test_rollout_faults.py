"""Rollouts while something is wrong, and who is meant by a canary, on five real daemons."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.cli import main
from tests.servers.consul import ConsulAgent
from tests.servers.rollout_fleet import NAME, SIZE, SWIFT, RolloutFleet
from tests.servers.waiting import PATIENCE, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "rollouts.md"


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


@pytest.mark.parametrize(
    "words, why",
    [
        (["--node", "web"], "in the end a rollout is for all nodes"),
        (["--service", "web", "--tag", "edge"], "in the end a rollout is for all nodes"),
        (["--snapshot"], "in the end a rollout is for all nodes"),
        (["--ttl", "1h"], "in the end a rollout is for all nodes"),
        (["--quorum", "90%"], "give --max-failures instead of --quorum"),
    ],
)
def test_what_a_rollout_cannot_have(fleet: RolloutFleet, words: list[str], why: str) -> None:
    """It is for all nodes in the end, and each of them has to take it."""
    status, _, err = fleet.publish("new", "--canary", "1", *words)
    assert status == 2
    assert why in err
    assert fleet.payloads() == ["old"] * SIZE


def test_steps_need_a_canary(fleet: RolloutFleet) -> None:
    """Rather than that they are ignored."""
    status, _, err = fleet.run("publish", NAME, "new", "--steps", "50%")
    assert status == 2
    assert "give --canary as well" in err


def test_a_name_of_which_all_messages_are_kept_has_no_rollouts(fleet: RolloutFleet) -> None:
    """Each message adds to the others."""
    status, _, err = fleet.run("publish", "list", "x", "--keep", "all", "--canary", "1")
    assert status == 1
    assert "list is kept as 'all'" in err


def test_nodes_that_would_not_understand_it_are_named(fleet: RolloutFleet) -> None:
    """They would wait at the first step, or take the release for nothing."""
    document = {"format": 1, "agentd": "0.1", "node_id": "x", "boot": "b", "written": 1.0}
    fleet.consul.kv_put(f"agentd/{fleet.name}/nodes/old1", json.dumps(document).encode())
    status, _, err = fleet.publish("new", "--canary", "1")
    assert status == 1
    assert "old1 would not understand" in err
    fleet.consul.kv_delete(f"agentd/{fleet.name}/nodes/old1")


def test_a_tag_means_the_nodes_with_a_service_that_has_it(fleet: RolloutFleet) -> None:
    """Here all nodes share a Consul agent, so all are first; a tag that nobody has is refused."""
    fleet.consul.put("/v1/agent/service/register", {"Name": "edge", "Tags": ["canary"]})
    try:
        told = fleet.json("publish", NAME, "new", *SWIFT, "--canary", "canary")
    finally:
        fleet.consul.put("/v1/agent/service/deregister/edge", {})
    assert [(one["step"], one["nodes"]) for one in told["steps"]] == [("canary", 5), ("release", 5)]
    status, _, err = fleet.publish("newer", "--canary", "canary")
    assert status == 1
    assert "has a service with that tag: give a number of nodes, or some of node1, node2" in err


def test_an_event_that_is_heard_meanwhile_replaces_it(fleet: RolloutFleet) -> None:
    """Whoever fired it cannot be asked; the command says so, and ends."""
    running = fleet.begin("new", "--canary", "node3", "--pause", "10m")
    fleet.await_payloads("old", "old", "new", "old", "old")
    assert main(["fire", NAME, "heard", "--http-addr", fleet.consul.url]) == 0
    out, _ = running.communicate(timeout=100)
    assert running.returncode == 1
    assert "(event) has replaced it" in out
    fleet.await_payloads(*["heard"] * SIZE)


def test_a_log_that_is_forgotten_meanwhile_ends_it(fleet: RolloutFleet) -> None:
    """Whoever drops a rollout means it, wherever the command runs."""
    running = fleet.begin("new", "--canary", "node3", "--steps", "100%", "--pause", "10m")
    fleet.await_payloads("old", "old", "new", "old", "old")
    assert fleet.run("log", "forget", NAME, "--yes")[0] == 0
    out, _ = running.communicate(timeout=100)
    assert running.returncode == 1
    assert "somebody dropped it with `agentd log forget site`" in out
    assert fleet.messages() == []


def test_a_log_that_is_lost_in_mid_rollout_is_written_back_and_it_goes_on(fleet: RolloutFleet) -> None:
    """The command waits for that."""
    running = fleet.begin("new", "--canary", "node3", "--steps", "100%", "--pause", "8s")
    fleet.await_payloads("old", "old", "new", "old", "old")
    for kind in ("names", "messages", "pruned"):
        fleet.consul.kv_delete(f"agentd/{fleet.name}/{kind}/", recurse=True)
    out, err = running.communicate(timeout=200)
    assert running.returncode == 0, out + err
    assert fleet.payloads() == ["new"] * SIZE


def test_a_paused_node_is_named_and_blocks(fleet: RolloutFleet) -> None:
    """Until it resumes."""
    config = str(fleet.nodes[2].configuration)
    assert main(["pause", "--config", config, "--reason", "lunch"]) == 0
    try:
        status, out, _ = fleet.publish("new", "--canary", "node3", "--timeout", "6s")
        assert status == 1
        assert "lunch" in out
        assert "1 of 1 nodes did not confirm it within 6.0 s" in out
    finally:
        assert main(["resume", "--config", config]) == 0
    assert fleet.publish("new", "--canary", "node3")[0] == 0
    assert fleet.payloads() == ["new"] * SIZE


def test_a_canary_that_was_rolled_back_gets_it_again(fleet: RolloutFleet) -> None:
    """By the same command, once its handlers go on; `agentd fleet` shows meanwhile which node lacks it."""
    config = str(fleet.nodes[2].configuration)
    running = fleet.begin("new", "--canary", "node3", "--pause", "10m")
    fleet.await_payloads("old", "old", "new", "old", "old")
    wait_until(lambda: fleet.run("fleet")[0] == 0, "the canary to acknowledge it", pause=0.5)
    assert "rollout open: " in fleet.run("fleet")[1]
    running.kill()
    running.wait()
    assert main(["rollback", "--config", config]) == 0
    assert main(["resume", "--config", config]) == 0
    fleet.await_payloads(*["old"] * SIZE)
    text = "was applied, but is not in force: it was rolled back"
    wait_until(lambda: text in fleet.run("fleet")[1], "the canary to acknowledge that", pause=0.5)
    words = ("--canary", "node3", "--steps", "100%", "--timeout", "8s")
    told = fleet.json("publish", NAME, "new", *SWIFT, *words)
    assert [one["step"] for one in told["steps"]] == ["last step", "again", "100%", "release"]
    assert fleet.payloads() == ["new"] * SIZE


def test_a_release_that_somebody_has_yet_to_take_is_waited_for_again(fleet: RolloutFleet) -> None:
    """The status says that it was released, and the same command waits, but publishes nothing."""
    running = fleet.begin("new", "--canary", "node3", "--steps", "50%", "--pause", "3s", "--timeout", "30s")
    fleet.await_steps(2)
    out = wait_until(lambda: [one for one in fleet.nodes if one.name not in fleet.seen()["admitted"]], "one")
    out[0].stop()
    told, _ = running.communicate(timeout=200)
    assert running.returncode == 1
    assert "released: in force on 4 of 5 nodes" in told
    out[0].start()
    count = len(fleet.messages())
    assert fleet.json("publish", NAME, "new", *SWIFT, "--canary", "node3")["outcome"] == "released"
    assert len(fleet.messages()) == count
    assert fleet.payloads() == ["new"] * SIZE


def test_an_earlier_message_may_be_rolled_out_again(fleet: RolloutFleet) -> None:
    """By its number."""
    [before] = fleet.messages()
    assert fleet.publish("new", "--canary", "1")[0] == 0
    told = fleet.json("publish", NAME, "--again", str(before.num), *SWIFT, "--canary", "1")
    assert told["outcome"] == "released"
    assert fleet.payloads() == ["old"] * SIZE


def test_the_example_of_the_page_goes_as_it_says(fleet: RolloutFleet, tmp_path: Path) -> None:
    """Line by line, each with the exit status that its comment names."""
    (fleet.directory / "n3" / "refuses").write_text("v2")
    example = re.findall(r"(?ms)^```sh\n(.*?)^```$", PAGE.read_text())[-1]
    where = _commands(fleet)
    for line in example.splitlines():
        wanted = int("exit status 1" in line)
        done = subprocess.run(
            ["/bin/bash", "-c", f"{where}\n{line}"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == wanted, (line, done.stdout, done.stderr)
    assert fleet.payloads() == ["v2", "v2", "v1", "v2", "v2"]


def _commands(fleet: RolloutFleet) -> str:
    """What makes `agentd` of the page talk to this fleet."""
    return f'agentd() {{ exec "{sys.executable}" -m agentd "$@" {" ".join(fleet.address)}; }}'


def test_the_page_begins_a_rollout_and_aborts_it(fleet: RolloutFleet, tmp_path: Path) -> None:
    """Status shows it while it pauses at the canary; the abort ends it everywhere, and where it was begun."""
    begin, *others = re.findall(r"(?m)^agentd (?:publish|rollout) .*$", PAGE.read_text())
    (tmp_path / "site.txt").write_text("new")
    argv = ["/bin/bash", "-c", f"{_commands(fleet)}\n{begin}"]
    with subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE) as running:
        fleet.running.callback(running.kill)
        wait_until(lambda: fleet.payloads().count("new") == 1, "the canary")
        for line in others[:2]:
            status, out, err = fleet.run(*shlex.split(line, comments=True)[1:])
            assert status == 0, out + err
        assert running.wait(timeout=PATIENCE) == 1
    assert fleet.payloads() == ["old"] * SIZE


def test_there_is_nothing_to_abort(fleet: RolloutFleet) -> None:
    """It says so; status shows none, and knows no fleet of another name."""
    status, _, err = fleet.run("rollout", "abort", NAME)
    assert status == 1
    assert "no rollout of site is open" in err
    assert fleet.run("rollout", "status")[:2] == (0, "No rollout is open.\n")
    elsewhere = ["rollout", "status", "--fleet", "nowhere", "--http-addr", fleet.consul.url]
    assert main(elsewhere) == 1
