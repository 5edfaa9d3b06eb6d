"""How much events and lists may block together: refused with the figures, counted, shown."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.handler import Event, PermanentError
from agentd.testing import HandlerHarness, event
from handlers.ip_blacklist.count import COUNT, CountJob
from handlers.ip_blacklist.guards import Guarded
from handlers.ip_blacklist.handler import IPBlacklist
from tests.timing import TIMES, growth

URL = "https://lists.example/one"


def harness(**options: object) -> HandlerHarness:
    """A node that has started, with nothing blocked."""
    made = HandlerHarness(IPBlacklist, {"never_block_node": False} | options, now=1000.0)
    made.initial()
    return made


def covered(node: HandlerHarness) -> tuple[float, float]:
    """The gauges."""
    gauges = node.store["gauges"]
    return gauges["blacklist_covered_addresses"], gauges["blacklist_covered_networks"]


def test_events_cannot_block_the_whole_internet() -> None:
    """Nine events of 350 bytes name every /8: they end at a quarter of all addresses, and are told why."""
    node = harness()
    every = [f"{first}.0.0.0/8" for first in range(1, 224) if first not in (10, 127)]
    for number, at in enumerate(range(0, len(every), 25)):
        room = (
            nullcontext() if number < 2 else pytest.raises(Guarded, match="than most_addresses, 1073741824")
        )
        with room:
            node.handle(event("block", "\n".join(every[at : at + 25]), ltime=number))
    node.due()

    assert covered(node)[0] == 50 * 2**24
    assert node.store["gauges"]["blacklist_refused_addresses"] == 7


def test_ipv6_is_capped_as_well() -> None:
    """In /64s."""
    node = harness()
    with pytest.raises(Guarded, match=r"IPv6 /64 networks together, more than most_networks"):
        node.handle(event("block", "\n".join(f"2{digit}00::/19" for digit in "0123456789")))

    assert covered(node) == (0, 0)


def test_entries_are_capped_in_number() -> None:
    """What replaces an entry adds none."""
    node = harness(most_entries=3)
    node.handle(event("block", "192.0.2.1\n192.0.2.2\n192.0.2.3"))
    node.handle(event("block", "add 192.0.2.3 10m\nremove 192.0.2.2\nadd 192.0.2.4", ltime=2))

    with pytest.raises(
        Guarded, match="there would be 4 entries, more than most_entries, 3: `remove` some"
    ) as no:
        node.handle(event("block", "192.0.2.9", ltime=3))

    assert no.value.guards == ("entries",)


def test_many_lines_take_time_that_grows_with_their_number() -> None:
    """Each is applied without a copy of all entries."""

    def work(count: int) -> None:
        node = harness()
        node.handle(event("block", "\n".join(f"9.{number >> 8}.{number & 255}.1" for number in range(count))))
        assert node.store["gauges"]["blacklist_entries"] == count

    assert growth(work, 8_000 // TIMES, 8_000).linear


def test_lists_and_entries_count_together() -> None:
    """A list that leaves room for few addresses leaves it for events, too."""
    node = harness(most_addresses=600)
    node.payloads[URL] = b"203.0.113.0/24\n198.51.100.0/24\n"
    node.handle(event("block", f"load {URL}"))

    with pytest.raises(Guarded, match="cover 768 IPv4 addresses together, more than most_addresses, 600"):
        node.handle(event("block", "192.0.2.0/24", ltime=2))
    node.handle(event("block", "192.0.2.0/26", ltime=3))

    assert covered(node)[0] == 512 + 64


def test_what_is_covered_twice_counts_once() -> None:
    """By two lists, by a list and an entry, by a wide entry and a narrow one."""
    node = harness(most_addresses=300, lists={"one": {}, "two": {}})
    node.payloads[URL] = b"203.0.113.0/24\n"
    node.handle(event("block", f"load one {URL}\nload two {URL}\n203.0.113.0/25\n203.0.113.7\n192.0.2.0/30"))

    assert covered(node)[0] == 256 + 4


def test_a_list_that_would_cover_too_much_stays_out() -> None:
    """The version in force stays, and the feed says why."""
    feed = {"reference": URL, "every": "1h"}
    options = {"never_block_node": False, "most_addresses": 300, "lists": {"one": feed}}
    node = HandlerHarness(IPBlacklist, options)
    node.payloads[URL] = b"203.0.113.0/24\n"
    with pytest.raises(PermanentError, match=r"feed one: list one: .* more than most_addresses, 300"):
        node.handle(event("block", "192.0.2.0/25"))

    assert "one" not in node.store.get("lists", {})


def test_what_is_covered_already_may_stay() -> None:
    """A node with less room than it uses starts, and takes what frees some, but nothing that adds to it."""
    node = harness()
    node.handle(event("block", "192.0.2.0/24\n198.51.100.0/24"))
    node.restart({"never_block_node": False, "most_addresses": 100})
    node.initial()

    with pytest.raises(Guarded, match="would cover 513 IPv4 addresses"):
        node.handle(event("block", "203.0.113.1", ltime=2))
    node.handle(event("block", "remove 192.0.2.0/25", ltime=3))

    assert covered(node)[0] == 512 - 128


def test_status_tells_before_it_is_full() -> None:
    """So that somebody acts before an address that matters is refused."""
    node = harness(most_addresses=100)
    node.handle(event("block", "192.0.2.0/26"))
    assert node.store["status"] == []

    node.handle(event("block", "192.0.2.64/27", ltime=2))

    (told,) = node.store["status"]
    assert told["part"] == "coverage"
    assert told["trouble"].startswith("entries and lists cover 96 addresses, of most_addresses, 100")


def test_this_nodes_command_line_may_force() -> None:
    """As it may with a list."""
    node = harness(most_addresses=100)

    node.handle(Event("local", event("block", "192.0.2.0/24").raw | {"Force": True}))

    assert covered(node)[0] == 256


@pytest.mark.parametrize("cidr", ["0.0.0.0/1", "128.0.0.0/1", "8.0.0.0/15", "2000::/31"])
def test_an_event_may_be_held_to_longer_prefixes(cidr: str) -> None:
    """Two halves of the Internet are no way around /0, and an operator may want far less."""
    node = harness(shortest_ipv4=16, shortest_ipv6=32)

    with pytest.raises(Guarded, match="the prefix is shorter than"):
        node.handle(event("block", cidr))


ranges = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)), max_size=8)


@given(st.lists(ranges, max_size=3))
def test_counting_against_sets(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[tuple[int, int]]]
) -> None:
    """Networks of several files, each once."""
    directory = tmp_path_factory.mktemp("count")
    paths, expected = [], set()
    for number, file in enumerate(files):
        path = directory / f"{number}"
        hosts = sorted({first + step for first, length in file for step in range(length)})
        # Every 16 neighbours are one /64.
        path.write_text("".join(f"2001:db8:0:{host // 16:x}::{host % 16:x}/128 1;\n" for host in hosts))
        expected |= {host // 16 for host in hosts}
        paths.append(str(path))

    CountJob([], paths, str(directory)).run()

    assert Path(directory, COUNT).read_text() == f"[0, {len(expected)}]"
