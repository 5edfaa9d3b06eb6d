"""The file that a transfer fills."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.errors import PermanentError, TemporaryError
from agentd.sources import room
from agentd.sources.download import Download
from agentd.sources.reference import Digest

NewDownload = Callable[..., Download]


def _sha256(data: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(data).hexdigest())


def test_what_is_written_is_private_and_complete(new_download: NewDownload) -> None:
    """Mode 0600 from the first byte."""
    download = new_download()
    download.write(b"one ")
    download.write(b"two")
    assert download.path.read_bytes() == b"one two"
    assert download.path.stat().st_mode & 0o777 == 0o600


def test_one_byte_too_many_is_refused_before_it_is_written(new_download: NewDownload) -> None:
    """The limit holds while bytes stream in, whatever was announced."""
    download = new_download(max_size=8)
    download.write(b"12345678")
    with pytest.raises(PermanentError, match="max_size"):
        download.write(b"9")
    assert download.path.stat().st_size == 8


def test_the_digest_is_that_of_what_counts(new_download: NewDownload) -> None:
    """Bytes from before a restart do not count."""
    download = new_download(digest=_sha256(b"right"))
    download.write(b"left, and longer")
    download.restart()
    download.write(b"right")
    download.verify()
    assert download.path.read_bytes() == b"right"


def test_a_wrong_digest_is_refused(new_download: NewDownload) -> None:
    """The message tells both digests by their beginning."""
    download = new_download(digest=_sha256(b"right"))
    download.write(b"wrong")
    with pytest.raises(PermanentError, match=f"{_sha256(b'wrong')}.*{_sha256(b'right')}"):
        download.verify()


def test_a_sink_that_failed_leaves_no_file(tmp_path: Path) -> None:
    """Nobody can read what was not verified."""
    with pytest.raises(PermanentError), Download(tmp_path / "a", "test", max_size=1, digest=None) as download:
        download.write(b"ab")
    assert list(tmp_path.iterdir()) == []


def test_the_last_room_on_the_disk_is_left(
    new_download: NewDownload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a size is announced or the bytes just come."""
    download = new_download(max_size=10**9)
    free = shutil.disk_usage(download.path).free
    monkeypatch.setattr(room, "_SHARE", 1)
    monkeypatch.setattr(room, "LEAST", free - 2**20)
    with pytest.raises(TemporaryError, match="would be left there for the journal: make room"):
        download.expect(64 * 2**20)
    with pytest.raises(TemporaryError, match="would be left there for the journal: make room"):
        download.write(bytes(64 * 2**20))
    assert download.path.stat().st_size == 0


def test_a_full_disk_is_no_broken_connection(new_download: NewDownload) -> None:
    """It is told as what it is, and nothing is asked for again."""
    download = new_download()
    with Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), download._file.fileno())
    with pytest.raises(TemporaryError, match="No space left"):
        download.write(b"ab")
