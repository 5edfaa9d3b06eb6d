"""Appends to the log: each ID at most once, whatever happens between a write and its answer.

Owns the transaction that changes a name's log: a check-and-set of its head, the new messages, and the
deletion of pruned ones, so that of two writers the second sees the first. After a conflict, a 5xx or a broken
connection nothing is repeated blindly: the next call reads on and finds what was written. Neither waits nor
decides when to write.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Final, NamedTuple

from agentd.clock import unix_time
from agentd.errors import BadDocument, Contended, FleetError, LogLost, Overtaken
from agentd.fleet.bodies import Bodies
from agentd.fleet.envelope import LARGEST_BODY, Draft, Envelope
from agentd.fleet.head import MOST_RECENT, FleetRecord, Head, Keep
from agentd.fleet.held import Held
from agentd.fleet.keys import Keys, is_number
from agentd.fleet.kv import KV, MOST_BYTES, MOST_READS, cas, delete
from agentd.fleet.mending import Now, numbers_of, shows
from agentd.fleet.pruning import PRUNED_AT_ONCE, Kept, Prune, is_due, mark, plan
from agentd.fleet.turns import Turns
from agentd.fleet.view import View
from agentd.watch.kv import Operation

if TYPE_CHECKING:
    from agentd.trust.keyring import Signer

MOST_DRAFTS: Final = 30
"""Most messages that one transaction writes."""
LATE: Final = 60.0
"""Seconds after which an event is late: no relay is that slow, so the log was out of reach."""


class Landed(NamedTuple):
    """Where a draft is in the log.

    Attributes:
        num: its number; 0 if it is already pruned.
        written: whether this call wrote it.
    """

    num: int
    written: bool


class Writer(Turns):
    """Reads the log and appends to it; one instance per thread, as for its store.

    Every method may raise ConsulUnavailable (a write may then have taken effect or not) or ConsulRefused, and
    UnknownFormat if it would have to change something that a newer agentd wrote.

    Args:
        kv: the store that holds the log.
        keys: the fleet's keys.
        now: the clock, in unix seconds.
        signer: signs what is appended, anew whenever it is numbered; None: nothing is signed.
    """

    def __init__(
        self, kv: KV, keys: Keys, now: Callable[[], float] = unix_time, *, signer: Signer | None = None
    ) -> None:
        super().__init__(kv, keys, now)
        self._signer = signer
        self.bodies = Bodies(kv, keys, now)
        self._views: dict[str, View] = {}

    def resume(self, name: str, held: Held | None) -> None:
        """Continue from the node's copy of the log, instead of reading all of it; None starts over."""
        known = self._views.get(name, View())
        least = max(known.cursor, known.least)
        if held is None:
            self._views[name] = View(least=least)
            return
        view = View(cursor=held.head.newest, least=least, is_new=False, mended=held.head.mended)
        self._views[name] = view
        view.learn((mark(one.id), one.num) for one in held.messages)
        for one in held.messages:
            view.date(one)

    def _exceed(self, name: str, num: int) -> None:
        """Give new messages higher numbers than this one, whatever Consul has."""
        view = self._views.setdefault(name, View())
        view.least = max(view.least, num)

    def _settle(self, name: str, held: Held, head: Head | None, ids: Mapping[str, int]) -> None:
        """Continue from what Consul has, after it was compared with the node's copy."""
        self.resume(name, held)
        view = self._views[name]
        view.least = max(view.least, view.cursor)
        view.cursor = min(view.cursor, head.newest if head else 0)
        view.is_settled = True
        view.mended = head.mended if head else 0
        view.learn((mark(identity), num) for identity, num in ids.items())

    # ------------------------------------------------------------------ what is known

    def saw(self, name: str, messages: Iterable[Envelope]) -> None:
        """Take note of messages that another reader on this node has read, in order."""
        view = self._views.setdefault(name, View())
        for message in messages:
            view.saw(message)
            if message.prev == view.cursor:  # otherwise there are unknown messages before it
                view.cursor, view.is_settled = message.num, False

    def find(self, name: str, ids: Iterable[str]) -> dict[str, int]:
        """The IDs that are known to be in the log, with their numbers; makes no request."""
        marks = self._views.get(name, View()).marks
        return {one: marks[mark(one)] for one in ids if mark(one) in marks}

    def relayed_by(self, name: str) -> str:
        """The node that wrote the newest known event; "" if there is none. Makes no request."""
        return self._views.get(name, View()).newest[1]

    def is_behind(self, name: str) -> bool:
        """Whether others have written messages that were not read here; reads the head alone."""
        try:
            head = self.head(name)
        except BadDocument:
            return False
        return head is not None and head.newest > self._views.get(name, View()).cursor

    # ------------------------------------------------------------------ append

    def append(
        self,
        name: str,
        drafts: Sequence[Draft],
        *,
        keep: Keep,
        due: Collection[str] | None = None,
        wrote: Callable[[Sequence[Envelope]], object] = lambda _: None,
        newest: int | None = None,
    ) -> dict[str, Landed]:
        """Append drafts that are not in the log yet, in order; makes one attempt, with one transaction.

        Args:
            name: the kept name.
            drafts: the drafts; those that do not fit into one transaction are left for the next call.
            keep: what to keep. For an existing log this can only turn `latest` into `all`; for the opposite,
                the log has to be forgotten first.
            due: IDs of some drafts; if all of these are in the log, nothing is written. None: all IDs.
            wrote: called with the messages that were written, in order, if there are any.
            newest: write only if this is still the number of the newest message; 0 if there never was one.

        Returns:
            By ID, the drafts that are in the log now, whoever wrote them.

        Raises:
            Overtaken: another message is the newest one, and nothing was written.
            RolloutOpen: a rollout is open to which a draft does not belong; events end it.
            RolloutOver: a draft is to end a rollout that is not open.
            Contended: another writer was faster; call again after a pause.
            LogLost: the log is older than what was read of it; see `Log.write_back`.
            BadDocument, NoFleetKey: a draft cannot be written.
        """
        view = self._views.setdefault(name, View())
        now = self._now(name)
        head = self._read_on(name, view, now, keep, fresh=all(one.via != "event" for one in drafts))
        found = {one.id: self._landed(one, view, now) for one in drafts}
        unseen = {one.id: one for one in drafts if found[one.id] is None}
        if due is not None and unseen.keys().isdisjoint(due):
            unseen = {}
        if unseen and newest is not None:
            self._require_newest(name, newest, now, head)
        self._require_turn(name, head, unseen.values(), keep)
        messages = self._write(name, view, now, head, list(unseen.values()), keep) if unseen else []
        if messages:
            wrote(messages)
        written = {one.id: Landed(one.num, written=True) for one in messages}
        return {identity: place for identity, place in found.items() if place} | written

    @staticmethod
    def _require_newest(name: str, newest: int, now: Now, head: Head) -> None:
        """Raises Overtaken if there is another newest message; junk that was named as such is none."""
        named = now.head.newest if now.head else 0
        if newest != named or head.newest > named:
            found = max(named, head.newest)
            raise Overtaken(f"the newest message of {name} is {found}, no longer {newest}")

    def _landed(self, draft: Draft, view: View, now: Now) -> Landed | None:
        marked = mark(draft.id)
        if marked in view.marks:
            return Landed(view.marks[marked], written=False)
        return Landed(0, written=False) if marked in now.pruned.marks else None

    def _read_on(self, name: str, view: View, now: Now, keep: Keep, *, fresh: bool) -> Head:
        """Read what others have written, up to the head that a write will check. Returns that head.

        Args:
            name: the kept name.
            view: what was read before.
            now: what Consul has.
            keep: for a log that does not exist yet.
            fresh: whether the IDs to write are new, so that the log need not be searched for them.
        """
        head = now.head or Head(keep)
        if now.head is None or head.floor < now.pruned.floor:  # there may be messages all the same
            view.suspect = True
        if not view.suspect:
            if head.newest < view.cursor:
                raise LogLost(f"the log of {name} is gone, or older than before")
            if not (fresh or view.is_new or head.mended == view.mended):
                raise LogLost(f"messages came into the log of {name} below what was read")
            if not fresh and view.is_partial:
                view.cursor, view.is_partial = 0, False
            if fresh and view.is_new:
                newest = self._newest(name, head)
                for message in newest.messages:
                    view.date(message)
                view.suspect = not shows(head, newest)
                view.cursor = 0 if view.suspect else head.newest
                view.is_partial = not view.suspect
            elif head.newest > view.cursor:
                view.suspect = not self._search(name, view, head)
        if view.suspect:
            head = self._rebuilt(name, view, now, keep)
        view.is_new = False
        view.mended = head.mended
        return head

    def _rebuilt(self, name: str, view: View, now: Now, keep: Keep) -> Head:
        """Read all messages; the head if it counts, or one rebuilt from them."""
        found = self._found(name, now.pruned.floor)
        head = self._head_of(now, found, keep)
        view.learn((mark(identity), num) for identity, num in found.ids.items())
        view.oldest, view.numbers, view.taken = [], [], found.junk
        if view.cursor > head.newest:
            raise LogLost(f"the log of {name} is damaged, and its newest messages are gone")
        return head

    def _search(self, name: str, view: View, head: Head) -> bool:
        """Read all messages above the cursor; False if the head's newest message is missing."""
        before, last = view.cursor, 0
        for reading in self.after(name, view.cursor, head):
            for message in reading.messages:
                if message.num > head.newest:
                    break
                if message.prev < before and not last and not view.is_settled:
                    raise LogLost(f"the log of {name} was started over, without its earlier messages")
                last = message.num
                view.saw(message)
            last = max([last, *(num for num in numbers_of(reading) if num <= head.newest)])
        if not head.is_empty and last != head.newest:
            # If it was pruned since the head was read, then the head has changed, and the write will fail.
            return self.head(name) != head
        view.cursor = head.newest
        view.is_settled = False
        return True

    def _write(
        self, name: str, view: View, now: Now, head: Head, drafts: Sequence[Draft], keep: Keep
    ) -> list[Envelope]:
        self.require_room(name, head, self._signer)
        messages = self._numbered(name, view, head.newest, drafts)
        for draft, _ in zip(drafts, messages, strict=False):
            if len(draft.body) > LARGEST_BODY:
                self.bodies.put(draft.body)
        made = self._with(head, messages, keep)
        head = replace(made, released=self._released(name, head, messages, made.keep))
        prune = Prune()
        if is_due(head, messages[-1]):
            head = self._with_oldest(name, view, head)
            clock = self._clock()
            prune = plan(head, messages[-1], view.oldest, clock, view.confirmed(drafts[0].publisher, clock))
            head = self._without(head, view, prune)
        operations = [cas(self.keys.head(name), head.render(), now.index)]
        operations += [cas(self.keys.message(name, one.num), one.raw, 0) for one in messages]
        operations += [delete(self.keys.message(name, one.num)) for one in prune.gone]
        ids = [one.found.id for one in prune.gone if isinstance(one.found, Envelope)]
        operations += self._remember(name, now.pruned, ids, head.floor)
        if not now.has_record:
            operations.append(cas(self.keys.record, FleetRecord().render(), 0))
        self._transact(name, view, operations)
        view.cursor = head.newest
        for message in messages:
            view.saw(message)
        return messages

    def _numbered(self, name: str, view: View, newest: int, drafts: Iterable[Draft]) -> list[Envelope]:
        """Number as many of the drafts as fit into one transaction."""
        messages: list[Envelope] = []
        newest, now = max(newest, view.cursor, view.least), self._clock()
        for draft in islice(drafts, MOST_DRAFTS):
            num = max(newest + 1, int(now * 1000))
            while num in view.taken:
                num += 1
            if not is_number(num):
                raise FleetError(f"the log of {name} has no number left for a message: use another name")
            late = now - draft.issued if draft.via == "event" and now - draft.issued >= LATE else 0.0
            messages.append(draft.numbered(self.keys.fleet, name, num, newest, late, signer=self._signer))
            newest = num
        return messages[: fitting(one.raw for one in messages)]

    @staticmethod
    def _with(head: Head, messages: Sequence[Envelope], keep: Keep) -> Head:
        numbers = [one.num for one in messages]
        return replace(
            head,
            cut=head.cut_for(keep),
            keep=keep if head.is_empty else "all" if "all" in (head.keep, keep) else "latest",
            newest=numbers[-1],
            oldest=head.oldest or numbers[0],
            count=head.count + len(numbers),
            snapshot=max([head.snapshot, *(one.num for one in messages if one.snapshot)]),
            recent=(*head.recent, *numbers)[-MOST_RECENT:],
            inline=messages[-1].raw,
        )

    def _transact(self, name: str, view: View, operations: Sequence[Operation]) -> None:
        failures = self.kv.write(operations).failures
        # A message key that exists already is junk: whoever writes a message changes the head, too.
        messages = self.keys.messages(name)
        view.suspect = any(operations[at]["Key"].startswith(messages) for at, _ in failures)
        if failures:
            raise Contended(f"others write to the log of {name} at the same time: try again")

    # ------------------------------------------------------------------ prune

    def _with_oldest(self, name: str, view: View, head: Head) -> Head:
        """Read the oldest messages, as many as one transaction may delete. Returns the head, recounted."""
        view.oldest = [one for one in view.oldest if one.num >= head.oldest]
        view.numbers = [num for num in view.numbers if num >= head.oldest]
        if len(view.oldest) > PRUNED_AT_ONCE:
            return head
        if len(view.numbers) <= PRUNED_AT_ONCE:
            view.numbers = self.numbers(name, above=head.oldest - 1, upto=head.newest)
            new = set(head.recent[-MOST_DRAFTS:]).difference(view.numbers)
            head = replace(head, count=len(view.numbers) + len(new))
        reading = self.read(name, view.numbers[:MOST_READS])
        found: dict[int, Envelope | FleetError] = {one.num: one for one in reading.messages}
        found.update(reading.troubles)
        view.oldest = [Kept(num, found.get(num)) for num in view.numbers[:MOST_READS]]
        return head

    @staticmethod
    def _without(head: Head, view: View, prune: Prune) -> Head:
        if not prune.gone:
            return head
        last = prune.gone[-1].num
        oldest = next((num for num in (*view.numbers, *head.recent) if num > last), head.newest)
        return replace(
            head,
            oldest=oldest,
            count=max(1, head.count - len(prune.gone)),
            base=max(head.base, last),
            cut=max(head.cut, prune.cut),
            recent=tuple(num for num in head.recent if num >= oldest),
        )


def fitting(messages: Iterable[bytes]) -> int:
    """How many of these messages, in order, fit into one transaction."""
    sizes = accumulate(len(raw) for raw in islice(messages, MOST_DRAFTS))
    return sum(size <= MOST_BYTES for size in sizes)
