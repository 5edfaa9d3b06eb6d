"""What the engine reports: everything that leads from it back up to the daemon goes through here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from agentd.journal.entry import Ending
from agentd.journal.limit import Trimmed
from agentd.watch.changes import Change


class Observer:
    """Called with what happens, from any thread; this base class ignores it. Durations are in seconds."""

    def received(self, change: Change) -> None:
        """A change arrived that is new, or that no handler takes."""

    def missed(self, events: int) -> None:
        """This many events (0 or more) were lost before Consul could list them."""

    def disbelieved(self, event: str, reason: str) -> None:
        """A message of the fleet's log, or an event that was heard, is not believed; `Untrusted.reason`."""

    def handled(self, handler: str, seconds: float) -> None:
        """One call of a handler returned or raised."""

    def retried(self, handler: str) -> None:
        """A change will be tried again."""

    def checked(self, seconds: float) -> None:
        """A candidate was checked."""

    def committed(self, seconds: float) -> None:
        """A commit became current, `seconds` after it was staged, including the check."""

    def notified(self, handlers: Sequence[str]) -> None:
        """These handlers have something new in their mailboxes, durably."""

    def reloaded(self, result: str, seconds: float) -> None:
        """A proof was attempted: "proved", "failed", "waiting" or "skipped" (nothing runs)."""

    def reloads_merged(self, count: int) -> None:
        """This many notifications needed no separate reload."""

    def drifted(self, handler: str, standing: int, mended: int) -> None:
        """A handler verified: so many things do not hold outside the tree, and so many were mended."""

    def gauged(self, handler: str, gauges: Mapping[str, float]) -> None:
        """A handler publishes these gauges, name -> number."""

    def tasks(self, handler: str, running: int, waiting: int, hanging: int) -> None:
        """A handler has so many tasks that run, that wait for their turn, and that did not end in time."""

    def paused(self, handler: str, *, since: float | None) -> None:
        """A handler takes nothing new since then (unix time), or, with None, takes what comes."""

    def trimmed(self, trimmed: Trimmed) -> None:
        """The journal was compared with its limit, and perhaps something was dropped."""

    def rolled_back(self) -> None:
        """A generation was rolled back."""

    def stored(self, handlers: Collection[str]) -> None:
        """The stores of these handlers may be other ones: changes are about to be told as ended."""

    def ended(self, ending: Ending) -> None:
        """A change reached its outcome in a handler, durably."""
