"""From a reference to a file: allowlist first, digest before anybody reads, nothing left behind."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from agentd.errors import ConsulRefused, ConsulUnavailable, PermanentError, TemporaryError
from agentd.handler import Known
from agentd.sources.download import DownloadDirectory
from agentd.sources.fetcher import Fetcher, Sources
from agentd.sources.options import SourceOptions
from agentd.testing.staging import RecordedLog
from tests.unit.sources.scripted import Scripted, ScriptedRequest

Keys = dict[str, bytes | Exception | None]


class Harness:
    """A fetcher with keys of its own and a directory `files` that may be read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = directory / "files"
        self.files.mkdir()
        self.keys: Keys = {}
        self.asked: list[str] = []
        self.log = RecordedLog()
        self.options = SourceOptions(
            allow=("kv:lists", f"file:{self.files}", "https://h/feeds"), max_size=1000
        )
        self.sources = Sources(self.options, directory / "fetched", self._read_key)
        self.room = self.sources.new_directory()

    def _read_key(self, path: str) -> bytes | None:
        self.asked.append(path)
        value = self.keys.get(path)
        if isinstance(value, Exception):
            raise value
        return value

    def fetcher(self, seconds: float = 120.0, stop: threading.Event | None = None) -> Fetcher:
        """A fetcher with this much time."""
        return Fetcher(self.sources, self.room, time.monotonic() + seconds, self.log, stop)

    @property
    def left(self) -> list[str]:
        """The names of all files in private directories."""
        fetched = self.directory / "fetched"
        return sorted(path.name for path in fetched.rglob("*") if path.is_file())


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    """A fetcher that may fetch kv:lists/... and what lies in `harness.files`."""
    return Harness(tmp_path)


def _digest(data: bytes, name: str = "sha256") -> str:
    return f"{name}:{hashlib.new(name, data).hexdigest()}"


def test_a_key_is_fetched(harness: Harness) -> None:
    """Through what the daemon was handed to read keys with."""
    harness.keys["lists/drop"] = b"192.0.2.1\n"
    path = harness.fetcher()("kv:lists/drop")
    assert path.read_bytes() == b"192.0.2.1\n"
    assert path.name == "001-drop"


def test_what_is_fetched_is_private(harness: Harness) -> None:
    """A directory 0700, files 0600."""
    harness.keys["lists/drop"] = b"x"
    path = harness.fetcher()("kv:lists/drop")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_allowlist_comes_first(harness: Harness) -> None:
    """Nothing is asked for that may not be named."""
    with pytest.raises(PermanentError, match=r"sources\.allow"):
        harness.fetcher()("kv:secrets/key")
    assert harness.asked == []


@pytest.mark.parametrize("text", ["", "/etc/passwd", "kv:lists/a sha256:xyz", "gopher://x"])
def test_what_is_no_reference_is_refused(harness: Harness, text: str) -> None:
    """With what is wrong about it."""
    with pytest.raises(PermanentError, match="the reference cannot be used"):
        harness.fetcher()(text)


def test_a_missing_key_is_refused(harness: Harness) -> None:
    """It was to be there before the event was fired."""
    with pytest.raises(PermanentError, match="no such key"):
        harness.fetcher()("kv:lists/none")


@pytest.mark.parametrize(
    "error, raised",
    [(ConsulRefused("no right"), PermanentError), (ConsulUnavailable("down"), TemporaryError)],
)
def test_consul_says_no_or_not_now(harness: Harness, error: Exception, raised: type[Exception]) -> None:
    """A refusal is final, silence is not."""
    harness.keys["lists/a"] = error
    with pytest.raises(raised, match=str(error)):
        harness.fetcher()("kv:lists/a")


def test_a_digest_is_checked_for_every_scheme(harness: Harness) -> None:
    """The right one passes, the wrong one leaves no file."""
    harness.keys["lists/a"] = b"right"
    (harness.files / "a").write_bytes(b"right")
    for where in ("kv:lists/a", f"file:{harness.files}/a"):
        assert harness.fetcher()(f"{where} {_digest(b'right')}").read_bytes() == b"right"
    before = harness.left
    for where in ("kv:lists/a", f"file:{harness.files}/a"):
        with pytest.raises(PermanentError, match="was expected"):
            harness.fetcher()(f"{where} {_digest(b'wrong')}")
    assert harness.left == before


def test_the_digest_is_that_of_the_bytes_as_served(harness: Harness) -> None:
    """So that whoever publishes a file signs the file, packed as it is."""
    packed = gzip.compress(b"plain")
    (harness.files / "list.txt.gz").write_bytes(packed)
    path = harness.fetcher()(f"file:{harness.files}/list.txt.gz {_digest(packed)}")
    assert path.read_bytes() == b"plain"
    assert path.name == "001-list.txt"


def test_what_is_packed_may_stay_packed(harness: Harness) -> None:
    """An archive is unpacked by who knows what to do with it."""
    packed = gzip.compress(b"plain")
    (harness.files / "app.tgz").write_bytes(packed)
    assert harness.fetcher()(f"file:{harness.files}/app.tgz", expand=False).read_bytes() == packed


