"""`file:` references: nothing outside the allowed directory is read, whatever its path is bent to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.deadline import Deadline
from agentd.errors import PermanentError
from agentd.handler import Known
from agentd.sources import local_file
from agentd.sources.download import Download
from agentd.sources.reference import Location

NewDownload = Callable[..., Download]


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
    with local_file.opened(Location("file", "", str(path)), [Location("file", "", str(prefix))]) as file:
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
        with pytest.raises(PermanentError, match="not a regular file"):
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
    allowed: Path, new_download: NewDownload, deadline: Deadline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of it tells a changed file from the same one."""
    monkeypatch.setattr(local_file, "_SETTLED", 0.0)
    location, prefix = Location("file", "", f"{allowed}/sub/list"), Location("file", "", str(allowed))
    first = local_file.fill(location, [prefix], new_download(), deadline, Known())
    assert first is not None
    again = new_download()
    assert local_file.fill(location, [prefix], again, deadline, first) is None
    assert again.size == 0
    (allowed / "sub" / "list").write_text("other")
    assert local_file.fill(location, [prefix], again, deadline, first) not in (None, first)
    assert again.path.read_bytes() == b"other"


def test_a_file_with_the_same_size_and_time_is_not_taken_for_the_same(
    allowed: Path, new_download: NewDownload, deadline: Deadline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes a file can set its time of modification as well."""
    monkeypatch.setattr(local_file, "_SETTLED", 0.0)
    location, prefix = Location("file", "", f"{allowed}/sub/list"), Location("file", "", str(allowed))
    file = allowed / "sub" / "list"
    before = file.stat()
    first = local_file.fill(location, [prefix], new_download(), deadline, Known())
    file.write_bytes(bytes(before.st_size))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert first is not None
    assert local_file.fill(location, [prefix], new_download(), deadline, first) is not None


def test_nothing_is_known_of_a_file_that_has_just_changed(
    allowed: Path, new_download: NewDownload, deadline: Deadline
) -> None:
    """A second change within the same tick would leave the same times."""
    location, prefix = Location("file", "", f"{allowed}/sub/list"), Location("file", "", str(allowed))

    assert local_file.fill(location, [prefix], new_download(), deadline, Known()) == Known()


def test_a_file_that_is_too_large_is_refused_unread(
    allowed: Path, new_download: NewDownload, deadline: Deadline
) -> None:
    """Its size is known beforehand."""
    download = new_download(max_size=3)
    with pytest.raises(PermanentError, match="4 bytes"):
        local_file.fill(
            Location("file", "", f"{allowed}/sub/list"),
            [Location("file", "", str(allowed))],
            download,
            deadline,
            Known(),
        )
    assert download.size == 0
