"""`agentd publish` and `agentd log` with signatures and sealed payloads, on a real Consul."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd.fleet.envelope import LARGEST_BODY, Envelope
from agentd.trust.configured import make_keyring, read_fleet_keys
from agentd.trust.key_files import write_key
from agentd.trust.keys import FleetKey, SecretKey, new_fleet_key, new_secret_key
from agentd.trust.options import TrustOptions
from tests.integration.test_publish import Fleet
from tests.servers.consul import ConsulAgent

SECRET = "5ecret-payload"
OTHER = new_secret_key().public.text


class SigningFleet(Fleet):
    """A fleet, and the command line of a host with a configuration file and keys."""

    def __init__(
        self, consul: ConsulAgent, name: str, capsys: pytest.CaptureFixture[str], directory: Path
    ) -> None:
        super().__init__(consul, name, capsys)
        self.directory = directory
        self.file = directory / "agentd.yaml"
        self.ops = self.key("ops", new_secret_key())
        self.key("fleet", new_fleet_key())

    def key(self, name: str, key: SecretKey | FleetKey) -> str:
        """Write a key; the text of its public half, "" of a fleet's."""
        write_key(self.path(name), key)
        return key.public.text if isinstance(key, SecretKey) else ""

    def path(self, name: str) -> Path:
        """The file of a key."""
        return self.directory / "keys" / f"{name}.key"

    def configure(self, handlers: dict[str, Any] | None = None, **trust: object) -> None:
        """Write the configuration; `trust` is put over a section in which `ops` may send what it likes."""
        usual = {
            "publishers": {"ops": {"key": self.ops, "may": ["deploy", "secret*", "list"]}},
            "require": "signed",
            "seal": ["secret*"],
            "fleet_keys": [str(self.path("fleet"))],
            "signing_key": str(self.path("ops")),
        } | trust
        found = {name: value for name, value in usual.items() if value is not None}
        self.write({"fleet": {"name": self.name}, "trust": found, "handlers": handlers or {}})

    def write(self, config: dict[str, Any]) -> None:
        """Write the configuration."""
        places = {"tree": {"path": str(self.directory / "tree")}, "state": str(self.directory / "state")}
        self.file.write_text(yaml.safe_dump({"nginx": None, **places, **config}))

    def command(self, *words: str) -> tuple[int, str, str]:
        """Run a command on this host; its status, and what it printed."""
        status, out, err = super().command(*words)
        assert SECRET not in out + err
        return status, out, err

    def opened(self, message: Envelope) -> bytes | None:
        """The payload of a message, as a node of the fleet verifies and opens it."""
        options = TrustOptions.model_validate(yaml.safe_load(self.file.read_text())["trust"])
        assert message.signed is not None
        keyring = make_keyring(options, read_fleet_keys(options))
        return keyring.body(keyring.verify(message.signed))

    def publish_secret(
        self, monkeypatch: pytest.MonkeyPatch, *words: str, name: str = "secret", payload: str = SECRET
    ) -> int:
        """Publish a secret, from standard input; its number."""
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(payload.encode())))
        return self.publish(name, "-", *words)


