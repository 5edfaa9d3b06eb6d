"""`agentd rollout abort` in a log to which somebody may write who has no key, on a real Consul."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.cli import main
from agentd.fleet.rollout import Admission
from agentd.trust.key_files import read_key
from agentd.trust.keyring import Signer
from agentd.trust.keys import SecretKey
from tests.integration.test_publish_signed import SigningFleet
from tests.servers.consul import ConsulAgent
from tests.servers.followers import publish

NAME = "deploy"
NODES = ("lb1", "lb2")


class Rollout(SigningFleet):
    """Two nodes that have `new` in force, after `old`; a rollout of `newest` admits none of them yet."""

    def begin(self) -> None:
        """Publish all that."""
        self.configure()
        self.old = self.publish(NAME, "old", "--keep", "latest", "--no-dry-run")
        self.raw = self.consul.kv_get(self.keys.message(NAME, self.old)) or b""
        self.new = self.publish(NAME, "new", "--no-dry-run")
        for node in NODES:
            self.acknowledge(node, format=2, names={NAME: {"live": self.new}})
        key = read_key(str(self.path("ops")))
        assert isinstance(key, SecretKey)
        admit = {"kind": "admit", "rollout": "r1", "admission": Admission(1)}
        publish(self.consul, self.name, NAME, "newest", keep="latest", signer=Signer(key), **admit)

    def put_back(self) -> None:
        """Have the log say that all nodes had `old`."""
        self.consul.kv_put(self.keys.message(NAME, self.old), self.raw)
        head = self.head(NAME)
        recent = tuple(sorted({self.old, *head.recent}))
        forged = replace(
            head, released=self.old, oldest=self.old, base=0, count=len(recent), recent=recent, inline=None
        )
        self.consul.kv_put(self.keys.head(NAME), forged.render())

    def abort(self) -> tuple[int, str]:
        """Run `agentd rollout abort`; its status, and what it printed."""
        status = main(["rollout", "abort", NAME, "--fleet", self.name, "--http-addr", self.consul.url])
        return status, "".join(self.captured())

    def aborted(self) -> str:
        """The payload that it brings back."""
        status, said = self.abort()
        assert status == 0, said
        body = self.opened(self.message(NAME, self.head(NAME).newest))
        return (body or b"").decode()


@pytest.fixture
def fleet(
    consul: ConsulAgent,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Rollout]:
    """See `Rollout`."""
    with closing(Rollout(consul, f"replayed{suffix}", capsys, directory)) as made:
        monkeypatch.setenv("AGENTD_CONFIG", str(made.file))
        made.begin()
        yield made


def test_an_old_message_is_not_signed_anew(fleet: Rollout) -> None:
    """While nodes have a later one, which somebody deleted; one node that lies hinders nothing."""
    fleet.put_back()
    raw = fleet.consul.kv_get(fleet.keys.message(NAME, fleet.new)) or b""
    fleet.consul.kv_delete(fleet.keys.message(NAME, fleet.new))
    status, said = fleet.abort()
    assert (status, f"the other nodes have message {fleet.new}" in said) == (1, True), said
    fleet.consul.kv_put(fleet.keys.message(NAME, fleet.new), raw)
    fleet.acknowledge("lb3", format=2, names={NAME: {"live": fleet.new + 1}})
    assert fleet.aborted() == "new"
