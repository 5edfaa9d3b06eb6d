"""Turns an unpacked archive into what `dest` is to be, without touching `dest`.

    mv       the archive as it is, and `dest` must not be there yet
    rsync    what `rsync -a --delete EXCLUDES tree/ dest/` would leave: the archive without what is excluded,
             and of the present `dest` what is excluded

Without excludes both are the unpacked tree itself, and nothing is copied. With them rsync decides what a
pattern means, on hard links: `dest`'s files are linked into a new directory, rsync removes from it what is
not excluded, and links the archive's files into it. A log that is written to stays the same file. A file of
the same size and time as before is replaced, too: rsync by itself would not look at what is in it.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agentd.handler import PermanentError, Run, TemporaryError
from handlers.deploy.manifest import Manifest
from handlers.deploy.members import parts

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def prepare(manifest: Manifest, tree: Path, dest: Path, run: Run) -> Path:
    """Return the directory that is to become `dest`: `tree`, or a new one beside it.

    Raises:
        PermanentError: `dest` is in the way, or `exclude_from` names no file of the archive.
        TemporaryError: rsync or cp failed, or is not installed.
    """
    present = _is_directory(dest)
    if manifest.sync_strategy == "mv":
        if present and any(dest.iterdir()):
            raise PermanentError(
                f"{dest} is there already, and sync_strategy mv replaces nothing; remove it in `pre`"
            )
        return tree
    excludes = _excludes(manifest, tree)
    if not excludes:
        return tree
    carried = tree.with_name("carried")
    if present:
        run(["cp", "-al", "--", str(dest), str(carried)])
        _keep_excluded(carried, excludes, run)
    run(["rsync", "-a", *excludes, f"--link-dest={tree}", f"{tree}/", f"{carried}/"])
    return carried


def _is_directory(dest: Path) -> bool:
    try:
        mode = dest.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(mode):
        raise PermanentError(f"{dest} is there, and is no directory")
    if any(mount == dest or dest in mount.parents for mount in _mounts()):
        raise PermanentError(
            f"{dest} is a mount point, or has one in it, and cannot be exchanged; deploy to a directory in it"
        )
    return True


def _mounts() -> Iterator[Path]:
    """Every mount point that this process sees, bind mounts included (proc(5), mountinfo)."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        # The kernel writes blanks and backslashes as octal numbers.
        yield Path(_OCTAL.sub(lambda found: chr(int(found[1], 8)), line.split(" ")[4]))


def _excludes(manifest: Manifest, tree: Path) -> list[str]:
    """The arguments that tell rsync what is excluded."""
    found = [f"--exclude={pattern}" for pattern in manifest.excludes]
    if manifest.exclude_from:
        path = tree.joinpath(*parts(manifest.exclude_from))
        if path.resolve() != tree.resolve().joinpath(*parts(manifest.exclude_from)) or not path.is_file():
            raise PermanentError(f"exclude_from: the archive has no file {manifest.exclude_from!r:.200}")
        found.insert(0, f"--exclude-from={path}")
    return found


def _keep_excluded(carried: Path, excludes: list[str], run: Run) -> None:
    """Remove from `carried` what rsync's --delete would."""
    nothing = carried.with_name("nothing")
    nothing.mkdir()
    run(["rsync", "-r", "--delete", *excludes, f"{nothing}/", f"{carried}/"])
    if not carried.is_dir():
        raise TemporaryError(f"{carried} was removed meanwhile")
