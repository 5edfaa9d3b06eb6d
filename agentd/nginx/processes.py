"""nginx's processes, as /proc shows them: which of them serve this tree, and which are somebody else's.

Owns finding them and signalling a master. Must not decide when to reload or whether a reload worked. A pid
file is a hint only: it may be missing, empty or stale, and after a binary upgrade it names one master of
two. A master counts if one of its workers answered the canary, or if the options in its title (or, where the
title does not tell, the pid file) say that it reads our configuration; a worker without a master counts once
it has answered. Others are told apart, so that they can be reported, and are never signalled.

Whatever the unit hides (`ProcSubset=pid`) or forbids (no CAP_SYS_PTRACE) is not needed.
"""

from __future__ import annotations

import math
import os
import re
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from agentd.errors import TemporaryError
from agentd.nginx.title import MASTER, Invocation, parse
from agentd.options import NginxOptions
from agentd.process import run

# nginx overwrites its own command line with these (ngx_setproctitle), whatever its program is called.
_TITLE: Final = "nginx: "
_WORKER: Final = "nginx: worker process"
_DRAINING: Final = "nginx: worker process is shutting down"
_LONGEST_TITLE: Final = 16_384
_SETTLED: Final = 10.0  # seconds; soon after its start a process may become nginx by exec
_STAT: Final = re.compile(rb".*\) ([A-Za-z]) ([0-9]{1,10}) ", re.DOTALL)  # a name may have ")" itself
_CONTAINER: Final = re.compile(rb"[0-9a-f]{64}|/lxc[./][^/\n]+|/machine\.slice/[^/\n]+")
_BUILT_IN: Final = re.compile(r"--(prefix|conf-path)=('[^']*'|\S*)")


@dataclass(frozen=True, slots=True)
class Process:
    """A process whose title is nginx's.

    Attributes:
        parent: its parent's pid; of a worker whose master is gone, some process that is not nginx's.
        state: such as "S" (sleeping), "R" (running), "T" (stopped by a signal); see proc(5).
    """

    pid: int
    title: str
    parent: int
    state: str

    @property
    def is_master(self) -> bool:
        """Whether its title is a master's; a worker just forked has its master's title for an instant."""
        return self.title.startswith(MASTER)

    @property
    def is_worker(self) -> bool:
        """Whether its title is a worker's, draining or not."""
        return self.title.startswith(_WORKER)

    @property
    def is_draining(self) -> bool:
        """Whether it only finishes its connections."""
        return self.title.startswith(_DRAINING)

    @property
    def invocation(self) -> Invocation:
        """A master's options."""
        return parse(self.title)


@dataclass(frozen=True, slots=True)
class Running:
    """What serves the tree, or does not, at one moment.

    Attributes:
        masters: those that count, by pid.
        workers: the workers that accept connections -> their master's pid, or 0 if that is gone.
        draining: the workers of those masters that only finish theirs.
        upgrading: a master -> the process that it started by a binary upgrade (USR2). As long as that lives,
            a SIGHUP makes the master start more workers with the configuration that it has had all along.
        stopped: those of the masters and workers that a signal or a debugger has stopped.
        suspects: workers without a master that have not answered; they may be another nginx's.
        others: masters that do not count.
    """

    masters: Mapping[int, Process]
    workers: Mapping[int, int]
    draining: frozenset[int]
    upgrading: Mapping[int, int]
    stopped: frozenset[int]
    suspects: frozenset[int]
    others: tuple[Process, ...]


