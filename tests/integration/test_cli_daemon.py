"""The command line beside a real daemon, on real Consul and nginx: what it tells is what happened."""

from __future__ import annotations

import json
import os
from base64 import encodebytes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_main_job import new_key
from tests.servers.agentd import WAIT
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import BLACKLIST_EVENT, TICKET_EVENT, Node, main_job
from tests.servers.waiting import wait_until

BLOCKED = "203.0.113.7"


@pytest.fixture
def names(suffix: str) -> dict[str, str]:
    """This test's own event names."""
    return {"key": TICKET_EVENT + suffix, "block": BLACKLIST_EVENT + suffix}


@pytest.fixture
def node(new_node: Callable[..., Node], suffix: str) -> Node:
    """A node at work: Consul, nginx and the daemon."""
    return new_node(handlers=main_job(promote_after="0s", interval="50ms", suffix=suffix)).start()


def said(node: Node, *argv: str, status: int = 0) -> str:
    """Run a command that must end with `status`; what it printed."""
    done = node.agentd.command(*argv)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def told(node: Node, *argv: str, status: int = 0) -> Any:  # noqa: ANN401 (any JSON)
    """The same with --json."""
    return json.loads(said(node, *argv, "--json", status=status))


def test_fired_event_ends_in_the_history(node: Node, names: dict[str, str], directory: Path) -> None:
    """`fire --file` prints the ID under which `history` tells the outcome, and the key shows nowhere."""
    key = encodebytes(os.urandom(48))
    (directory / "key").write_bytes(key)
    identity = said(node, "fire", names["key"], "--file", str(directory / "key")).strip()
    node.outcome(identity)
    (row,) = told(node, "history", identity)
    assert (row["handler"], row["outcome"]) == ("ticket-keys", "applied")
    assert row["generation"] == node.generation
    assert "tickets/tickets.conf" in row["paths"]
    everything = said(node, "history") + said(node, "history", identity)
    assert key.decode().split()[0] not in everything


def test_refused_payload_says_why(node: Node, names: dict[str, str]) -> None:
    """An operator who fired nonsense finds the reason."""
    identity = said(node, "fire", names["block"], "add not-an-address").strip()
    node.outcome(identity)
    (row,) = told(node, "history", identity)
    assert row["outcome"] == "refused"
    assert "address" in row["reason"]


def test_status_of_a_daemon_at_work_is_well(node: Node) -> None:
    """It answers for itself, nothing is owed, and every query had contact."""
    # An nginx that started beside a commit may have read the generation before; agentd looks every 5 s.
    wait_until(lambda: node.agentd.command("status").returncode == 0, "all to be well", pause=0.5)
    state = told(node, "status")
    assert (state["running"], state["source"], state["trouble"]) == (True, "daemon", [])
    assert state["pid"] == node.agentd.process.pid
    assert state["generation"] == node.generation
    assert [one["query"] for one in state["queries"]] == ["event"]


def test_status_tells_of_each_handler(node: Node, names: dict[str, str]) -> None:
    """What is live, the ages of the keys, and the refusal of the last change until one ends well."""
    node.outcome(node.fire(names["key"], encodebytes(os.urandom(48))))
    state = told(node, "status")
    keys = state["handlers"]["ticket-keys"]
    assert (keys["live"], keys["waiting"], keys["last_failure"]) == (node.generation, 0, None)
    assert keys["status"][0]["part"] == "encrypting key"
    assert said(node, "status").startswith("All is well.")
    node.outcome(node.fire(names["block"], b"add not-an-address"))
    assert said(node, "status", status=1).startswith("! ")
    node.outcome(node.fire(names["block"], f"add {BLOCKED}".encode()))
    assert told(node, "status")["trouble"] == []


def test_status_after_the_daemon_stopped_says_so(node: Node) -> None:
    """The journal and the tree answer, and the exit status is a monitor's."""
    node.agentd.stop()
    state = told(node, "status", status=1)
    assert (state["running"], state["source"], state["generation"]) == (
        False,
        "journal and tree",
        node.generation,
    )


