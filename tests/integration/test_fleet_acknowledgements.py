"""What real daemons acknowledge, on real Consul and nginx: starts, messages, roll-backs, drift and ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agentd.fleet.acknowledgement import Acknowledgement, Name
from agentd.fleet.acknowledgement_codec import parse
from agentd.fleet.keys import Keys
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node, main_job
from tests.servers.followers import FollowingNode, publish
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

_NAME = "blocked"
_FIRST, _SECOND = "198.51.100.7", "198.51.100.8"
_WAITS = 60.0


class Told:
    """A node with a blacklist that is fed from the log, and what the fleet is told of it."""

    def __init__(self, node: Node, fleet: str) -> None:
        self.node = node
        self.fleet = fleet
        self.consul = node.consul

    def document(self, name: str = "lb1") -> Acknowledgement | None:
        """As it is in Consul."""
        found = self.consul.kv_get(Keys(self.fleet).node(name))
        return None if found is None else parse(found)

    def until(
        self, what: str, holds: Callable[[Acknowledgement], bool], name: str = "lb1"
    ) -> Acknowledgement:
        """The document, once it says so."""

        def look() -> Acknowledgement | None:
            document = self.document(name)
            return document if document and holds(document) else None

        found = wait_until(look, f"{what}; it says {self.document(name)}", seconds=_WAITS)
        assert found is not None
        return found

    def fleet_command(self) -> tuple[int, list[tuple[str, str]]]:
        """The exit status of `agentd fleet`, and what differs."""
        done = self.node.agentd.command("fleet", "--json", "--service", "nobody")
        found = json.loads(done.stdout)["differences"]
        return done.returncode, [(one["trouble"], one["text"]) for one in found]

    def publish(self, payload: str) -> None:
        """A message of the log."""
        publish(self.consul, self.fleet, _NAME, payload)

    def until_live(self, after: int = 0) -> tuple[int, Acknowledgement]:
        """The number in force, once it is above this one, and the document."""
        document = self.until(f"a number above {after}", lambda one: (_of(one).live or 0) > after)
        return _of(document).live or 0, document

    def restart(self, **section: Any) -> None:  # noqa: ANN401 (of the section `fleet:`)
        """Stop it, and start it with more in its section `fleet:`."""
        self.node.agentd.stop()
        self.node.config["fleet"] |= section
        self.node.configure()
        self.node.agentd.start()


def _of(document: Acknowledgement) -> Name:
    return document.names[_NAME]


@pytest.fixture
def fleet(consul: ConsulAgent) -> Iterator[str]:
    """The name of a fleet that no other test has; what it leaves in Consul is removed."""
    name = f"fleet-{free_port()}"
    yield name
    consul.kv_delete(f"agentd/{name}/", recurse=True)
    for service in consul.get("/v1/agent/services"):
        if service.startswith(f"agentd-{name}-"):
            consul.deregister(service)


@pytest.fixture
def new_told(new_node: Callable[..., Node], fleet: str) -> Callable[..., Told]:
    """Make nodes of the fleet, running."""

    def make(node: str = "lb1", *, reload: str = "nginx_reload", **settings: Any) -> Told:  # noqa: ANN401 (of agentd.yaml)
        handlers = main_job(promote_after="0s", interval="100ms", suffix=f"-{fleet}")
        handlers["nginx-reload"]["use"] = reload
        handlers["blacklist"]["on"] = [{"event": _NAME, "keep": "all"}]
        section = {"fleet": {"name": fleet, "node": node}}
        return Told(new_node(handlers=handlers, settings=section | settings).start(), fleet)

    return make


@pytest.fixture
def told(new_told: Callable[..., Told]) -> Told:
    """One such node."""
    return new_told()


def test_a_start_is_acknowledged(told: Told) -> None:
    """With who it is, what it takes, and its handlers."""
    document = told.until(
        "the blacklist and the keys",
        lambda one: bool(one.handlers["blacklist"].fingerprint) and "ticket-keys" in one.reported("ring"),
    )

    assert document.node_id == told.consul.get("/v1/agent/self")["Config"]["NodeID"]
    assert document.names == {_NAME: Name()}
    assert document.handlers["blacklist"].names == (_NAME,)
    assert document.handlers.keys() == document.options.keys()
    assert len(document.reported("ring")["ticket-keys"]) == 1
    assert document.stopped is None


def test_what_is_applied_is_acknowledged_once_it_is_live(told: Told) -> None:
    """With the generation, the outcome and the new fingerprint."""
    before = told.until("the blacklist", lambda one: bool(one.handlers["blacklist"].fingerprint))

    told.publish(f"add {_FIRST}")
    num, document = told.until_live()

    assert told.node.nginx.get(client=_FIRST)[0] == 403
    assert _of(document).tried is not None
    after = told.until(
        "another fingerprint",
        lambda one: (
            one.handlers["blacklist"].fingerprint not in (None, before.handlers["blacklist"].fingerprint)
        ),
    )
    assert (_of(after).live, after.handlers["blacklist"].outcome) == (num, "applied")
    assert after.generation == told.node.generation


def test_a_refusal_is_acknowledged_with_its_reason(told: Told) -> None:
    """What was live stays so."""
    told.publish(f"add {_FIRST}")
    num, _ = told.until_live()

    told.publish("add nonsense")
    document = told.until("the refusal", lambda one: _refused(_of(one)))

    tried = _of(document).tried
    assert tried is not None
    assert _of(document).live == num
    assert tried.num > num
    assert "nonsense" in tried.reason


def _refused(name: Name) -> bool:
    return name.tried is not None and name.tried.outcome == "refused"


def test_a_rollback_by_hand_lowers_what_is_live(told: Told) -> None:
    """To what the generation before had; the newest is tried, and not in force."""
    told.publish(f"add {_FIRST}")
    first, _ = told.until_live()
    told.publish(f"add {_SECOND}")
    second, _ = told.until_live(first)

    assert told.node.agentd.command("rollback").returncode == 0
    document = told.until("the older number", lambda one: _of(one).live == first)

    tried = _of(document).tried
    assert tried is not None
    assert (tried.num, tried.reason) == (second, "it was rolled back")
    assert told.node.nginx.get(client=_SECOND)[0] != 403


def test_workers_that_keep_an_old_generation_keep_the_number_from_being_live(told: Told) -> None:
    """The master was killed, and its workers serve on what they have."""
    told.publish(f"add {_FIRST}")
    first, _ = told.until_live()
    told.node.nginx.kill_master()

    told.publish(f"add {_SECOND}")
    document = told.until(
        "the reason", lambda one: bool((tried := _of(one).tried) and tried.num > first and tried.reason)
    )

    tried = _of(document).tried
    assert tried is not None
    assert _of(document).live in (first, None)
    assert (tried.outcome, "not live: " in tried.reason) == ("", True), tried


def test_without_nginx_it_is_acknowledged_and_said(told: Told) -> None:
    """It will be served when nginx starts."""
    told.node.nginx.stop()

    told.publish(f"add {_FIRST}")
    _, document = told.until_live()

    tried = _of(document).tried
    assert tried is not None
    assert "nginx is not running" in tried.reason


def test_an_nginx_that_stops_is_told_until_it_runs_again(told: Told) -> None:
    """Though no message comes, and what is in force stays so."""
    told.publish(f"add {_FIRST}")
    num, _ = told.until_live()
    told.until("that it is served", lambda one: not one.not_served)
    assert told.fleet_command() == (0, [])

    told.node.nginx.stop()
    stopped = told.until("the stop", lambda one: bool(one.not_served))
    during = told.fleet_command()
    told.node.nginx.start()
    started = told.until("the start", lambda one: not one.not_served)
    after = told.fleet_command()

    assert during == (1, [("not served", stopped.not_served)])
    assert stopped.not_served.startswith("nginx is not running: ")
    assert after == (0, [])
    assert _of(stopped).live == _of(started).live == num


def test_workers_that_outlive_their_master_still_serve(told: Told) -> None:
    """Until they are gone, too; a daemon that starts meanwhile sees the same."""
    told.publish(f"add {_FIRST}")
    told.until_live()
    workers = told.node.nginx.kill_master()
    told.node.agentd.stop()
    told.node.agentd.start()
    started = told.until("the start", lambda one: one.stopped is None)

    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    ended = told.until("the end of the workers", lambda one: bool(one.not_served))

    assert started.not_served == ""
    assert ended.not_served.startswith("nginx is not running: ")


def test_a_damaged_tree_lowers_what_is_live_until_it_is_mended(new_told: Callable[..., Told]) -> None:
    """Where it is only told, for as long as it lasts."""
    told = new_told(drift="report")
    told.publish(f"add {_FIRST}")
    num, _ = told.until_live()
    victim = next((told.node.nginx.tree / "current").resolve().rglob("tickets.conf"))
    os.truncate(victim, 3)

    during = told.until("the damage", lambda one: "tree" in one.drift)
    told.publish(f"add {_SECOND}")  # what is new mends it
    after = told.until("the next", lambda one: (_of(one).live or 0) > num)

    assert _of(during).live is None
    assert victim.name in during.drift["tree"]
    assert after.drift == {}


@pytest.mark.parametrize("drift", ["mend", "report"])
def test_an_nginx_that_serves_an_older_generation_is_told_and_mended_or_only_told(
    new_told: Callable[..., Told], drift: str
) -> None:
    """Nobody but the regular look would notice; what is new mends it in any case."""
    told = new_told(reload="tests.integration.watchful:WatchfulReload", drift=drift)
    told.publish(f"add {_FIRST}")
    num, _ = told.until_live()

    _serve_older(told.node)
    if drift == "report":
        found = told.until("the drift", lambda one: bool(one.handlers["nginx-reload"].drift))
        assert _of(found).live is None
        assert "generation" in found.handlers["nginx-reload"].drift
        assert "drifted" in told.node.agentd.command("fleet").stdout
        assert told.node.nginx.get(client=_FIRST)[0] != 403
        told.publish(f"add {_SECOND}")
    wait_until(lambda: told.node.nginx.get(client=_FIRST)[0] == 403, "nginx to be reloaded", seconds=_WAITS)

    after = told.until(
        "its end", lambda one: not one.handlers["nginx-reload"].drift and _of(one).live is not None
    )
    assert ((_of(after).live or 0) > num) == (drift == "report")


def _serve_older(node: Node) -> None:
    """Have nginx read an earlier generation, as if a backup had been put back for a moment."""
    current = node.nginx.tree / "current"
    now, pid = current.readlink(), node.agentd.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        for target in (now.with_name(f"{int(now.name) - 1:06}"), now):
            (made := current.with_name("other")).symlink_to(target)
            made.rename(current)
            if target != now:
                node.nginx.reload()
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_clean_stop_is_acknowledged_and_a_start_takes_it_back(told: Told) -> None:
    """What is live stays: nginx goes on."""
    told.publish(f"add {_FIRST}")
    num, _ = told.until_live()
    told.node.agentd.stop()
    stopped = told.document()
    told.node.agentd.start()
    again = told.until("the start", lambda one: one.stopped is None)

    assert stopped is not None
    assert stopped.stopped is not None
    assert _of(stopped).live == _of(again).live == num


def test_a_kill_leaves_the_last_word_and_the_health_check_tells(told: Told) -> None:
    """The document is not withdrawn; the service is critical."""
    told.publish(f"add {_FIRST}")
    num, _ = told.until_live()
    identity = f"service:agentd-{told.fleet}-lb1"

    def health() -> str:
        checks = told.consul.get("/v1/agent/checks")
        return str(checks.get(identity, {}).get("Status"))

    wait_until(lambda: health() == "passing", "the check", seconds=_WAITS)
    told.node.agentd.kill()

    wait_until(lambda: health() == "critical", "the check to notice", seconds=_WAITS)
    document = told.document()
    assert document is not None
    assert document.stopped is None
    assert _of(document).live == num


def test_a_renamed_node_acknowledges_under_its_new_name_only(told: Told) -> None:
    """It leaves the fleet under the old one."""
    told.publish(f"add {_FIRST}")
    num, before = told.until_live()

    told.restart(node="lb2")
    document = told.until("the new name", lambda one: _of(one).live == num, "lb2")

    wait_until(lambda: told.document("lb1") is None, "the old document to be gone", seconds=_WAITS)
    assert document.node_id == before.node_id


def test_of_two_nodes_of_one_name_one_says_so(
    new_consul: Callable[..., ConsulAgent], directory: Path, fleet: str
) -> None:
    """In its status, its log and its metrics; the other one's document stays as it is."""
    first_agent = new_consul(node="first")
    agents = [first_agent, new_consul(node="second", address="127.0.0.2", join=first_agent)]
    with ExitStack() as stack:
        nodes = []
        for agent in agents:
            nodes.append(FollowingNode(directory / agent.node, "lb1", fleet=fleet, consul=agent).start())
            stack.callback(nodes[-1].stop)
            wait_until(lambda: first_agent.kv_get(Keys(fleet).node("lb1")), "a document")
        first, second = nodes

        def metrics(node: FollowingNode) -> str:
            return node.agentd.get("/metrics")[1]

        wait_until(lambda: "agentd_fleet_name_taken 1.0" in metrics(second), "the metric", seconds=_WAITS)
        found = first_agent.kv_get(Keys(fleet).node("lb1"))
        troubles = json.loads(second.agentd.get("/status")[1])["fleet"]["troubles"]

        assert "agentd_fleet_name_taken 0.0" in metrics(first)
        assert parse(found or b"").node_id == first_agent.get("/v1/agent/self")["Config"]["NodeID"]
        assert "another node acknowledges as lb1" in troubles[0]
        assert sum('"fleet.name_taken"' in line for line in second.agentd.log_lines()) == 1