class Processes:
    """Looks for nginx's processes; cheap, since it remembers which processes are not nginx's.

    Measured with 500 other processes and two workers: the first look takes 8 ms, a later one 0.8 ms, one that
    is near 0.3 ms.

    Args:
        nginx: whose configuration and pid file they are.
        clock: monotonic seconds.
    """

    def __init__(self, nginx: NginxOptions, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.nginx = nginx
        self._clock = clock
        self._conf = os.path.realpath(nginx.conf)
        self._not_nginx: dict[int, float] = {}  # pid -> when to look at it once more
        self._verdicts: dict[tuple[int, str, bool], bool] = {}
        self._ours: frozenset[int] = frozenset()
        self._family: frozenset[int] = frozenset()
        self._others: tuple[Process, ...] = ()
        self._suspects: frozenset[int] = frozenset()
        self._acquitted: frozenset[int] = frozenset()

    def look(self, answered: Collection[int] = (), *, near: bool = False, afresh: bool = False) -> Running:
        """What runs now.

        Args:
            answered: the pids of workers that answered the canary.
            near: only look at the masters and workers of the last look, and at children that they have now.
            afresh: look again at processes that were not nginx's for long; one may have become it by exec.

        Raises:
            TemporaryError: /proc or the pid file cannot be read.
        """
        if afresh:
            self._not_nginx.clear()
            self._verdicts.clear()
        found = self._titled(self._relatives() if near else self._all(answered))
        masters = {pid: one for pid, one in found.items() if one.is_master}
        unnamed = {pid for pid, one in masters.items() if self._just_forked(one, found)}
        for pid in unnamed:
            del masters[pid]
        known = {*answered, *self._ours}
        counted = self._counted(masters, {found[pid].parent for pid in answered if pid in found})
        workers = {
            pid: one.parent if one.parent in counted else 0
            for pid, one in found.items()
            if one.is_worker and (one.parent in counted or (pid in known and one.parent not in masters))
        }
        accepting = {pid: master for pid, master in workers.items() if not found[pid].is_draining}
        self._ours = frozenset(workers)
        self._family = frozenset({*counted, *workers})
        if not near:
            self._others = tuple(one for pid, one in masters.items() if pid not in counted)
            self._suspects = frozenset(
                pid
                for pid, one in found.items()
                if one.is_worker and not one.is_draining and one.parent not in masters
            )
            self._acquitted &= self._suspects
        return Running(
            masters=counted,
            workers=accepting,
            draining=frozenset(workers.keys() - accepting.keys()),
            upgrading={
                pid: child for pid in counted if (child := _upgrade_of(pid, masters, unnamed)) is not None
            },
            stopped=frozenset(pid for pid in (*counted, *accepting) if found[pid].state in "Tt"),
            suspects=self._suspects - self._acquitted - workers.keys(),
            others=self._others,
        )

    def acquit(self, suspects: Collection[int]) -> None:
        """Suspect them no longer: they were asked often enough, and did not answer."""
        self._acquitted |= frozenset(suspects)

    @property
    def others(self) -> tuple[Process, ...]:
        """The masters that did not count at the last look that was not near."""
        return self._others

    # ------------------------------------------------------------------ whose

    def _counted(self, masters: Mapping[int, Process], answering: set[int]) -> dict[int, Process]:
        """The masters that count; a binary upgrade ties the old one and the new one to each other."""
        named = self._named()
        counted = {
            pid: one
            for pid, one in masters.items()
            if (pid in answering and self._is_here(one))
            or (pid not in answering and self._reads_ours(one, named=pid in named))
        }
        relatives = [
            (pid, one)
            for pid, one in masters.items()
            if one.parent in counted or any(each.parent == pid for each in counted.values())
        ]
        return counted | dict(relatives)

    def _reads_ours(self, master: Process, *, named: bool) -> bool:
        """Whether a master reads our configuration, as far as its title and the pid file tell."""
        key = master.pid, master.title, named
        if key not in self._verdicts:
            conf = self._conf_of(master.invocation)
            # A title is anyone's to choose: only root, and whoever runs agentd, can speak for our files.
            ours = conf == self._conf and (named or _uid(master.pid) in (0, os.geteuid()))
            self._verdicts[key] = (named if conf is None else ours) and self._is_here(master)
        return self._verdicts[key]

    def _is_here(self, master: Process) -> bool:
        """Whether it is not in a container: it sees the same pids, and the same configuration file."""
        if _has_own_pids(master.pid) or _in_container(master.pid):
            return False
        try:
            theirs = Path(f"/proc/{master.pid}/root{self._conf}").stat()
            return os.path.samestat(theirs, Path(self._conf).stat())
        except FileNotFoundError:
            return not Path(self._conf).exists()
        except OSError:  # without CAP_SYS_PTRACE its root cannot be seen
            return True

    def _conf_of(self, invocation: Invocation) -> str | None:
        """The configuration file that a master reads; None if it cannot be told."""
        if invocation.conf.startswith("/"):
            return os.path.realpath(invocation.conf)
        built_in = _built_in(self.nginx.binary)
        if built_in is None:
            return None
        prefix, conf = built_in
        return os.path.realpath(Path(invocation.prefix or prefix, invocation.conf or conf))

    def _just_forked(self, one: Process, found: Mapping[int, Process]) -> bool:
        """Whether it is a worker without a name yet; a master of an upgrade has a pid file before that."""
        parent = found.get(one.parent)
        return (
            parent is not None
            and parent.title == one.title
            and one.pid not in self._named()
            and not any(each.parent == one.pid for each in found.values())
        )

    def _named(self) -> set[int]:
        """The pids in the pid file, and in that of the old master during a binary upgrade."""
        names = (self.nginx.pid, self.nginx.pid.with_name(f"{self.nginx.pid.name}.oldbin"))
        return {pid for name in names if (pid := _pid_in(name)) is not None}

    # ------------------------------------------------------------------ /proc

    def _all(self, answered: Collection[int]) -> Iterator[int]:
        """Each process that may be nginx's."""
        now = self._clock()
        try:
            pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208 (speed)
        except OSError as error:
            raise TemporaryError(f"cannot see which processes run: /proc: {error.strerror}") from error
        told = self._named() | {process.parent for pid in answered if (process := _process(pid))}
        self._not_nginx = {pid: at for pid, at in self._not_nginx.items() if pid in pids and pid not in told}
        for pid in pids:
            if self._not_nginx.get(pid, now) <= now:
                yield pid
                again = now + _SETTLED if pid not in self._not_nginx else math.inf
                self._not_nginx[pid] = again  # unless it turns out to be nginx's

    def _relatives(self) -> set[int]:
        children = {child for pid in self._family for child in _children(pid)}
        return {*self._family, *children, *(each for child in children for each in _children(child))}

    def _titled(self, pids: Iterable[int]) -> dict[int, Process]:
        """Those with a title of nginx's."""
        found = {}
        for pid in pids:
            process = _process(pid)
            if process is not None:
                found[pid] = process
        for pid in found:
            self._not_nginx.pop(pid, None)
        return found


def reload(pid: int) -> None:
    """Send SIGHUP to a master (https://nginx.org/en/docs/control.html).

    The process is held by a pidfd before its title is read, so that a pid taken over by another program is
    never signalled.

    Raises:
        TemporaryError: the process ended, or agentd may not signal it.
    """
    gone = f"nginx (master {pid}) ended just before its reload"
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        raise TemporaryError(gone) from error
    try:
        if not _title(pid).startswith(MASTER):
            raise TemporaryError(gone)
        signal.pidfd_send_signal(handle, signal.SIGHUP)
    except ProcessLookupError as error:
        raise TemporaryError(gone) from error
    except PermissionError as error:
        raise TemporaryError(
            f"agentd may not signal nginx (master {pid}): run it as root or with CAP_KILL"
        ) from error
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


def _upgrade_of(master: int, masters: Mapping[int, Process], unnamed: Collection[int]) -> int | None:
    """The process that a master started by a binary upgrade; its title is not nginx's until it has begun."""
    for pid in _children(master):
        title = _title(pid)
        if pid in masters or (title and pid not in unnamed and not title.startswith(_TITLE)):
            return pid
    return None


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):  # it ended
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_bytes().split())


