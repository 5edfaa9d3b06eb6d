"""The blacklist handler on the bench: files, all-or-nothing, expiry, changed options."""

from __future__ import annotations

import pytest

from agentd.handler import PermanentError
from agentd.testing import HandlerBench, event, key
from handlers.ip_blacklist import IPBlacklist

CONF, ENTRIES = "blacklist/blacklist.conf", "blacklist/entries.tsv"
IPV4, IPV6 = "blacklist/ipv4.ranges", "blacklist/ipv6.cidrs"


def bench(**options: object) -> HandlerBench:
    """A node that has started, with an empty list."""
    # Whatever addresses this machine has, the test's own are none of them.
    made = HandlerBench(IPBlacklist, {"never_block_node": False} | options, now=1000.0)
    made.initial()
    return made


def enforced(node: HandlerBench) -> list[str]:
    """The ranges and CIDRs that nginx enforces."""
    return [
        line.removesuffix(" 1;") for path in (IPV4, IPV6) for line in node.files[path].decode().splitlines()
    ]


def test_initial_list_is_empty() -> None:
    """Before any event nginx finds every file that the include names, and nobody is blocked."""
    node = bench()

    assert enforced(node) == []
    assert b"include agentd/current/blacklist/ipv4.ranges;" in node.files[CONF]
    assert b"agentd_v6" not in node.files[CONF]
    assert node.next_due is None


def test_lists_are_not_readable_by_all() -> None:
    """Who is blocked is for the operator and nginx to know."""
    node = bench()

    assert [node.modes[path] for path in (ENTRIES, IPV4, IPV6)] == [0o640] * 3


def test_add_and_remove() -> None:
    """Operations of a batch apply in order; what nginx reads is merged."""
    node = bench()

    node.handle(
        event("block", "192.0.2.0/25\nadd 192.0.2.128/25\n192.0.2.7\n2001:db8::/32"),
        event("block", "remove 192.0.2.255", ltime=2),
    )

    assert enforced(node) == ["192.0.2.0-192.0.2.254", "2001:db8::/32"]
    assert node.store["gauges"]["blacklist_entries"] == 4


def test_the_same_event_again() -> None:
    """An entry for good that is added again leaves what nginx reads as it is."""
    node = bench()
    node.handle(event("block", "192.0.2.1"))

    assert node.handle(event("block", "192.0.2.1")) == ()


def test_one_bad_line_refuses_all() -> None:
    """A payload with a bad line changes nothing at all."""
    node = bench()
    files, store = node.files, node.store

    with pytest.raises(PermanentError, match=r"line 2 '127.0.0.1': would block loopback"):
        node.handle(event("block", "192.0.2.1\n127.0.0.1"))

    assert (node.files, node.store) == (files, store)


def test_never_block() -> None:
    """An address that the options protect cannot be blocked."""
    node = bench(never_block=["203.0.113.0/24"])

    with pytest.raises(PermanentError, match="which never_block names"):
        node.handle(event("block", "203.0.113.9"))


def test_never_block_named_later() -> None:
    """What the options protect is let through, also if it was blocked before they did."""
    node = bench()
    node.handle(event("block", "203.0.113.0/24"))
    node.restart({"never_block": ["203.0.113.9"]})

    node.initial()

    assert enforced(node) == ["203.0.113.0-203.0.113.8", "203.0.113.10-203.0.113.255"]


def test_expiry_on_time_in_one_commit() -> None:
    """All that is due at one time goes in one commit, and what is not due stays."""
    node = bench()
    node.handle(event("block", "add 192.0.2.1 10m\nadd 2001:db8::1 10m\nadd 192.0.2.3 20m\n192.0.2.5"))
    generation = node.generation

    node.advance(599.9)
    before = enforced(node)
    node.advance(0.1)

    assert before == ["192.0.2.1-192.0.2.1", "192.0.2.3-192.0.2.3", "192.0.2.5-192.0.2.5", "2001:db8::1/128"]
    assert enforced(node) == ["192.0.2.3-192.0.2.3", "192.0.2.5-192.0.2.5"]
    assert node.generation == generation + 1
    assert node.next_due == 1000.0 + 1200


def test_expired_while_down() -> None:
    """An entry that expired while the daemon was down is gone after the start."""
    node = bench()
    node.handle(event("block", "add 192.0.2.1 10m"))
    node.now += 601
    node.restart()

    node.initial()

    assert enforced(node) == []


def test_latest_add_decides_the_time() -> None:
    """Adding the same CIDR again replaces its TTL."""
    node = bench()
    node.handle(event("block", "add 192.0.2.1 10m"))
    node.handle(event("block", "add 192.0.2.1 20m", ltime=2))

    node.advance(601)

    assert enforced(node) == ["192.0.2.1-192.0.2.1"]
    assert node.next_due == 1000.0 + 1200


def test_entries_say_which_event() -> None:
    """Each entry remembers the event, the time and the reason."""
    node = bench()

    node.handle(event("block", "add 192.0.2.1 10m # scans", id="the-event"))

    assert b"192.0.2.1/32\tall\t1600.0\t1000.0\tthe-event\tscans\n" in node.files[ENTRIES]


def test_prefix_of_the_variables() -> None:
    """The operator chooses how the variables begin."""
    conf = bench(prefix="edge").files[CONF]

    assert b'map "$edge_v4" $edge_blocked {' in conf


def test_other_changes_are_refused() -> None:
    """A list by reference is not an event's operation; a KV key is refused."""
    with pytest.raises(PermanentError, match="takes events and services"):
        bench().handle(key("blocked", "192.0.2.1"))


@pytest.mark.parametrize("options", [{"never_block": ["nonsense"]}, {"prefix": "a;b"}, {"prefix": ""}])
def test_bad_options(options: dict[str, object]) -> None:
    """Options that nginx or the guards could not use are refused with the configuration."""
    with pytest.raises(ValueError, match=next(iter(options))):
        HandlerBench(IPBlacklist, options)
