"""Entries under any sequence of operations, against a model that remembers every address."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.ip_blacklist.entries import Entries, cut, dump, expire, holes, load, next_expiry, ranges
from handlers.ip_blacklist.origin import Origin
from handlers.ip_blacklist.payload import Operation
from handlers.ip_blacklist.ranges import Block, merge, parse_cidr

FIRST = parse_cidr("192.0.2.0").first
blocks = st.builds(
    lambda offset, prefix: parse_cidr(f"192.0.2.{offset}/{prefix}"), st.integers(0, 31), st.integers(27, 32)
)
ttls = st.sampled_from([None, 5.0, 20.0])
operations = st.one_of(
    st.builds(Operation, st.just("add"), blocks, ttls), st.builds(Operation, st.just("remove"), blocks)
)


def blocked(entries: Entries) -> set[int]:
    """Every blocked IPv4 address."""
    return {value for first, last in merge(ranges(entries, 32)) for value in range(first, last + 1)}


def apply(before: Entries, operations: Iterable[Operation], now: float, change: str) -> Entries:
    """The entries after the operations of an event."""
    after = dict(before)
    for operation in operations:
        if operation.verb == "remove":
            after = cut(after, holes([operation.block]))
        else:
            after[operation.block] = Origin(change, now, now).entry(operation, None)
    return after


def add(text: str, ttl: float | None = None, reason: str = "") -> Operation:
    """An `add`."""
    return Operation("add", parse_cidr(text), ttl, reason)


@given(st.lists(st.tuples(operations, st.sampled_from([0.0, 1.0, 5.0])), max_size=15))
def test_what_is_blocked(steps: list[tuple[Operation, float]]) -> None:
    """An address is blocked while an entry covers it; the latest add of a CIDR says how long it lasts."""
    entries: Entries = {}
    model: dict[int, dict[Block, float]] = {}  # address -> CIDR that covers it -> its end
    now = 0.0
    for operation, wait in steps:
        now += wait
        entries = apply(expire(entries, now), [operation], now, "event")
        for value in range(operation.block.first, operation.block.last + 1):
            if operation.verb == "remove":
                model.pop(value, None)
            else:
                end = math.inf if operation.ttl is None else now + operation.ttl
                model.setdefault(value, {})[operation.block] = end

        assert blocked(entries) == {value for value, ends in model.items() if max(ends.values()) > now}


@given(st.lists(operations, max_size=15))
def test_file_round_trip(sequence: list[Operation]) -> None:
    """Entries come back from the file as they went in, and equal entries make equal files."""
    entries = apply({}, sequence, 12.5, "event")

    assert load(dump(entries)) == entries
    assert dump(load(dump(entries))) == dump(entries)


def test_file_keeps_all_that_is_known() -> None:
    """Reason, event and times stand in the file, for either family."""
    entries = apply({}, [add("2001:db8::/32", 60.0, "scans # us"), add("192.0.2.0/24")], 1.25, "uuid")
    entries = apply(entries, [Operation("remove", parse_cidr("2001:db8::5"))], 2.0, "other")

    assert load(dump(entries)) == entries
    assert b"2001:db8::/32\t2001:db8::-2001:db8::4,2001:db8::6-2001:db8:ffff" in dump(entries)
    assert b"\t61.25\t1.25\tuuid\tscans # us\n" in dump(entries)


def test_broken_file() -> None:
    """A file that something else wrote is an error, not an empty list."""
    with pytest.raises(ValueError, match="not enough values"):
        load(b"192.0.2.0/24\n")


def test_expiry_at_the_boundary() -> None:
    """An entry is in force just before its time and gone at it."""
    entries = apply({}, [add("192.0.2.1", 10.0)], 100.0, "event")

    assert expire(entries, 109.999) == entries
    assert expire(entries, 110.0) == {}


def test_next_expiry() -> None:
    """The earliest end counts; entries for good have none."""
    entries = apply({}, [add("192.0.2.1", 10.0), add("192.0.2.2", 5.0), add("192.0.2.3")], 100.0, "event")

    assert next_expiry(entries) == 105.0
    assert next_expiry(expire(entries, 200.0)) is None


def test_removing_one_address_of_a_network() -> None:
    """Removing an address of a wider entry lets that address through and no other."""
    entries = apply({}, [add("192.0.2.0/24"), Operation("remove", parse_cidr("192.0.2.7"))], 0.0, "event")

    assert blocked(entries) == set(range(FIRST, FIRST + 256)) - {FIRST + 7}


def test_removing_leaves_the_other_family() -> None:
    """Removing all of IPv4 leaves IPv6 as it is."""
    entries = apply({}, [add("192.0.2.0/24"), add("2001:db8::1")], 0.0, "event")

    assert list(apply(entries, [Operation("remove", parse_cidr("0.0.0.0/0"))], 0.0, "event")) == [
        parse_cidr("2001:db8::1")
    ]


@given(st.lists(operations, max_size=15), st.lists(blocks, max_size=8))
def test_many_holes_are_as_one_after_another(sequence: list[Operation], gone: list[Block]) -> None:
    """What is cut out at once is what is cut out in turn."""
    entries = apply({}, sequence, 0.0, "event")
    one_by_one = entries
    for block in gone:
        one_by_one = cut(one_by_one, holes([block]))

    assert cut(entries, holes(gone)) == one_by_one


@pytest.mark.parametrize("text", ["x\tr\n0.0.0.0/0\tall\t-\t1.0\ty", "a\r\n\0", "\ud800", "\u2028\x85"])
def test_no_text_ends_its_column_or_line(text: str) -> None:
    """An event's ID or reason is in its own column, escaped; the file can be read again."""
    entries = apply({}, [replace(add("192.0.2.7"), reason=text)], 1.0, text)

    written = load(dump(entries))

    assert list(written) == list(entries)
    assert all(one.change.isprintable() and one.reason.isprintable() for one in written.values())
    assert dump(written) == dump(entries)


def test_the_lines_beside_a_damaged_one_are_read() -> None:
    """Its number is told."""
    good = dump(apply({}, [add("192.0.2.7"), add("192.0.2.9")], 1.0, "uuid"))
    first, second, third = good.splitlines(keepends=True)
    damaged: list[int] = []

    odd = b"nonsense\n\xff\t\n192.0.2.1/32\tall\tnan\t1.0\tx\t\n"
    assert dump(load(first + second + odd + third, damaged)) == good
    assert damaged == [3, 4, 5]
