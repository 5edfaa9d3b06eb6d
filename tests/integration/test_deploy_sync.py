"""What a deploy with excludes leaves is what `rsync -a --delete` leaves: paths, contents and modes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd.handler import Completed, Limits, PermanentError, TemporaryError
from agentd.process import run
from handlers.deploy.manifest import DeployManifest
from handlers.deploy.sync import prepare
from tests.servers.equipment import require, require_root
from tests.unit.handlers.deploy.deploying import place_of

Tree = Mapping[str, bytes]
NEW = {"index.html": b"n", "js/app.js": b"n", "log/.keep": b"n", "cache/x.tmp": b"n", "a.pid": b"n"}
OLD = {
    "index.html": b"o",
    "gone/deep/file": b"o",
    "log/today": b"o",
    "log/old/1": b"o",
    "a.pid": b"o",
    "b.pid": b"o",
}


def plant(directory: Path, tree: Tree) -> Path:
    """Make a directory of these files."""
    for path, content in tree.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
        (directory / path).chmod(0o600 + len(path) % 8)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def seen(directory: Path) -> dict[str, tuple[int, bytes | None]]:
    """Every path with its mode and content."""
    return {
        path.relative_to(directory).as_posix(): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else None,
        )
        for path in directory.rglob("*")
    }


def program(argv: list[str], *, limits: Limits) -> Completed:
    """`Context.run`, for as long as a test may take; with limits, since patterns come from outside."""
    return run(argv, timeout=120, limits=limits)


def synced(manifest: DeployManifest, room: Path, dest: Path) -> Path:
    """What `dest` is to become."""
    with place_of(dest) as place:
        return room / prepare(manifest, room, place, program)  # type: ignore[arg-type] # as `Run` is called here


def compare(directory: Path, new: Tree, old: Tree, excludes: list[str], listed: str = "") -> None:
    """Do both, and hold one against the other."""
    staged, ours, theirs = directory / "staged", directory / "ours", directory / "theirs"
    tree = plant(staged / "tree", dict(new) | ({"ex": listed.encode()} if listed else {}))
    for dest in (ours, theirs):
        plant(dest, old)
    before = seen(ours)
    arguments = [f"--exclude-from={tree}/ex"] if listed else []
    arguments += [f"--exclude={pattern}" for pattern in excludes]
    # By default rsync takes a file of the same size and time for the same, whatever is in it.
    argv = ["rsync", "-a", "--delete", "--ignore-times", *arguments, f"{tree}/", f"{theirs}/"]
    rsync = subprocess.run(argv, check=False, capture_output=True)
    manifest = DeployManifest(excludes=tuple(excludes), exclude_from="ex" if listed else "")

    if rsync.returncode:  # what is excluded stands where a file is to be, for example
        with pytest.raises(TemporaryError):
            synced(manifest, staged, ours)
    else:
        assert seen(synced(manifest, staged, ours)) == seen(theirs)
    assert seen(ours) == before


@pytest.mark.parametrize(
    "excludes",
    [
        [], ["*.pid"], ["/log"], ["log/*"], ["log/"], ["log/old"], ["*"], ["/*.pid", "cache"], ["**/deep"],
        ["gone/deep/file"], ["+ log/today", "log/*"], ["no-such"],
    ],
)  # fmt: skip
def test_excludes_mean_what_rsync_makes_of_them(directory: Path, excludes: list[str]) -> None:
    """Anchored, for directories, with wild cards, and with rules that take something back."""
    require("rsync")

    compare(directory, NEW, OLD, excludes)


@pytest.mark.parametrize(
    "listed", ["*.pid\nlog\n", "# a comment\n\n; another\n+ log/today\n- log/*\n", "!\n*.tmp\n"]
)
def test_a_list_in_the_archive_means_what_rsync_makes_of_it(directory: Path, listed: str) -> None:
    """Comments, blank lines and rules included."""
    require("rsync")

    compare(directory, NEW, OLD, [], listed)


_paths = st.lists(st.sampled_from(["a", "b", "c.pid"]), min_size=1, max_size=3).map("/".join)
_contents = st.sampled_from([b"", b"1", b"22"])
_patterns = st.sampled_from(
    ["a", "/a", "a/", "*.pid", "b/*", "/b/a", "**/c.pid", "*", "a/b", "+ a", "+ */", "[ab]"]
)


def possible(drawn: dict[str, bytes]) -> Tree:
    """Without files that would have to be directories as well."""
    return {
        path: data for path, data in drawn.items() if not any(other.startswith(path + "/") for other in drawn)
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    new=st.dictionaries(_paths, _contents, min_size=1, max_size=6).map(possible),
    old=st.dictionaries(_paths, _contents, max_size=6).map(possible),
    excludes=st.lists(_patterns, min_size=1, max_size=3),
)
def test_any_tree_and_any_patterns_end_as_with_rsync(new: Tree, old: Tree, excludes: list[str]) -> None:
    """Files in place of directories and directories in place of files included."""
    require("rsync")
    with tempfile.TemporaryDirectory() as made:
        compare(Path(made), new, old, excludes)


def test_an_excluded_file_keeps_its_inode(directory: Path) -> None:
    """Whoever has it open goes on writing to the file that is there."""
    require("rsync")
    tree, dest = plant(directory / "staged" / "tree", NEW), plant(directory / "dest", OLD)

    made = synced(DeployManifest(excludes=("log",)), tree.parent, dest)

    assert (made / "log" / "today").stat().st_ino == (dest / "log" / "today").stat().st_ino
    assert (made / "index.html").stat().st_ino == (tree / "index.html").stat().st_ino


def test_a_mount_in_dest_is_not_carried_off(directory: Path) -> None:
    """Its files would be deleted with the old tree; a bind mount is one, too."""
    require_root("mount")
    require("mount")
    dest = plant(directory / "my dest", OLD)
    subprocess.run(["mount", "--bind", dest / "log", dest / "log"], check=True)
    try:
        with pytest.raises(PermanentError, match="mount point"):
            synced(DeployManifest(), plant(directory / "tree", NEW).parent, dest)
    finally:
        subprocess.run(["umount", dest / "log"], check=True)


def test_directories_that_are_carried_keep_what_they_have(directory: Path) -> None:
    """Owner, mode, times and extended attributes, as with `cp -a`."""
    require("rsync")
    require_root("give directories away")
    tree, dest = plant(directory / "staged" / "tree", NEW), plant(directory / "dest", OLD)
    log = dest / "log"
    log.chmod(0o2750)
    os.chown(log, 65534, 65534)
    os.utime(log, (1_500_000_000, 1_500_000_000))
    with suppress(OSError):  # not every filesystem has them
        os.setxattr(log, "user.note", b"kept")

    made = synced(DeployManifest(excludes=("log",)), tree.parent, dest) / "log"

    assert list(map(os.listxattr, (made, log))) == [os.listxattr(log)] * 2
    for name in ("st_mode", "st_uid", "st_gid", "st_mtime"):
        assert getattr(made.stat(), name) == getattr(log.stat(), name)


def test_a_dest_too_deep_to_be_carried_is_refused(directory: Path) -> None:
    """Whoever owns a directory in it could make it so."""
    require("rsync")
    tree, dest = plant(directory / "staged" / "tree", NEW), plant(directory / "dest", OLD)
    (dest / "log" / "/".join("d" * 250)).mkdir(parents=True)

    with pytest.raises(PermanentError, match="directories deep"):
        synced(DeployManifest(excludes=("log",)), tree.parent, dest)
