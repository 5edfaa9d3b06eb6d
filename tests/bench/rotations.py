"""Rotations, one after the other, and the trail that their documents leave.

The commands' own word is not taken for it: what counts as confirmed is read from the documents.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from agentd.errors import AgentdError
from tests.bench.bouncing import Connection
from tests.bench.ticket_fleet import Coordinated
from tests.servers.consul import ConsulAgent

_LOOK: Final = 0.05
_SHOWN: Final = 10  # missed sessions


@dataclass(frozen=True)
class Step:
    """A document when it was first seen: unix time, its number, its phase, and how many keys its ring has."""

    at: float
    num: int
    phase: str
    keys: int


class Trail(threading.Thread):
    """Watches the document, through whichever agent answers, until `stop`.

    Attributes:
        steps: every document that was seen, in order.
    """

    def __init__(self, fleet: Coordinated, agents: Sequence[ConsulAgent]) -> None:
        super().__init__(daemon=True)
        self.steps: list[Step] = []
        self._fleet = fleet
        self._agents = agents
        self._over = threading.Event()

    def run(self) -> None:
        """Look again and again."""
        at = 0
        while not self._over.wait(_LOOK):
            try:
                num, document = self._fleet.document(self._agents[at % len(self._agents)])
            except (AgentdError, OSError):
                at += 1
                continue
            if document and (not self.steps or self.steps[-1].num < num):
                self.steps.append(Step(time.time(), num, document.phase, len(document.ring)))

    def stop(self) -> None:
        """End."""
        self._over.set()
        self.join()

    def wait(self, wanted: Callable[[Step], bool], *, since: int, until: float) -> Step | None:
        """The first step above number `since` that is wanted; None if none came until then (monotonic)."""
        while time.monotonic() < until:
            if found := next((one for one in list(self.steps) if one.num > since and wanted(one)), None):
                return found
            time.sleep(_LOOK)
        return None

    @property
    def newest(self) -> int:
        """The number of the newest document that was seen; 0 before the first."""
        return self.steps[-1].num if self.steps else 0

    @property
    def confirmed(self) -> int:
        """How many rotations were confirmed after the first step that was seen."""
        idle = [one.keys for one in self.steps if one.phase == "idle"]
        return idle[-1] - idle[0] if idle else 0


def at_a_pace(act: Callable[[], float], times: int, every: float) -> list[float]:
    """Act so many times, at least `every` seconds apart; what it returned each time."""
    found, due = [], time.monotonic()
    for _ in range(times):
        due = max(due, time.monotonic())
        found.append(act())
        due += every
        time.sleep(max(0.0, due - time.monotonic()))
    return found


def rotate(fleet: Coordinated) -> float:
    """Rotate as an operator does, by the command; the seconds until it ended.

    Raises:
        RuntimeError: it was not confirmed.
    """
    began = time.monotonic()
    done = fleet.coordinators[0].agentd.command("rotate-tickets")
    if done.returncode != 0:
        raise RuntimeError(f"not rotated: status {done.returncode}: {done.stdout}{done.stderr}")
    return time.monotonic() - began


def explain(missed: Sequence[Connection], steps: Sequence[Step] = ()) -> None:
    """Print what is known of the first missed sessions: between which nodes, and the step before."""
    for one in missed[:_SHOWN]:
        before = [step for step in steps if step.at <= one.at]
        told = f"; {before[-1].phase} {one.at - before[-1].at:.2f} s before" if before else ""
        began = [step for step in steps if step.at <= one.issued]
        told += f", issued {one.issued - began[-1].at:.2f} s after {began[-1].phase}" if began else ""
        print(
            f"missed: {one.version} from {one.issuer} at {one.node}, {one.at - one.issued:.2f} s old, at"
            f" {one.at:.2f}{told}",
            file=sys.stderr,
            flush=True,
        )
