"""Signs again what is in force of a name, after a publisher's key or the fleet's was replaced.

Owns that nobody can tell the difference but by number and key: a message that is signed again has the same
ID, and its predecessor goes in the same transaction. Only names of which the latest message is kept can be
treated so: among messages that add to each other, the order would change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from agentd.errors import BadDocument, Contended, FleetError, Untrusted
from agentd.fleet.envelope import Envelope, parse_envelope
from agentd.fleet.head import Head
from agentd.fleet.held import listing
from agentd.fleet.keys import Keys
from agentd.fleet.kv import KV, cas, delete
from agentd.fleet.log import Log
from agentd.fleet.mending import Now
from agentd.fleet.pruning import Kept, is_due, plan
from agentd.fleet.writer import MOST_DRAFTS, fitting
from agentd.trust.keyring import Keyring, Signer, Verified
from agentd.trust.message import Place

_TRIES: Final = 50


class Resigned(NamedTuple):
    """What became of one name.

    Attributes:
        messages: those that were signed again, with their new numbers.
        left: why something in force is still signed or sealed with another key; "" if nothing is.
    """

    messages: tuple[Envelope, ...] = ()
    left: str = ""


class Resigner:
    """Signs again with the keys of one publisher.

    Args:
        kv: the store that holds the log.
        keys: the fleet's keys.
        signer: signs and seals.
        keyring: verifies and opens; it has the keys that were replaced as well.
        publisher: to whom the signer's key belongs.
        verify: what a message is for nodes: verified, None if it is accepted unsigned; raises Untrusted.
        seals: whether the payloads of a name have to be sealed.
    """

    def __init__(  # noqa: PLR0913 (all named at the one call)
        self,
        kv: KV,
        keys: Keys,
        *,
        signer: Signer,
        keyring: Keyring,
        publisher: str,
        verify: Callable[[Envelope], Verified | None],
        seals: Callable[[str], bool],
    ) -> None:
        self._log = _Rewriter(kv, keys, signer=signer)
        self._signer = signer
        self._keyring = keyring
        self._publisher = publisher
        self._verify = verify
        self._seals = seals

    def resign(self, name: str, live: int = 0) -> Resigned:
        """Sign again what is in force of a name, if it is not signed and sealed with the keys of today.

        Args:
            name: the kept name.
            live: the highest number that a node has in force: if the log ends before it, an old one was put
                back, and to sign that again would make it the newest everywhere.

        Raises:
            FleetError: there is no such log, its head is damaged, or a message cannot be opened.
            Contended: other writers were faster every time.
            ConsulUnavailable: some of it may have been done; to be called again.
        """
        for _ in range(_TRIES):
            now, messages = self._log.all_of(name)
            assert now.head is not None  # noqa: S101 (`all_of` sees to it)
            if now.head.keep == "all":
                return Resigned(left=self._stale_of_all(name, messages))
            chain = self._in_force(messages)
            stale = [self._is_stale(message) for message in chain]
            if messages and not chain:
                return Resigned(left=self._none_counts(name, messages))
            if not any(stale):
                return Resigned()
            newest = max(one.num for one in messages if self._is_accepted(one))
            if newest < live:
                return Resigned(left=_older(name, newest, live))
            first = stale.index(True)
            if unsigned := next((one for one in chain[first:] if one.signed is None), None):
                again = f"`agentd publish {name} --again {unsigned.num}`"
                return Resigned(left=f"message {unsigned.num} is not signed: if it is right, {again}")
            self._log.require_room(name, now.head, self._signer)
            rewritten = self._log.rewrite(name, now, messages, chain[first:], self._written)
            if rewritten is not None:
                return Resigned(tuple(rewritten))
        raise Contended(f"others keep writing to the log of {name}: try again")

    def _in_force(self, messages: Sequence[Envelope]) -> list[Envelope]:
        """What a node that joins now may apply, ascending: the newest for all, and later ones for some.

        Of a rollout that is the newest step, which admits all nodes that earlier ones do.

        All of them move together: a node for which a later one is meant must not take the earlier one for
        newer.
        """
        found: dict[tuple[str, str, str, str], Envelope] = {}
        for message in reversed(messages):
            if not self._counts(message):
                continue
            found.setdefault((message.node, message.service, message.tag, message.rollout), message)
            if message.role == "all":
                break
        return sorted(found.values(), key=lambda one: one.num)

    def _none_counts(self, name: str, messages: Sequence[Envelope]) -> str:
        """What is to be done if nothing is in force for a node that joins now; "" if all has expired."""
        for message in reversed(messages):
            if not message.is_over(self._log.now()):
                try:
                    self._verify(message)
                except Untrusted as error:
                    return (
                        f"none of its messages is accepted (message {message.num}: {error}): publish what is"
                        f" to be in force (`agentd publish {name} --file FILE`)"
                    )
        return ""

    def _counts(self, message: Envelope) -> bool:
        """Whether it is accepted, and has not expired."""
        return self._is_accepted(message) and not message.is_over(self._log.now())

    def _is_accepted(self, message: Envelope) -> bool:
        try:
            self._verify(message)
        except Untrusted:
            return False
        return True

    def _is_stale(self, message: Envelope) -> bool:
        """Whether its key was replaced; a message of another publisher remains signed by that one."""
        verified = self._verify(message)
        if verified is None or message.signed is None:
            return True
        if verified.publisher == self._publisher and message.signed.kid != self._signer.key.kid:
            return True
        if not message.is_sealed:
            return self._seals(message.name)
        return self._signer.fleet_key is None or message.signed.fleet_kid != self._signer.fleet_key.kid

    def _stale_of_all(self, name: str, messages: Sequence[Envelope]) -> str:
        """What is to be done of a name of which all messages are kept."""
        accepted = [one for one in messages if self._counts(one)]
        since = max((one.num for one in accepted if one.snapshot), default=0)
        count = sum(self._is_stale(one) for one in accepted if one.num >= since)
        if not count:
            return ""
        which = "1 message is" if count == 1 else f"{count} messages are"
        return (
            f"{which} unsigned, or signed or sealed with another key: publish what is to be in force as a"
            f" snapshot (`agentd publish {name} --snapshot --file FILE`)"
        )

    def _written(self, message: Envelope, place: Place) -> bytes:
        verified = self._verify(message)
        if verified is None:
            raise FleetError(f"message {message.num} is not signed")
        return self._signer.resign(verified, self._keyring, place, sealed=self._seals(message.name))


def _older(name: str, newest: int, live: int) -> str:
    return (
        f"nodes have message {live} in force, and the newest one of the log that is accepted here is {newest}"
        f" (`agentd log {name}`): perhaps an old log was put back. Try again once the nodes have written back"
        f" what is missing, or publish what is to be in force (`agentd publish {name} --file FILE`)"
    )


class _Rewriter(Log):
    """Replaces messages by others with the same IDs."""

    def now(self) -> float:
        """Unix seconds."""
        return self._clock()

    def all_of(self, name: str) -> tuple[Now, list[Envelope]]:
        """The head, which counts, and all messages up to it that can be read, ascending.

        Raises:
            FleetError: there is no log, its head does not count, or a newer agentd wrote some of it.
        """
        now = self._now(name, consistent=True)
        if now.head is None or now.head.is_empty or not self._is_believed(name, now):
            raise FleetError(f"there is no log of {name} that can be used: see `agentd log {name}`")
        listed = self.numbers(name, above=now.head.floor, upto=now.head.newest, consistent=True)
        messages: list[Envelope] = []
        for reading in self.portions(name, listed, consistent=True):
            for error in reading.troubles.values():
                if not isinstance(error, BadDocument):  # junk counts for nothing
                    raise error
            messages += reading.messages
        return now, messages

    def rewrite(
        self,
        name: str,
        now: Now,
        messages: Sequence[Envelope],
        chosen: Sequence[Envelope],
        write: Callable[[Envelope, Place], bytes],
    ) -> list[Envelope] | None:
        """Write the chosen messages under new numbers, and delete them under their old ones.

        What is to be pruned goes as well: once the newest is sealed, no secret must stay in clear before it.

        Args:
            name: the kept name.
            now: what Consul has.
            messages: all messages, as read then.
            chosen: some of them, ascending.
            write: makes the message for its new place.

        Returns:
            The new messages; None if somebody else wrote in the meantime, so that nothing was done.
        """
        head = now.head or Head("latest")
        made: list[Envelope] = []
        newest = head.newest
        for message in chosen:
            num = max(newest + 1, int(self._clock() * 1000))
            made.append(parse_envelope(write(message, Place(self.keys.fleet, name, num, newest))))
            newest = num
        if len(made) > MOST_DRAFTS or fitting(one.raw for one in made) < len(made):
            raise FleetError(
                f"{len(made)} messages of {name}, each for some nodes, are in force, too many to change at"
                " once: publish one for all nodes first"
            )
        moved = dict(zip((one.num for one in chosen), made, strict=True))
        numbers = {one.num for one in messages}.difference(moved).union(one.num for one in made)
        snapshot = moved[head.snapshot].num if head.snapshot in moved else head.snapshot
        marks = replace(head, newest=newest, snapshot=snapshot, inline=made[-1].raw)
        roles = {one.num: one.role for one in (*messages, *made)}
        gone = self._to_prune(
            listing(marks, numbers, roles), made[-1], [one for one in messages if one.num not in moved]
        )
        marks = replace(marks, base=max([marks.base, *(one.num for one in gone)]))
        whole = self._stamped(listing(marks, numbers.difference(one.num for one in gone), roles), head)
        operations = [cas(self.keys.head(name), whole.render(), now.index)]
        operations += [cas(self.keys.message(name, one.num), one.raw, 0) for one in made]
        operations += [delete(self.keys.message(name, num)) for num in (*moved, *(one.num for one in gone))]
        operations += self._remember(name, now.pruned, [one.id for one in gone], whole.floor)
        return None if self.kv.write(operations).failures else made

    def _to_prune(self, head: Head, newest: Envelope, before: Sequence[Envelope]) -> list[Envelope]:
        if not is_due(head, newest):
            return []
        now = self._clock()
        pruned = {
            one.num for one in plan(head, newest, [Kept(one.num, one) for one in before], now, now).gone
        }
        return [one for one in before if one.num in pruned]
