"""`agentd rotate-tickets` on a real Consul, with nodes that are only acknowledgements."""

from __future__ import annotations

import base64
import io
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from agentd.cli import main
from agentd.commands.coordinated_name import CoordinatedName
from agentd.fleet.acknowledgement import Acknowledgement, HandlerReport, Name
from agentd.fleet.acknowledgement_codec import render
from agentd.fleet.envelope import Draft
from agentd.fleet.head import MOST_RECENT
from agentd.fleet.reader import Reader
from agentd.fleet.registration import SERVICE, service_id
from agentd.fleet.rollout import ALL, Admission
from agentd.trust.key_files import read_key
from agentd.trust.keyring import Signer
from agentd.trust.keys import FleetKey, SecretKey, new_secret_key
from handlers.tls_ticket_keys.document import Document, key_digest
from tests.integration.test_publish_signed import SigningFleet
from tests.servers.consul import ConsulAgent
from tests.servers.waiting import wait_until

NAME = "tickets"
HANDLERS = {"ticket-keys": {"use": "tls_ticket_keys", "on": [{"event": NAME, "keep": "latest"}]}}


class RotatingFleet(SigningFleet):
    """A fleet whose nodes confirm each message as soon as they are let."""

    def __init__(
        self, consul: ConsulAgent, name: str, capsys: pytest.CaptureFixture[str], directory: Path
    ) -> None:
        super().__init__(consul, name, capsys, directory)
        self.held: set[str] = set()
        self._live: dict[str, int] = {}

    def set_up(self, options: dict[str, Any] | None = None, **trust: object) -> None:
        """Write the configuration of a host that rotates."""
        handlers = {"ticket-keys": {**HANDLERS["ticket-keys"], "options": options or {}}}
        usual = {"publishers": {"ops": {"key": self.ops, "may": [NAME]}}, "seal": [NAME]}
        self.configure(handlers, **usual | trust)

    def join(self, *nodes: str, live: int | None = None, **report: object) -> None:
        """Write acknowledgements of nodes that have this message in force; by default what they had."""
        for node in nodes:
            self._live[node] = self._live.get(node, 0) if live is None else live
            name = Name(live=self._live[node] or None)
            handler = HandlerReport((NAME,), None, "applied", time.time(), report=report)
            made = Acknowledgement(
                "1", node, "b", time.time(), names={NAME: name}, handlers={"ticket-keys": handler}
            )
            self.consul.kv_put(self.keys.node(node), render(made))

    @contextmanager
    def following(self, **report: object) -> Iterator[None]:
        """Nodes confirm what is published meanwhile, unless they are held."""
        stop = Event()

        def run() -> None:
            while not stop.wait(0.01):
                head = self.consul.kv_get(self.keys.head(NAME))
                newest = Reader(self.log.kv, self.keys).head(NAME) if head else None
                for node, live in list(self._live.items()):
                    if newest and live < newest.newest and node not in self.held:
                        self.join(node, live=newest.newest, **report)

        thread = Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def rotate(self, *words: str, status: int = 0) -> dict[str, Any]:
        """Run the command; what it told a program."""
        found, out, err = self.command("rotate-tickets", *words, "--json")
        assert found == status, out + err
        told: dict[str, Any] = json.loads(out)
        return told

    def document(self) -> Document:
        """The newest document."""
        message = self.message(NAME, self.head(NAME).newest)
        payload = self.opened(message)
        assert payload is not None
        return Document.parse(payload)