def test_a_manifest_may_name_an_old_digest(harness: Harness) -> None:
    """In place of the one in the reference."""
    harness.keys["lists/a"] = b"right"
    assert harness.fetcher()("kv:lists/a", digest=_digest(b"right", "md5")).read_bytes() == b"right"
    with pytest.raises(PermanentError, match="was expected"):
        harness.fetcher()("kv:lists/a", digest=_digest(b"wrong", "md5"))


def test_the_size_is_limited(harness: Harness) -> None:
    """By the configuration, or by the handler."""
    harness.keys["lists/a"] = b"x" * 1001
    with pytest.raises(PermanentError, match="1001 bytes"):
        harness.fetcher()("kv:lists/a")
    assert harness.fetcher()("kv:lists/a", max_size=1001).stat().st_size == 1001


def test_what_is_known_is_not_fetched_again(harness: Harness) -> None:
    """For keys by their content."""
    harness.keys["lists/a"] = b"one"
    first = harness.fetcher().if_changed("kv:lists/a", Known())
    assert first is not None
    assert first.path.read_bytes() == b"one"
    before = harness.left
    assert harness.fetcher().if_changed("kv:lists/a", first.known) is None
    assert harness.left == before
    harness.keys["lists/a"] = b"two"
    second = harness.fetcher().if_changed("kv:lists/a", first.known)
    assert second is not None
    assert (second.path.read_bytes(), second.size) == (b"two", 3)


def test_304_is_no_answer_to_a_plain_request(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """There would be no file to return."""
    monkeypatch.setattr(Sources, "request", lambda *_: ScriptedRequest([Scripted(304)]))
    with pytest.raises(TemporaryError, match="304"):
        harness.fetcher()("https://h/feeds/a?sig=SECRET")


def test_what_the_server_packed_is_unpacked(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Content-Encoding that nobody asked for."""
    answer = Scripted(body=gzip.compress(b"plain"), headers={"Content-Encoding": "gzip"})
    monkeypatch.setattr(Sources, "request", lambda *_: ScriptedRequest([answer]))
    assert harness.fetcher()("https://h/feeds/a").read_bytes() == b"plain"


def test_no_time_left_is_no_time(harness: Harness) -> None:
    """A call that used its time up fetches nothing."""
    harness.keys["lists/a"] = b"x"
    with pytest.raises(TemporaryError):
        harness.fetcher(seconds=0.0)("kv:lists/a")
    assert harness.asked == []


def test_a_daemon_that_stops_fetches_nothing(harness: Harness) -> None:
    """The stop event ends it."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(TemporaryError, match="agentd is stopping"):
        harness.fetcher(stop=stop)("kv:lists/a")


def test_what_was_fetched_goes_with_the_room(harness: Harness) -> None:
    """And a call that was left behind cannot bring it back."""
    harness.keys["lists/a"] = b"x"
    harness.fetcher()("kv:lists/a")
    harness.room.close()
    harness.room.close()
    assert harness.left == []
    with pytest.raises(TemporaryError, match="the time for this attempt is over"):
        harness.fetcher()("kv:lists/a")


def test_a_room_that_nobody_used_was_never_made(harness: Harness) -> None:
    """No directory for each of a thousand batches."""
    harness.room.close()
    assert not (harness.directory / "fetched").exists()


def test_whoever_fetches_first_makes_the_state_for_its_owner_alone(tmp_path: Path) -> None:
    """A command may come before the daemon, whose state holds payloads."""
    with closing(DownloadDirectory(tmp_path / "state" / "fetched")) as room:
        room.new("a")
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_made_is_for_later(tmp_path: Path) -> None:
    """The operator's trouble, not the change's."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TemporaryError, match="cannot make a directory"):
        DownloadDirectory(tmp_path / "file" / "fetched").new("a")


def test_a_name_is_harmless(harness: Harness) -> None:
    """Whatever the reference calls it."""
    harness.keys["lists/-rf;$(x)%&"] = b"x"
    assert harness.fetcher()("kv:lists/-rf;$(x)%&").name == "001--rf_x_"


def test_what_a_crash_left_is_swept(harness: Harness) -> None:
    """But not what somebody uses."""
    harness.keys["lists/a"] = b"x"
    harness.sources.sweep()
    used = harness.fetcher()("kv:lists/a")
    stale = harness.directory / "fetched" / ".scratch-stale"
    stale.mkdir()
    (stale / "001-a").write_text("x")
    harness.sources.sweep()
    assert not stale.exists()
    assert used.exists()


def test_without_consul_there_are_no_keys(tmp_path: Path, harness: Harness) -> None:
    """Where nothing was handed in to read them with."""
    sources = Sources(harness.options, tmp_path / "other")
    with pytest.raises(PermanentError, match="no Consul"):
        Fetcher(sources, sources.new_directory(), time.monotonic() + 120, harness.log)("kv:lists/a")


def test_a_disk_that_fails_is_for_later(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told as such."""
    harness.keys["lists/a"] = b"x"

    def fail(*_: object, **__: object) -> int:
        raise OSError(5, os.strerror(5))

    harness.fetcher()("kv:lists/a")
    monkeypatch.setattr("agentd.sources.download.os.open", fail)
    with pytest.raises(TemporaryError, match="Input/output error"):
        harness.fetcher()("kv:lists/a")
