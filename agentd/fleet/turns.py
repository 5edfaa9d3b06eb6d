"""Decides whose turn it is to write to a log: while a rollout is open, only that rollout's.

Owns what a writer has to know of a rollout: which one is open, and that a step only ever widens it. An event
that was heard is always written, and ends the rollout: whoever fired it cannot be asked. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from agentd.errors import BadDocument, RolloutOpen, RolloutOver
from agentd.fleet.envelope import Draft, Envelope
from agentd.fleet.head import Head, Keep
from agentd.fleet.mending import Mender
from agentd.fleet.rollout import KINDS, Role, released
from agentd.times import universal

MOST_KEPT: Final = 200
"""Most messages of a name while a rollout is open, since none that a node may take is pruned."""


class OpenRollout(NamedTuple):
    """A rollout that nobody has ended; nothing in it is verified.

    Attributes:
        first: the message that opened it, or the oldest of it that is there.
        newest: the one that widened it last, or the same one.
        released: the number of the message that all other nodes take; 0 if there is none.
    """

    first: Envelope
    newest: Envelope
    released: int

    def __str__(self) -> str:
        """What it is, for an error."""
        since = universal(self.first.issued)
        return f"since {since} UTC (message {self.newest.num}, by {self.newest.publisher})"


class Turns(Mender):
    """See `Mender` for arguments and errors."""

    def open_rollout(
        self, name: str, head: Head | None, counts: Callable[[Envelope], bool] = lambda _: True
    ) -> OpenRollout | None:
        """The rollout that is open; None if none is.

        Args:
            name: of the log.
            head: its head, as read.
            counts: whether a message does; the others open and end nothing.
        """
        if head is None or head.released is None:
            return None
        steps: list[Envelope] = []
        before = head.released
        for reading in self.after(name, before, head):
            for one in filter(counts, reading.messages):
                if one.role == "all":  # it ended what came before, whatever the head says
                    steps.clear()
                    before = one.num
                elif one.kind == "admit":
                    steps.append(one)
        if not steps:  # whoever wrote the head made it up
            return None
        newest = steps[-1]
        first = next(one for one in steps if one.rollout == newest.rollout)
        return OpenRollout(first, newest, before)

    def _counts(self, message: Envelope) -> bool:  # noqa: ARG002 (for those who judge)
        """Whether a message can hold up those who write; anybody may have put it there."""
        return True

    def _require_turn(self, name: str, head: Head, drafts: Collection[Draft], keep: Keep) -> None:
        """Make sure that these messages may be written now.

        Raises:
            RolloutOpen: another rollout is open.
            RolloutOver: the one that is to be ended or aborted is not open.
            BadDocument: a step admits fewer nodes than the one before, or the name cannot have a rollout.
        """
        published = [one for one in drafts if one.via != "event"]
        if not published:
            return
        opened = self.open_rollout(name, head, self._counts)
        for draft in published:
            if draft.kind in KINDS and "all" in (keep, keep if head.is_empty else head.keep):
                raise BadDocument(f"all messages of {name} are kept (`keep: all`): they have no rollouts")
            if opened is None:
                if draft.kind in ("release", "abort"):
                    raise RolloutOver(
                        f"the rollout of {name} is not open any more: another message has replaced it"
                        f" (`agentd log {name}`), and nothing was written"
                    )
            elif draft.rollout != opened.newest.rollout:
                raise RolloutOpen(
                    f"a rollout of {name} is open {opened}: run the command that began it once more, or end"
                    f" it with `agentd rollout abort {name}`"
                )
            elif draft.admission:
                self._require_wider(name, head, draft, opened)

    @staticmethod
    def _require_wider(name: str, head: Head, draft: Draft, opened: OpenRollout) -> None:
        before = opened.newest.admission
        if draft.admission and before and not draft.admission.covers(before):
            raise BadDocument(
                f"a step of a rollout admits all nodes that message {opened.newest.num} of {name} admits"
            )
        if head.count >= MOST_KEPT:
            raise BadDocument(
                f"the rollout of {name} has too many steps: release it, or end it with `agentd rollout abort"
                f" {name}`"
            )

    def _released(self, name: str, head: Head, messages: Sequence[Envelope], keep: Keep) -> int | None:
        """`Head.released` once these messages follow those that the head lists."""
        if keep == "all":
            return None
        roles: dict[int, Role] = {one.num: one.role for one in messages}
        if head.released is not None and (opened := self.open_rollout(name, head, self._counts)):
            roles |= {opened.released: "all", opened.newest.num: "admit"}
        elif "admit" in roles.values():
            for reading in self.after(name, 0, head):
                roles |= {one.num: one.role for one in filter(self._counts, reading.messages)}
        return released(roles)
