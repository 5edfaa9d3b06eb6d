"""Blacklists in the real daemon and the real nginx: whom it refuses, and whom it does not."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.agentd import WAIT
from tests.servers.fleet import BLACKLIST_EVENT, Node, main_job
from tests.servers.waiting import wait_until

NewNode = Callable[..., Node]
LARGE = (
    110_000  # lines; above 100,000 nginx keeps a binary copy beside the file, which it may trust for too long
)


@pytest.fixture
def node(new_node: NewNode, suffix: str, directory: Path) -> Node:
    """A node that may load lists from a directory of its own, and whose addresses the tests leave alone."""
    handlers = main_job(interval="0s", suffix=suffix)
    handlers["blacklist"]["options"] = {
        "limits": {"cpu": "10m"},
        "never_block": ["203.0.113.99"],
        "lists": {"drop": {"reference": f"file:{directory}/drop"}},
    }
    (directory / "drop").write_text("203.0.113.0/24\n")
    settings = {"sources": {"allow": [f"file:{directory}/"]}}
    return new_node(handlers=handlers, settings=settings).start()


def statuses(node: Node, *clients: str) -> list[int]:
    """What each client is answered."""
    return [node.nginx.get(client=client)[0] for client in clients]


def fire(node: Node, suffix: str, *lines: str) -> dict[str, object]:
    """Fire lines and wait for their outcome."""
    return node.outcome(node.fire(BLACKLIST_EVENT + suffix, "\n".join(lines).encode()))


def timed(node: Node, suffix: str, *lines: str) -> str:
    """Fire lines; a time to live that is not over before as many are handled again, on a machine as busy."""
    began = time.monotonic()
    fire(node, suffix, *lines)
    return f"{5 + 5 * (time.monotonic() - began):.0f}s"


def large(first: int) -> str:
    """Every other address from 9.FIRST.0.0 on, so that no two of them merge."""
    begin = (9 << 24) + (first << 16)
    values = range(begin, begin + 2 * LARGE, 2)
    return "".join(f"{v >> 24}.{v >> 16 & 255}.{v >> 8 & 255}.{v & 255}\n" for v in values)


def test_every_step_on_a_large_list(node: Node, suffix: str, directory: Path) -> None:
    """After load, load, add, remove, expiry and rollback just the right neighbours are refused."""
    seen = []
    (directory / "drop").write_text(large(0))
    fire(node, suffix, "load drop")
    seen.append(statuses(node, "9.0.0.8", "9.0.0.9", "9.100.0.8"))
    (directory / "drop").write_text(large(100))
    moment = timed(node, suffix, "load drop")
    loaded = node.generation
    seen.append(statuses(node, "9.0.0.8", "9.100.0.8", "9.100.0.9"))
    fire(node, suffix, f"add 9.100.0.9 {moment} # for a moment")
    seen.append(statuses(node, "9.100.0.9", "9.100.0.11"))
    fire(node, suffix, "remove 9.100.0.8")
    seen.append(statuses(node, "9.100.0.6", "9.100.0.8", "9.100.0.10"))
    wait_until(lambda: statuses(node, "9.100.0.9") == [200], "the entry to expire")
    seen.append(statuses(node, "9.100.0.10", "9.100.0.8"))
    assert node.agentd.command("rollback", str(loaded), *WAIT).returncode == 0
    wait_until(lambda: statuses(node, "9.100.0.8") == [403], "the rollback to be served")
    seen.append(statuses(node, "9.100.0.9", "9.0.0.8"))

    assert seen == [
        [403, 200, 200],
        [200, 403, 200],
        [403, 200],
        [403, 200, 403],
        [403, 200],
        [200, 200],
    ]


def test_expiry_is_on_time(node: Node, suffix: str) -> None:
    """Entries that end together go in one commit, soon after their end and not before."""
    moment = timed(node, suffix, "add 198.51.100.7")
    fire(node, suffix, f"add 198.51.100.1 {moment}\nadd 198.51.100.3 {moment}\n198.51.100.5")
    entries = node.read("blacklist/entries.tsv").decode().splitlines()[1:]
    end = min(float(line.split("\t")[2]) for line in entries if line.split("\t")[2] != "-")
    generation = node.generation

    wait_until(lambda: statuses(node, "198.51.100.1", "198.51.100.3") == [200, 200], "the expiry", pause=0.02)
    late = time.time() - end

    assert 0 <= late < 30
    assert statuses(node, "198.51.100.5") == [403]
    assert node.generation == generation + 1


def test_what_a_guard_refuses_leaves_last_good(node: Node, suffix: str, directory: Path) -> None:
    """A list that came empty changes nothing, and is told and counted; --force overrides it."""
    fire(node, suffix, "load drop")
    (directory / "drop").write_text("# cut short\n")

    refused = fire(node, suffix, "load drop # again")
    during = statuses(node, "203.0.113.5", "203.0.113.99")
    wait_until(
        lambda: 'blacklist_refused_empty{handler="blacklist"} 1.0' in node.agentd.get("/metrics")[1],
        "the metric",
    )
    forced = node.agentd.command("blacklist", "load", "--force", "drop", *WAIT)

    assert (refused["outcome"], refused["reason"]) == (
        "refused",
        "list drop: it is empty; set `empty: true` to accept that, or use `clear` to empty the list",
    )
    assert during == [403, 200]
    assert (forced.returncode, statuses(node, "203.0.113.5")) == (0, [200]), forced.stdout + forced.stderr
    listed = json.loads(node.agentd.command("blacklist", "list", "--json").stdout)
    assert listed["lists"][0]["overrode"] == [refused["reason"]]


def test_the_command_line_adds_tells_why_and_removes(node: Node) -> None:
    """What the command line adds is refused at once; `why` names it, and `remove` ends it."""
    added = node.agentd.command("blacklist", "add", "198.51.100.7", "--reason", "a scan", *WAIT)
    during = statuses(node, "198.51.100.7", "198.51.100.6")
    why = node.agentd.command("blacklist", "why", "198.51.100.7")
    removed = node.agentd.command("blacklist", "remove", "198.51.100.7", *WAIT)

    assert [added.returncode, why.returncode, removed.returncode] == [0, 0, 0]
    assert during == [403, 200]
    assert "a scan" in why.stdout
    assert "cli-" in why.stdout
    assert statuses(node, "198.51.100.7") == [200]


def test_a_reference_beyond_the_fence_is_refused(node: Node, suffix: str) -> None:
    """Whoever fires an event cannot have a file of this machine read."""
    entry = fire(node, suffix, "load drop file:/etc/hostname")

    assert entry["outcome"] == "refused"
    assert "sources.allow" in str(entry["reason"])


def test_a_feed_comes_and_fails_visibly(new_node: NewNode, suffix: str, directory: Path) -> None:
    """A feed is in force without any event; when it fails, last good stays, and history and metrics tell."""
    feed = directory / "feed"
    feed.write_text("# Entries : 2 subnets\n198.51.100.0/25\n198.51.100.200\n")
    handlers = main_job(interval="0s", suffix=suffix)
    handlers["blacklist"]["options"] = {"lists": {"feed": {"reference": f"file:{feed}", "every": "2s"}}}
    node = new_node(handlers=handlers, settings={"sources": {"allow": [f"file:{directory}/"]}}).start()
    wait_until(lambda: statuses(node, "198.51.100.200") == [403], "the feed")

    feed.write_text("# Entries : 2 subnets\n198.51.100.0/25\n")
    reason = wait_until(
        lambda: next((e["reason"] for e in node.history("blacklist") if e["outcome"] == "refused"), ""),
        "the refusal",
    )

    assert reason == "feed feed: list feed: it declares 2 entries but contains 1: it was cut short"
    assert statuses(node, "198.51.100.200", "198.51.100.201") == [403, 200]
    line = 'blacklist_feeds_failing{handler="blacklist"} 1.0'
    wait_until(lambda: line in node.agentd.get("/metrics")[1], "the metric")


def test_events_cannot_block_the_whole_internet(node: Node, suffix: str) -> None:
    """Nine small events that name every /8 end at a quarter of all addresses; the history says why."""
    every = [f"{first}.0.0.0/8" for first in range(1, 224) if first not in (10, 127, 203)]
    ended = [fire(node, suffix, *every[at : at + 25]) for at in range(0, len(every), 25)]

    assert [one["outcome"] for one in ended] == ["applied"] * 2 + ["refused"] * 7
    assert "more than most_addresses, 1073741824" in str(ended[4]["reason"])
    assert statuses(node, "9.1.1.1", "200.1.1.1") == [403, 200]


@pytest.mark.parametrize(
    "head,record,reason",
    [(b"[", b"{},", "takes more than 1024 MB of memory"), (b"", b"192.0.2.1\n", "more than most_entries")],
)
def test_a_bomb_harms_nobody(
    node: Node, suffix: str, directory: Path, head: bytes, record: bytes, reason: str
) -> None:
    """A small file that becomes gigabytes is refused at once; the daemon stays small and goes on."""
    packed = gzip.compress(head + record * (160_000_000 // len(record)), compresslevel=9)
    (directory / "drop").write_bytes(packed)

    refused = fire(node, suffix, "load drop")

    assert len(packed) < 400_000
    assert refused["outcome"] == "refused"
    assert reason in str(refused["reason"])
    peak = Path(f"/proc/{node.agentd.process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    assert int(peak) < 120_000  # KB
    assert fire(node, suffix, "add 198.51.100.1")["outcome"] == "applied"