@pytest.fixture
def fleet(
    consul: ConsulAgent,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[SigningFleet]:
    """A fleet in which nothing is kept yet; this host signs for `ops`, and seals `secret*`."""
    with closing(SigningFleet(consul, f"signed{suffix}", capsys, directory)) as made:
        monkeypatch.setenv("AGENTD_CONFIG", str(made.file))
        made.configure()
        yield made


class TestWritten:
    """What lies in Consul."""

    def test_it_is_signed_with_the_key_of_this_host(self, fleet: SigningFleet) -> None:
        """A node that has the publisher's public key verifies it."""
        told = fleet.json("publish", "deploy", "v17", "--keep", "latest")
        message = fleet.message("deploy", told["num"])
        assert fleet.opened(message) == b"v17"
        assert (told["signed_by"], told["sealed"], message.is_sealed) == ("ops", False, False)

    def test_a_secret_is_sealed(self, fleet: SigningFleet, monkeypatch: pytest.MonkeyPatch) -> None:
        """No key in Consul contains it, in any encoding; a node with the fleet's key reads it."""
        num = fleet.publish_secret(monkeypatch, "--keep", "latest")
        assert fleet.opened(fleet.message("secret", num)) == SECRET.encode()
        found = fleet.consul.get(f"/v1/kv/{fleet.keys.root}?recurse")
        assert len(found) >= 3
        assert not any(text in str(found) for text in encodings(SECRET))

    def test_a_large_payload_is_signed_by_its_digest(self, fleet: SigningFleet) -> None:
        """It lies in a key of its own."""
        content = b"x" * (LARGEST_BODY + 1)
        (fleet.directory / "payload").write_bytes(content)
        num = fleet.publish("list", "--keep", "all", "--file", str(fleet.directory / "payload"))
        message = fleet.message("list", num)
        assert message.signed is not None
        assert fleet.payload("list", num) == content

    def test_without_a_key_nothing_is_signed(self, fleet: SigningFleet) -> None:
        """While the fleet changes over, that is still accepted."""
        fleet.configure(require=None, signing_key=None)
        num = fleet.publish("deploy", "v17", "--keep", "latest")
        assert fleet.message("deploy", num).signed is None

    def test_handlers_here_try_the_plain_payload(
        self, fleet: SigningFleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A sealed message that a handler would refuse is not published."""
        on = [{"event": "secret", "keep": "latest"}]
        fleet.configure(handlers={"blacklist": {"use": "ip_blacklist", "on": on}})
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"nonsense")))
        assert "the handler 'blacklist' here would not take it" in fleet.refused("publish", "secret", "-")
        assert fleet.log.head("secret") is None
        num = fleet.publish_secret(monkeypatch, payload="add 192.0.2.7")
        assert fleet.opened(fleet.message("secret", num)) == b"add 192.0.2.7"

    def test_trying_a_ticket_key_leaves_it_nowhere(
        self, fleet: SigningFleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither in a file on this host nor in Consul, plain or in base64; it is tried all the same."""
        on = [{"event": "secret", "keep": "latest"}]
        fleet.configure(handlers={"tickets": {"use": "tls_ticket_keys", "on": on}})
        monkeypatch.setattr("tempfile.tempdir", str(fleet.directory))
        key = bytes(range(100, 180))
        coded = base64.b64encode(key)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(coded)))

        told = fleet.json("publish", "secret", "-")

        assert told["tried"] == [{"handler": "tickets", "outcome": "changed"}]
        assert fleet.opened(fleet.message("secret", told["num"])) == coded
        found = [path.read_bytes() for path in fleet.directory.rglob("*") if path.is_file()]
        found.append(str(fleet.consul.get(f"/v1/kv/{fleet.keys.root}?recurse")).encode())
        assert not any(text in one for one in found for text in (key, coded, base64.b64encode(coded)))


