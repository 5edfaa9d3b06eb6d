"""Deploys beside a local user who swaps directories and links under them: nothing outside `dest` changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agentd.handler import HandlerError
from tests.servers.equipment import require, require_root
from tests.unit.handlers.deploy.deploying import DeployStand, contents, file

NOBODY = 65534
SECONDS = 3.0
LEAST = 10

SWAPS = """
import os, sys
from contextlib import suppress
victim, directory, *names = sys.argv[1:]
os.chdir(directory)
print("ready", flush=True)
while True:
    for name in names:
        # What is there is moved away, a link and a directory of our own take its place in turn, and back.
        for make in (lambda: os.symlink(victim, name), lambda: os.mkdir(name), lambda: None):
            with suppress(OSError):
                os.rename(name, name + ".aside")
            with suppress(OSError):
                make()
            with suppress(OSError):
                os.unlink(name)
            with suppress(OSError):
                os.rmdir(name)
            with suppress(OSError):
                os.rename(name + ".aside", name)
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that other users can reach."""
    require_root("be attacked by another user")
    made = Path(tempfile.mkdtemp(dir="/dev/shm"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def victim(directory: Path) -> Path:
    """A directory of root's."""
    made = directory / "victim"
    (made / "sub").mkdir(parents=True)
    for path in (made / "precious", made / "sub" / "precious"):
        path.write_bytes(b"precious")
        path.chmod(0o600)
    return made


@contextmanager
def attacked(victim: Path, directory: Path, *names: str) -> Iterator[None]:
    """Somebody swaps these names in their own directory, all the time."""
    argv = [sys.executable, "-I", "-c", SWAPS, str(victim), str(directory), *names]
    with subprocess.Popen(
        argv, user=NOBODY, group=NOBODY, extra_groups=[], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield
            assert process.poll() is None
        finally:
            process.kill()


def traces(victim: Path) -> tuple[object, ...]:
    """All that a deploy could have changed: names, contents, owners, modes and the number of links."""
    every = [victim, *sorted(victim.rglob("*"))]
    found = [(str(path), os.lstat(path)) for path in every]
    return contents(victim), [(path, at.st_uid, at.st_mode, at.st_nlink) for path, at in found]


def deploy_for_a_while(stand: DeployStand, **manifest: object) -> int:
    """Deploy again and again, other files each time; how often it succeeded."""
    done = number = 0
    end = time.monotonic() + SECONDS
    while number < LEAST or time.monotonic() < end:
        number += 1
        archive = stand.archive(file("index.html", str(number).encode()), file("d/e/f", b"x"))
        with suppress(HandlerError):
            stand.deploy(stand.fire(archive, **manifest))
            done += 1
    return done


@pytest.mark.parametrize(
    "names", [["app"], [".agentd-app"], ["app", ".agentd-app"]], ids=["dest", "swap directory", "both"]
)
def test_the_owner_of_the_parent_reaches_nothing_else(
    directory: Path, victim: Path, names: list[str]
) -> None:
    """They are trusted with `dest`, and with no other directory."""
    (directory / "node").mkdir()
    stand = DeployStand(directory / "node")
    os.chown(stand.dest.parent, NOBODY, NOBODY)
    stand.configure(parent_owner=NOBODY)
    before = traces(victim)

    with attacked(victim, stand.dest.parent, *names):
        deploy_for_a_while(stand)

    assert traces(victim) == before


def test_the_owner_of_an_ancestor_reaches_nothing_else(directory: Path, victim: Path) -> None:
    """Of a directory further up as well."""
    (directory / "node").mkdir()
    stand = DeployStand(directory / "node")
    os.chown(stand.directory, NOBODY, NOBODY)
    stand.configure(parent_owner=NOBODY)
    (victim / "app").mkdir()
    before = traces(victim)

    with attacked(victim, stand.directory, "srv"):
        deploy_for_a_while(stand)

    assert traces(victim) == before


def test_the_owner_of_a_directory_in_dest_is_carried_nothing_else(directory: Path, victim: Path) -> None:
    """What is excluded is linked into the new `dest`; not what a link there leads to."""
    require("rsync")
    (directory / "node").mkdir()
    stand = DeployStand(directory / "node")
    stand.deploy(stand.fire(stand.archive(file("index.html"))))
    for name in ("uploads", "uploads/mine"):
        (stand.dest / name).mkdir()
        os.chown(stand.dest / name, NOBODY, NOBODY)
    before = traces(victim)
    done = 0

    for _ in range(3):
        with attacked(victim, stand.dest / "uploads", "mine", "sub"):
            done += deploy_for_a_while(stand, excludes=["uploads"])
        assert traces(victim) == before

    assert done
    assert (stand.dest / "uploads").owner() == "nobody"


def test_an_owner_who_is_not_named_is_refused(directory: Path, victim: Path) -> None:
    """Before anything is done."""
    (directory / "node").mkdir()
    stand = DeployStand(directory / "node")
    os.chown(stand.dest.parent, NOBODY, NOBODY)

    with attacked(victim, stand.dest.parent, "app", ".agentd-app"):
        assert deploy_for_a_while(stand) == 0

    assert stand.runs == []
