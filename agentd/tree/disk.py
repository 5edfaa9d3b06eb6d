"""Single steps on the file system, and what their failure means to the operator.

It owns how files, links, locks and private directories are made, so that they turn out the same whatever the
umask, and whole or not at all after a crash. It must not know what a generation is.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agentd.errors import TreeError

CHUNK: Final = 1 << 20
_LOCK_STEP: Final = 0.02
_NO_LINK: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP})
_WHAT_TO_DO: Final = {
    errno.ENOSPC: "the file system is full: free some space, or inodes (`df -i`)",
    errno.EDQUOT: "the quota is used up: free some space",
    errno.EFBIG: "the file is larger than this file system or RLIMIT_FSIZE permits",
    errno.EROFS: "the file system is read-only: remount it, or name it in ReadWritePaths= of agentd.service",
    errno.EACCES: "agentd's user has no permission: correct owner and mode",
    errno.EPERM: "agentd's user has no permission: correct owner, mode and attributes",
    errno.ENOENT: "a directory is missing: create it",
    errno.EIO: "the disk failed: see the kernel log",
    errno.ENOTDIR: "a file is where a directory should be: move it away",
    errno.EEXIST: "a file is where a directory should be: move it away",
    errno.EISDIR: "something else is where a link or file should be: move it away",
    errno.ELOOP: "a link is where a file should be: move it away",
}


@contextmanager
def errors(doing: str) -> Iterator[None]:
    """Translate system errors into what the operator can do about them.

    Raises:
        TreeError: for any OSError, with the path concerned.
    """
    try:
        yield
    except OSError as error:
        advice = _WHAT_TO_DO.get(error.errno or 0, "see the system log")
        where = f" at {error.filename}" if error.filename is not None else ""
        raise TreeError(f"cannot {doing}: {error.strerror or error}{where}; {advice}") from error


def make_directory(path: Path, mode: int = 0o755) -> None:
    """Create a directory and its parents if it is missing; its mode does not depend on the umask."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True)
        path.chmod(mode)


def write(path: Path, data: bytes, mode: int) -> None:
    """Write a new file with exactly this mode; an existing one is an error, never overwritten."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(descriptor, mode)


def copy(source: Path, target: Path, mode: int) -> tuple[str, int]:
    """Copy a file to a new one, piece by piece. Returns its SHA-256 in hex and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as old, target.open("xb") as new:
        while piece := old.read(CHUNK):
            digest.update(piece)
            size += len(piece)
            new.write(piece)
        new.flush()
        os.fchmod(new.fileno(), mode)
    return digest.hexdigest(), size


def link(source: str | Path, target: str | Path, mode: int) -> bool:
    """Hard-link a file, or copy it where the file system cannot.

    Returns:
        Whether it was copied, so that the new file has to be synced.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        write(Path(target), Path(source).read_bytes(), mode)
        return True
    return False


def sync(paths: Iterable[str | Path]) -> None:
    """Flush files and directories to the disk. Write all of them first: the first sync then flushes most."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def syncing(paths: Iterable[str | Path]) -> Iterator[None]:
    """Flush files and directories to the disk while the body runs, which takes as long as the slower of both.

    Raises:
        OSError: at the end, if one cannot be flushed.
    """
    failed: list[BaseException] = []

    def flush() -> None:
        try:
            sync(paths)
        except BaseException as error:  # noqa: BLE001 (raised again below, whatever it is)
            failed.append(error)

    thread = threading.Thread(target=flush, name="sync", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failed:
        raise failed[0]


def point(symlink: Path, target: str) -> None:
    """Point `symlink` at `target` by one rename: at every instant it points to the old or the new target."""
    temporary = symlink.with_name(f".{symlink.name}-{secrets.token_hex(4)}")
    temporary.symlink_to(target)
    try:
        temporary.rename(symlink)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def discard(directory: Path) -> None:
    """Remove a directory: first its name, then its content. What cannot be removed is left to `sweep`."""
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
        import structlog  # noqa: PLC0415 (slow, and commands that only read the tree do without)

        structlog.get_logger(__name__).warning("tree.leftover", path=str(doomed), error=error.strerror)


@contextmanager
def locked(path: Path, patience: float) -> Iterator[None]:
    """Hold an exclusive flock, among the processes of this machine.

    Args:
        path: the lock file, created with mode 0600 if it is missing.
        patience: seconds to wait for another holder.

    Raises:
        TreeError: another process held it all that time.
    """
    try:
        descriptor = take(path, patience)
    except BlockingIOError as error:
        raise TreeError(str(error)) from error
    try:
        yield
    finally:
        os.close(descriptor)


def take(path: Path, patience: float) -> int:
    """Take an exclusive flock as `locked` does; it ends when the descriptor that is returned is closed.

    Raises:
        BlockingIOError: another process held it all that time.
    """
    deadline = time.monotonic() + patience
    while (descriptor := _take(path)) is None:
        if time.monotonic() >= deadline:
            raise BlockingIOError(f"another process has held {path} for {patience:g} s: see `fuser {path}`")
        time.sleep(_LOCK_STEP)
    return descriptor


def _take(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Someone may have deleted the file meanwhile, so that others lock another file of the same name.
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
    """A private directory, mode 0700, that no `sweep` removes as long as its process lives.

    Its name begins with `.scratch-`. The kernel releases its flock when the process ends, however it ends.
    """

    def __init__(self, parent: Path) -> None:
        make_directory(parent)
        self.path = Path(tempfile.mkdtemp(prefix=".scratch-", dir=parent))
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def close(self) -> None:
        """Remove it; doing so twice is no error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            discard(self.path)


def sweep(directory: Path) -> None:
    """Remove what a crash left behind: unfinished, discarded and abandoned directories, by their names."""
    for path in sorted(directory.glob(".*-*")):
        kind = path.name.partition("-")[0]
        if kind in {".old", ".new"} or (kind == ".scratch" and not _in_use(path)):
            discard(path)
        elif kind in {".current", ".secrets"} and path.is_symlink():
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
