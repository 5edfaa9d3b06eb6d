"""How far a rolling has come: one key in KV, written only under its lock, for another to go on with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from agentd.errors import AgentdError
from agentd.fleet.lock import Lock
from agentd.fleet.store import Store


@dataclass(frozen=True, slots=True)
class Record:
    """What became of the servers.

    Attributes:
        servers: their service.
        command: digest of the command, whose words may be secret.
        done: deployed and up.
        failed: tried in vain.
        in_hand: taken down by a rolling, and not yet known to be up again everywhere.
    """

    servers: str
    command: str
    done: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    in_hand: tuple[str, ...] = ()


def digest_of(argv: Sequence[str]) -> str:
    """The same for the same words only."""
    return sha256("\0".join(argv).encode(errors="surrogateescape")).hexdigest()


class RecordKey:
    """The key PREFIX/rolling, beside the lock's own.

    Args:
        store: reads.
        lock: writes, while it is held.
    """

    def __init__(self, store: Store, lock: Lock) -> None:
        self._store = store
        self._lock = lock
        self.key = f"{lock.prefix}/rolling"

    def read(self) -> Record | None:
        """What an earlier rolling left behind.

        Raises:
            ConsulError: Consul does not say.
            AgentdError: the key holds something else.
        """
        pair = self._store.read(self.key, recurse=False, index=0, wait=0.0).find(self.key)
        try:
            return None if pair is None else _record(json.loads(pair.value))
        except (ValueError, KeyError, TypeError) as error:
            raise AgentdError(
                f"the key {self.key} holds no record of a rolling: look at it, and delete it"
            ) from error

    def write(self, record: Record) -> None:
        """Replace it. Raises LockLost or ConsulError; then it is as it was, or not known."""
        value = json.dumps(asdict(record)).encode()
        self._lock.fence([{"Verb": "set", "Key": self.key, "Value": value}])

    def delete(self) -> None:
        """Forget it. Raises as `write` does."""
        self._lock.fence([{"Verb": "delete", "Key": self.key}])


def _record(raw: Mapping[str, Any]) -> Record:
    lists = {name: tuple(map(str, raw[name])) for name in ("done", "failed", "in_hand")}
    return Record(servers=str(raw["servers"]), command=str(raw["command"]), **lists)