class TestRefused:
    """What is not written, since nodes would not accept it."""

    @pytest.mark.parametrize(
        "change, why",
        [
            ({"signing_key": None}, "only if a publisher signs it (`trust.require`)"),
            ({"signing_key": None, "require": None, "seal": ["deploy"]}, "signs it (`trust.seal`)"),
            (
                {"publishers": {"other": {"key": new_secret_key().public.text, "may": "*"}}},
                "agentd keys show",
            ),
            ({"signing_key": "/nonexistent/ops.key"}, "/nonexistent/ops.key cannot be read"),
            ({"fleet_keys": ["/nonexistent/fleet.key"]}, "/nonexistent/fleet.key cannot be read"),
        ],
    )
    def test_keys_that_do_not_fit(self, fleet: SigningFleet, change: dict[str, Any], why: str) -> None:
        """It says what to do; nothing is written."""
        fleet.configure(**change)
        assert why in fleet.refused("publish", "deploy", "v17", "--keep", "latest")
        assert fleet.log.head("deploy") is None

    def test_a_name_that_the_publisher_may_not_send(self, fleet: SigningFleet) -> None:
        """The option to change is named."""
        why = fleet.refused("publish", "other", "x", "--keep", "latest")
        assert "'ops' may not send 'other': add it to `trust.publishers.ops.may`" in why
        assert fleet.log.head("other") is None

    def test_a_secret_that_is_typed(self, fleet: SigningFleet) -> None:
        """Whoever lists processes would see it."""
        status, out, err = fleet.command("publish", "secret", SECRET, "--keep", "latest")
        assert (status, out) == (2, "")
        assert "use --file, or - for standard input" in err
        assert fleet.log.head("secret") is None

    def test_a_secret_that_is_too_large(self, fleet: SigningFleet) -> None:
        """What lies in a key of its own is not sealed."""
        (fleet.directory / "payload").write_bytes(b"x" * (LARGEST_BODY + 1))
        words = ["--keep", "latest", "--file", str(fleet.directory / "payload")]
        assert "at most 32768 can be sealed: publish a reference" in fleet.refused(
            "publish", "secret", *words
        )
        assert fleet.log.head("secret") is None
        assert fleet.log.numbers("secret") == []

    def test_a_host_that_does_not_know_that_a_name_is_secret(
        self, fleet: SigningFleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its newest message says so: the next one is not published for all to read."""
        num = fleet.publish_secret(monkeypatch, "--keep", "latest")
        fleet.configure(seal=None)
        why = fleet.refused("publish", "secret", "x")
        assert "is sealed, and this one would not be: add the name to `trust.seal` here" in why
        fleet.write({"fleet": {"name": fleet.name}, "handlers": {}})
        assert "is sealed, and this one would not be" in fleet.refused("publish", "secret", "x")
        assert fleet.head("secret").newest == num

    def test_a_host_that_does_not_sign_where_others_do(self, fleet: SigningFleet) -> None:
        """It is warned: whether nodes require signatures is not known there."""
        fleet.publish("deploy", "v17", "--keep", "latest")
        fleet.write({"fleet": {"name": fleet.name}, "handlers": {}})
        status, _, err = fleet.command("publish", "deploy", "v18")
        assert status == 0
        assert "is signed, and this one will not be" in err

    def test_nodes_that_would_not_understand_it(self, fleet: SigningFleet) -> None:
        """They are to be upgraded first; what is not signed they understand."""
        fleet.acknowledge("lb1", format=2)
        fleet.acknowledge("lb2", format=1)
        why = fleet.refused("publish", "deploy", "v17", "--keep", "latest")
        assert "lb2 would not understand a message of format 2" in why
        assert "lb1" not in why
        fleet.configure(require=None, signing_key=None)
        fleet.publish("deploy", "v17", "--keep", "latest")


class TestAgain:
    """An earlier message, once more."""

    def test_a_sealed_one_stays_sealed(self, fleet: SigningFleet, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is opened here, and sealed for its new place."""
        first = fleet.publish_secret(monkeypatch, "--keep", "latest")
        again = fleet.publish("secret", "--again", str(first))
        assert fleet.opened(fleet.message("secret", again)) == SECRET.encode()
        assert fleet.message("secret", again).is_sealed

    def test_one_from_before_the_name_was_sealed_is_sealed(self, fleet: SigningFleet) -> None:
        """If it is signed."""
        fleet.configure(seal=None)
        first = fleet.publish("secret", "old", "--keep", "latest")
        fleet.configure()
        again = fleet.publish("secret", "--again", str(first))
        assert fleet.message("secret", again).is_sealed
        assert fleet.opened(fleet.message("secret", again)) == b"old"

    def test_a_publisher_signs_nothing_that_nodes_would_not_believe(self, fleet: SigningFleet) -> None:
        """Or anybody who may write to the log could have it sign for them."""
        fleet.configure(require=None, signing_key=None)
        forged = fleet.publish("deploy", "bad", "--keep", "latest")
        fleet.configure()
        why = fleet.refused("publish", "deploy", "--again", str(forged))
        assert f"message {forged} of deploy is not believed here (nobody signed it)" in why

    def test_one_of_a_key_that_was_removed(self, fleet: SigningFleet) -> None:
        """It is not signed with the new one."""
        first = fleet.publish("deploy", "v17", "--keep", "latest")
        fleet.ops = fleet.key("ops-2", new_secret_key())
        fleet.configure(signing_key=str(fleet.path("ops-2")))
        assert "which no publisher has" in fleet.refused("publish", "deploy", "--again", str(first))

    def test_one_that_is_sealed_with_a_key_that_is_gone(
        self, fleet: SigningFleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The key that opens it is named."""
        first = fleet.publish_secret(monkeypatch, "--keep", "latest")
        fleet.key("fleet-2", new_fleet_key())
        fleet.configure(fleet_keys=[str(fleet.path("fleet-2"))])
        assert "sealed with the fleet key agentd1.fid." in fleet.refused(
            "publish", "secret", "--again", str(first)
        )

    def test_while_the_fleet_changes_over_an_unsigned_one_is_signed(self, fleet: SigningFleet) -> None:
        """That is how what is in force gets a signature before signatures are required."""
        fleet.configure(require=None, signing_key=None)
        first = fleet.publish("deploy", "v17", "--keep", "latest")
        fleet.configure(require=None)
        again = fleet.publish("deploy", "--again", str(first))
        assert fleet.opened(fleet.message("deploy", again)) == b"v17"


class TestLog:
    """What `agentd log` shows of them."""

    def test_who_signed_what(self, fleet: SigningFleet, monkeypatch: pytest.MonkeyPatch) -> None:
        """Verified where a publisher is named; of what is sealed its size."""
        fleet.configure(require=None, signing_key=None)
        fleet.publish("list", "x", "--keep", "all")
        fleet.configure()
        fleet.publish("deploy", "v17", "--keep", "latest")
        fleet.publish_secret(monkeypatch, "--keep", "latest")
        head, *rows = fleet.command("log")[1].splitlines()
        at = head.index("SIGNED BY")
        assert [row[at:].split()[0] for row in rows] == ["ops", "ops", "nobody"]
        assert f"sealed, {len(SECRET)} bytes" in rows[0]
        sealed, signed, unsigned = fleet.json("log")["messages"]
        assert (sealed["sealed"], signed["sealed"], unsigned["sealed"]) == (True, False, False)
        assert (signed["signed"]["publisher"], unsigned["signed"]) == ("ops", None)

    def test_where_nobody_signs_there_is_no_such_column(self, fleet: SigningFleet) -> None:
        """It would only make lines longer."""
        fleet.configure(require=None, signing_key=None)
        fleet.publish("list", "x", "--keep", "all")
        assert "SIGNED" not in fleet.command("log")[1]

    def test_what_is_not_verified_is_told_with_the_reason(self, fleet: SigningFleet) -> None:
        """A key that is unknown here, and a host without `trust:`."""
        num = fleet.publish("deploy", "v17", "--keep", "latest")
        fleet.ops = fleet.key("ops-2", new_secret_key())
        fleet.configure(signing_key=str(fleet.path("ops-2")))
        _, out, _ = fleet.command("log")
        assert f"not verified: deploy {num}: it is signed with the key k4.pid." in out
        fleet.write({"fleet": {"name": fleet.name}, "handlers": {}})
        _, out, _ = fleet.command("log")
        assert "k4.pid." in out
        assert f"not verified: deploy {num}: there is no section `trust:` here" in out

    def test_a_signed_message_that_was_moved(self, fleet: SigningFleet) -> None:
        """It is no message of that place."""
        first = fleet.publish("deploy", "v17", "--keep", "latest")
        second = fleet.publish("deploy", "v18")
        raw = fleet.consul.kv_get(fleet.keys.message("deploy", first)) or b""
        moved = raw.replace(f'"num":{first}'.encode(), f'"num":{second}'.encode())
        fleet.consul.kv_put(fleet.keys.message("deploy", second), moved)
        assert f"not verified: deploy {second}: its signature is not that of ops" in fleet.command("log")[1]

    def test_no_secret_key_is_needed(self, fleet: SigningFleet, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever may read the log may look at it."""
        fleet.publish_secret(monkeypatch, "--keep", "latest")
        for name in ("ops", "fleet"):
            fleet.path(name).unlink()
        assert fleet.json("log")["messages"][0]["signed"]["publisher"] == "ops"


class TestFire:
    """Events are signed by nobody."""

    @pytest.mark.parametrize(
        "change, name, why",
        [
            ({}, "anything", "`trust.require: signed`"),
            ({"require": None}, "secret", "`trust.seal`"),
        ],
    )
    def test_an_event_that_nodes_refuse_is_not_fired(
        self,
        fleet: SigningFleet,
        monkeypatch: pytest.MonkeyPatch,
        change: dict[str, Any],
        name: str,
        why: str,
    ) -> None:
        """It says what to do instead."""
        fleet.configure(**change)
        monkeypatch.setattr("agentd.watch.client.ConsulClient.fire", never)
        told = fleet.refused("fire", name, "x")
        assert why in told
        assert f"use `agentd publish {name}`" in told

    def test_others_are(self, fleet: SigningFleet) -> None:
        """An empty one, one that need not be signed, one of another fleet or of none."""
        name = f"e-{fleet.name}"
        assert fleet.command("fire", name)[0] == 0
        fleet.configure(require=None)
        assert fleet.command("fire", name, "x")[0] == 0
        fleet.configure()
        other = Fleet(fleet.consul, "other", fleet._capsys)
        with closing(other):
            assert other.command("fire", name, "x")[0] == 0
        fleet.write({"handlers": {}})
        assert fleet.command("fire", name, "x")[0] == 0


def never(*_: object, **__: object) -> str:
    """Must not be called."""
    raise AssertionError


def encodings(text: str) -> list[str]:
    """The text as it would look in plain, and in base64 wherever it begins."""
    coded = [base64.b64encode(b"\0" * shift + text.encode()).decode() for shift in range(3)]
    return [text, *(one[4:-4] for one in coded)]
