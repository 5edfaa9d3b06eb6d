"""A rollout that is signed and sealed, on five real daemons that believe only what is signed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

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

    def payload(self, text: str) -> tuple[str, str]:
        """How a secret payload is given: by its file."""
        path = self.directory / "payload"
        path.write_text(text)
        return "--file", str(path)


@pytest.fixture
def fleet(
    consul: ConsulAgent, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[SigningFleet]:
    """All have the payload `old` in force."""
    monkeypatch.delenv("AGENTD_CONFIG", raising=False)
    with tempfile.TemporaryDirectory(prefix="agentd-", ignore_cleanup_errors=True) as directory:
        made = SigningFleet(consul, Path(directory))
        made.capsys = capsys
        try:
            made.start()
            words = ("--keep", "latest", "--wait", "--timeout", "100s")
            status, out, err = made.run("publish", NAME, *made.payload("old"), *words)
            assert status == 0, out + err
            with made.running:
                yield made
        finally:
            made.close()


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


def test_a_forged_step_stops_it_and_is_taken_by_nobody(fleet: SigningFleet) -> None:
    """The command says that it is not believed; status does, too."""
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
    status, _, err = fleet.run("publish", NAME, *fleet.payload("new"), *SWIFT, "--canary", "node3")
    assert status == 1
    assert "a rollout is open that is not believed here" in err
    assert fleet.seen()["unverified"]
    assert fleet.payloads() == ["old"] * SIZE
    assert fleet.run("rollout", "abort", NAME, "--wait", "--timeout", "100s")[0] == 0
    assert fleet.payloads() == ["old"] * SIZE