def test_rollback_is_proved_live_by_the_daemon(node: Node, names: dict[str, str]) -> None:
    """The blocked address is served again, because new workers run the generation before."""
    node.outcome(node.fire(names["block"], f"add {BLOCKED}".encode()))
    before = node.generation
    assert node.nginx.get(client=BLOCKED)[0] == 403
    result = told(node, "rollback", *WAIT)
    assert [one["outcome"] for one in result["reloads"]] == ["applied"]
    assert (result["before"], node.generation) == (before, result["generation"])
    assert node.nginx.get(client=BLOCKED)[0] == 200


def test_rollback_without_the_daemon_flips_and_says_what_is_left(node: Node, names: dict[str, str]) -> None:
    """The daemon's next start has nginx load what the command made current."""
    node.outcome(node.fire(names["block"], f"add {BLOCKED}".encode()))
    node.agentd.stop()
    assert "nginx has not been reloaded" in said(node, "rollback", status=1)
    assert node.nginx.get(client=BLOCKED)[0] == 403
    node.agentd.start()
    (reload,) = told(node, "history", f"rollback-{node.generation}")
    node.outcome(reload["id"])
    assert node.nginx.get(client=BLOCKED)[0] == 200


def test_rollback_to_what_nginx_refuses_moves_nothing(node: Node, names: dict[str, str]) -> None:
    """The check comes before the flip; what it says is told."""
    node.outcome(node.fire(names["block"], f"add {BLOCKED}".encode()))
    current = node.generation
    node.nginx.break_configuration()
    done = node.agentd.command("rollback")
    assert (done.returncode, node.generation) == (1, current)
    assert done.stderr.startswith("agentd: nginx's configuration is broken elsewhere")
    assert "no_such_directive" in done.stderr


def test_replay_applies_a_change_once_more(node: Node, names: dict[str, str]) -> None:
    """What a rollback took away comes back by replaying the event that brought it."""
    identity = node.fire(names["block"], f"add {BLOCKED}".encode())
    node.outcome(identity)
    assert told(node, "rollback", *WAIT)["paused"] == ["blacklist"]
    told(node, "resume", *WAIT)
    (row,) = told(node, "replay", identity[:8], *WAIT)
    assert (row["id"], row["outcome"]) == (f"{identity}#2", "applied")
    assert node.nginx.get(client=BLOCKED)[0] == 403


def test_dry_replay_shows_what_would_change_and_keeps_the_tree(node: Node, names: dict[str, str]) -> None:
    """The line that would come is shown as a diff; no generation is made, and nothing is served."""
    identity = node.fire(names["block"], f"add {BLOCKED}".encode())
    node.outcome(identity)
    told(node, "rollback", *WAIT)
    before = node.generation
    shown = said(node, "replay", identity, "--dry-run")
    assert f"+++ b/blacklist/ipv4.ranges\n@@ -0,0 +1 @@\n+{BLOCKED}-{BLOCKED} 1;\n" in shown
    assert node.generation == before
    assert node.nginx.get(client=BLOCKED)[0] == 200


def test_dry_replay_of_a_key_shows_no_key(node: Node, names: dict[str, str]) -> None:
    """Key files show by length and digest alone."""
    key = os.urandom(48)
    node.nginx.break_configuration()  # so that it waits
    identity = node.fire(names["key"], encodebytes(key))
    wait_until(lambda: node.entry(identity), "the event")
    shown = said(node, "replay", identity, "--dry-run")
    assert "48 bytes sha256:" in shown
    assert encodebytes(key).decode().split()[0] not in shown
    assert key.hex() not in shown


def test_generations_name_their_makers(node: Node, names: dict[str, str]) -> None:
    """The newest is current, and the handler that made it stands beside it."""
    node.outcome(node.fire(names["block"], f"add {BLOCKED}".encode()))
    newest, *older = told(node, "generations")
    assert (newest["generation"], newest["current"], newest["by"]) == (node.generation, True, "blacklist")
    assert not any(one["current"] for one in older)


