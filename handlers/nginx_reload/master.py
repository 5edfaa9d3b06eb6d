"""nginx's master process and its workers, as /proc shows them.

Owns finding the master and signalling it. Must not decide when to reload or whether a reload worked. The
process is held by a pidfd before its name is read, so that a pid taken over by another program is never
signalled.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.handler import TemporaryError

# nginx overwrites its own command line with these (ngx_setproctitle), whatever its program is called.
_MASTER: Final = b"nginx: master process"
_WORKER: Final = b"nginx: worker process"
_DRAINING: Final = b"nginx: worker process is shutting down"


@dataclass(frozen=True, slots=True)
class Workers:
    """The pids of a master's workers.

    Attributes:
        active: those that accept connections.
        draining: those that only finish theirs.
        children: these and all other children; a worker just forked has not named itself yet.
    """

    active: frozenset[int]
    draining: frozenset[int]
    children: frozenset[int]


@dataclass(frozen=True, slots=True)
class Master:
    """A running master process.

    Attributes:
        pid: its process id.
        handle: a pidfd that stays with this very process.
    """

    pid: int
    handle: int

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return _title(self.pid).startswith(_MASTER)

    def workers(self) -> Workers:
        """The workers of this moment."""
        titles = {pid: _title(pid) for pid in _children(self.pid)}
        draining = frozenset(pid for pid, title in titles.items() if title.startswith(_DRAINING))
        named = frozenset(pid for pid, title in titles.items() if title.startswith(_WORKER))
        return Workers(named - draining, draining, frozenset(titles))

    def reload(self) -> None:
        """Send SIGHUP (https://nginx.org/en/docs/control.html).

        Raises:
            TemporaryError: the process ended, or agentd may not signal it.
        """
        try:
            signal.pidfd_send_signal(self.handle, signal.SIGHUP)
        except ProcessLookupError as error:
            raise TemporaryError(f"nginx (master {self.pid}) ended just before its reload") from error
        except PermissionError as error:
            raise TemporaryError(
                f"agentd may not signal nginx (master {self.pid}): run it as root or with CAP_KILL"
            ) from error


@contextmanager
def running_master(pid_file: Path) -> Iterator[Master | None]:
    """The master that `pid_file` names, or None if the file is missing, empty or stale.

    Raises:
        TemporaryError: the file cannot be read.
    """
    pid = _pid_in(pid_file)
    handle = None if pid is None else _open(pid)
    if pid is None or handle is None:
        yield None
        return
    try:
        master = Master(pid, handle)
        yield master if master.alive else None
    finally:
        os.close(handle)


def _pid_in(pid_file: Path) -> int | None:
    try:
        text = pid_file.read_bytes()[:32].strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TemporaryError(f"cannot read nginx's pid file {pid_file}: {error.strerror}") from error
    return int(text) if text.isdigit() and int(text) > 0 else None  # `nginx -t` may leave an empty file


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (OSError, OverflowError):  # no such process, or no number that a process can have
        return None


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_bytes().split()]
    except OSError:  # it ended: no master, no workers of its own
        return []


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it ended
        return b""
