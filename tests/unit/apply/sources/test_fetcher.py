"""From a reference to a file: fence first, digest before anybody reads, nothing left behind."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from agentd.apply.sources import Fetcher, Room, Sources
from agentd.errors import ConsulRefused, ConsulUnavailable, PermanentError, TemporaryError
from agentd.handler import Known
from agentd.source_options import SourceOptions
from agentd.testing.staging import RecordedLog
from tests.unit.apply.sources.scripted import Scripted, ScriptedRoute

Keys = dict[str, bytes | Exception | None]


class Bench:
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
        self.room = self.sources.room()

    def _read_key(self, path: str) -> bytes | None:
        self.asked.append(path)
        value = self.keys.get(path)
        if isinstance(value, Exception):
            raise value
        return value

    def fetcher(self, seconds: float = 30.0, stop: threading.Event | None = None) -> Fetcher:
        """A fetcher with this much time."""
        return Fetcher(self.sources, self.room, time.monotonic() + seconds, self.log, stop)

    @property
    def left(self) -> list[str]:
        """The names of all files in private directories."""
        fetched = self.directory / "fetched"
        return sorted(path.name for path in fetched.rglob("*") if path.is_file())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A fetcher that may fetch kv:lists/... and what lies in `bench.files`."""
    return Bench(tmp_path)


def _digest(data: bytes, name: str = "sha256") -> str:
    return f"{name}:{hashlib.new(name, data).hexdigest()}"


def test_a_key_is_fetched(bench: Bench) -> None:
    """Through what the daemon was handed to read keys with."""
    bench.keys["lists/drop"] = b"192.0.2.1\n"
    path = bench.fetcher()("kv:lists/drop")
    assert path.read_bytes() == b"192.0.2.1\n"
    assert path.name == "001-drop"


def test_what_is_fetched_is_private(bench: Bench) -> None:
    """A directory 0700, files 0600."""
    bench.keys["lists/drop"] = b"x"
    path = bench.fetcher()("kv:lists/drop")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_fence_comes_first(bench: Bench) -> None:
    """Nothing is asked for that may not be named."""
    with pytest.raises(PermanentError, match=r"sources\.allow"):
        bench.fetcher()("kv:secrets/key")
    assert bench.asked == []


@pytest.mark.parametrize("text", ["", "/etc/passwd", "kv:lists/a sha256:xyz", "gopher://x"])
def test_what_is_no_reference_is_refused(bench: Bench, text: str) -> None:
    """With what is wrong about it."""
    with pytest.raises(PermanentError, match="not a usable reference"):
        bench.fetcher()(text)


def test_a_missing_key_is_refused(bench: Bench) -> None:
    """It was to be there before the event was fired."""
    with pytest.raises(PermanentError, match="no such key"):
        bench.fetcher()("kv:lists/none")


@pytest.mark.parametrize(
    "error, raised",
    [(ConsulRefused("no right"), PermanentError), (ConsulUnavailable("down"), TemporaryError)],
)
def test_consul_says_no_or_not_now(bench: Bench, error: Exception, raised: type[Exception]) -> None:
    """A refusal is final, silence is not."""
    bench.keys["lists/a"] = error
    with pytest.raises(raised, match=str(error)):
        bench.fetcher()("kv:lists/a")


def test_a_digest_is_checked_for_every_scheme(bench: Bench) -> None:
    """The right one passes, the wrong one leaves no file."""
    bench.keys["lists/a"] = b"right"
    (bench.files / "a").write_bytes(b"right")
    for where in ("kv:lists/a", f"file:{bench.files}/a"):
        assert bench.fetcher()(f"{where} {_digest(b'right')}").read_bytes() == b"right"
    before = bench.left
    for where in ("kv:lists/a", f"file:{bench.files}/a"):
        with pytest.raises(PermanentError, match="was asked for"):
            bench.fetcher()(f"{where} {_digest(b'wrong')}")
    assert bench.left == before


def test_the_digest_is_that_of_the_bytes_as_served(bench: Bench) -> None:
    """So that whoever publishes a file signs the file, packed as it is."""
    packed = gzip.compress(b"plain")
    (bench.files / "list.txt.gz").write_bytes(packed)
    path = bench.fetcher()(f"file:{bench.files}/list.txt.gz {_digest(packed)}")
    assert path.read_bytes() == b"plain"
    assert path.name == "001-list.txt"


def test_what_is_packed_may_stay_packed(bench: Bench) -> None:
    """An archive is unpacked by who knows what to do with it."""
    packed = gzip.compress(b"plain")
    (bench.files / "app.tgz").write_bytes(packed)
    assert bench.fetcher()(f"file:{bench.files}/app.tgz", expand=False).read_bytes() == packed


