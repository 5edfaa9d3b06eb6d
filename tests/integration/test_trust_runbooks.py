"""The runbooks of docs/trust.md, with the commands that the page shows, on a real Consul and real daemons."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from agentd.fleet.envelope import Draft
from agentd.trust.key_files import read_key
from agentd.trust.keys import SecretKey
from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode, open_log
from tests.servers.ports import free_port
from tests.servers.runbook import Host, Site, Step, advice, steps
from tests.servers.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "trust.md"
NODES = ("lb1", "lb2", "lb3")
KEEPS = {"deploy": "latest", "site-secret": "latest", "ip-blacklist": "all"}
FILES = {"deploy": "deploy.txt", "site-secret": "secret.txt", "ip-blacklist": "everything.txt"}
HANDLERS = {
    "board": {
        "use": "tests.integration.noticeboard:Noticeboard",
        "on": [{"event": name, "keep": keep} for name, keep in KEEPS.items()],
    }
}
USUAL = {
    "publishers": {"ops": {"key": "k4.public.OLD", "may": ["deploy", "ip-blacklist", "site-*"]}},
    "require": "signed",
    "seal": ["site-*"],
}


class Fleet(Site):
    """Three nodes and a publishing host; every message has a payload of its own."""

    def __init__(self, consul: ConsulAgent, directory: Path, stack: ExitStack) -> None:
        self.consul = consul
        self.name = f"runbook-{free_port()}"
        self._directory = directory
        self._stack = stack
        self.count = 0
        self.boards: dict[str, str] = {}
        self._public: dict[str, str] = {}
        config = {
            "consul": {"address": f"{consul.address}:{consul.ports['http']}"},
            "fleet": {"name": self.name},
            "handlers": {},
        }
        nodes = {name: self.make_node(name) for name in NODES}
        super().__init__(Host(directory / "admin", None, config), nodes, directory / "bin")
        for name in FILES.values():
            (self.admin.directory / name).write_text(f"from {name}")
        (self.admin.directory / "new-secret.txt").write_text("a new secret")
        for node in nodes.values():
            self.daemon(node).start()

    def make_node(self, name: str) -> Host:
        """A node that is not started yet."""
        node = FollowingNode(
            self._directory / name, name, fleet=self.name, consul=self.consul, handlers=HANDLERS
        )
        self._stack.callback(node.stop)
        return Host(self._directory / name, node, {})

    @staticmethod
    def daemon(host: Host) -> FollowingNode:
        """The daemon on a host."""
        assert host.node is not None
        return host.node

    # ------------------------------------------------------------------ keys

    def known(self, text: str) -> str:
        """Put in the public keys, which the page names OLD, NEW and OTHER."""
        for word, file in (("OLD", "ops"), ("NEW", "ops-2"), ("OTHER", "release")):
            if f"k4.public.{word}" in text:
                text = text.replace(f"k4.public.{word}", self.public(file))
        return text.replace("NUM", str(self.newest("deploy")))

    def public(self, file: str) -> str:
        """The public key of a publisher, also once its file is gone."""
        if file not in self._public:
            key = read_key(str(self.admin.directory / "keys" / f"{file}.key"))
            assert isinstance(key, SecretKey)
            self._public[file] = key.public.text
        return self._public[file]

    def trust(self, hosts: list[Host] | None = None) -> None:
        """Have it set up already: everything is signed, and secrets are sealed."""
        if hosts is None:
            self.command("agentd keys generate publisher ops\nagentd keys generate fleet")
        for host in hosts or [self.admin, *self.nodes.values()]:
            keys = host.directory / "keys"
            if host is not self.admin:
                self.command(f"install -d -m 0700 {keys}; cp -p /etc/agentd/keys/fleet.key {keys}")
            host.config["trust"] = {
                "publishers": {"ops": {"key": self.public("ops"), "may": USUAL["publishers"]["ops"]["may"]}},  # type: ignore[index]
                "require": "signed",
                "seal": ["site-*"],
                "fleet_keys": [str(keys / "fleet.key")],
            }
            if host is self.admin:
                host.config["trust"]["signing_key"] = str(keys / "ops.key")
            host.write()
            if host.node:
                host.run("systemctl reload agentd", self._directory / "bin")

    # ------------------------------------------------------------------ messages

    def publish(self, name: str) -> None:
        """Publish another payload, from the publishing host."""
        self.count += 1
        payload = f"{name} {self.count}"
        (self.admin.directory / "payload").write_text(payload)
        self.command(f"agentd publish {name} --file payload --keep {KEEPS[name]}")
        self.boards[name] = payload

    def publish_all(self) -> None:
        """One of each name; and wait for them."""
        for name in KEEPS:
            self.publish(name)
        self.agrees()

    def agrees(self) -> None:
        """Wait until every node that is there shows what was published last."""
        for name, host in self.nodes.items():
            if name not in self.away:
                self.shows(host)

    def shows(self, host: Host) -> None:
        """Wait until a node shows what was published last."""
        for name, payload in self.boards.items():
            wait_until(lambda: self.board(host, name) == payload, f"{payload!r} on {host.directory}")  # noqa: B023 (now)

    @staticmethod
    def board(host: Host, name: str) -> str:
        """What a node shows of a name."""
        path = host.directory / "tree" / "current" / "board" / name
        return path.read_text() if path.exists() else ""

    def newest(self, name: str) -> int:
        """The number of the newest message."""
        with open_log(self.consul, self.name) as log:
            head = log.head(name)
        return head.newest if head else 0

    def forge(self, name: str, payload: str = "forged") -> None:
        """Write to the log what nobody signed."""
        with open_log(self.consul, self.name) as log:
            log.publish(name, Draft(payload.encode(), issued=time.time(), publisher="evil"), keep="latest")

    def refusals(self, host: Host) -> int:
        """How many messages a node has refused since it was started."""
        status, text = self.daemon(host).agentd.get("/metrics")
        assert status == 200
        counts = re.findall(r"(?m)^agentd_fleet_refused_total\{.*\} ([0-9.]+)$", text)
        return round(sum(map(float, counts)))

    def waits_for_key(self, host: Host) -> bool:
        """Whether a node has said that it lacks a fleet key."""
        return any("fleet.waits_for_key" in line for line in self.daemon(host).agentd.log_lines())

    def join(self) -> Host:
        """A node joins that is configured as the others are, and never saw anything."""
        host = self.make_node("lb4")
        model = self.nodes["lb1"]
        self.command(f"cp -a {model.directory}/keys {host.directory}/")
        text = str(model.directory)
        host.config["trust"] = {
            key: [one.replace(text, str(host.directory)) for one in value] if key == "fleet_keys" else value
            for key, value in model.config["trust"].items()
        }
        host.write()
        self.daemon(host).start()
        return host

    def leave_out(self, name: str) -> Host:
        """A node goes away."""
        self.away.add(name)
        self.daemon(self.nodes[name]).stop()
        return self.nodes[name]

    def come_back(self, name: str) -> Host:
        """It comes back, as it was."""
        self.away.discard(name)
        self.daemon(self.nodes[name]).start()
        return self.nodes[name]

    # ------------------------------------------------------------------ runbooks

    def carry_out(self, title: str, *, first: int = 0, served: bool = True) -> None:
        """Follow a runbook of the page; `served`: after each step all nodes take what is published then."""

        def after(host: Host, step: Step, said: str) -> None:
            for words in advice(said) if host is self.admin and "resign" in step.text else []:
                line = " ".join(words)
                name = words[2]
                self.command(line.replace("FILE", FILES[name]))
                if "FILE" in line:
                    self.boards[name] = f"from {FILES[name]}"
            for name in re.findall(r"agentd publish (\S+).* --file (?!payload)", step.text):
                self.boards[name] = (self.admin.directory / _file(step.text, name)).read_text()
            if served and step.language == "sh":
                self.agrees()
                self.publish(next(names))
                self.agrees()

        names = cycle(KEEPS)
        self.follow(steps(PAGE, title)[first:], self.known, after)


def _file(text: str, name: str) -> str:
    found = re.search(rf"agentd publish {name}.* --file (\S+)", text)
    assert found
    return found[1]


@pytest.fixture
def fleet(consul: ConsulAgent, directory: Path) -> Iterator[Fleet]:
    """Three nodes without `trust:`, and a publishing host."""
    with ExitStack() as stack:
        made = Fleet(consul, directory, stack)
        yield made
        consul.kv_delete(f"agentd/{made.name}/", recurse=True)


@pytest.fixture
def trusting(fleet: Fleet) -> Fleet:
    """They are set up, and something is in force."""
    fleet.trust()
    fleet.publish_all()
    return fleet


def nothing_was_refused(fleet: Fleet) -> None:
    """No node ever refused a message."""
    assert {name: fleet.refusals(host) for name, host in fleet.nodes.items()} == dict.fromkeys(fleet.nodes, 0)


def only_signed_messages_count(fleet: Fleet) -> None:
    """What nobody signed is refused on every node, and what is published next is applied."""
    fleet.forge("deploy")
    for host in fleet.nodes.values():
        wait_until(lambda: fleet.refusals(host) == 1, f"a refusal on {host.directory}")  # noqa: B023 (now)
    fleet.agrees()
    fleet.publish_all()


def test_setting_it_up_leaves_no_gap(fleet: Fleet) -> None:
    """At no step is anything refused, whichever nodes are reloaded; then only what is signed counts."""
    fleet.publish_all()
    fleet.carry_out("Set it up")
    nothing_was_refused(fleet)
    fleet.shows(fleet.join())
    only_signed_messages_count(fleet)


def test_a_publishers_key_is_rotated(trusting: Fleet) -> None:
    """Nodes are served at every step, and one that joins afterwards has all that is in force."""
    trusting.carry_out("Rotate a publisher's key")
    nothing_was_refused(trusting)
    trusting.shows(trusting.join())
    only_signed_messages_count(trusting)


def test_a_publishers_key_is_lost(trusting: Fleet) -> None:
    """Once there is another one, everything goes on as in a rotation."""
    (trusting.admin.directory / "keys" / "ops.key").unlink()
    trusting.carry_out("A publisher's key is lost", served=False)
    (trusting.admin.directory / "keys" / "ops.key").write_text("")  # for the `rm` at the end
    trusting.carry_out("Rotate a publisher's key", first=1, served=False)
    trusting.publish_all()
    nothing_was_refused(trusting)
    trusting.shows(trusting.join())


def test_a_publishers_key_has_leaked(trusting: Fleet) -> None:
    """Whoever has it is refused from the second step on; what they did is replaced."""
    stolen = trusting.admin.directory / "stolen.key"
    stolen.write_bytes((trusting.admin.directory / "keys" / "ops.key").read_bytes())
    trusting.carry_out("A publisher's key has leaked", served=False)
    trusting.agrees()
    nothing_was_refused(trusting)

    key = read_stolen(stolen)
    with open_log(trusting.consul, trusting.name) as log:
        log._signer = key
        log.publish("deploy", Draft(b"evil", issued=time.time(), publisher="evil"), keep="latest")
    for host in trusting.nodes.values():
        wait_until(lambda: trusting.refusals(host) == 1, f"a refusal on {host.directory}")  # noqa: B023 (now)
    trusting.publish_all()
    trusting.shows(trusting.join())


def read_stolen(path: Path) -> Any:  # noqa: ANN401 (a signer)
    """What a thief signs with."""
    from agentd.trust.keyring import Signer  # noqa: PLC0415 (only here)

    path.chmod(0o600)
    key = read_key(str(path))
    assert isinstance(key, SecretKey)
    return Signer(key)


def test_a_publisher_is_removed(trusting: Fleet) -> None:
    """What it published stays in force, under another publisher's name."""
    trusting.command("agentd keys generate publisher release")
    both = {
        **trusting.admin.config["trust"]["publishers"],
        "release": {"key": trusting.public("release"), "may": ["deploy", "ip-blacklist", "site-*"]},
    }
    for host in (trusting.admin, *trusting.nodes.values()):
        host.config["trust"]["publishers"] = both
        host.write()
        if host.node:
            host.run("systemctl reload agentd", trusting.admin.directory.parent / "bin")
    trusting.admin.config["trust"]["signing_key"] = str(trusting.admin.directory / "keys" / "release.key")
    trusting.admin.write()

    trusting.carry_out("Remove a publisher", served=False)

    trusting.agrees()
    nothing_was_refused(trusting)
    joined = trusting.join()
    wait_until(lambda: trusting.board(joined, "deploy") == trusting.boards["deploy"], "the last deploy")