def test_a_reload_of_the_configuration_is_no_stop(told: Told) -> None:
    """Nobody is told that agentd stopped."""
    told.until("the start", lambda _: True)
    seen: list[Acknowledgement] = []

    told.node.agentd.reload()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        if document := told.document():
            seen.append(document)
        time.sleep(0.05)

    assert seen
    assert all(one.stopped is None for one in seen)


def test_a_reload_without_the_fleet_leaves_it(told: Told) -> None:
    """So that what is left in Consul can be removed: nobody acknowledges any more."""
    told.publish(f"add {_FIRST}")
    told.until_live()
    identity = f"agentd-{told.fleet}-lb1"
    wait_until(lambda: identity in told.consul.get("/v1/agent/services"), "the service")

    told.node.config["fleet"] = None
    told.node.config["handlers"]["blacklist"]["on"][0].pop("keep")
    told.node.configure()
    told.node.agentd.reload()

    wait_until(lambda: told.document() is None, "the document to be removed", seconds=_WAITS)
    assert identity not in told.consul.get("/v1/agent/services")
    assert told.node.nginx.get(client=_FIRST)[0] == 403
    where = ("--fleet", told.fleet, "--http-addr", told.consul.url)
    assert told.node.agentd.command("fleet", "remove", "--yes", *where).returncode == 0


