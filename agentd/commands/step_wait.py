"""Waits until the nodes that one step of a rollout admits have it in force.

Owns who has to confirm, when too many have failed, and what is told meanwhile. Writes nothing.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from agentd.commands.fleet_report import listed
from agentd.commands.fleet_tally import Tally, Teller, tally
from agentd.commands.fleet_watch import FleetWatch
from agentd.commands.output import span
from agentd.errors import ConsulRefused
from agentd.fleet.envelope import Draft, Envelope
from agentd.fleet.newest import Newest
from agentd.fleet.rights import unseen
from agentd.fleet.rollout import Admission
from agentd.fleet.standing import takers
from agentd.printable import printable

if TYPE_CHECKING:
    from agentd.fleet.log import Log
    from agentd.fleet.standing import Member

_GLANCE: Final = 1.0  # seconds, at most, until it is noticed that somebody else wrote to the log
_LOOK: Final = 5.0  # seconds between two looks at the nodes during a pause, which may last hours
_LISTED: Final = 60  # characters of the nodes that a step admits

Outcome = Literal["released", "unconfirmed", "stopped", "aborted", "replaced"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a step or a rollout ended, why, and how far the nodes were."""

    outcome: Outcome
    why: str = ""
    found: Tally | None = None


@dataclass(slots=True)
class Step:
    """What is known of one step.

    Attributes:
        label: its name: "canary", a percentage, "again", "release", or "last step" for what
            was admitted before this run.
        num: the number of its message.
        found: how far the nodes were when they were looked at last; None before that.
        seconds: the time until it was confirmed; 0 before that.
    """

    label: str
    num: int
    found: Tally | None = None
    seconds: float = 0.0


