"""How far a rolling deployment has come: one key in KV, written only under its lock, for `--resume`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from agentd.command import AgentdError
from handlers.nginx_upstream.server import parse_address

if TYPE_CHECKING:
    from agentd.command import ConsulStore, Lock


@dataclass(frozen=True, slots=True)
class Record:
    """What became of the servers.

    Attributes:
        servers: their service.
        command: digest of the command, whose arguments may be secret.
        done: deployed, and up again.
        failed: those that failed.
        taken_down: by a rolling deployment, and not yet known to be up again everywhere.
    """

    servers: str
    command: str
    done: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    taken_down: tuple[str, ...] = ()


def digest_of(argv: Sequence[str]) -> str:
    """Equal only for equal arguments."""
    return sha256("\0".join(argv).encode(errors="surrogateescape")).hexdigest()


class RecordKey:
    """The key PREFIX/rolling, beside the lock's own.

    Args:
        store: reads.
        lock: writes, while it is held.
    """

    def __init__(self, store: ConsulStore, lock: Lock) -> None:
        self._store = store
        self._lock = lock
        self.key = f"{lock.prefix}/rolling"

    def read(self) -> Record | None:
        """What an earlier deployment left behind.

        Raises:
            ConsulError: Consul does not say.
            AgentdError: the key holds something else.
        """
        pair = self._store.read(self.key, recurse=False, index=0, wait=0.0).find(self.key)
        try:
            return None if pair is None else _record(json.loads(pair.value))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise AgentdError(
                f"the key {self.key} is not the record of a rolling deployment: look at it, then delete it"
            ) from error

    def write(self, record: Record) -> None:
        """Replace it. Raises LockLost or ConsulError; then it is unchanged, or unknown."""
        value = json.dumps(asdict(record)).encode()
        self._lock.fence([{"Verb": "set", "Key": self.key, "Value": value}])

    def delete(self) -> None:
        """Delete it. Raises as `write` does."""
        self._lock.fence([{"Verb": "delete", "Key": self.key}])


def _record(raw: Mapping[str, Any]) -> Record:
    # What it says is printed as a part of commands, and whoever may write the key chooses it.
    lists = {name: tuple(map(parse_address, raw[name])) for name in ("done", "failed", "taken_down")}
    return Record(servers=str(raw["servers"]), command=str(raw["command"]), **lists)