@pytest.fixture
def fleet(
    consul: ConsulAgent,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[RotatingFleet]:
    """A fleet of three nodes that rotates on this host."""
    with closing(RotatingFleet(consul, f"rotating{suffix}", capsys, directory)) as made:
        monkeypatch.setenv("AGENTD_CONFIG", str(made.file))
        made.set_up()
        made.join("lb1", "lb2", "lb3")
        yield made


def test_a_rotation_ends_once_all_confirm(fleet: RotatingFleet) -> None:
    """The first one and the next; the former key stays, as demoted."""
    with fleet.following():
        first = fleet.rotate()
        second = fleet.rotate()
    assert [one["does"] for one in first["did"]] == ["stage a new key", "encrypt with it", "confirm"]
    assert (first["phase"], first["nodes"], len(first["ring"])) == ("idle", 3, 1)
    assert second["ring"][1:] == first["ring"]
    document = fleet.document()
    assert document.phase == "idle"
    assert list(document.demoted) == [key_digest(document.ring[1])]


def test_a_node_that_does_not_confirm_is_named(fleet: RotatingFleet) -> None:
    """Nothing goes on without it, until somebody says so, or it is back; the next run continues."""
    fleet.held = {"lb2"}
    with fleet.following():
        status, out, _ = fleet.command("rotate-tickets", "--timeout", "1s")
        assert status == 1
        assert "lb2" in out
        assert "lb1" not in out
        document = fleet.document()
        assert document.next is not None
        told = fleet.rotate("--dry-run", "--without", "lb2")
        assert (told["phase"], told["next"]) == ("staged", key_digest(document.next))
        assert told["step"] == "encrypt with it"
        told = fleet.rotate("--without", "lb2")
        assert (told["phase"], told["without"]) == ("idle", ["lb2"])
        fleet.held = set()
        assert fleet.rotate()["without"] == []


def test_a_rotation_that_waits_for_an_hour_is_an_alarm(
    fleet: RotatingFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its exit status."""
    fleet.held = {"lb2"}
    with fleet.following():
        fleet.rotate("--timeout", "1s", status=1)
        monkeypatch.setattr("handlers.tls_ticket_keys.commands.coordinator.OVERDUE", 1.0)
        told = fleet.rotate("--due", "--timeout", "1s", status=3)
    assert [one["node"] for one in told["waiting"]] == ["lb2"]


def test_revoking_leaves_one_new_key(fleet: RotatingFleet) -> None:
    """In one step, whatever was under way."""
    with fleet.following():
        before = fleet.rotate()
        fleet.held = {"lb3"}
        fleet.rotate("--timeout", "1s", status=1)
        fleet.held = set()
        told = fleet.rotate("--revoke")
    assert [one["does"] for one in told["did"]] == ["replace all keys", "confirm"]
    assert len(told["ring"]) == 1
    assert told["ring"] != before["ring"]


def test_the_timer_does_what_is_due_where_the_key_is(fleet: RotatingFleet) -> None:
    """It begins, and then rests; elsewhere it does nothing."""
    with fleet.following():
        assert len(fleet.rotate("--due")["did"]) == 3
        told = fleet.rotate("--due")
        assert (told["did"], told["due"] > time.time() + 40_000) == ([], True)
        assert len(fleet.rotate("--due", "--every", "1ms")["did"]) == 3
        fleet.set_up(signing_key=None)
        assert fleet.rotate("--due")["did"] == []


def test_an_empty_event_rings(fleet: RotatingFleet) -> None:
    """For a rotation by the timer; once."""
    with fleet.following():
        fleet.rotate()
        identity = fire(fleet, b"")
        assert fleet.rotate("--due")["due"] < time.time() + 61
        fleet.rotate()
    bell = fleet.document().bell
    assert bell is not None
    assert bell[1] == identity


def test_the_newest_key_of_an_event_is_adopted_whatever_else_is_fired(fleet: RotatingFleet) -> None:
    """Empty events, keys of the ring, and keys under the name of another cannot hide it."""
    fleet.set_up(accept_events=[NAME])
    first, second = secrets.token_bytes(48), secrets.token_bytes(80)
    with fleet.following():
        fire(fleet, base64.b64encode(first))
        fleet.rotate("--due")
        fire(fleet, base64.b64encode(second))
        for payload in (b"", first, first[:16] + secrets.token_bytes(64), b"junk"):
            fire(fleet, payload and base64.b64encode(payload))
        told = fleet.rotate("--due")
        assert [one["does"] for one in told["did"]] == ["stage a new key", "encrypt with it", "confirm"]
        assert fleet.rotate("--due")["did"] == []
    assert fleet.document().ring == (second, first)


def fire(fleet: RotatingFleet, payload: bytes) -> str:
    """Fire an event, and wait until the agent lists it; returns its ID."""
    identity = fleet.consul.fire(NAME, payload)
    wait_until(lambda: identity in str(fleet.consul.get("/v1/event/list")), "the event")
    return identity


def forge(fleet: RotatingFleet, payload: bytes, *, signer: Signer | None = None, rollout: str = "") -> int:
    """Write a message above the newest one, as somebody may who can write to Consul."""
    head = fleet.head(NAME)
    draft = Draft(payload, time.time(), "ops@admin1", sealed=signer is not None)
    if rollout:
        draft = replace(draft, kind="admit", rollout=rollout, admission=Admission(ALL))
    made = draft.numbered(fleet.name, NAME, head.newest + 1, head.newest, signer=signer)
    fleet.consul.kv_put(fleet.keys.message(NAME, made.num), made.raw)
    newer = replace(
        head,
        newest=made.num,
        count=head.count + 1,
        recent=(*head.recent, made.num)[-MOST_RECENT:],
        inline=made.raw,
        released=head.newest if made.kind == "admit" else head.released,
    )
    fleet.consul.kv_put(fleet.keys.head(NAME), newer.render())
    return made.num


def test_forged_messages_stop_nothing(fleet: RotatingFleet) -> None:
    """They are passed over, however many, and whatever rollout they open: it goes on from the document."""
    with fleet.following():
        first = fleet.rotate()
        for _ in range(70):
            forge(fleet, b"evil")
        second = fleet.rotate()
        assert second["ring"][1:] == first["ring"]
        forge(fleet, b"evil", rollout="evil")
        assert fleet.rotate()["ring"][1:] == second["ring"]


def test_a_fleet_in_which_no_rotation_can_begin_fails_the_timer(fleet: RotatingFleet) -> None:
    """Without a document nothing tells for how long that has been so."""
    fleet.consul.kv_delete(fleet.keys.nodes, recurse=True)
    told = fleet.rotate("--due", "--timeout", "1s", status=1)
    assert told["reason"] == "no node of the fleet acknowledges this name"


def test_what_stops_a_rotation_fails_the_timer(fleet: RotatingFleet) -> None:
    """A node that has not confirmed does not; a message that nobody can read does, and says where it is."""
    fleet.held = {"lb2"}
    with fleet.following():
        fleet.rotate("--due", "--timeout", "1s")
        num = fleet.head(NAME).newest
        key = fleet.keys.message(NAME, num)
        raw = fleet.consul.kv_get(key) or b""
        fleet.consul.kv_put(key, raw.replace(b'"format":2', b'"format":99'))
        for words in ([], ["--due"], ["--revoke"]):
            status, _, err = fleet.command("rotate-tickets", *words, "--timeout", "1s")
            assert (status, f"consul kv delete {key}" in err) == (1, True)
    for head in (b"junk", b'{"format":99}'):
        fleet.consul.kv_put(fleet.keys.head(NAME), head)
        status, _, err = fleet.command("rotate-tickets", "--revoke", "--timeout", "1s")
        assert (status, f"consul kv delete {fleet.keys.head(NAME)}" in err) == (1, True)


def test_a_message_that_is_no_document_is_not_overwritten(fleet: RotatingFleet) -> None:
    """Nodes have the ring of the document that it replaced, which nobody knows any more."""
    key = read_key(str(fleet.path("ops")))
    assert isinstance(key, SecretKey)
    fleet_key = read_key(str(fleet.path("fleet")))
    assert isinstance(fleet_key, FleetKey)
    with fleet.following(rotation={"phase": "idle"}):
        fleet.rotate()
        forge(fleet, b"a raw key", signer=Signer(key, fleet_key))
        status, _, err = fleet.command("rotate-tickets", "--timeout", "1s")
        assert (status, "start anew with `agentd rotate-tickets --revoke`" in err) == (1, True)
        assert len(fleet.rotate("--revoke")["ring"]) == 1


def test_nothing_is_published_past_the_rotation(
    fleet: RotatingFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a single key, which would replace the document, nor a document for some nodes or a while."""
    with fleet.following(rotation={"phase": "idle", "since": 1, "num": 5}):
        before = fleet.rotate()["num"]
    key = base64.b64encode(secrets.token_bytes(80)) + b"\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(key)))
    assert "use `agentd rotate-tickets`" in fleet.refused("publish", NAME, "-", "--no-dry-run")
    for some in (["--canary", "1"], ["--node", "lb1"], ["--service", "www"], ["--ttl", "1h"]):
        file = fleet.file.parent / "document.json"
        file.write_bytes(fleet.document().render())
        why = fleet.refused("publish", NAME, "--file", str(file), "--no-dry-run", *some)
        assert "all nodes need the same keys: use `agentd rotate-tickets`" in why
    assert fleet.head(NAME).newest == before


def test_the_rings_are_shown_with_the_rotation(fleet: RotatingFleet) -> None:
    """Without any key: the phase, since when, and who is in the way."""
    fleet.held = {"lb2"}
    with fleet.following(
        rotation={"phase": "staged", "since": 1_790_000_000, "num": 5}, ring=[{"key": "5f2a"}]
    ):
        fleet.join("lb2", ring=[{"key": "5f2a"}])
        fleet.rotate("--timeout", "1s", status=1)
    fleet.set_up(signing_key=None, fleet_keys=[], seal=[])
    fleet.join("lb1", live=5, rotation={"phase": "staged", "since": 1_790_000_000, "num": 5}, ring=[])
    fleet.join("lb2", live=4, rotation={"phase": "idle", "since": 1_790_000_000, "num": 4}, ring=[])
    evil = {"phase": "idle", "since": 1_790_000_000, "num": 8 * 10**15}
    report = {"names": ["no/name"], "report": {"rotation": evil, "ring": []}}
    fleet.acknowledge("evil", handlers={"evil": report, "ticket-keys": report | {"names": [NAME]}})
    _, out, _ = fleet.command("tickets")
    assert "ticket-keys: staged for" in out
    assert "waits for 1 node" in out
    assert "lb2: " in out
    assert "more than an hour" in out


def test_a_document_of_a_publisher_who_was_removed_is_named(fleet: RotatingFleet) -> None:
    """It is an error, not the absence of a document."""
    with fleet.following(rotation={"phase": "idle"}):
        fleet.rotate()
        other = fleet.key("other", new_secret_key())
        fleet.set_up(publishers={"o": {"key": other, "may": [NAME]}}, signing_key=str(fleet.path("other")))
        _, _, err = fleet.command("rotate-tickets", "--timeout", "1s")
    assert "is not believed here" in err


@pytest.mark.parametrize("lost", ["wiped", "restored"])
def test_a_lost_log_is_not_gone_on_from(fleet: RotatingFleet, lost: str) -> None:
    """Until the nodes have written it back."""
    keys = [fleet.keys.head(NAME)]
    with fleet.following():
        fleet.rotate()
        before = fleet.consul.kv_get(keys[0]) or b""
        keys.append(fleet.keys.message(NAME, fleet.head(NAME).newest))
        message = fleet.consul.kv_get(keys[1]) or b""
        fleet.rotate()
        newest = fleet.head(NAME)
        raw = fleet.consul.kv_get(fleet.keys.message(NAME, newest.newest)) or b""
    fleet.consul.kv_delete(fleet.keys.messages(NAME), recurse=True)
    fleet.consul.kv_delete(keys[0])
    if lost == "restored":
        fleet.consul.kv_put(keys[0], before)
        fleet.consul.kv_put(keys[1], message)
    for words in ((), ("--revoke",)):
        told = fleet.rotate(*words, "--timeout", "1s", status=1)
        assert (told["did"], told["reason"].startswith("the log is older than")) == ([], True)

    fleet.consul.kv_put(fleet.keys.message(NAME, newest.newest), raw)
    fleet.consul.kv_put(fleet.keys.head(NAME), newest.render())
    with fleet.following():
        assert len(fleet.rotate()["ring"]) == 3


def test_a_node_that_does_not_understand_is_named(fleet: RotatingFleet) -> None:
    """Nothing is published that it would have to wait for."""
    fleet.acknowledge("lb9", names={NAME: {"live": None}})
    status, _, err = fleet.command("rotate-tickets", "--timeout", "2s")
    assert (status, "lb9 would not understand" in err) == (1, True)


def test_a_full_ring_waits(fleet: RotatingFleet) -> None:
    """For the narrowest node."""
    with fleet.following(most=2):
        fleet.join("lb1", "lb2", "lb3", most=2)
        fleet.rotate()
        fleet.rotate()
        told = fleet.rotate(status=1)
    assert told["reason"].startswith("the ring is full: lb")


def test_names_that_are_not_sealed_are_refused(fleet: RotatingFleet) -> None:
    """The keys would be readable."""
    fleet.set_up(seal=[])
    assert "add it to `trust.seal`" in fleet.refused("rotate-tickets")


# ---------------------------------------------------------------- whoever goes on


def test_a_coordinator_may_be_killed_anywhere(fleet: RotatingFleet) -> None:
    """After each write, and after each that had no answer, the next run ends the rotation."""
    done: list[tuple[str, ...]] = []
    publish = CoordinatedName.publish_after

    class Killed(BaseException):
        """As by SIGKILL: nothing is done any more."""

    def kill_at(count: int, *, answered: bool) -> Callable[..., int | None]:
        calls = 0

        def killed(name: CoordinatedName, newest: int, payload: bytes) -> int | None:
            nonlocal calls
            calls += 1
            found = publish(name, newest, payload) if answered or calls != count else None
            if calls == count:
                raise Killed
            return found

        return killed

    with fleet.following():
        for count in (1, 2, 3):
            for answered in (True, False):
                before = fleet.rotate()["ring"]
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(CoordinatedName, "publish_after", kill_at(count, answered=answered))
                    with pytest.raises(Killed):
                        fleet.command("rotate-tickets", "--json")
                told = fleet.rotate()
                done.append(tuple(one["does"] for one in told["did"]))
                assert told["phase"] == "idle"
                assert told["ring"][-len(before) :] == before
    assert done[0] == ("encrypt with it", "confirm")
    assert done[1] == ("stage a new key", "encrypt with it", "confirm")


def test_two_coordinators_at_once_make_one_rotation(fleet: RotatingFleet) -> None:
    """Whoever loses a race reads again, and helps to end what the other began."""
    argv = [sys.executable, "-m", "agentd", "rotate-tickets", "--config", str(fleet.file), "--json"]
    argv += ["--http-addr", fleet.consul.url]
    with fleet.following():
        first = fleet.rotate()
        ran = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        told = [json.loads(one.communicate(timeout=60)[0]) for one in ran]
    rings = [one["ring"] for one in told]
    assert [one.returncode for one in ran] == [0, 0, 0]
    assert all(ring[-1:] == first["ring"] for ring in rings)
    steps = sum(len(one["did"]) for one in told)
    assert steps == 3 * (len(fleet.document().ring) - 1)


def test_two_who_revoke_do_not_revoke_each_others_key(fleet: RotatingFleet) -> None:
    """Whoever is overtaken sees that the keys of before are gone."""
    argv = [
        sys.executable,
        "-m",
        "agentd",
        "rotate-tickets",
        "--revoke",
        "--config",
        str(fleet.file),
        "--json",
    ]
    argv += ["--http-addr", fleet.consul.url]
    with fleet.following():
        before = fleet.rotate()["num"]
    running = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: fleet.head(NAME).newest > before, "the first revocation")
    fleet.rotate("--revoke", "--timeout", "1s", status=1)
    last = fleet.document().ring
    with fleet.following():
        told = json.loads(running.communicate(timeout=60)[0])
    assert running.returncode == 0
    assert [step["does"] for step in told["did"]] == ["replace all keys", "confirm"]
    assert fleet.document().ring == last


def test_a_dry_run_says_what_comes_next(fleet: RotatingFleet) -> None:
    """And publishes nothing."""
    status, out, _ = fleet.command("rotate-tickets", "--dry-run")
    assert (status, out) == (0, f"{NAME}: the next step is to stage a new key\n")
    assert fleet.log.head(NAME) is None


def test_a_node_that_there_is_not_cannot_be_left_out(fleet: RotatingFleet) -> None:
    """It was mistyped: the one that was meant would hold up the rotation all the same."""
    with fleet.following():
        status, out, errors = fleet.command("rotate-tickets", "--without", "lb22")
        assert (status, out) == (1, "")
        assert "no node 'lb22' of the fleet takes" in errors
        assert fleet.log.head(NAME) is None


def test_a_node_whose_acknowledgement_is_lost_is_known_by_its_service(fleet: RotatingFleet) -> None:
    """Healthy or not, it is waited for: it may have keys that nobody else knows of."""
    node = f"host-{fleet.name}"  # of no agent, which would take back what it does not know
    service = {"Service": SERVICE, "ID": service_id(fleet.name, "lb9"), "Tags": [fleet.name]}
    fleet.consul.put("/v1/catalog/register", {"Node": node, "Address": "127.0.0.1", "Service": service})
    try:
        with fleet.following():
            told = fleet.rotate("--timeout", "1s", status=1)
            assert [one["node"] for one in told["waiting"]] == ["lb9"]
            assert told["did"] == []
            assert main(["fleet", "forget", "lb9", "--http-addr", fleet.consul.url]) == 1
            assert "if the machine is gone, `consul force-leave`" in fleet.captured()[1]
            assert fleet.rotate("--without", "lb9")["phase"] == "idle"
    finally:
        fleet.consul.put("/v1/catalog/deregister", {"Node": node})


def test_while_events_bring_the_keys_the_newest_is_adopted(fleet: RotatingFleet) -> None:
    """Each once, and no other begins a rotation."""
    fleet.set_up(accept_events=[NAME])
    key = secrets.token_bytes(48)
    with fleet.following():
        fleet.rotate("--due")  # with a key that another test has fired, if there is one
        status, out, _ = fleet.command("rotate-tickets")
        assert (status, "keys come with events" in out) == (0, True)
        identity = fleet.consul.fire(NAME, base64.b64encode(key))
        wait_until(lambda: identity in str(fleet.consul.get("/v1/event/list")), "the event")
        assert fleet.rotate("--due")["ring"][0] == key_digest(key)
        assert fleet.rotate("--due", "--every", "1ms")["did"] == []


def test_a_token_that_sees_only_a_part_rotates_nothing(
    new_consul: Callable[..., ConsulAgent],
    capsys: pytest.CaptureFixture[str],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Consul leaves out what it may not see, and nodes would not be waited for; the rule is named."""
    consul = new_consul(acl=True)
    keys = "agentd/denied/"
    rules = {
        f'key_prefix "{keys}names/"': "write",
        f'key_prefix "{keys}messages/"': "write",
        f'key_prefix "{keys}pruned/"': "write",
        f'key_prefix "{keys}nodes/"': "read",
        'node_prefix ""': "read",
        'service "agentd"': "read",
        f'event "{NAME}"': "read",
    }
    with closing(RotatingFleet(consul, "denied", capsys, directory)) as fleet:
        monkeypatch.setenv("AGENTD_CONFIG", str(fleet.file))
        fleet.set_up()
        fleet.join("lb1", "lb2")

        def use(without: str = "") -> None:
            text = "\n".join(
                f'{rule} {{ policy = "{access}" }}' for rule, access in rules.items() if rule != without
            )
            monkeypatch.setenv("CONSUL_HTTP_TOKEN", consul.make_token(text))

        for rule in ('service "agentd"', 'node_prefix ""', f'key_prefix "{keys}nodes/"'):
            use(without=rule)
            assert rule in fleet.refused("rotate-tickets", "--timeout", "5s")
        use()
        with fleet.following():
            assert fleet.rotate()["phase"] == "idle"
