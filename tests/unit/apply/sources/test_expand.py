"""Unpacking: never more than allowed, never a damaged file."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.apply.sources import expand as module
from agentd.apply.sources.allowance import Allowance
from agentd.apply.sources.expand import expand, packing
from agentd.errors import PermanentError, TemporaryError
from agentd.testing.staging import RecordedLog

PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
KINDS = pytest.mark.parametrize("kind", ["gzip", "zstd"])
PLAIN = b"".join(b"192.0.2.%d\n" % (n % 256) for n in range(40_000))


def _expand(directory: Path, kind: str, packed: bytes, largest: int = 10**9) -> bytes:
    file = directory / ("list.txt.gz" if kind == "gzip" else "list.txt.zst")
    file.write_bytes(packed)
    path = expand("test", file, kind, largest, Allowance("test", 30.0, log=RecordedLog()))
    assert path.name == "list.txt"
    return path.read_bytes()


@KINDS
def test_what_was_packed_comes_out(tmp_path: Path, kind: str) -> None:
    """In a private file with the plain name; the packed one is gone."""
    assert _expand(tmp_path, kind, PACK[kind](PLAIN)) == PLAIN
    (left,) = tmp_path.iterdir()
    assert left.stat().st_mode & 0o777 == 0o600


@KINDS
def test_several_in_a_row_are_one_file(tmp_path: Path, kind: str) -> None:
    """`cat a.gz b.gz`, and what parallel packers write."""
    assert _expand(tmp_path, kind, PACK[kind](b"one ") + PACK[kind](b"") + PACK[kind](b"two")) == b"one two"


@KINDS
@pytest.mark.parametrize("harm", ["cut", "first byte", "tail", "empty", "plain"])
def test_a_damaged_file_is_refused(tmp_path: Path, kind: str, harm: str) -> None:
    """And leaves no half of it."""
    packed = PACK[kind](PLAIN)
    damaged = {
        "cut": packed[:-5],
        "first byte": b"\x00" + packed[1:],
        "tail": packed + b"something else",
        "empty": b"",
        "plain": PLAIN,
    }[harm]
    with pytest.raises(PermanentError, match=f"no whole {kind} file"):
        _expand(tmp_path, kind, damaged)
    assert not list(tmp_path.glob("*.plain"))


@KINDS
def test_exactly_the_limit_is_allowed_and_one_more_is_not(tmp_path: Path, kind: str) -> None:
    """The limit is on what comes out."""
    assert len(_expand(tmp_path, kind, PACK[kind](PLAIN), len(PLAIN))) == len(PLAIN)
    with pytest.raises(PermanentError, match="max_expanded"):
        _expand(tmp_path, kind, PACK[kind](PLAIN), len(PLAIN) - 1)


@KINDS
def test_a_bomb_costs_neither_disk_nor_memory(tmp_path: Path, kind: str) -> None:
    """256 MB of zeros behind a limit of 1 MB: given up after about that much, in little memory."""
    bomb = io.BytesIO()
    opened = gzip.GzipFile(fileobj=bomb, mode="wb") if kind == "gzip" else zstd.ZstdFile(bomb, mode="w")
    with opened as file:
        for _ in range(256):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(PermanentError, match="max_expanded"):
            _expand(tmp_path, kind, bomb.getvalue(), 1 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert not list(tmp_path.glob("*.plain"))


def test_a_window_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    """A frame may ask its reader for gigabytes."""
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    packer = zstd.ZstdCompressor(options=options)
    packed = packer.compress(PLAIN) + packer.flush()
    with pytest.raises(PermanentError, match="no whole zstd file"):
        _expand(tmp_path, "zstd", packed)


def test_it_ends_with_the_time(tmp_path: Path) -> None:
    """Unpacking counts as part of the fetch."""
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(PLAIN))
    with pytest.raises(TemporaryError, match="not fetched within"):
        expand("test", file, "gzip", 10**9, Allowance("test", 0.0, log=RecordedLog()))


@settings(max_examples=60)
@given(data=st.binary(max_size=300), members=st.integers(1, 3), kind=st.sampled_from(["gzip", "zstd"]))
def test_packing_and_unpacking_is_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, members: int, kind: str
) -> None:
    """For any content in any number of members."""
    assert _expand(tmp_path_factory.mktemp("round"), kind, PACK[kind](data) * members) == data * members


@settings(max_examples=60)
@given(data=st.binary(max_size=200), kind=st.sampled_from(["gzip", "zstd"]))
def test_junk_is_refused_and_nothing_else_happens(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: str
) -> None:
    """Whatever bytes come, they are a whole file or refused."""
    head = b"\x1f\x8b\x08" if kind == "gzip" else b"\x28\xb5\x2f\xfd"
    try:
        _expand(tmp_path_factory.mktemp("junk"), kind, head + data)
    except PermanentError:
        return


@pytest.mark.parametrize(
    "name, encoding, kind",
    [
        ("list.txt", "", ""),
        ("list.txt", "identity", ""),
        ("list.GZ", "", "gzip"),
        ("list.gz", "gzip", "gzip"),
        ("list", "x-gzip", "gzip"),
        ("list", "zstd", "zstd"),
        ("list.zst", "", "zstd"),
        ("app.tgz", "", "gzip"),
    ],
)
def test_name_or_server_say_how_it_is_packed(name: str, encoding: str, kind: str) -> None:
    """Once, even if both say it."""
    assert packing(name, encoding) == kind


def test_an_unknown_packing_is_refused() -> None:
    """Better than handing over what nobody can read."""
    with pytest.raises(PermanentError, match="'br'"):
        packing("list", "br")


def test_a_tgz_becomes_a_tar(tmp_path: Path) -> None:
    """So that whoever looks at the name is not misled; a name without suffix stays."""
    for given_name, plain_name in (("app.tgz", "app.tar"), ("list", "list")):
        file = tmp_path / given_name
        file.write_bytes(gzip.compress(b"x"))
        found = expand("test", file, "gzip", 10, Allowance("test", 30.0, log=RecordedLog()))
        assert found.name == plain_name
        assert found.read_bytes() == b"x"


def test_a_missing_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base install has no Zstandard."""
    monkeypatch.setitem(__import__("sys").modules, "backports.zstd", None)
    with pytest.raises(PermanentError, match=r"agentd\[zstd\]"):
        _expand(tmp_path, "zstd", b"x")


def test_the_decoder_never_gives_more_than_asked_for() -> None:
    """What bounds the memory: a small input may hold a thousand times its size."""
    decoder = module._Gzip()
    assert len(decoder.decompress(zlib.compress(bytes(1 << 20), wbits=31), 1000)) == 1000
    assert not decoder.needs_input