@pytest.mark.parametrize("section", [None, {"name": "another"}])
def test_a_restart_without_the_fleet_or_with_another_leaves_it(
    told: Told, section: dict[str, str] | None
) -> None:
    """As a reload does: neither document nor service says any more that the node is part of it."""
    told.until("the start", lambda _: True)
    identity = f"agentd-{told.fleet}-lb1"
    wait_until(lambda: identity in told.consul.get("/v1/agent/services"), "the service")
    told.node.agentd.stop()
    another = f"{told.fleet}-2"
    told.node.config["fleet"] = section and {"name": another, "node": "lb1"}
    told.node.config["handlers"]["blacklist"]["on"] = [{"event": f"{_NAME}-{told.fleet}"}]
    told.node.configure()

    told.node.agentd.start()

    wait_until(lambda: told.document() is None, "the document to be removed", seconds=_WAITS)
    assert identity not in told.consul.get("/v1/agent/services")
    if section:
        found = Told(told.node, another).until("the other fleet", lambda one: one.stopped is None)
        told.consul.kv_delete(f"agentd/{another}/", recurse=True)
        assert found.node_id


def test_a_reload_with_another_name_leaves_nothing_of_the_old_one(told: Told) -> None:
    """It is the same node, so that nobody need have the fleet forget it."""
    told.until("the start", lambda _: True)

    told.node.config["fleet"] |= {"node": "lb2"}
    told.node.configure()
    told.node.agentd.reload()

    told.until("the new name", lambda _: True, "lb2")
    wait_until(lambda: told.document("lb1") is None, "the old name to be removed", seconds=_WAITS)


