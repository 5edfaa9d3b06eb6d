"""Bad input through a real daemon: refused with a reason, and the tree unchanged byte for byte."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_main_job import new_key
from tests.servers.consul import ConsulAnswerError
from tests.servers.fleet import BLACKLIST_EVENT, TICKET_EVENT, Node, main_job
from tests.servers.waiting import wait_until

SUFFIX = "-bad"


@pytest.fixture(scope="module")
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """One node for all the bad input, which is to leave it as it is."""
    consul = request.getfixturevalue("consul")
    certificate = request.getfixturevalue("certificate")
    handlers = main_job(promote_after="0s", suffix=SUFFIX)
    handlers["blacklist"]["options"] = {"never_block": ["192.0.2.0/24"]}
    with tempfile.TemporaryDirectory(prefix="agentd-bad-") as made:
        made_node = Node(Path(made), certificate, number=1, consul=consul, handlers=handlers)
        try:
            made_node.start().agentd.await_listening()
            # An earlier node of this module may have left events in Consul's ring.
            wait_until(lambda: all(row["outcome"] for row in made_node.history()), "the old events to end")
            yield made_node
        finally:
            made_node.stop()


@pytest.mark.parametrize(
    "payload, reason",
    [
        (b"", "empty"),
        (b"%%% not base64 %%%", "not base64"),
        (base64.b64encode(os.urandom(47)), "47 bytes"),
        (base64.b64encode(os.urandom(49)), "49 bytes"),
        (os.urandom(300), "bytes"),
    ],
    ids=["empty", "not-base64", "47", "49", "random"],
)
def test_a_bad_key_is_refused(node: Node, payload: bytes, reason: str) -> None:
    """A payload that is no key is refused with the reason in the history."""
    before = node.content()
    entry = node.outcome(node.fire(TICKET_EVENT + SUFFIX, payload))
    assert entry["outcome"] == "refused"
    assert reason in entry["reason"]
    assert node.content() == before


def test_as_many_random_bytes_as_consul_takes_are_refused(node: Node) -> None:
    """The largest payload that the agent takes is refused like any other."""
    before = node.content()
    entry = node.outcome(_fire_largest(node))
    assert entry["outcome"] == "refused"
    assert node.content() == before


def _fire_largest(node: Node) -> str:
    """Consul's limit of 512 bytes counts its own encoding, the event's name and ID included."""
    payload = os.urandom(512)
    while True:
        try:
            return node.fire(TICKET_EVENT + SUFFIX, payload)
        except ConsulAnswerError:
            payload = payload[:-4]


def test_a_known_name_with_another_secret_is_refused(node: Node) -> None:
    """Keys are looked up by their first 16 bytes: a second secret under a name breaks sessions."""
    key = os.urandom(48)
    node.outcome(node.fire(TICKET_EVENT + SUFFIX, base64.b64encode(key)))
    before = node.content()
    entry = node.outcome(node.fire(TICKET_EVENT + SUFFIX, base64.b64encode(key[:16] + os.urandom(32))))
    assert entry["outcome"] == "refused"
    assert node.content() == before


@pytest.mark.parametrize(
    "line",
    [
        "not-an-address", "0.0.0.0/0", "10.0.0.0/7", "2001::/18", "127.0.0.1", "::1",
        "192.0.2.77", "192.0.0.0/16",
        "add 198.51.100.1 soon", "1.2.3.4/ 8", "+8", "\u0663", "fe80::1%eth0", "drop 198.51.100.1",
    ],
)  # fmt: skip
def test_a_bad_blacklist_line_is_refused(node: Node, line: str) -> None:
    """One bad line refuses the whole payload, good lines included."""
    before = node.content()
    entry = node.outcome(node.fire(BLACKLIST_EVENT + SUFFIX, f"add 198.51.100.9\n{line}".encode()))
    assert entry["outcome"] == "refused"
    assert "line 2" in entry["reason"]
    assert node.content() == before


def test_a_good_key_is_applied_after_all_that(node: Node) -> None:
    """The daemon that refused is as able as before."""
    assert node.outcome(node.fire(TICKET_EVENT + SUFFIX, new_key()))["outcome"] == "applied"


NewNode = Callable[..., Node]


@pytest.mark.parametrize(
    "handlers, says",
    [
        ({"h": {"use": "tls_ticket_keys", "nonsense": 1}}, "unknown field"),
        ({"h": {"use": "no_such"}}, "there is no handler 'no_such'"),
        ({"h": {"use": "no.such.module:Class"}}, "there is no module"),
        ({"h": {"use": "tests.integration.broken_import:Class"}}, "an import in it failed"),
        ({"h": {"use": "json:JSONDecoder"}}, "not a subclass"),
    ],
    ids=["field", "handler", "module", "import", "class"],
)
def test_a_bad_configuration_is_told_apart(new_node: NewNode, handlers: dict[str, object], says: str) -> None:
    """`agentd run` ends at once with a readable error that names file and line."""
    node = new_node(handlers=handlers)
    done = node.agentd.command("run")
    assert done.returncode == 2
    assert says in done.stderr
    assert "agentd.yaml:" in done.stderr
    assert "Traceback" not in done.stderr