def _process(pid: int) -> Process | None:
    """The process, if its title is nginx's."""
    title = _title(pid)
    if not title.startswith(_TITLE):
        return None
    found = _STAT.match(_read(pid, "stat"))
    return found and Process(pid, title, parent=int(found[2]), state=found[1].decode())


def _uid(pid: int) -> int | None:
    """The user that a process belongs to; None once it ended."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


def _has_own_pids(pid: int) -> bool:
    """Whether it is in a pid namespace below ours."""
    found = re.search(rb"^NSpid:(.*)", _read(pid, "status"), re.MULTILINE)
    return found is not None and len(found[1].split()) > 1


def _in_container(pid: int) -> bool:
    """Whether its cgroup is that of a container that is not ours; such as with `docker run --pid=host`."""
    found = _CONTAINER.search(_read(pid, "cgroup"))
    return found is not None and found[0] not in _read(os.getpid(), "cgroup")


def _title(pid: int) -> str:
    return _read(pid, "cmdline").split(b"\0", 1)[0].decode(errors="replace")


def _read(pid: int, name: str) -> bytes:
    """A small file of /proc/PID; b"" once the process ended."""
    try:
        descriptor = os.open(f"/proc/{pid}/{name}", os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _LONGEST_TITLE)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _built_in(binary: str) -> tuple[str, str] | None:
    """The prefix and the configuration file that nginx was built with; None if it cannot be asked."""
    try:
        return _asked(binary)
    except TemporaryError:
        return None


@lru_cache(maxsize=4)
def _asked(binary: str) -> tuple[str, str]:
    said = run([binary, "-V"], timeout=5.0, check=False, keep=_LONGEST_TITLE).output.decode(errors="replace")
    values = {name: value.strip("'") for name, value in _BUILT_IN.findall(said)}
    return values.get("prefix", "/usr/local/nginx"), values.get("conf-path", "conf/nginx.conf")