def test_a_generation_made_current_by_hand_takes_the_number_back(told: Told) -> None:
    """Nobody has committed that, and nginx was reloaded by hand as well."""
    told.publish(f"add {_FIRST}")
    first, _ = told.until_live()
    before = told.node.generation
    told.publish(f"add {_SECOND}")
    second, _ = told.until_live(first)
    nginx = told.node.nginx
    (nginx.tree / "by-hand").symlink_to(f"generations/{before:06}")
    (nginx.tree / "by-hand").rename(nginx.tree / "current")
    os.kill(nginx.master, signal.SIGHUP)

    told.until("the first number", lambda one: _of(one).live == first)
    told.publish(f"add {_SECOND}")
    told.until_live(second)
    assert nginx.get(client=_SECOND)[0] == 403


def test_a_node_in_another_datacenter_is_judged_by_what_that_knows(
    new_consul: Callable[..., ConsulAgent], directory: Path, fleet: str
) -> None:
    """The home datacenter has never heard of it."""
    wan = free_port()
    home = new_consul(node="home", wan=wan)
    away = new_consul(
        node="away",
        address="127.0.0.2",
        wan=free_port("127.0.0.2"),
        extra={"datacenter": "dc2", "retry_join_wan": [f"127.0.0.1:{wan}"], "retry_interval_wan": "1s"},
    )
    wait_until(
        lambda: len(away.get("/v1/catalog/datacenters")) == 2, "the datacenters to meet", seconds=_WAITS
    )
    section = {"name": fleet, "node": "far", "datacenter": "dc1", "service": False}
    node = FollowingNode(directory / "far", "far", fleet=fleet, consul=away, settings={"fleet": section})
    with ExitStack() as stack:
        stack.callback(node.stop)
        node.start()
        wait_until(lambda: home.kv_get(Keys(fleet).node("far")), "the document", seconds=_WAITS)

        def seen() -> list[tuple[str, str, str]]:
            found = json.loads(node.agentd.command("fleet", "--json").stdout)["differences"]
            return [(one["node"], one["trouble"], one["text"]) for one in found if one["node"] != "home"]

        assert seen() == []
        away_is_known = json.loads(node.agentd.command("fleet", "--json").stdout)["documents"]["far"]
        assert away_is_known["datacenter"] == "dc2"

        away.put("/v1/agent/service/register", {"Name": "edge"})
        wait_until(
            lambda: away.get("/v1/health/service/edge"), "the service in its catalogue", seconds=_WAITS
        )
        words = ["publish", "other", "x", "--keep", "all", "--service", "edge", "--json"]
        assert json.loads(node.agentd.command(*words).stdout)["matches"] == ["far"]
