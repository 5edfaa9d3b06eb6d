"""`file:` references: nothing outside the allowed directory is read, whatever its path is bent to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.apply.sources import local
from agentd.apply.sources.allowance import Allowance
from agentd.apply.sources.sink import Sink
from agentd.errors import PermanentError
from agentd.handler import Known
from agentd.reference import Location

NewSink = Callable[..., Sink]


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    """The directory that may be read; beside it lies a secret."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "list").write_text("secret")
    allowed = tmp_path / "allowed"
    (allowed / "sub").mkdir(parents=True)
    (allowed / "sub" / "list").write_text("list")
    return allowed


def _read(path: Path, prefix: Path) -> bytes:
    with local.opened(Location("file", "", str(path)), [Location("file", "", str(prefix))]) as file:
        return file.read()


def test_a_file_below_is_read(allowed: Path) -> None:
    """The plain case."""
    assert _read(allowed / "sub" / "list", allowed) == b"list"


def test_the_prefix_may_be_the_file_itself(allowed: Path) -> None:
    """A single file may be allowed."""
    assert _read(allowed / "sub" / "list", allowed / "sub" / "list") == b"list"


def test_the_prefix_may_be_a_symlink(allowed: Path, tmp_path: Path) -> None:
    """The operator's own link, above or at the prefix, leads nowhere else."""
    (tmp_path / "alias").symlink_to(allowed)
    assert _read(tmp_path / "alias" / "sub" / "list", tmp_path / "alias") == b"list"


def test_a_symlink_inside_may_lead_inside(allowed: Path) -> None:
    """`current -> releases/5` is common, and harmless."""
    (allowed / "current").symlink_to("sub")
    assert _read(allowed / "current" / "list", allowed) == b"list"


@pytest.mark.parametrize("target", ["../secret", "../other/list", "sub/../../secret"])
def test_a_symlink_that_leads_out_is_refused(allowed: Path, target: str) -> None:
    """As the last part of the path."""
    (allowed / "link").symlink_to(target)
    with pytest.raises(PermanentError, match="leads out"):
        _read(allowed / "link", allowed)


def test_a_directory_that_leads_out_is_refused(allowed: Path) -> None:
    """As a part in the middle."""
    (allowed / "door").symlink_to("../other")
    with pytest.raises(PermanentError, match="leads out"):
        _read(allowed / "door" / "list", allowed)


def test_a_name_that_only_begins_like_the_prefix_is_refused(allowed: Path, tmp_path: Path) -> None:
    """/srv is no prefix of /srvx, behind a symlink either."""
    (tmp_path / "allowedx").write_text("secret")
    (allowed / "link").symlink_to("../allowedx")
    with pytest.raises(PermanentError, match="leads out"):
        _read(allowed / "link", allowed)


def test_a_prefix_that_is_gone_allows_nothing(allowed: Path, tmp_path: Path) -> None:
    """A missing directory is no open door."""
    with pytest.raises(PermanentError, match="leads out"):
        _read(allowed / "sub" / "list", tmp_path / "gone")


def test_what_is_no_ordinary_file_is_refused_without_being_opened(allowed: Path) -> None:
    """A pipe would block whoever opens it, a device could do anything."""
    os.mkfifo(allowed / "pipe")
    for name in ("pipe", "sub"):
        with pytest.raises(PermanentError, match="not an ordinary file"):
            _read(allowed / name, allowed)


def test_what_is_not_there_is_refused(allowed: Path) -> None:
    """A name without a file, or a file where a directory belongs."""
    for path in (allowed / "none", allowed / "sub" / "list" / "x"):
        with pytest.raises(PermanentError, match="no such file"):
            _read(path, allowed)


def test_a_race_of_symlinks_never_yields_the_secret(allowed: Path) -> None:
    """Somebody swaps a directory for a link that leads out, over and over, while we read."""
    inside, door, spare = allowed / "inside", allowed / "door", allowed / "spare"
    inside.mkdir()
    (inside / "list").write_text("list")
    door.symlink_to("inside")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for target in ("../other", "inside"):
                spare.symlink_to(target)
                spare.rename(door)

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes = set()
    try:
        for _ in range(3_000):
            try:
                outcomes.add(_read(door / "list", allowed))
            except PermanentError:
                outcomes.add(b"refused")
            if len(outcomes) > 1 and b"secret" in outcomes:
                break
    finally:
        done.set()
        swapper.join()
    assert outcomes == {b"list", b"refused"}


def test_a_file_that_did_not_change_is_not_copied(
    allowed: Path, new_sink: NewSink, allowance: Allowance
) -> None:
    """What is known of it tells a changed file from the same one."""
    location, prefix = Location("file", "", f"{allowed}/sub/list"), Location("file", "", str(allowed))
    first = local.fill(location, [prefix], new_sink(), allowance, Known())
    assert first is not None
    again = new_sink()
    assert local.fill(location, [prefix], again, allowance, first) is None
    assert again.size == 0
    (allowed / "sub" / "list").write_text("other")
    assert local.fill(location, [prefix], again, allowance, first) not in (None, first)
    assert again.path.read_bytes() == b"other"


def test_a_file_that_is_too_large_is_refused_unread(
    allowed: Path, new_sink: NewSink, allowance: Allowance
) -> None:
    """Its size is known beforehand."""
    sink = new_sink(max_size=3)
    with pytest.raises(PermanentError, match="4 bytes"):
        local.fill(
            Location("file", "", f"{allowed}/sub/list"),
            [Location("file", "", str(allowed))],
            sink,
            allowance,
            Known(),
        )
    assert sink.size == 0