def test_check_of_a_working_node_finds_nothing_in_the_way(node: Node) -> None:
    """Every line is ok but that the test's directories are its own."""
    # An nginx that started beside a commit may have read the generation before; agentd looks every 5 s.
    wait_until(lambda: node.agentd.command("check").returncode == 0, "nothing to be in the way", pause=0.5)
    found = told(node, "check")
    assert {one["subject"] for one in found if one["level"] == "FAIL"} == set()


def test_check_only_warns_of_what_the_first_reload_of_nginx_cures(
    new_node: Callable[..., Node], suffix: str, names: dict[str, str]
) -> None:
    """The `include` was added while agentd and nginx ran: changes wait, and one reload ends that."""
    handlers = main_job(suffix=suffix)
    del handlers["blacklist"]  # its variable would be unknown to nginx
    node = new_node(handlers=handlers)
    conf = node.nginx.conf.read_text()
    node.nginx.conf.write_text(conf.replace("include agentd/current/agentd.conf;", ""))
    node.nginx.start()
    node.agentd.start()
    event = node.fire(names["key"], new_key())
    wait_until(lambda: node.entry(event), "the change to be there", pause=0.1)
    wait_until(lambda: node.history()[0]["reason"], "the wait for the proof", pause=0.1)

    failing = {one["subject"]: one for one in told(node, "check", status=1) if one["level"] == "FAIL"}
    node.nginx.conf.write_text(conf)
    told(node, "check")
    node.nginx.reload()

    assert list(failing) == ["nginx include"]
    assert node.outcome(event)["outcome"] == "applied"


def test_fire_without_the_right_is_refused(
    new_consul: Callable[..., ConsulAgent], new_node: Callable[..., Node], directory: Path
) -> None:
    """Consul's refusal is one line with what to do, and the token is not in it."""
    agent = new_consul(acl=True)
    secret = agent.make_token('event_prefix "" { policy = "read" }')
    (directory / "token").write_text(secret)
    settings = {"consul": {"address": agent.url, "token_file": str(directory / "token")}}
    node = new_node(consul=agent, handlers=main_job(), settings=settings)
    done = node.agentd.command("fire", TICKET_EVENT, "x")
    assert done.returncode == 1
    assert done.stderr.startswith("agentd: Consul answered /v1/event/fire/")
    assert "grant the token that right" in done.stderr
    assert secret not in done.stderr
    assert done.stderr.count("\n") == 1


def test_before_the_first_reload_check_only_warns(new_node: Callable[..., Node], suffix: str) -> None:
    """As README has it: the include is added after agentd has started, and one reload cures the rest."""
    node = new_node(handlers=main_job(suffix=suffix))
    complete = node.nginx.conf.read_text()
    own = [
        line
        for line in complete.splitlines()
        if "include agentd/" not in line and "$agentd_blocked" not in line
    ]
    node.nginx.conf.write_text("\n".join(own))
    node.nginx.start()
    node.agentd.start()
    node.fire(TICKET_EVENT + suffix, encodebytes(os.urandom(48)))
    wait_until(lambda: any(one["reason"] for one in node.history("ticket-keys")), "the change to wait")
    node.nginx.conf.write_text(complete)

    early = node.agentd.command("check")
    node.nginx.reload()
    wait_until(lambda: all(one["outcome"] for one in node.history()), "the outcomes")
    wait_until(lambda: _is_fine(node), "nothing to be in the way")

    assert (early.returncode, "FAIL" in early.stdout) == (0, False), early.stdout
    assert "warn  handler ticket-keys   behind since" in early.stdout
    assert "`systemctl reload nginx` once" in early.stdout


def _is_fine(node: Node) -> bool:
    """Whether `agentd check` finds nothing wrong, but perhaps that it is not root who asks."""
    lines = node.agentd.command("check").stdout.splitlines()
    found = [line.split()[:2] for line in lines if line.startswith(("warn", "FAIL"))]
    return bool(lines) and all(subject == "user" for _, subject in found)
