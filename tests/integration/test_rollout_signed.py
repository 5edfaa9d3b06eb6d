"""A rollout that is signed and sealed, on five real daemons that believe only what is signed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd.fleet.envelope import Draft
from agentd.fleet.head import parse_head
from agentd.fleet.keys import Keys
from agentd.fleet.rollout import ALL, Admission
from agentd.trust.key_files import write_key
from agentd.trust.keyring import Signer
from agentd.trust.keys import new_fleet_key, new_secret_key
from tests.servers.consul import ConsulAgent
from tests.servers.followers import publish
from tests.servers.rollout_fleet import NAME, SIZE, SWIFT, RolloutFleet

KEY = new_secret_key()


class SigningFleet(RolloutFleet):
    """One whose publisher has a configuration file, with keys."""

    def __init__(self, consul: ConsulAgent, directory: Path) -> None:
        for name, key in (("fleet", new_fleet_key()), ("ops", KEY)):
            write_key(directory / f"{name}.key", key)
        publishers = {"ops": {"key": KEY.public.text, "may": [NAME]}}
        trust: dict[str, Any] = {
            "publishers": publishers,
            "require": "signed",
            "seal": [NAME],
            "fleet_keys": [str(directory / "fleet.key")],
        }
        super().__init__(consul, directory, {"trust": trust})
        self.file = directory / "admin.yaml"
        self.write(trust | {"signing_key": str(directory / "ops.key")})
        self.address = (*self.address, "--config", str(self.file))

    def write(self, trust: dict[str, Any]) -> None:
        """Write the publisher's configuration."""
        self.file.write_text(
            yaml.safe_dump({"fleet": {"name": self.name}, "trust": trust, "nginx": None, "handlers": {}})
        )

    def payload(self, text: str) -> tuple[str, ...]:
        """How a secret payload is given: by its file."""
        path = self.directory / "payload"
        path.write_text(text)
        return "--file", str(path)


@pytest.fixture(scope="module")
def daemons(consul: ConsulAgent) -> Iterator[SigningFleet]:
    """All of them run."""
    with SigningFleet.started(consul) as made:
        yield made


@pytest.fixture
def fleet(
    daemons: SigningFleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[SigningFleet]:
    """All have the payload `old` in force, and nothing else is in the log."""
    with daemons.ready(capsys, monkeypatch):
        yield daemons


def forge(fleet: SigningFleet) -> None:
    """Put a step that nobody signed at the end of the log, as whoever may write to Consul can."""
    keys = Keys(fleet.name)
    head = parse_head(fleet.consul.kv_get(keys.head(NAME)) or b"")
    draft = Draft(b"x", time.time(), "eve", kind="admit", rollout="f0", admission=Admission(ALL))
    message = draft.numbered(fleet.name, NAME, head.newest + 1, head.newest)
    fleet.consul.kv_put(keys.message(NAME, message.num), message.raw)
    recent, released = (*head.recent, message.num), head.newest if head.released is None else head.released
    made = replace(
        head, newest=message.num, count=head.count + 1, recent=recent, released=released, inline=None
    )
    fleet.consul.kv_put(keys.head(NAME), made.render())


def test_every_step_is_signed_and_sealed(fleet: SigningFleet) -> None:
    """Nobody reads the payload in Consul; a step that another signs is not taken, nor gone on with."""
    fleet.refuse("node3")
    status, out, _ = fleet.run("publish", NAME, *fleet.payload("s3cret"), *SWIFT, "--canary", "node3")
    assert status == 1
    assert "stopped at canary" in out
    seen = fleet.seen()
    assert (seen["signed_by"], seen["unverified"], seen["payload"]) == ("ops", None, "sealed, 6 bytes")
    fleet.refuse("node3", refuses=False)
    assert fleet.run("rollout", "abort", NAME, "--wait", "--timeout", "100s")[0] == 0
    told = fleet.json("publish", NAME, *fleet.payload("s3cret"), *SWIFT, "--canary", "node3")
    assert (told["outcome"], told["sealed"], told["signed_by"]) == ("released", True, "ops")
    assert fleet.payloads() == ["s3cret"] * SIZE
    assert all(one.is_sealed and b"s3cret" not in one.raw for one in fleet.messages())


def test_a_step_that_nobody_signed_opens_nothing(fleet: SigningFleet) -> None:
    """Anybody may have written it: rollouts begin, go on and are aborted as if it were not there."""
    forge(fleet)
    assert (
        fleet.json("publish", NAME, *fleet.payload("new"), *SWIFT, "--canary", "1")["outcome"] == "released"
    )
    running = fleet.begin(f"--file={fleet.payload('newer')[1]}", "--canary", "node3", "--pause", "4s")
    fleet.await_payloads("new", "new", "newer", "new", "new")
    forge(fleet)
    out, err = running.communicate(timeout=200)
    assert running.returncode == 0, out + err
    assert fleet.payloads() == ["newer"] * SIZE


def test_abort_brings_back_what_all_nodes_had_whatever_the_head_says(fleet: SigningFleet) -> None:
    """Else whoever may write to Consul could have an operator sign an old payload anew."""
    keys, consul = Keys(fleet.name), fleet.consul
    [old] = fleet.messages()
    assert fleet.run("publish", NAME, *fleet.payload("right"), "--wait", "--timeout", "100s")[0] == 0
    fleet.refuse("node3")
    assert fleet.run("publish", NAME, *fleet.payload("bad"), *SWIFT, "--canary", "node3")[0] == 1
    fleet.refuse("node3", refuses=False)
    head = parse_head(consul.kv_get(keys.head(NAME)) or b"")
    consul.kv_put(keys.message(NAME, old.num), old.raw)
    forged = replace(head, released=old.num, oldest=old.num, count=head.count + 1)
    consul.kv_put(keys.head(NAME), forged.render())
    assert fleet.json("rollout", "abort", NAME, "--wait", "--timeout", "100s")["restores"] == head.released
    assert fleet.payloads() == ["right"] * SIZE


def test_a_forged_step_is_taken_by_nobody_and_can_be_aborted(fleet: SigningFleet) -> None:
    """The status says that it is not believed."""
    publish(
        fleet.consul,
        fleet.name,
        NAME,
        "forged",
        keep="latest",
        signer=Signer(new_secret_key()),
        kind="admit",
        rollout="f0",
        admission=Admission(ALL),
    )
    assert fleet.seen()["unverified"]
    assert fleet.payloads() == ["old"] * SIZE
    assert fleet.run("rollout", "abort", NAME, "--wait", "--timeout", "100s")[0] == 0
    assert fleet.payloads() == ["old"] * SIZE
