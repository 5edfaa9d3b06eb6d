"""Single steps on the file system, and what their failure means to the operator.

It owns how a file, a link, a lock and a private directory are made so that neither a umask nor a crash can
make them something else. It must not know what a generation is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from agentd.errors import TreeError

CHUNK: Final = 1 << 20
_LOCK_STEP: Final = 0.02
_NO_LINK: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP})
_WHAT_TO_DO: Final = {
    errno.ENOSPC: "the file system is full: free some space",
    errno.EDQUOT: "the quota is used up: free some space",
    errno.EFBIG: "the file is larger than this file system or RLIMIT_FSIZE permits",
    errno.EROFS: "the file system is read-only: remount it, or name it in ReadWritePaths= of agentd.service",
    errno.EACCES: "agentd's user lacks the right: correct owner and mode",
    errno.EPERM: "agentd's user lacks the right: correct owner, mode and attributes",
    errno.ENOENT: "a directory has vanished: make it again",
    errno.EIO: "the disk failed: see the kernel's log",
    errno.ENOTDIR: "a file stands where a directory belongs: move it away",
    errno.EISDIR: "a directory stands where a link or file belongs: move it away",
}

_log = structlog.get_logger(__name__)


@contextmanager
def errors(doing: str) -> Iterator[None]:
    """Translate what the system says into what the operator can do.

    Raises:
        TreeError: for any OSError, with the path that it is about.
    """
    try:
        yield
    except OSError as error:
        advice = _WHAT_TO_DO.get(error.errno or 0, "see the system's log")
        where = f" at {error.filename}" if error.filename is not None else ""
        raise TreeError(f"cannot {doing}: {error.strerror or error}{where}; {advice}") from error


def make_directory(path: Path, mode: int = 0o755) -> None:
    """Make a directory, and those above it, if it is missing; its mode does not depend on the umask."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True)
        path.chmod(mode)


def write(path: Path, data: bytes, mode: int) -> None:
    """Write a new file of exactly this mode; an existing one is an error, never written over."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(descriptor, mode)


def link(source: Path, target: Path, mode: int) -> bool:
    """Give a file a second name, or copy it where the file system cannot.

    Returns:
        Whether it was copied, so that the new file has to be synced.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        write(target, source.read_bytes(), mode)
        return True
    return False


def sync(paths: Iterable[Path]) -> None:
    """Bring files and directories to the disk. Write all first: the first sync then takes most along."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def point(symlink: Path, target: str) -> None:
    """Make `symlink` lead to `target`, by one rename: at every instant it leads to the old or to the new."""
    temporary = symlink.with_name(f".{symlink.name}-{secrets.token_hex(4)}")
    temporary.symlink_to(target)
    try:
        temporary.rename(symlink)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def discard(directory: Path) -> None:
    """Remove a directory: its name at once, then its content. What cannot be removed is left to `sweep`."""
    doomed = directory.with_name(f".old-{directory.name.lstrip('.')}-{secrets.token_hex(4)}")
    try:
        directory.rename(doomed)
    except FileNotFoundError:
        return
    except OSError:
        doomed = directory
    try:
        shutil.rmtree(doomed)
    except OSError as error:
        _log.warning("tree.leftover", path=str(doomed), error=error.strerror)


@contextmanager
def locked(path: Path, patience: float) -> Iterator[None]:
    """Hold an exclusive flock among the processes of this machine.

    Args:
        path: the lock file, made if missing, 0600.
        patience: seconds to wait for another holder.

    Raises:
        TreeError: another process held it all the time.
    """
    deadline = time.monotonic() + patience
    while (descriptor := _take(path)) is None:
        if time.monotonic() >= deadline:
            raise TreeError(f"another process has held {path} for {patience:g} s: see `fuser {path}`")
        time.sleep(_LOCK_STEP)
    try:
        yield
    finally:
        os.close(descriptor)


def _take(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Someone may have deleted the file meanwhile; then others lock another one of the same name.
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


class Scratch:
    """A private directory, 0700, that no `sweep` takes away as long as its maker lives.

    Its name begins with `.scratch-`. The kernel drops the flock on it when the process ends, however it ends.
    """

    def __init__(self, parent: Path) -> None:
        make_directory(parent)
        self.path = Path(tempfile.mkdtemp(prefix=".scratch-", dir=parent))
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def close(self) -> None:
        """Remove it; again is no error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            discard(self.path)


def sweep(directory: Path) -> None:
    """Remove what a crash left behind: unfinished, retired and abandoned things, all with known names."""
    for path in sorted(directory.glob(".*-*")):
        kind = path.name.partition("-")[0]
        if kind in {".old", ".new"} or (kind == ".scratch" and not _in_use(path)):
            discard(path)
        elif kind == ".current" and path.is_symlink():
            path.unlink(missing_ok=True)


def _in_use(directory: Path) -> bool:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
