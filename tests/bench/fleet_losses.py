"""Thousands of events while agents and daemons stop and start: what is lost, beside `consul watch`.

What a relay heard is in its node's journal; so is what the handler was given. An event that no relay heard is
known to nobody, and is only counted. `consul watch` gets the same events from the same agents, and is stopped
and started with the daemon beside it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from agentd.journal.entry import RELAY
from tests.bench.real_fleet import NODES, RealFleet, round_robin
from tests.bench.rows import Row
from tests.servers.fleet import BLACKLIST_EVENT, Node
from tests.servers.process import ServerExitedError
from tests.servers.waiting import wait_until

STEADY, RATE = 2000, 100.0
BURST, STEP = 3000, 200
"""One agent's ring holds 256 events: a burst comes in steps, so that those who listen can keep up."""
_BETWEEN = 1.5  # seconds from one step to the next
_SETTLE = 300.0
_ENTRIES = "SELECT id, outcome, body LIKE '%\"Provisional\"%' FROM changes WHERE handler = ?"


@dataclass(frozen=True)
class Result:
    """What came of one run, each counted over all nodes.

    Attributes:
        unheard: events that no relay heard.
        lost: events that a relay heard, and that a node did not apply.
        twice: what a node was given again, though not provisionally.
        provisional: what a node was given as it was heard, because the log was out of reach.
        watch_lost: events that a script was not given.
        watch_twice: events that it was given again.
    """

    unheard: int
    lost: int
    twice: int
    provisional: int
    watch_lost: int
    watch_twice: int


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Both runs on one fleet."""
    fleet = RealFleet(stack, directory, glue=BLACKLIST_EVENT)
    yield from _rows(f"{STEADY} events at {RATE:g}/s", STEADY, _run(fleet, STEADY, 1, 1 / RATE))
    yield from _rows(f"a burst of {BURST} in steps of {STEP}", BURST, _run(fleet, BURST, STEP, _BETWEEN))


def _rows(what: str, events: int, found: Result) -> Iterator[Row]:
    load = f"heard by nobody: {found.unheard}; load {os.getloadavg()[0]:.1f}"
    against = f"consul watch on the same agents; {NODES} x {events}"
    yield Row(
        f"{what}, agents and daemons stop and start: lost", "", found.lost, f"{against}: {found.watch_lost}",
        None, 0, load,
    )  # fmt: skip
    yield Row(
        "... given twice", "", found.twice, f"{against}: {found.watch_twice}", None, 0,
        f"as heard, while the log was out of reach: {found.provisional}",
    )  # fmt: skip


def _run(fleet: RealFleet, events: int, step: int, pause: float) -> Result:
    """Fire them in turn at every agent that runs; `step` at once, and a step every `pause` seconds."""
    over = threading.Event()
    disturber = threading.Thread(target=_disturb, args=(fleet, over))
    fired: list[str] = []
    disturber.start()
    try:
        turns, began = round_robin(fleet), time.monotonic()
        for number in range(events):
            if number % step == 0:
                time.sleep(max(0.0, began + number // step * pause - time.monotonic()))
            fired += _fire(turns, f"add {fleet.address()}".encode())
    finally:
        over.set()
        disturber.join()
    with suppress(TimeoutError):  # what is not there by then counts as lost
        wait_until(lambda: _settled(fleet), "all nodes to agree", seconds=_SETTLE, pause=1.0)
    return _judge(fleet, fired)


def _fire(turns: Iterator[Node], payload: bytes) -> list[str]:
    """The ID of an event that an agent took; none if each of them was just about to stop."""
    for _ in range(2 * NODES):
        with suppress(OSError, RuntimeError):
            return [next(turns).consul.fire(BLACKLIST_EVENT, payload)]
    return []


def _disturb(fleet: RealFleet, over: threading.Event) -> None:
    """Stop and start, one after the other, what runs on the nodes; that of the first one leads, and stays."""
    for at in range(1 << 10):
        node, glue = fleet.nodes[1 + at % (NODES - 1)], fleet.glues[1 + at % (NODES - 1)]
        if over.wait(1.0):
            return
        if at % 2:
            node.consul.stop()
            over.wait(2.0)
            with suppress(ServerExitedError):
                node.consul.start()
        else:
            glue.watch.stop()
            if at % 4:
                node.agentd.stop()
            else:
                node.agentd.kill()
            over.wait(2.0)
            node.agentd.start()
            glue.watch.start()


def _settled(fleet: RealFleet) -> bool:
    """Whether nothing waits on any node, and all of them applied the same."""
    applied = set()
    for node in fleet.nodes:
        if any(
            outcome is None for handler in (RELAY, "blacklist") for _, outcome, _ in _entries(node, handler)
        ):
            return False
        applied.add(frozenset(one for one, _, _ in _ids(node)))
    return len(applied) == 1


def _entries(node: Node, handler: str) -> list[tuple[str, str | None, bool]]:
    with closing(sqlite3.connect(f"file:{node.journal}?mode=ro", uri=True, timeout=60)) as journal:
        return list(journal.execute(_ENTRIES, (handler,)))


def _ids(node: Node) -> list[tuple[str, str | None, bool]]:
    """What the blacklist was given; what it is given again has a mark behind its ID."""
    entries = _entries(node, "blacklist")
    return [(one.partition("#")[0], outcome, as_heard) for one, outcome, as_heard in entries]


def _judge(fleet: RealFleet, fired: Sequence[str]) -> Result:
    wanted = set(fired)
    heard = {one for node in fleet.nodes for one, _, _ in _entries(node, RELAY)} & wanted
    lost = twice = provisional = watch_lost = watch_twice = 0
    for node, glue in zip(fleet.nodes, fleet.glues, strict=True):
        given = [one for one in _ids(node) if one[0] in wanted]
        provisional += sum(as_heard for _, _, as_heard in given)
        counts = Counter(one for one, _, as_heard in given if not as_heard)
        applied = {one for one, outcome, as_heard in given if outcome in ("applied", "unchanged")}
        lost += len(heard - applied)
        twice += sum(count - 1 for count in counts.values())
        seen = Counter(one for one in glue.applied() if one in wanted)
        watch_lost += len(wanted - seen.keys())
        watch_twice += sum(count - 1 for count in seen.values())
    return Result(len(wanted - heard), lost, twice, provisional, watch_lost, watch_twice)
