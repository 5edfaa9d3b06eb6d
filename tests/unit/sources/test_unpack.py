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
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agentd.deadline import Deadline
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Completed
from agentd.limits import OUT_OF_MEMORY
from agentd.sources import decompressor
from agentd.sources import unpack as unpacking
from agentd.sources.decompressor import LAYERS, RefusedError, decompress
from agentd.sources.unpack import announced, unpack
from agentd.testing.staging import RecordedLog
from tests.examples import LOOKS

PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
KINDS = pytest.mark.parametrize("kind", ["gzip", "zstd"])
INPUTS = Path(__file__).parents[2] / "inputs"
PLAIN = b"".join(b"192.0.2.%d\n" % (n % 256) for n in range(40_000))


def _unpack(directory: Path, packed: bytes, largest: int = 10**9) -> bytes:
    """What the program's own function makes of it."""
    file = directory / "packed"
    file.write_bytes(packed)
    decompress(file, directory / "plain", largest)
    return (directory / "plain").read_bytes()


def _whole(directory: Path, name: str, packed: bytes, expected: str = "", largest: int = 10**9) -> Path:
    """What is handed over, by way of the program."""
    file = directory / name
    file.write_bytes(packed)
    return unpack("test", file, expected, largest, Deadline("test", 30.0, log=RecordedLog()))


@KINDS
@pytest.mark.parametrize("name", ["list", "list.txt", "list.txt.gz", "list.txt.zst"])
def test_the_content_tells_how_it_is_packed(tmp_path: Path, kind: str, name: str) -> None:
    """Whatever the name says; a private file with the plain name is left, and nothing else."""
    path = _whole(tmp_path, name, PACK[kind](PLAIN))

    assert path.read_bytes() == PLAIN
    assert path.name == name.removesuffix(".gz").removesuffix(".zst")
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600


@KINDS
def test_many_parts_without_content_are_refused(tmp_path: Path, kind: str) -> None:
    """A million of them, 9 MB, take half a minute; a few thousand small ones may be a log."""
    few = _unpack(tmp_path, PACK[kind](b"192.0.2.1\n") * 5000)
    (tmp_path / "plain").unlink()
    with pytest.raises(RefusedError, match="members or frames contain only 10 bytes together"):
        _unpack(tmp_path, PACK[kind](b"192.0.2.1\n") + PACK[kind](b"") * 20_000)

    assert few == b"192.0.2.1\n" * 5000
    assert not (tmp_path / "plain").exists()


def test_the_input_without_suffix(tmp_path: Path) -> None:
    """A list that a publisher serves as gzip and says so nowhere."""
    path = _whole(tmp_path, "list", (INPUTS / "gzip-without-suffix").read_bytes())

    assert path.read_bytes().count(b"\n") == 300


@pytest.mark.parametrize("name", ["list.txt.gz", "list.tgz", "list.zst", "list"])
def test_what_a_transport_decompressed_is_taken(tmp_path: Path, name: str) -> None:
    """A plain file may have the name of a packed one, which it loses."""
    path = _whole(tmp_path, name, PLAIN, "gzip")

    assert path.read_bytes() == PLAIN
    assert path.suffix not in {".gz", ".tgz", ".zst"}


@pytest.mark.parametrize("packed", [b"", b"\x1f", b"\x28\xb5\x2f", b"\x1f\x8b\x08\x00\x00\x00"])
def test_what_should_be_packed_and_is_cut_off_is_no_plain_file(tmp_path: Path, packed: bytes) -> None:
    """However little of it came."""
    with pytest.raises(PermanentError, match="not a complete gzip file"):
        _whole(tmp_path, "list.gz", packed, "gzip")


def test_one_packing_in_another(tmp_path: Path) -> None:
    """A server that packs what was packed, even if both say so by turns."""
    assert _whole(tmp_path, "list", gzip.compress(zstd.compress(gzip.compress(PLAIN)))).read_bytes() == PLAIN


def test_packings_without_end_are_refused(tmp_path: Path) -> None:
    """There are files that decompress to themselves."""
    packed = PLAIN
    for _ in range(LAYERS + 1):
        packed = gzip.compress(packed)
    with pytest.raises(PermanentError, match="packed more than 3 times"):
        _whole(tmp_path, "list", packed)
    assert not list(tmp_path.glob("*plain*"))


@KINDS
def test_the_program_ends_at_the_limit(tmp_path: Path, kind: str) -> None:
    """With a message that names the option, and no file left."""
    with pytest.raises(PermanentError, match=r"test: more than 1000 bytes once unpacked \(max_expanded\)"):
        _whole(tmp_path, "list", PACK[kind](PLAIN), largest=1000)
    assert not list(tmp_path.glob("*plain*"))


def test_a_skippable_frame_first_is_zstd(tmp_path: Path) -> None:
    """As the parallel packer writes it."""
    packed = b"\x5a\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"meta" + zstd.compress(PLAIN)
    assert _whole(tmp_path, "list", packed).read_bytes() == PLAIN


@KINDS
def test_several_in_a_row_are_one_file(tmp_path: Path, kind: str) -> None:
    """`cat a.gz b.gz`, and what parallel packers write."""
    assert _unpack(tmp_path, PACK[kind](b"one ") + PACK[kind](b"") + PACK[kind](b"two")) == b"one two"