class StepWait:
    """Waits for one step after the other.

    Args:
        log: the fleet's log.
        watch: the nodes.
        arguments: of `agentd publish`.
        quiet: tell nothing, since a program reads.

    Attributes:
        known: the nodes that acknowledge the name. Others may take it, but nobody knows.
        admitted: those of them that the message is for which was waited for last.
    """

    def __init__(self, log: Log, watch: FleetWatch, arguments: Namespace, *, quiet: bool) -> None:
        self._log = log
        self._watch = watch
        self._name: str = arguments.name
        self._timeout: float = arguments.timeout
        self._most: int = arguments.max_failures
        self._quiet = quiet
        self._members: Sequence[Member] = ()
        self.known: frozenset[str] = frozenset()
        self.admitted: frozenset[str] = frozenset()

    def say(self, text: str) -> None:
        """Tell a person on standard error."""
        if not self._quiet:
            sys.stderr.write(f"agentd: {self._name}: {printable(text)}\n")
            sys.stderr.flush()

    def look(self, longest: float = 0.0) -> None:
        """Read the nodes, once one of them has changed, or after so many seconds."""
        self._members = self._watch.patiently(lambda: self._watch.members(longest))
        every = takers(self._members, Newest(self._name, 0), time.time())
        self.known = frozenset(one.node for one in every if one.document is not None)

    def tagged(self, tag: str) -> Collection[str]:
        """The known nodes with a service that has this tag. Raises ConsulRefused if that cannot be seen."""
        if why := unseen(self._watch.client):
            raise ConsulRefused(why)
        draft = Draft(b"", time.time(), "", kind="admit", rollout="tag", admission=Admission(tag=tag))
        message = draft.numbered(self._log.keys.fleet, self._name, int(draft.issued * 1000), 0)
        return self.known & (self._asked(message).addressed or frozenset())

    def _asked(self, message: Envelope) -> Newest:
        nodes = {one.node: one.document for one in self._members if not one.runs_as}
        return self._watch.patiently(lambda: self._watch.census.asked_by(message, nodes))

    def confirm(self, message: Envelope, step: Step, pause: float, newest: int) -> Ended | None:
        """Wait until all nodes that the message is for have had it in force for so many seconds.

        Args:
            message: the step.
            step: what is known of it.
            pause: the seconds.
            newest: the number that is the newest of the log now.

        Returns:
            "released" if they have, "stopped" if too many failed or time is up; None if there is a
            newer one.
        """
        self._watch.restart(self._timeout)
        teller = Teller(sys.stderr, f"{self._name}: {step.label}", quiet=self._quiet)
        try:
            return self._confirm(message, step, pause, newest, teller)
        finally:
            teller.finish()

    def _confirm(
        self, message: Envelope, step: Step, pause: float, newest: int, teller: Teller
    ) -> Ended | None:
        began, published, since = time.monotonic(), time.time(), None
        while True:
            found = self._count(message, step, published, _GLANCE if since is None else 0.0)
            # Asked after the acknowledgements: what they have in force may be what came after this message.
            if self._is_overtaken(newest):
                return None
            teller.tell(found)
            now = time.monotonic()
            if found.waiting or not found.confirmed or len(found.refused) > self._most:
                since = None
            elif since is None:
                since = now
                if not step.seconds:
                    self._tell_confirmed(step, found, now - began, pause)
            if ended := self._ended(found, None if since is None else now - since, pause):
                return ended
            if since is None:
                self._watch.rest()
            elif self._sleep(min(_LOOK, since + pause - now), newest):
                return None

    def _count(self, message: Envelope, step: Step, published: float, longest: float) -> Tally:
        """Look at the nodes, and count how far they are."""
        self.look(longest)
        newest = self._asked(message)
        self.admitted = self.known if newest.addressed is None else self.known & newest.addressed
        if step.found is None:
            self._tell_admitted(step, message)
        step.found = tally(self._members, newest, published, 1.0)
        return step.found

    def _ended(self, found: Tally, confirmed: float | None, pause: float) -> Ended | None:
        """How the step ended, which has been in force for so many seconds (None: is not); None if not yet."""
        if len(found.refused) > self._most:
            return Ended("stopped", _failed(found, self._most), found)
        if confirmed is not None and confirmed >= pause:
            return Ended("released", found=found)
        if self._watch.left() <= 0:
            return Ended("stopped", _unconfirmed(found, self._timeout), found)
        return None

    def _sleep(self, seconds: float, newest: int) -> bool:
        """Pause; whether another message comes before that is over."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(_GLANCE, left))
            if self._is_overtaken(newest):
                return True
        return False

    def _is_overtaken(self, newest: int) -> bool:
        head = self._watch.patiently(lambda: self._log.head(self._name, consistent=True))
        return head is not None and (head.newest > newest or head.floor >= newest)  # added to, or forgotten

    def _tell_admitted(self, step: Step, message: Envelope) -> None:
        if message.kind == "admit":
            nodes = listed(sorted(self.admitted), _LISTED)
            count = f"{len(self.admitted)} of {len(self.known)} nodes"
            self.say(f"{step.label}: {count} admitted ({nodes}), as message {message.num}")
        else:
            self.say(f"released for all {len(self.known)} nodes, as message {message.num}")

    def _tell_confirmed(self, step: Step, found: Tally, seconds: float, pause: float) -> None:
        step.seconds = seconds
        self._watch.restart(2 * pause + self._timeout)  # it may be lost, and found again
        text = f"{step.label}: in force on {len(found.confirmed)} of {found.nodes} nodes"
        self.say(f"{text} after {span(seconds)}{f'; pauses for {span(pause)}' if pause else ''}")


def _failed(found: Tally, most: int) -> str:
    count = len(found.refused)
    allowed = f", and --max-failures allows for {most}" if most else ""
    return f"{count} {'node' if count == 1 else 'nodes'} did not take it{allowed}"


def _unconfirmed(found: Tally, timeout: float) -> str:
    if not found.nodes:
        return "no node that it admits takes the name any more"
    if not found.waiting:
        return "no node has it in force for long enough"
    return f"{len(found.waiting)} of {found.nodes} nodes did not confirm it within {span(timeout)}"
