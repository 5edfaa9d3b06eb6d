"""The tree on a disk that is really full, and files larger than the system permits."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import TreeError
from tests.servers.equipment import require, require_root
from tests.unit.tree.trees import commit, everything, new_tree

MEGABYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    require_root("mount")
    require("mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_an_error_and_then_mended(small_disk: Path) -> None:
    """Nothing is half-written; with space again the same attempt succeeds without a restart."""
    tree = new_tree(small_disk)
    commit(tree, "one", {"a": b"old"})
    before = everything(small_disk)
    ballast = small_disk / "ballast"
    stage = tree.stage("one")
    stage.write("a", b"x" * (MEGABYTE // 4))
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(b"\0" * 2 * MEGABYTE)

    with pytest.raises(TreeError, match="free some space"):
        tree.commit(stage, extra={}, prepare=lambda *_: None)
    ballast.unlink()
    assert everything(small_disk) == before

    assert tree.commit(stage, extra={}, prepare=lambda *_: None) is not None
    assert tree.open_current().read("a") == b"x" * (MEGABYTE // 4)


def test_a_large_file_that_cannot_be_staged_is_an_error(small_disk: Path, tmp_path: Path) -> None:
    """The copy that was begun is taken away with the stage."""
    tree = new_tree(small_disk)
    commit(tree, "one", {"a": b"old"})
    (tmp_path / "source").write_bytes(b"x" * 2 * MEGABYTE)
    stage = tree.stage("one")

    with pytest.raises(TreeError, match="free some space"):
        stage.write_file("big", tmp_path / "source")
    stage.close()

    assert shutil.disk_usage(small_disk).free > MEGABYTE // 2
    assert stage.changed == ()


def test_a_file_above_the_limit_is_an_error(tmp_path: Path) -> None:
    """LimitFSIZE= of the service, for example."""
    tree = new_tree(tmp_path)
    commit(tree, "one", {"a": b"old"})
    before = everything(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        with pytest.raises(TreeError, match="RLIMIT_FSIZE"):
            commit(tree, "one", {"a": b"x" * MEGABYTE})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert everything(tmp_path) == before


def test_a_tree_of_another_user_is_an_error() -> None:
    """As when agentd runs as a user that may not write there."""
    require_root("become another user")
    with tempfile.TemporaryDirectory(prefix="agentd-tree-") as made:
        tree = new_tree(Path(made))
        commit(tree, "one", {"a": b"old"})
        before = everything(tree.path)
        Path(made).chmod(0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(TreeError, match="owner and mode"):
                commit(tree, "one", {"a": b"new"})
        finally:
            os.seteuid(0)
        after = everything(tree.path)

    assert after == before