@KINDS
@pytest.mark.parametrize("harm", ["cut", "head alone", "tail", "cut twice"])
def test_a_damaged_file_is_refused(tmp_path: Path, kind: str, harm: str) -> None:
    """And leaves no half of it."""
    packed = PACK[kind](PLAIN)
    damaged = {
        "cut": packed[:-5],
        "head alone": packed[:4],
        "tail": packed + b"something else",
        "cut twice": packed + packed[:-5],
    }[harm]
    with pytest.raises(RefusedError, match=f"not a complete {kind} file"):
        _unpack(tmp_path, damaged)
    assert not list(tmp_path.glob("plain*"))


@KINDS
def test_exactly_the_limit_is_allowed_and_one_more_is_not(tmp_path: Path, kind: str) -> None:
    """The limit is on what comes out."""
    assert len(_unpack(tmp_path, PACK[kind](PLAIN), len(PLAIN))) == len(PLAIN)
    (tmp_path / "plain").unlink()
    with pytest.raises(RefusedError, match="max_expanded"):
        _unpack(tmp_path, PACK[kind](PLAIN), len(PLAIN) - 1)


@KINDS
def test_a_bomb_costs_neither_disk_nor_memory(tmp_path: Path, kind: str) -> None:
    """256 MB of zeros behind a limit of 1 MB: given up after about that much, in little memory."""
    bomb = io.BytesIO()
    opened = (
        gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=1)
        if kind == "gzip"
        else zstd.ZstdFile(bomb, mode="w")
    )
    with opened as file:
        for _ in range(256):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError, match="max_expanded"):
            _unpack(tmp_path, bomb.getvalue(), 1 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert not list(tmp_path.glob("plain*"))


def test_a_window_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    """A frame may ask its reader for gigabytes."""
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    packer = zstd.ZstdCompressor(options=options)
    packed = packer.compress(PLAIN) + packer.flush()
    with pytest.raises(RefusedError, match="not a complete zstd file"):
        _unpack(tmp_path, packed)


def test_it_ends_with_the_time(tmp_path: Path) -> None:
    """Unpacking counts as part of the fetch."""
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(PLAIN))
    with pytest.raises(TemporaryError, match="not fetched within"):
        unpack("test", file, "gzip", 10**9, Deadline("test", 0.0, log=RecordedLog()))


def test_a_program_that_needs_too_much_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes more memory than it may have is refused with the figure."""
    monkeypatch.setattr(unpacking, "run", lambda *_, **__: Completed(OUT_OF_MEMORY, b"", 0.1))
    with pytest.raises(PermanentError, match="test: decompressing it takes more than 256 MB of memory"):
        _whole(tmp_path, "list", gzip.compress(PLAIN))


@settings(max_examples=LOOKS or 60)
@given(data=st.binary(max_size=300), members=st.integers(1, 3), kind=st.sampled_from(["gzip", "zstd"]))
def test_packing_and_unpacking_is_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, members: int, kind: str
) -> None:
    """For any content in any number of members, unless it looks packed itself."""
    assume(not (data * members).startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")))
    assert _unpack(tmp_path_factory.mktemp("round"), PACK[kind](data) * members) == data * members


@settings(max_examples=LOOKS or 60)
@given(data=st.binary(max_size=200), kind=st.sampled_from(["gzip", "zstd"]))
def test_junk_is_refused_and_nothing_else_happens(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: str
) -> None:
    """Whatever bytes come, they are a whole file or refused."""
    head = b"\x1f\x8b\x08" if kind == "gzip" else b"\x28\xb5\x2f\xfd"
    try:
        _unpack(tmp_path_factory.mktemp("junk"), head + data)
    except RefusedError:
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
        ("list", "gzip, gzip", "gzip"),
        ("list", "identity,zstd", "zstd"),
    ],
)
def test_name_or_server_say_how_it_is_packed(name: str, encoding: str, kind: str) -> None:
    """Once, even if both say it."""
    assert announced(name, encoding) == kind


def test_an_unknown_packing_is_refused() -> None:
    """Better than handing over what nobody can read."""
    for encoding in ("br", "gzip, br", "br, gzip"):
        with pytest.raises(PermanentError, match="'br'"):
            announced("list", encoding)


def test_a_tgz_becomes_a_tar(tmp_path: Path) -> None:
    """So that whoever looks at the name is not misled."""
    assert _whole(tmp_path, "app.tgz", gzip.compress(b"x")).name == "app.tar"


def test_a_missing_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base install has no Zstandard."""
    monkeypatch.setitem(__import__("sys").modules, "backports.zstd", None)
    with pytest.raises(RefusedError, match=r"config/requirements/zstd\.txt"):
        _unpack(tmp_path, zstd.compress(b"x"))


def test_the_decoder_never_gives_more_than_asked_for() -> None:
    """What bounds the memory: a small input may hold a thousand times its size."""
    decoder = decompressor._Gzip()
    assert len(decoder.decompress(zlib.compress(bytes(1 << 20), wbits=31), 1000)) == 1000
    assert not decoder.needs_input
