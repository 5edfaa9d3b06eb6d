"""A pause on a real daemon, with real Consul and nginx: what waits, what goes on, and what outlives what."""

from __future__ import annotations

import json
import os
from base64 import encodebytes
from collections.abc import Callable

import pytest

from tests.integration.test_cli_daemon import said, told
from tests.integration.test_faults import fill, small_disk
from tests.servers.agentd import WAIT
from tests.servers.fleet import BLACKLIST_EVENT, TICKET_EVENT, Node, main_job
from tests.servers.waiting import wait_until

FIRST = "203.0.113.7"
SECOND = "203.0.113.8"


@pytest.fixture
def names(suffix: str) -> dict[str, str]:
    """This test's own event names."""
    return {"key": TICKET_EVENT + suffix, "block": BLACKLIST_EVENT + suffix}


@pytest.fixture
def node(new_node: Callable[..., Node], suffix: str) -> Node:
    """A node at work: Consul, nginx and the daemon."""
    made = new_node(handlers=main_job(promote_after="0s", interval="50ms", suffix=suffix)).start()
    made.agentd.await_listening()
    return made


def served(node: Node, client: str) -> int:
    """With which status nginx answers that client."""
    return node.nginx.get(client=client)[0]


def held(node: Node, event: str) -> str:
    """Wait until a change waits for its paused handler; the reason in the history."""

    def reason() -> str:
        entry = node.entry(event)
        assert not (entry and entry["outcome"])
        return entry["reason"] if entry else ""

    return wait_until(reason, f"{event} to be held back")


def test_a_pause_outlives_a_kill_and_lets_go_in_order(node: Node, names: dict[str, str]) -> None:
    """Nothing is applied meanwhile, nothing is lost, and what expires does so."""
    node.outcome(node.fire(names["block"], f"add {FIRST} 3s".encode()))
    paused = told(node, "pause", "blacklist", "--reason", "db work", *WAIT)
    add, more = (
        node.fire(names["block"], payload)
        for payload in (f"add {SECOND}".encode(), f"remove {SECOND}\nadd 203.0.113.9".encode())
    )
    reason = held(node, add)
    wait_until(lambda: served(node, FIRST) == 200, "the entry to expire in the pause")
    metrics = node.agentd.get("/metrics")[1]
    node.agentd.kill()
    node.agentd.start()
    again = held(node, more)

    assert (paused["paused"], paused["late"], paused["daemon"]) == (["blacklist"], [], True)
    assert reason.startswith("paused since ")
    assert reason.endswith(": db work")
    assert again == reason
    assert 'agentd_paused{handler="blacklist"} 1.0' in metrics
    assert 'agentd_paused{handler="ticket-keys"} 0.0' in metrics
    assert served(node, SECOND) == 200
    assert "! blacklist is paused since" in said(node, "status", status=1)
    assert told(node, "status", status=1)["handlers"]["blacklist"]["paused"]["reason"] == "db work"
    node.outcome(node.fire(names["key"], encodebytes(os.urandom(48))))  # other handlers go on

    assert "blacklist goes on" in said(node, "resume", *WAIT)
    assert [node.outcome(one)["outcome"] for one in (add, more)] == ["applied", "applied"]
    assert (served(node, SECOND), served(node, "203.0.113.9")) == (200, 403)
    wait_until(lambda: 'agentd_paused{handler="blacklist"} 0.0' in node.agentd.get("/metrics")[1], "0")


def test_a_pause_ends_by_itself(node: Node, names: dict[str, str]) -> None:
    """After the time that was given, without a command."""
    told(node, "pause", "--for", "2s", *WAIT)
    assert node.outcome(node.fire(names["block"], f"add {FIRST}".encode()))["outcome"] == "applied"
    wait_until(lambda: node.agentd.command("status").returncode == 0, "all to be well", pause=0.5)


def test_a_file_that_cannot_be_read_pauses_everything(node: Node, names: dict[str, str]) -> None:
    """It says how to go on; that works while the daemon runs."""
    (node.directory / "state" / "paused.json").write_text("{")
    wait_until(
        lambda: "`agentd resume` removes it" in node.agentd.command("status").stdout,
        "it to be told",
        pause=0.5,
    )
    event = node.fire(names["block"], f"add {FIRST}".encode())
    held(node, event)

    said(node, "resume", *WAIT)
    assert node.outcome(event)["outcome"] == "applied"


def test_what_is_heard_after_a_rollback_does_not_undo_it(node: Node, names: dict[str, str]) -> None:
    """The handlers whose files it changed are paused, but not the ticket keys, which keep theirs."""
    node.outcome(node.fire(names["block"], f"add {FIRST}".encode()))
    node.outcome(node.fire(names["key"], encodebytes(os.urandom(48))))
    node.outcome(node.fire(names["block"], f"add {SECOND}".encode()))
    ring = [path.read_bytes() for path in node.tickets()]
    back = told(node, "rollback", "1", *WAIT)
    kept = [path.read_bytes() for path in node.tickets()]
    event = node.fire(names["block"], b"add 203.0.113.9")
    held(node, event)
    key = node.outcome(node.fire(names["key"], encodebytes(os.urandom(48))))

    assert back["paused"] == ["blacklist"]
    assert [one["outcome"] for one in back["reloads"]] == ["applied"]
    assert key["outcome"] == "applied"
    assert (served(node, FIRST), served(node, "203.0.113.9")) == (200, 200)
    assert kept == ring

    said(node, "resume", "blacklist", *WAIT)
    assert node.outcome(event)["outcome"] == "applied"
    assert (served(node, FIRST), served(node, "203.0.113.9")) == (200, 403)


def test_nobody_waits_for_a_paused_handler(node: Node, names: dict[str, str]) -> None:
    """A replay with --wait says at once why it does not happen."""
    event = node.fire(names["block"], f"add {FIRST}".encode())
    node.outcome(event)
    told(node, "pause", "blacklist", "--reason", "db work", *WAIT)
    (row,) = told(node, "replay", event, "--wait", "1h", status=1)

    assert row["state"] == "waiting"
    assert row["reason"].endswith(": db work")


def test_a_full_disk_neither_pauses_nor_resumes_by_half(
    new_node: Callable[..., Node], names: dict[str, str], suffix: str
) -> None:
    """The command says so, what was paused stays so, and what waits is applied once there is room."""
    node = new_node(handlers=main_job(promote_after="0s", interval="50ms", suffix=suffix))
    with small_disk(node.directory / "state", "4m"):
        node.start()
        node.agentd.await_listening()
        told(node, "pause", "blacklist", *WAIT)
        event = node.fire(names["block"], f"add {FIRST}".encode())
        held(node, event)
        filler = node.directory / "state" / "filler"
        fill(filler)
        done = node.agentd.command("pause", "ticket-keys")
        still = json.loads(node.agentd.get("/status")[1])["handlers"]
        filler.unlink()

        assert (done.returncode, "No space left" in done.stderr) == (1, True)
        assert (bool(still["blacklist"]["paused"]), still["ticket-keys"]["paused"]) == (True, None)
        said(node, "resume", *WAIT)
        assert node.outcome(event)["outcome"] == "applied"
        node.stop()
