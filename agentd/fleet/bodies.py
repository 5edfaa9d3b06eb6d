"""Bodies too large for their message: each has its own key, named by its SHA-256.

Owns their lifetime: a body is written before the first message that refers to it, and stays for a day after
the last such message is gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from typing import Final

from agentd.clock import unix_time
from agentd.errors import ConsulUnavailable, FleetError
from agentd.fleet.document import check_shape, is_time, read_document, render_document
from agentd.fleet.keys import Keys, is_sha256
from agentd.fleet.kv import KV

KEPT: Final = 86400.0
"""Seconds for which a body stays although no message refers to it any more."""

_LARGEST: Final = 256 * 1024
_MOST: Final = 2048  # bodies that one sweep considers; later sweeps reach the rest
_TRIES: Final = 3
_WHAT: Final = "the list of bodies without a message"


class Bodies:
    """The bodies of a fleet. Every method may raise ConsulUnavailable or ConsulRefused.

    Args:
        kv: the store that holds them.
        keys: the fleet's keys.
        now: the clock, in unix seconds.
    """

    def __init__(self, kv: KV, keys: Keys, now: Callable[[], float] = unix_time) -> None:
        self._kv = kv
        self._keys = keys
        self._now = now

    def put(self, body: bytes) -> str:
        """Write a body, or refresh an existing one so that no sweep deletes it. Returns its SHA-256.

        Raises:
            ConsulUnavailable: also if concurrent writers of the same body win every time.
        """
        sha256 = hashlib.sha256(body).hexdigest()
        key = self._keys.body(sha256)
        for _ in range(_TRIES):
            found = self._kv.pair(key)
            if found and found.value == body and abs(found.flags - self._now()) < KEPT / 2:
                return sha256
            # The flags hold the time, so that every write is a change, which fails a concurrent sweep's CAS.
            if self._kv.replace(key, body, int(self._now()), found.index if found else 0):
                return sha256
        raise ConsulUnavailable("others keep writing the same payload at the same time: try again")

    def sweep(self, referenced: Collection[str]) -> int:
        """Delete the bodies that sweeps have seen unreferenced for a day. Returns how many.

        Args:
            referenced: the SHA-256 of every body that a message refers to.
        """
        now = self._now()
        names = [key.removeprefix(self._keys.bodies) for key in self._kv.keys(self._keys.bodies)]
        idle = [name for name in names if is_sha256(name) and name not in referenced][:_MOST]
        pair = self._kv.pair(self._keys.swept)
        known = _parse(pair.value) if pair else {}
        since = {name: min(known.get(name, now), now) for name in idle}
        old = [name for name, at in since.items() if at <= now - KEPT]
        gone = [name for name in old if self._delete(name, now)]
        left = {name: at for name, at in since.items() if name not in gone}
        if left != known:
            value = render_document({"format": 1, "since": left})
            self._kv.replace(self._keys.swept, value, 0, pair.index if pair else 0)
        return len(gone)

    def _delete(self, name: str, now: float) -> bool:
        key = self._keys.body(name)
        found = self._kv.pair(key, consistent=True)
        if found is None:
            return True
        # A time more than a day ahead is junk: trusting it would keep the body for ever.
        return abs(found.flags - now) >= KEPT and self._kv.delete(key, found.index)


def _parse(raw: bytes) -> dict[str, float]:
    try:
        value = read_document(raw, largest=_LARGEST, formats=range(1, 2), what=_WHAT)
        check_shape(value, {"since": _is_since}, _WHAT)
    except FleetError:  # without the list, the day starts over
        return {}
    return {name: float(at) for name, at in value["since"].items()}


def _is_since(value: object) -> bool:
    return isinstance(value, dict) and all(is_sha256(name) and is_time(at) for name, at in value.items())
