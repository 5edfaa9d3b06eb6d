"""The lock that a daemon holds on its tree for its life."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from agentd.errors import TakenError, TreeError
from agentd.tree.claim import Claim
from tests.unit.tree.trees import commit, live, new_tree


def test_a_second_claim_is_refused_in_words(tmp_path: Path) -> None:
    """It names the first one, and what to do."""
    first = Claim(tmp_path / "tree", "pid 7, state /var/lib/agentd")
    first.take()

    with pytest.raises(TakenError, match=r"\(pid 7, state /var/lib/agentd\): one tree has one daemon"):
        Claim(tmp_path / "tree", "pid 8").take()

    first.release()
    Claim(tmp_path / "tree", "pid 8").take()


def test_a_claim_is_not_in_the_way_of_commands(tmp_path: Path) -> None:
    """They commit and roll back beside the daemon."""
    claim = Claim(tmp_path / "tree", "pid 7")
    claim.take()

    commit(new_tree(tmp_path), "one", {"a": b"1"})

    assert live(new_tree(tmp_path)) == {"a": (b"1", 0o644)}


@pytest.mark.parametrize("what", ["", ".daemon"])
def test_a_claim_is_taken_again_after_a_deletion(tmp_path: Path, what: str) -> None:
    """Whoever comes then is refused as before."""
    claim = Claim(tmp_path / "tree", "pid 7")
    claim.take()
    victim = tmp_path / "tree" / what
    if victim.is_dir():
        shutil.rmtree(victim)
    else:
        victim.unlink()

    claim.take()

    with pytest.raises(TakenError, match="pid 7"):
        Claim(tmp_path / "tree", "pid 8").take()


def test_a_claim_that_somebody_else_has_by_now_is_lost(tmp_path: Path) -> None:
    """The tree was deleted, and another daemon was faster."""
    first, second = Claim(tmp_path / "tree", "pid 7"), Claim(tmp_path / "tree", "pid 8")
    first.take()
    shutil.rmtree(tmp_path / "tree")
    second.take()

    with pytest.raises(TakenError, match="pid 8"):
        first.take()


def test_a_tree_that_cannot_be_made_is_waited_for(tmp_path: Path) -> None:
    """It is another error than a tree that is taken."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(TreeError, match="a file is where a directory should be"):
        Claim(tmp_path / "file" / "tree", "pid 7").take()


def test_a_lock_on_a_read_only_file_system_is_taken_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is there, it need not be written."""
    before = Claim(tmp_path, "pid 6")
    before.take()
    before.release()
    real = os.open

    def read_only(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise OSError(30, "Read-only file system", path)
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    first = Claim(tmp_path, "pid 7")
    first.take()

    with pytest.raises(TakenError, match="already using this tree"):
        Claim(tmp_path, "pid 8").take()


def test_something_else_in_place_of_the_lock_is_told(tmp_path: Path) -> None:
    """It is not waited for."""
    os.mkfifo(tmp_path / ".daemon")

    with pytest.raises(TreeError, match=r"Not a file at .*/\.daemon; something else is where"):
        Claim(tmp_path, "pid 7").take()
