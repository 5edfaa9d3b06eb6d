"""The file that a transfer fills."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.apply.sources.sink import Sink
from agentd.errors import PermanentError, TemporaryError
from agentd.reference import Digest

NewSink = Callable[..., Sink]


def _sha256(data: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(data).hexdigest())


def test_what_is_written_is_private_and_complete(new_sink: NewSink) -> None:
    """Mode 0600 from the first byte."""
    sink = new_sink()
    sink.write(b"one ")
    sink.write(b"two")
    assert sink.path.read_bytes() == b"one two"
    assert sink.path.stat().st_mode & 0o777 == 0o600


def test_one_byte_too_many_is_refused_before_it_is_written(new_sink: NewSink) -> None:
    """The limit holds while bytes stream in, whatever was announced."""
    sink = new_sink(max_size=8)
    sink.write(b"12345678")
    with pytest.raises(PermanentError, match="max_size"):
        sink.write(b"9")
    assert sink.path.stat().st_size == 8


def test_the_digest_is_that_of_what_counts(new_sink: NewSink) -> None:
    """Bytes from before a restart do not count."""
    sink = new_sink(digest=_sha256(b"right"))
    sink.write(b"left, and longer")
    sink.restart()
    sink.write(b"right")
    sink.verify()
    assert sink.path.read_bytes() == b"right"


def test_a_wrong_digest_is_refused(new_sink: NewSink) -> None:
    """The message tells both digests by their beginning."""
    sink = new_sink(digest=_sha256(b"right"))
    sink.write(b"wrong")
    with pytest.raises(PermanentError, match=f"{_sha256(b'wrong')}.*{_sha256(b'right')}"):
        sink.verify()


def test_a_sink_that_failed_leaves_no_file(tmp_path: Path) -> None:
    """Nobody can read what was not verified."""
    with pytest.raises(PermanentError), Sink(tmp_path / "a", "test", max_size=1, digest=None) as sink:
        sink.write(b"ab")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_no_broken_connection(new_sink: NewSink) -> None:
    """It is told as what it is, and nothing is asked for again."""
    sink = new_sink()
    with Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), sink._file.fileno())
    with pytest.raises(TemporaryError, match="No space left"):
        sink.write(b"ab")
