"""References in a real daemon: the event is a doorbell, the payload lies in Consul's KV store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration import loader
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node
from tests.servers.waiting import wait_until

BODY = b"192.0.2.1\n" * 10_000


@pytest.fixture
def prefix(suffix: str) -> str:
    """A prefix of keys that no other test has, short enough for an event."""
    return f"sources{suffix}/"


@pytest.fixture
def node(new_node: Callable[..., Node], consul: ConsulAgent, prefix: str, suffix: str) -> Node:
    """A node whose events may name keys below `prefix`, where one lies."""
    consul.kv_put(f"{prefix}lists/drop.txt", BODY)
    consul.kv_put(f"{prefix}secret", b"secret")
    handlers = {"loader": {"use": "tests.integration.loader:Loader", "on": [{"event": f"load{suffix}"}]}}
    settings = {"sources": {"allow": [f"kv:{prefix}lists", "file:/proc/self"]}}
    return new_node(handlers=handlers, settings=settings).start()


def test_a_key_named_by_an_event_is_staged(node: Node, prefix: str, suffix: str) -> None:
    """A hundred times what an event can carry; afterwards the private copy is gone."""
    digest = hashlib.sha256(BODY).hexdigest()
    fired = node.fire(f"load{suffix}", f"kv:{prefix}lists/drop.txt sha256:{digest}".encode())
    assert node.outcome(fired)["outcome"] == "applied"
    assert node.read(loader.PATH) == BODY
    fetched = node.directory / "state" / "fetched"
    wait_until(lambda: not list(fetched.iterdir()), "the private directory to be removed")


@pytest.mark.parametrize(
    "reference, reason",
    [
        ("kv:{prefix}secret", "sources.allow"),
        ("kv:{prefix}lists/../secret", "the reference cannot be used"),
        ("kv:{prefix}lists/none", "no such key"),
        ("kv:{prefix}lists/drop.txt sha256:" + "0" * 64, "was expected"),
        ("file:/etc/passwd", "sources.allow"),
        ("file:/proc/self/root/etc/passwd", "leads out"),
    ],
)
def test_what_an_event_may_not_name_is_refused(
    node: Node, prefix: str, suffix: str, reference: str, reason: str
) -> None:
    """With the reason in the history, and nothing staged."""
    fired = node.fire(f"load{suffix}", reference.format(prefix=prefix).encode())
    entry = node.outcome(fired)
    assert entry["outcome"] == "refused"
    assert reason in entry["reason"]
    assert not (node.nginx.tree / "current" / loader.PATH).exists()


def test_a_dry_run_fetches_and_changes_nothing(node: Node, prefix: str, suffix: str) -> None:
    """`agentd replay --dry-run` shows what would be staged."""
    fired = node.fire(f"load{suffix}", f"kv:{prefix}lists/drop.txt".encode())
    node.outcome(fired)
    generation = node.generation
    node.consul.kv_put(f"{prefix}lists/drop.txt", b"198.51.100.1\n")
    shown = node.agentd.command("replay", fired, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "+198.51.100.1" in shown.stdout
    assert node.generation == generation
    assert not Path(node.nginx.tree / "generations" / f"{generation + 1:06}").exists()