def test_the_fleet_key_is_rotated(trusting: Fleet) -> None:
    """Nodes are served at every step; afterwards nothing in force is sealed with the old one."""
    trusting.carry_out("Rotate the fleet key")
    nothing_was_refused(trusting)
    trusting.shows(trusting.join())


def test_the_fleet_key_is_lost(trusting: Fleet) -> None:
    """What was in force stays so until it is published anew."""
    for host in (trusting.admin, *trusting.nodes.values()):
        (host.directory / "keys" / "fleet.key").unlink()
    trusting.carry_out("The fleet key is lost", served=False)
    trusting.publish_all()
    trusting.shows(trusting.join())


def test_the_fleet_key_has_leaked(trusting: Fleet) -> None:
    """It is rotated, and the secret replaced."""
    trusting.carry_out("Rotate the fleet key", served=False)
    trusting.carry_out("The fleet key has leaked", served=False)
    trusting.agrees()
    assert trusting.board(trusting.nodes["lb1"], "site-secret") == "a new secret"


@pytest.mark.parametrize("title", ["Rotate a publisher's key", "Rotate the fleet key"])
def test_a_node_was_away_meanwhile(trusting: Fleet, title: str) -> None:
    """It keeps what it has until it is configured as the others are, and then catches up."""
    away = trusting.leave_out("lb3")
    before = {name: trusting.board(away, name) for name in KEEPS}
    trusting.carry_out(title, served=False)
    trusting.publish_all()

    trusting.come_back("lb3")
    wait_until(lambda: trusting.refusals(away) or trusting.waits_for_key(away), "it to be told")
    assert trusting.board(away, "site-secret") == before["site-secret"]

    model = trusting.nodes["lb1"]
    trusting.command(f"cp -p {model.directory}/keys/*.key {away.directory}/keys/")
    text = str(model.directory)
    section = dict(model.config["trust"])
    section["fleet_keys"] = [one.replace(text, str(away.directory)) for one in section["fleet_keys"]]
    away.config["trust"] = section
    away.write()
    (step,) = steps(PAGE, "A node was away meanwhile")
    trusting.do(away, step, trusting.known)
    trusting.shows(away)
