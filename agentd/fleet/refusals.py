"""Makes known which messages of a name this node does not believe: journal, metric and acknowledgement.

Owns how much becomes of them. Whoever may write to the log can write any number of such messages, so most are
only counted: their rows must not drive out the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from agentd.fleet.name_reader import Refused
from agentd.journal.followed import Followed, Given
from agentd.watch.changes import LOG, Event, Message

_PAUSE: Final = 60.0  # seconds between two rows of a name that give the same reason
_MOST_KNOWN: Final = 1024


class Refusals:
    """The refused messages of one name; used by the follower's thread alone.

    Args:
        name: the kept name.
        followed: where rows are written.
        given: called with the rows.
        refused: called with the name and the reason (`Untrusted.reason`) of each refused message.
        clock: unix seconds.
    """

    def __init__(
        self,
        name: str,
        followed: Followed,
        *,
        given: Callable[[Given], None],
        refused: Callable[[str, str], None],
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._followed = followed
        self._given = given
        self._refused = refused
        self._clock = clock
        self._known: dict[str, None] = {}  # the messages that were told, oldest first
        self._told: dict[str, float] = {}  # reason -> when a row gave it last

    def tell(self, handlers: Iterable[str], refused: Sequence[Refused]) -> None:
        """Make known what was refused, each message once.

        Raises:
            JournalError: it cannot be recorded.
        """
        for one in refused:
            identity = _identity(one)
            if identity in self._known:
                continue
            now = self._clock()
            if not 0 <= now - self._told.get(one.reason, -_PAUSE) < _PAUSE:
                event = self._event(identity, one.num, now)
                endings = self._followed.refuse(handlers, event, f"not believed: {one.text}")
                self._told[one.reason] = now
                if endings:
                    self._given(Given(endings=endings))
            self._refused(self._name, one.reason)
            self._known[identity] = None
            if len(self._known) > _MOST_KNOWN:
                del self._known[next(iter(self._known))]

    def _event(self, identity: str, num: int, now: float) -> Event:
        """What the journal says of it: nothing that the message claims but its number."""
        said = Message(num=num, issued=now, counts_from=now)
        raw = {"ID": identity, "Name": self._name, "Payload": "", "LTime": 0, "Message": said.raw}
        return Event(f"{LOG}{self._name}", raw, num)


def _identity(one: Refused) -> str:
    """An ID that no message and no event has: a forged one must not stand for the true one."""
    return f"{Followed.REFUSED}{one.num}:{one.digest}"
