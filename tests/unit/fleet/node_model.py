"""One node of a modelled fleet, whose steps a test takes: relay, holder and follower, without threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from agentd.errors import BadDocument, ConsulError, FleetError, LogLost, UnknownFormat
from agentd.fleet.envelope import Draft, Envelope
from agentd.fleet.head import Head, Keep
from agentd.fleet.holder import Holder
from agentd.fleet.keys import POISONED, Keys
from agentd.fleet.log import Log
from agentd.fleet.memory import Memory
from agentd.fleet.reader import Reading
from agentd.fleet.relay import Relay
from tests.unit.fleet.kv_model import ModelKV

NAME = "deploy"
KEYS = Keys("prod")


@dataclass
class Node:
    """One node: what it has heard and not yet found in the log, what it holds, how far it has followed.

    It stands where its relay does: the holder tells it what was read, and what may be lost.
    """

    kv: ModelKV
    path: Path
    now: Callable[[], float]
    pending: dict[str, Draft] = field(default_factory=dict)
    position: int = 0
    given: dict[int, bytes] = field(default_factory=dict)
    looked: int = 0
    is_lost: bool = True
    has_lost_memory: bool = False
    waits: bool = False
    keep: Keep = "all"

    def __post_init__(self) -> None:
        """As it starts."""
        self.memory = Memory(self.path, self.now)
        self.start()

    def start(self) -> None:
        """What was heard and given is in the journal, what is held on the disk; all else is read anew."""
        self.log = Log(self.kv, KEYS, self.now)
        self.holder = Holder(self.memory, cast("Relay", self))
        self.is_lost, self.looked = True, 0

    def lose_memory(self) -> None:
        """Its file is gone."""
        self.memory.close()
        for file in self.path.parent.iterdir():
            file.unlink()
        self.has_lost_memory = True
        self.memory = Memory(self.path, self.now)
        self.start()

    def hear(self, draft: Draft) -> None:
        """An event reached it."""
        self.pending[draft.id] = draft

    # ------------------------------------------------------------------ as the relay

    def suspect(self, _: str) -> None:
        """The log may have lost something."""
        self.is_lost = True

    def saw(self, name: str, messages: Sequence[Envelope]) -> None:
        """These were read."""
        self.log.saw(name, messages)
        for identity in self.log.find(name, self.pending):
            del self.pending[identity]

    def relay(self) -> None:
        """One try."""
        try:
            if self.is_lost:
                self.write_back()
            drafts = list(self.pending.values())
            landed = self.log.append(NAME, drafts, keep=self.keep, wrote=self.wrote) if drafts else {}
        except LogLost:
            self.is_lost = True
        except (ConsulError, FleetError):
            return
        else:
            for identity in landed:
                del self.pending[identity]

    def wrote(self, messages: Sequence[Envelope]) -> None:
        """It holds what it has written."""
        self.memory.wrote(NAME, self.keep, messages)

    def write_back(self) -> None:
        """As the relay does; may raise what the log raises."""
        if (held := self.memory.held(NAME)) is not None:
            self.log.write_back(NAME, held, pause=lambda: None)
        else:
            self.log.resume(NAME, None)
        self.is_lost = False

    # ------------------------------------------------------------------ as the follower

    def follow(self) -> None:
        """Read on; a head is believed with its message only."""
        self.waits = False
        try:
            head = self.log.head(NAME)
        except FleetError as error:
            if isinstance(error, BadDocument):
                self.holder.saw(NAME, None)
            return
        self.holder.saw(NAME, head)
        if head is None:
            return
        if head.newest > self.position and not head.is_empty:
            start = self.position
            self.read(head, self.log.after(NAME, start, head))
            if self.position < head.newest:
                if not self.waits:
                    self.holder.saw(NAME, None)
                return
            if not start:
                self.holder.has_all(NAME)
        if not head.is_empty and self.holder.lacks(NAME):
            given = dict(self.given)
            self.read(head, self.log.after(NAME, 0, head))
            self.given = given
            self.holder.has_all(NAME)
        self.look_back(head)

    def look_back(self, head: Head) -> None:
        """Read what came below the position."""
        if self.looked != head.mended:
            unread = self.holder.unread(NAME, head, self.log.numbers(NAME))
            if unread is not None:
                self.read(head, self.log.portions(NAME, unread))
                self.looked = head.mended

    def read(self, head: Head, readings: Iterable[Reading]) -> None:
        """Up to a message that only a newer agentd can read."""
        for reading in readings:
            newer = [num for num, error in reading.troubles.items() if isinstance(error, UnknownFormat)]
            usable = [
                one
                for one in reading.messages
                if one.num <= head.newest and one.num < min(newer, default=POISONED)
            ]
            self.holder.read(NAME, head, usable)
            self.given.update((one.num, one.raw) for one in usable)
            self.position = max([self.position, *(one.num for one in usable)])
            if newer:
                self.waits = True
                return
