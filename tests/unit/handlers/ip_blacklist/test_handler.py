"""The blacklist handler on the harness: files, all-or-nothing, expiry, changed options."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.handler import PermanentError
from agentd.testing import HandlerHarness, event, key
from handlers.ip_blacklist.handler import IPBlacklist

CONF, ENTRIES = "blacklist/blacklist.conf", "blacklist/entries.tsv"
IPV4, IPV6 = "blacklist/ipv4.ranges", "blacklist/ipv6.cidrs"


def harness(**options: object) -> HandlerHarness:
    """A node that has started, with an empty list."""
    # Whatever addresses this machine has, the test's own are none of them.
    made = HandlerHarness(IPBlacklist, {"never_block_node": False} | options, now=1000.0)
    made.initial()
    return made


def enforced(node: HandlerHarness) -> list[str]:
    """The ranges and CIDRs that nginx enforces."""
    return [
        line.removesuffix(" 1;") for path in (IPV4, IPV6) for line in node.files[path].decode().splitlines()
    ]


def test_initial_list_is_empty() -> None:
    """Before any event nginx finds every file that the include names, and nobody is blocked."""
    node = harness()

    assert enforced(node) == []
    assert b"include agentd/current/blacklist/ipv4.ranges;" in node.files[CONF]
    assert b"agentd_v6" not in node.files[CONF]
    assert node.next_due is None


def test_a_clock_that_is_set_back_prolongs_no_entry() -> None:
    """It lasts from then on for as long as it was to last, not for a year more."""
    node = harness(never_block_private=False)
    node.now = 10**9 + 365 * 86400.0
    node.handle(event("block", "add 192.0.2.1 10m"))
    node.due()
    node.now = 10.0**9
    node.due()
    node.advance(601)

    assert enforced(node) == []


def test_an_entry_ends_also_if_more_lines_are_left_than_an_output_may_have() -> None:
    """A wide entry was one `deny` line; the addresses in it that stay are more."""
    node = harness(outputs=["deny"], most_deny=5)
    node.handle(event("block", "add 198.51.100.0/24 10m"))
    node.handle(event("block", "\n".join(f"add 198.51.100.{2 * n}" for n in range(9)), ltime=2))
    node.advance(601)

    assert len(enforced(node)) == 9
    assert node.next_due is None or node.next_due > node.now


def test_lists_are_not_readable_by_all() -> None:
    """Who is blocked is for the operator and nginx to know."""
    node = harness()

    assert [node.modes[path] for path in (ENTRIES, IPV4, IPV6)] == [0o640] * 3


def test_add_and_remove() -> None:
    """Operations of a batch apply in order; what nginx reads is merged."""
    node = harness()

    node.handle(
        event("block", "192.0.2.0/25\nadd 192.0.2.128/25\n192.0.2.7\n2001:db8::/32"),
        event("block", "remove 192.0.2.255", ltime=2),
    )

    assert enforced(node) == ["192.0.2.0-192.0.2.254", "2001:db8::/32"]
    assert node.store["gauges"]["blacklist_entries"] == 4


def test_an_event_without_date_blocks_nobody_for_a_time() -> None:
    """It may be over since long; what is to last is blocked, and what is to be removed is not."""
    node = harness()
    node.handle(event("block", "192.0.2.1\nadd 192.0.2.9 10m"))

    node.handle(
        replace(event("block", "add 192.0.2.2 8s\n192.0.2.3\nremove 192.0.2.1", ltime=2), undated=True)
    )

    assert enforced(node) == ["192.0.2.3-192.0.2.3", "192.0.2.9-192.0.2.9"]


def test_an_event_without_date_does_not_prolong_what_is_blocked() -> None:
    """The journal was lost, and the tree was not: an entry keeps its own expiry."""
    node = harness()
    ban = event("block", "add 192.0.2.2 8s")
    node.handle(ban)
    node.advance(5)

    node.handle(replace(ban, undated=True))
    node.advance(3)

    assert enforced(node) == []


@given(
    st.floats(1, 600),
    st.lists(st.tuples(st.floats(0, 900), st.sampled_from([-86_400.0, -3600.0, 3600.0])), max_size=4),
)
def test_no_step_of_the_clock_prolongs_a_block(ttl: float, starts: list[tuple[float, float]]) -> None:
    """However the clock jumped while agentd was down: what expires does so within its own time from then."""
    node = harness()
    node.now = 1e6
    node.handle(event("block", f"add 192.0.2.2 {ttl:.0f}s"))
    for ran, jump in starts:
        node.advance(ran)
        node.now += jump
        node.restart()
        node.initial()
        node.due()

        assert (node.next_due or node.now) <= node.now + ttl + 1
    node.advance(ttl + 1)

    assert enforced(node) == []


def test_the_same_event_again() -> None:
    """An entry for good that is added again leaves what nginx reads as it is."""
    node = harness()
    node.handle(event("block", "192.0.2.1"))

    assert node.handle(event("block", "192.0.2.1")) == ()


def test_one_bad_line_refuses_all() -> None:
    """A payload with a bad line changes nothing at all."""
    node = harness()
    files, store = node.files, node.store

    with pytest.raises(PermanentError, match=r"line 2 '127.0.0.1': would block loopback"):
        node.handle(event("block", "192.0.2.1\n127.0.0.1"))

    assert (node.files, node.store) == (files, store)


def test_never_block() -> None:
    """An address that the options protect cannot be blocked."""
    node = harness(never_block=["203.0.113.0/24"])

    with pytest.raises(PermanentError, match="which is listed in never_block"):
        node.handle(event("block", "203.0.113.9"))


def test_never_block_named_later() -> None:
    """What the options protect is let through, also if it was blocked before they did."""
    node = harness()
    node.handle(event("block", "203.0.113.0/24"))
    node.restart({"never_block": ["203.0.113.9"]})

    node.initial()

    assert enforced(node) == ["203.0.113.0-203.0.113.8", "203.0.113.10-203.0.113.255"]


def test_expiry_on_time_in_one_commit() -> None:
    """All that is due at one time goes in one commit, and what is not due stays."""
    node = harness()
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
    node = harness()
    node.handle(event("block", "add 192.0.2.1 10m"))
    node.now += 601
    node.restart()

    node.initial()

    assert enforced(node) == []


def test_latest_add_decides_the_time() -> None:
    """Adding the same CIDR again replaces its TTL."""
    node = harness()
    node.handle(event("block", "add 192.0.2.1 10m"))
    node.handle(event("block", "add 192.0.2.1 20m", ltime=2))

    node.advance(601)

    assert enforced(node) == ["192.0.2.1-192.0.2.1"]
    assert node.next_due == 1000.0 + 1200


def test_entries_say_which_event() -> None:
    """Each entry remembers the event, the time and the reason."""
    node = harness()

    node.handle(event("block", "add 192.0.2.1 10m # scans", id="the-event"))

    assert b"192.0.2.1/32\tall\t1600.0\t1000.0\tthe-event\tscans\n" in node.files[ENTRIES]


def test_prefix_of_the_variables() -> None:
    """The operator chooses how the variables begin."""
    conf = harness(prefix="edge").files[CONF]

    assert b'map "$edge_v4" $edge_blocked {' in conf


def test_other_changes_are_refused() -> None:
    """A list by reference is not an event's operation; a KV key is refused."""
    with pytest.raises(PermanentError, match="handles events and services"):
        harness().handle(key("blocked", "192.0.2.1"))