def test_a_manifest_may_name_an_old_digest(bench: Bench) -> None:
    """In place of the one in the reference."""
    bench.keys["lists/a"] = b"right"
    assert bench.fetcher()("kv:lists/a", digest=_digest(b"right", "md5")).read_bytes() == b"right"
    with pytest.raises(PermanentError, match="was asked for"):
        bench.fetcher()("kv:lists/a", digest=_digest(b"wrong", "md5"))


def test_the_size_is_limited(bench: Bench) -> None:
    """By the configuration, or by the handler."""
    bench.keys["lists/a"] = b"x" * 1001
    with pytest.raises(PermanentError, match="1001 bytes"):
        bench.fetcher()("kv:lists/a")
    assert bench.fetcher()("kv:lists/a", max_size=1001).stat().st_size == 1001


def test_what_is_known_is_not_fetched_again(bench: Bench) -> None:
    """For keys by their content."""
    bench.keys["lists/a"] = b"one"
    first = bench.fetcher().if_changed("kv:lists/a", Known())
    assert first is not None
    assert first.path.read_bytes() == b"one"
    before = bench.left
    assert bench.fetcher().if_changed("kv:lists/a", first.known) is None
    assert bench.left == before
    bench.keys["lists/a"] = b"two"
    second = bench.fetcher().if_changed("kv:lists/a", first.known)
    assert second is not None
    assert (second.path.read_bytes(), second.size) == (b"two", 3)


def test_an_answer_of_304_is_none_to_who_asked_plainly(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """There would be no file to return."""
    monkeypatch.setattr(Sources, "route", lambda *_: ScriptedRoute([Scripted(304)]))
    with pytest.raises(TemporaryError, match="304"):
        bench.fetcher()("https://h/feeds/a?sig=SECRET")


def test_what_the_server_packed_is_unpacked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Content-Encoding that nobody asked for."""
    answer = Scripted(body=gzip.compress(b"plain"), headers={"Content-Encoding": "gzip"})
    monkeypatch.setattr(Sources, "route", lambda *_: ScriptedRoute([answer]))
    assert bench.fetcher()("https://h/feeds/a").read_bytes() == b"plain"


def test_no_time_left_is_no_time(bench: Bench) -> None:
    """A call that used its time up fetches nothing."""
    bench.keys["lists/a"] = b"x"
    with pytest.raises(TemporaryError):
        bench.fetcher(seconds=0.0)("kv:lists/a")
    assert bench.asked == []


def test_a_daemon_that_stops_fetches_nothing(bench: Bench) -> None:
    """The stop event ends it."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(TemporaryError, match="agentd stops"):
        bench.fetcher(stop=stop)("kv:lists/a")


def test_what_was_fetched_goes_with_the_room(bench: Bench) -> None:
    """And a call that was left behind cannot bring it back."""
    bench.keys["lists/a"] = b"x"
    bench.fetcher()("kv:lists/a")
    bench.room.close()
    bench.room.close()
    assert bench.left == []
    with pytest.raises(TemporaryError, match="the time of this attempt is over"):
        bench.fetcher()("kv:lists/a")


def test_a_room_that_nobody_used_was_never_made(bench: Bench) -> None:
    """No directory for each of a thousand batches."""
    bench.room.close()
    assert not (bench.directory / "fetched").exists()


def test_a_directory_that_cannot_be_made_is_for_later(tmp_path: Path) -> None:
    """The operator's trouble, not the change's."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TemporaryError, match="cannot make a directory"):
        Room(tmp_path / "file" / "fetched").new("a")


def test_a_name_is_harmless(bench: Bench) -> None:
    """Whatever the reference calls it."""
    bench.keys["lists/-rf;$(x)%&"] = b"x"
    assert bench.fetcher()("kv:lists/-rf;$(x)%&").name == "001--rf_x_"


def test_what_a_crash_left_is_swept(bench: Bench) -> None:
    """But not what somebody uses."""
    bench.keys["lists/a"] = b"x"
    bench.sources.sweep()
    used = bench.fetcher()("kv:lists/a")
    stale = bench.directory / "fetched" / ".scratch-stale"
    stale.mkdir()
    (stale / "001-a").write_text("x")
    bench.sources.sweep()
    assert not stale.exists()
    assert used.exists()


def test_without_consul_there_are_no_keys(tmp_path: Path, bench: Bench) -> None:
    """Where nothing was handed in to read them with."""
    sources = Sources(bench.options, tmp_path / "other")
    with pytest.raises(PermanentError, match="no Consul"):
        Fetcher(sources, sources.room(), time.monotonic() + 9, bench.log)("kv:lists/a")


def test_a_disk_that_fails_is_for_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told as such."""
    bench.keys["lists/a"] = b"x"

    def fail(*_: object, **__: object) -> int:
        raise OSError(5, os.strerror(5))

    bench.fetcher()("kv:lists/a")
    monkeypatch.setattr("agentd.apply.sources.sink.os.open", fail)
    with pytest.raises(TemporaryError, match="Input/output error"):
        bench.fetcher()("kv:lists/a")
