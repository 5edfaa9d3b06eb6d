"""The three keys that HAProxy holds of the ring: which ones, and how to get there while it runs.

Pure functions. HAProxy (measured on 2.6) has three slots: it encrypts with the middle one and decrypts with
all. At run time a key can only be pushed: it takes the last slot, the others move up, so that the key which
was last begins to encrypt. All keys of one HAProxy have the same length.
"""

from __future__ import annotations

import base64
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeAlias

from handlers.tls_ticket_keys.ring import Ring

MOST: Final = 2
"""Keys of a rotation that HAProxy can follow without being reloaded: what it pushes out is the oldest."""

Window: TypeAlias = tuple[bytes, bytes, bytes]
"""The keys in the slots: a former one, the one that encrypts, the next."""


@dataclass(frozen=True, slots=True)
class Slots:
    """What of a ring belongs into the slots.

    Attributes:
        encrypting: the key that encrypts.
        waiting: those that will, the next one first.
        former: those that did, the newest first.
        own: those that did on this node alone, so that no other node knows them.
    """

    encrypting: bytes = field(repr=False)
    waiting: tuple[bytes, ...] = field(default=(), repr=False)
    former: tuple[bytes, ...] = field(default=(), repr=False)
    own: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, ring: Ring, secrets: Sequence[bytes], own: Container[str] = ()) -> Slots:
        """Those of a ring.

        Args:
            ring: the keys.
            secrets: theirs, in the same order.
            own: the paths of those that only this node has.
        """
        others = list(zip(ring[1:], secrets[1:], strict=True))
        waiting = [pair for pair in others if pair[0].demoted is None]
        waiting.sort(key=lambda pair: pair[0].received)
        former = [pair for pair in others if pair[0].demoted is not None]
        return cls(
            secrets[0],
            tuple(secret for _, secret in waiting),
            tuple(secret for key, secret in former if key.path not in own),
            tuple(secret for key, secret in former if key.path in own),
        )

    @property
    def window(self) -> Window:
        """What HAProxy starts with. A slot for which there is no key has the encrypting one again."""
        return (next(iter(self._same((*self.former, *self.own))), self.encrypting), *self._end)

    @property
    def misfit(self) -> bool:
        """Whether the next key cannot be held beside the encrypting one: it has another length."""
        return self._same(self.waiting[:1]) != list(self.waiting[:1])

    def file(self) -> bytes:
        """The file that `tls-ticket-keys` names: a key a line, in base64."""
        return b"".join(base64.b64encode(key) + b"\n" for key in self.window)

    def held_by(self, window: Window) -> bool:
        """Whether these slots do: the right key encrypts, and the next one, or else the former, decrypts.

        Both, where they are there. A key that has left the ring must not be in any of them, nor a former one
        where the next push would let it encrypt. A key of this node alone may be there, or not.
        """
        needed = (self._same(self.waiting) or self._same(self.former))[:1]
        right = window[1] == self.encrypting and window[2] not in (*self.former, *self.own)
        return right and set(needed) <= set(window) and self._known.issuperset(window)

    def pushes(self, window: Window) -> tuple[bytes, ...] | None:
        """The fewest keys to push, in order, so that the slots do.

        On the way only the encrypting key or a former one encrypts, which every node has: never one that is
        only waiting. Unless a key encrypts now that has left the ring: nothing is worse.

        Returns:
            None if there is no such way, so that HAProxy has to be reloaded.
        """
        if len(window[0]) != len(self.encrypting):
            return None
        first = [] if self._same(self.waiting) else self._same(self.former)  # it encrypts for a moment
        wanted = (next(iter(first), self.encrypting), *self._end)
        for count in range(len(wanted) + 1):
            pushed = wanted[len(wanted) - count :]
            after = (*window[count:], *pushed)
            if self.held_by((after[0], after[1], after[2])) and self._passable((*window, *pushed)):
                return pushed
        return None

    def _passable(self, sequence: Sequence[bytes]) -> bool:
        """Whether each key that begins to encrypt on the way may."""
        encrypting = sequence[1:-1]
        if encrypting[0] not in self._known:
            return True
        common = {self.encrypting, *self.former}
        return all(after == before or after in common for before, after in pairwise(encrypting))

    @property
    def _end(self) -> tuple[bytes, bytes]:
        return self.encrypting, next(iter(self._same(self.waiting)), self.encrypting)

    @property
    def _known(self) -> set[bytes]:
        return {self.encrypting, *self.waiting, *self.former, *self.own}

    def _same(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those that are as long as the encrypting key."""
        return [key for key in keys if len(key) == len(self.encrypting)]