@pytest.mark.parametrize("options", [{"never_block": ["nonsense"]}, {"prefix": "a;b"}, {"prefix": ""}])
def test_bad_options(options: dict[str, object]) -> None:
    """Options that nginx or the guards could not use are refused with the configuration."""
    with pytest.raises(ValueError, match=next(iter(options))):
        HandlerHarness(IPBlacklist, options)


def test_an_event_whose_id_would_break_the_file_harms_nothing() -> None:
    """Neither the file nor the next start; only what it says is blocked."""
    node = harness()

    node.handle(event("block", "198.51.100.8", id="x\tr\n0.0.0.0/0\tall\t-\t1.0\ty"))
    node.restart()
    node.initial()

    assert enforced(node) == ["198.51.100.8-198.51.100.8"]


def test_a_damaged_line_of_the_file_is_told_and_the_others_stay_in_force() -> None:
    """At the next start, after which the file is whole again."""
    node = harness()
    node.handle(event("block", "198.51.100.8"))
    node._files[ENTRIES] = (node.files[ENTRIES] + b"nonsense\n", 0o640)

    node.restart()
    node.initial()

    assert [line for line in node.log if line.event == "blacklist.entries_damaged"]
    assert enforced(node) == ["198.51.100.8-198.51.100.8"]
    assert b"nonsense" not in node.files[ENTRIES]
