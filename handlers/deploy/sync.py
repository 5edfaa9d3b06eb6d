"""Turns an unpacked archive into the new `dest`, without touching the present one.

    mv       the archive as it is; `dest` must not exist yet
    rsync    what `rsync -a --delete EXCLUDES tree/ dest/` would leave: the archive without what is excluded,
             plus the excluded files of the present `dest`

Without excludes both are the unpacked archive itself, and nothing is copied. With them, rsync decides what a
pattern means, on hard links: the files of `dest` are linked into a new directory, rsync removes from it what
is not excluded, and links the archive's files into it. A log that is being written stays the same file. A
file of the same size and time is replaced too, whereas plain rsync would not look at its contents.

The present `dest` may have directories that others can write, so it is read by descriptors (`carry`). rsync
goes by paths, but only below the swap directory, where nobody else can come.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from agentd.handler import Limits, PermanentError, Run, TemporaryError
from handlers.deploy.manifest import DeployManifest
from handlers.deploy.members import parts
from handlers.deploy.place import DIRECTORY, Place, names

_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_DEEPEST: Final = 200
_QUOTED: Final = 100
"""Characters of a path in a message."""
_LIMITS: Final = Limits(memory=2**30, cpu=900)
"""Of rsync, since a manifest's pattern of many stars can take it for ever."""
_NO_DIRECTORY: Final = frozenset({errno.ENOTDIR, errno.ELOOP, errno.ENOENT})


def prepare(manifest: DeployManifest, room: Path, place: Place, run: Run) -> str:
    """Make the directory that is to become `dest`.

    Args:
        manifest: it says what is excluded, and how to sync.
        room: the swap directory, with the unpacked archive as `tree`.
        place: where `dest` is or shall be.
        run: runs rsync.

    Returns:
        Its name in `room`: "tree", or that of a new one beside it.

    Raises:
        PermanentError: `dest` is in the way, or `exclude_from` names no file in the archive.
        TemporaryError: rsync failed, or is not installed.
    """
    present = _is_directory(place)
    if manifest.sync_strategy == "mv":
        if present and _has_entries(place):
            raise PermanentError(
                f"{place.path} exists already, and sync_strategy mv replaces nothing; remove it in `pre`"
            )
        return "tree"
    tree, carried = room / "tree", room / "carried"
    excludes = _excludes(manifest, tree)
    if not excludes:
        return "tree"
    if present:
        carried.mkdir()
        carry(place, carried)
        _keep_excluded(carried, excludes, run)
    run(["rsync", "-a", *excludes, f"--link-dest={tree}", f"{tree}/", f"{carried}/"], limits=_LIMITS)
    return "carried"


def _is_directory(place: Place) -> bool:
    found = place.lstat()
    if found is None:
        return False
    if not stat.S_ISDIR(found.st_mode):
        raise PermanentError(f"{place.path} exists, but is not a directory")
    if any(mount == place.path or place.path in mount.parents for mount in _mounts()):
        raise PermanentError(
            f"{place.path} is or contains a mount point, and cannot be swapped; deploy to a directory"
            " below it"
        )
    return True


def _has_entries(place: Place) -> bool:
    descriptor = os.open(place.name, DIRECTORY, dir_fd=place.parent)
    try:
        return bool(names(descriptor))
    finally:
        os.close(descriptor)


def _mounts() -> Iterator[Path]:
    """Every mount point that this process sees, bind mounts included (proc(5), mountinfo)."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        # The kernel writes spaces and backslashes as octal numbers.
        yield Path(_OCTAL.sub(lambda found: chr(int(found[1], 8)), line.split(" ")[4]))


def _excludes(manifest: DeployManifest, tree: Path) -> list[str]:
    """The arguments that tell rsync what to exclude."""
    found = [f"--exclude={pattern}" for pattern in manifest.excludes]
    if manifest.exclude_from:
        steps = parts(manifest.exclude_from)
        path = tree.joinpath(*steps)
        # Nobody else can write here, so that what is no link now will be none when rsync reads it.
        links = any(tree.joinpath(*steps[: depth + 1]).is_symlink() for depth in range(len(steps)))
        if links or not path.is_file():
            raise PermanentError(f"exclude_from: the archive has no file {manifest.exclude_from!r:.200}")
        found.insert(0, f"--exclude-from={path}")
    return found


def carry(place: Place, carried: Path) -> None:
    """Link the files of `dest` into another directory, as `cp -al` does, but through no link.

    Somebody who owns a directory in `dest` may exchange what is in it at any time. They get links to what is
    in their own directory at worst.

    Raises:
        PermanentError: it is too deep.
        OSError: something cannot be linked.
    """
    _link(os.open(place.name, DIRECTORY, dir_fd=place.parent), os.open(carried, DIRECTORY), place.path)


def _link(source: int, target: int, path: Path, depth: int = 0) -> None:
    """Link what is in one open directory into another; both are closed."""
    try:
        if depth > _DEEPEST:
            raise PermanentError(
                f"{str(path)[:_QUOTED]} is nested over {_DEEPEST} directories deep; remove what is in there"
            )
        for name in _each(source):
            try:
                inner = os.open(name, DIRECTORY, dir_fd=source)
            except OSError as error:
                if error.errno not in _NO_DIRECTORY:
                    raise
                with suppress(FileNotFoundError):
                    os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
                continue
            try:
                os.mkdir(name, 0o700, dir_fd=target)
                made = os.open(name, DIRECTORY, dir_fd=target)
            except BaseException:
                os.close(inner)
                raise
            _link(inner, made, path / name, depth + 1)
        _copy_attributes(source, target)
    finally:
        os.close(source)
        os.close(target)


def _each(directory: int) -> Iterator[str]:
    """The names in an open directory, of which there may be millions."""
    with os.scandir(directory) as entries:
        yield from (entry.name for entry in entries)


def _copy_attributes(source: int, target: int) -> None:
    """Give a directory the mode, extended attributes (access lists), times and owner of another."""
    found = os.fstat(source)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    with suppress(OSError):  # the filesystem may have none
        for name in os.listxattr(source):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
    with suppress(PermissionError):  # as cp does, where it may not; last, as it then is another user's
        os.fchown(target, found.st_uid, found.st_gid)


def _keep_excluded(carried: Path, excludes: list[str], run: Run) -> None:
    """Remove from `carried` what rsync's --delete would."""
    nothing = carried.with_name("nothing")
    nothing.mkdir()
    run(["rsync", "-r", "--delete", *excludes, f"{nothing}/", f"{carried}/"], limits=_LIMITS)
    if not carried.is_dir():
        raise TemporaryError(f"{carried} was removed in the meantime")
