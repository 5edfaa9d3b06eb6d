"""Follows the freezes of the fleet on one node, and says which names it holds back.

The freeze or thaw with the highest number that was ever believed counts, whatever Consul shows later: an
older one that is put into the log again changes nothing. It is remembered with the node's copy of the log, so
a node that restarts without Consul stays frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import structlog

from agentd.errors import BadDocument, BadKey, FleetError, UnknownFormat, Untrusted
from agentd.fleet.envelope import Envelope
from agentd.fleet.freeze import NAME, Freeze, parse_freeze
from agentd.fleet.gate import MALFORMED, Gate
from agentd.fleet.head import Head, parse_head
from agentd.fleet.kept_name import NameStatus
from agentd.fleet.log_budget import LogBudget
from agentd.fleet.name_reader import NameReader
from agentd.fleet.witness import Witness

_MOST_TOLD: Final = 256

_log = structlog.get_logger()


class FollowedFreeze:
    """The freeze as this node knows it; `advance` is for the follower's thread alone.

    Args:
        gate: what this node believes.
        is_urgent: whether a name is never held back.
        refused: called with the name and the reason of each message that is not believed.
        changed: called when another freeze or thaw counts.
        clock: unix seconds.

    Attributes:
        freeze: what counts; None if there never was any.
        status: how far this node has come.
    """

    name: Final = NAME

    def __init__(
        self,
        gate: Gate,
        *,
        is_urgent: Callable[[str], bool],
        refused: Callable[[str, str], None],
        changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.freeze: Freeze | None = None
        self.status = NameStatus()
        self._gate = gate
        self._is_urgent = is_urgent
        self._refused = refused
        self._changed = changed
        self._clock = clock
        self._judged: bytes | None = None  # the head up to which everything was read
        self._told: set[tuple[int, str]] = set()
        self._budget = LogBudget(clock)

    def holds(self, name: str) -> str:
        """Why new messages of that name have to wait, "" if they do not; any thread may call."""
        freeze = self.freeze
        if freeze is None or not freeze.holds(self._clock()) or self._is_urgent(name):
            return ""
        return str(freeze)

    def recall(self, messages: Iterable[Envelope]) -> None:
        """Continue from this node's copy of the log."""
        for message in messages:
            try:
                self._take(self._gate.admit(message))
            except (FleetError, BadKey) as error:  # a publisher may have been removed since
                _log.warning("fleet.freeze_forgotten", num=message.num, reason=str(error))

    def advance(self, raw: bytes | None, reader: NameReader, witness: Witness) -> str | None:
        """Read what is new.

        Args:
            raw: the head as stored in Consul; None if there is none.
            reader: reads the messages.
            witness: gets the head, and what is read.

        Returns:
            Why not everything could be read; None if it was.

        Raises:
            ConsulError: the log cannot be read.
        """
        waits = self._read(raw, reader, witness)
        if waits and waits != self.status.waits:
            _log.warning("fleet.waits", event_name=NAME, reason=waits)
        since = (self.status.since or self._clock()) if waits else None
        self.status = replace(self.status, waits=waits, since=since)
        return waits or None

    def _read(self, raw: bytes | None, reader: NameReader, witness: Witness) -> str:
        try:
            head = None if raw is None else parse_head(raw)
        except FleetError as error:
            if isinstance(error, BadDocument):
                witness.saw(NAME, None)
            return reader.unusable(error)
        witness.saw(NAME, head)
        lacks = witness.lacks(NAME)
        if head is None or head.is_empty or (raw == self._judged and not lacks):
            return ""
        waits = self._read_after(0 if lacks else self._num, head, reader, witness)
        if not waits:
            self._judged = raw
        return waits

    def _read_after(self, num: int, head: Head, reader: NameReader, witness: Witness) -> str:
        newer, waits = 0, ""
        for every in reader.after(num, head):
            unknown = {one for one, why in every.troubles.items() if isinstance(why, UnknownFormat)}
            if unknown:  # perhaps forged: it hides no later thaw, since the last that is believed counts
                newer, waits = max(unknown), str(reader.usable(every, head.newest).waits or "")
            known = {one: why for one, why in every.troubles.items() if one not in unknown}
            usable, _, refused = reader.usable(replace(every, troubles=known), head.newest)
            if usable:
                witness.read(NAME, head, usable)
            for message in usable:
                try:
                    self._take(message)
                except Untrusted as error:
                    self._refuse(message.num, error.reason, str(error))
            for one in refused:
                self._refuse(one.num, one.reason, one.text)
        if newer <= self._num:
            witness.has_all(NAME)
            return ""
        return waits

    @property
    def _num(self) -> int:
        return self.freeze.num if self.freeze else 0

    def _take(self, message: Envelope) -> None:
        """Let a message count that is believed, unless a newer one does. Raises Untrusted."""
        try:
            freeze = parse_freeze(message)
        except BadDocument as error:
            raise Untrusted(str(error), MALFORMED) from error
        if freeze.num <= self._num:
            return
        self.freeze = freeze
        self.status = NameStatus(newest=freeze.num, position=freeze.num)
        said = "fleet.frozen" if freeze.frozen else "fleet.thawed"
        _log.warning(
            said, publisher=freeze.publisher, reason=freeze.reason, until=freeze.until, num=freeze.num
        )
        self._changed()

    def _refuse(self, num: int, reason: str, text: str) -> None:
        """Count what is not believed, once, and log it; of many, some."""
        if len(self._told) > _MOST_TOLD:
            self._told.clear()
        if (num, reason) not in self._told:
            self._told.add((num, reason))
            if self._budget.take():
                _log.warning("fleet.freeze_refused", num=num, reason=text)
            self._refused(NAME, reason)
