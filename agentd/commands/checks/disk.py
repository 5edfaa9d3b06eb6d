"""The directories that agentd writes: the tree, its own state, its secrets; and damage to what is in them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from agentd.commands.checks.finding import Finding
from agentd.config.load import Loaded
from agentd.configured_tree import open_tree
from agentd.errors import FormatError, TreeError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def findings(loaded: Loaded) -> Iterator[Finding]:
    """First who asks: root may write nearly everywhere, so only root's answers are the daemon's."""
    if os.geteuid() != 0:
        yield Finding(
            "warn",
            "user",
            "not run as root: the checks below may fail for that reason alone",
            "run sudo agentd check",
        )
    yield _directory("tree", loaded.config.tree.path)
    state = loaded.config.state
    found = _directory("state", state)
    if found.level == "ok" and state.is_dir() and state.stat().st_mode & _OTHERS:
        found = Finding(
            "warn", "state", f"{state} is open to others; it holds payloads", f"chmod 700 {state}"
        )
    yield found
    if secrets := loaded.config.tree.secrets:
        yield _secrets(secrets)
    yield from _damage(loaded)


def _damage(loaded: Loaded) -> Iterator[Finding]:
    """What is damaged now, and what was set aside because it was."""
    tree = open_tree(loaded.config)
    try:
        damage = tree.damage()
    except FormatError as error:
        damage = str(error)
    except TreeError:  # as the first finding says
        damage = ""
    if damage:
        yield Finding(
            "FAIL",
            "tree",
            f"{tree.path} is damaged: {damage}",
            "the daemon heals it within seconds; if it cannot, run `agentd rollback N`",
        )
    for aside in sorted(loaded.config.state.glob("journal.db.damaged-*")):
        if not aside.name.endswith("-wal"):
            yield Finding(
                "warn",
                "journal",
                f"{aside} was damaged, and set aside",
                "find out why (see the kernel's log about the disk), then delete it",
            )


def _secrets(path: Path) -> Finding:
    """Whether secrets stay off the disk there, and within reach of nobody else."""
    found = _directory("secrets", path)
    if found.level != "ok":
        return found
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    kind = _file_system(there.resolve())
    if kind not in _IN_MEMORY:
        return Finding(
            "warn",
            "secrets",
            f"{path} (tree.secrets) is not in memory but on {kind}: what was there can be read from the disk",
            "choose a directory on a tmpfs, such as /run/agentd/secrets",
        )
    if there == path and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return Finding("FAIL", "secrets", f"{path} can be changed by others", f"chmod 700 {path}")
    return Finding("ok", "secrets", f"{path} is in memory ({kind})")


def _file_system(path: Path) -> str:
    """The type of the file system of a path; see proc(5), mountinfo."""
    found: tuple[int, str] = 0, "an unknown file system"
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= found[0]:  # the last one mounted there counts
            found = len(point), after.split(" ")[0]
    return found[1]


def _directory(subject: str, path: Path) -> Finding:
    """Whether it can be written, or, if it is not there yet, made."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir():
        return Finding("FAIL", subject, f"{there} is not a directory", "move it away")
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            "FAIL", subject, f"{there} cannot be written", "correct its owner, mode or mount options"
        )
    return Finding("ok", subject, f"{path} can be written" if there == path else f"{path} will be created")
