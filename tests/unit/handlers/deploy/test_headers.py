"""Headers of archives that nobody would make but to do harm: each is refused, soon and for good."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.deploy import unpack as program
from handlers.deploy.headers import check_pax
from handlers.deploy.members import ArchiveLimits, RefusedArchiveError
from tests.examples import LOOKS
from tests.unit.handlers.deploy.deploying import contents

INPUTS = Path(__file__).parents[3] / "inputs"
LIMITS = ArchiveLimits(size=10_000_000, entries=1_000)
END = bytes(1024)


def block(data: bytes) -> bytes:
    """Data as it stands in an archive."""
    return data + bytes(-len(data) % 512)


def header(kind: bytes, data: bytes = b"", name: str = "x", size: int | None = None) -> bytes:
    """A header of this kind with its contents; `size` is what it claims to have."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + block(data)


def record(key: str, value: str | bytes) -> bytes:
    """A record of an extended header."""
    rest = b" %s=%s\n" % (key.encode(), value.encode() if isinstance(value, str) else value)
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def pax(*records: tuple[str, str | bytes], kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header of these records."""
    return header(kind, b"".join(record(*one) for one in records))


def sum_up(head: bytes) -> bytes:
    """A header with its checksum put right."""
    total = sum(head[:148]) + 8 * 32 + sum(head[156:512])
    return head[:148] + b"%06o\0 " % total + head[156:]


def sparse(pieces: list[tuple[int, int]], real: int, size: int = 512, extended: bytes = b"\0") -> bytes:
    """An old header of a sparse file, with its map."""
    raw = bytearray(header(tarfile.GNUTYPE_SPARSE, size=size))
    for number, (offset, length) in enumerate(pieces):
        raw[386 + 24 * number : 410 + 24 * number] = b"%011o\0%011o\0" % (offset, length)
    raw[482:495] = extended + b"%011o\0" % real
    return sum_up(bytes(raw))


FILE = header(tarfile.REGTYPE, b"content")
NEGATIVE = sum_up(FILE[:124] + b"\xff" * 10 + b"\xfc\x00" + FILE[136:512])
FULL_MAP = [(0, 1), (2, 1), (4, 1), (6, 1)]
HOSTILE = {
    "half a map": (INPUTS / "sparse-damaged.tar").read_bytes(),
    "a million empty names": header(tarfile.GNUTYPE_LONGNAME) * 20_000 + FILE,
    "a million empty links": header(tarfile.GNUTYPE_LONGLINK) * 20_000 + FILE,
    "names for many": (header(tarfile.GNUTYPE_LONGNAME, b"n\0") + FILE) * 600,
    "extended headers for many": (pax(("comment", "x")) + FILE) * 600,
    "global headers for many": (pax(("comment", "x"), kind=tarfile.XGLTYPE) + FILE) * 600,
    "bytes of extended headers": (pax(("comment", "x" * 500_000)) + FILE) * 30,
    "bytes of one member": pax(("comment", "x" * 500_000)) * 3 + FILE,
    "bytes of global headers": (pax(("a", "x" * 30_000), kind=tarfile.XGLTYPE) + FILE) * 4,
    "a number of 5,000 digits": pax(("size", "9" * 5000)) + FILE,
    "an endless number": pax(("comment", "9" * 500_000)) + FILE,
    "a length of 5,000 digits": header(tarfile.XHDTYPE, b"9" * 5000 + b" path=a\n") + FILE,
    "a length too large": header(tarfile.XHDTYPE, b"99 path=a\n") + FILE,
    "a length too small": header(tarfile.XHDTYPE, b"2 path=a\n") + FILE,
    "a length of nothing": header(tarfile.XHDTYPE, b"0 path=a\n") + FILE,
    "no key": header(tarfile.XHDTYPE, b"5 =a\n") + FILE,
    "no value": header(tarfile.XHDTYPE, b"5 ab\n") + FILE,
    "a negative size": pax(("size", "-5")) + FILE,
    "a size that is none": pax(("size", "1e3")) + FILE,
    "a size beyond all": pax(("size", "9999999999999999999")) + FILE,
    "a negative size in the header": NEGATIVE,
    "a negative size of a header": sum_up(
        NEGATIVE[:156] + tarfile.XHDTYPE + NEGATIVE[157:512]
    ) + bytes(3_000_000),
    "a size in base 256": sum_up(FILE[:124] + b"\x80" + b"\xff" * 11 + FILE[136:512]) + END,
    "an owner that is none": pax(("uid", "root")) + FILE,
    "an owner beyond all": pax(("uid", "9999999999")) + FILE,
    "a time that is none": pax(("mtime", "nan")) + FILE,
    "a time beyond all": pax(("mtime", "9999999999999999")) + FILE,
    "a NUL in a name": pax(("path", "a\0b")) + FILE,
    "one name for all": pax(("path", "a"), kind=tarfile.XGLTYPE) + FILE,
    "one size for all": pax(("size", "1"), kind=tarfile.XGLTYPE) + FILE,
    "nothing behind a header": pax(("path", "a")) + END,
    "nothing behind a name": header(tarfile.GNUTYPE_LONGNAME, b"n\0"),
    "a long component": header(tarfile.GNUTYPE_LONGNAME, b"n" * 256 + b"\0") + FILE,
    "a long link": header(tarfile.GNUTYPE_LONGLINK, b"n" * 5000 + b"\0") + header(tarfile.SYMTYPE),
    "a volume": header(b"V") + FILE,
    "a continued file": header(b"M") + FILE,
    "a list of names": header(b"D") + FILE,
    "a map without end": sparse(FULL_MAP, 8, extended=b"\1") + (bytes(504) + b"\1" + bytes(7)) * 4000,
    "a map cut off": sparse(FULL_MAP, 8, extended=b"\1"),
    "pieces that overlap": sparse([(0, 300), (100, 300)], 1000) + bytes(1024),
    "pieces beyond the end": sparse([(0, 100), (900, 200)], 1000) + bytes(1024),
    "a map beyond all": sparse([(0, 1), (8**11 - 1, 1)], 8**11 - 1) + bytes(1024),
    "a map of words": pax(("GNU.sparse.map", "0,x"), ("GNU.sparse.size", "5")) + FILE,
    "a map of long numbers": pax(("GNU.sparse.map", "0," + "9" * 500), ("GNU.sparse.size", "5")) + FILE,
    "a map in the data without end": pax(("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"))
    + header(tarfile.REGTYPE, b"9999999999\n" + b"1\n" * 600_000),
    "a map in the data of words": pax(("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"))
    + header(tarfile.REGTYPE, b"no numbers"),
    "a map in the data of nothing": pax(("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")),
    "a size in a map that is none": pax(("GNU.sparse.realsize", "x")) + FILE,
}  # fmt: skip


def unpack(archive: Path) -> Path:
    """Unpack into a new directory beside it."""
    out = Path(tempfile.mkdtemp(dir=archive.parent, prefix="out-"))
    program.unpack(archive, out, LIMITS)
    return out


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_headers_are_refused(tmp_path: Path, what: str, packed: object) -> None:
    """Not tried again, and not with an error that nobody foresaw."""
    archive = tmp_path / "a"
    archive.write_bytes(gzip.compress(HOSTILE[what], 1) if packed else HOSTILE[what])

    with pytest.raises(RefusedArchiveError):
        unpack(archive)


def test_a_damaged_map_is_called_damaged(tmp_path: Path) -> None:
    """That is what the operator has to know."""
    (tmp_path / "a").write_bytes(HOSTILE["half a map"])

    with pytest.raises(RefusedArchiveError, match="damaged archive"):
        unpack(tmp_path / "a")


def test_extended_headers_count_as_entries(tmp_path: Path) -> None:
    """As many as may be, and one more."""
    (tmp_path / "most").write_bytes((pax(("comment", "x")) + FILE) * 500 + END)
    (tmp_path / "more").write_bytes((pax(("comment", "x")) + FILE) * 500 + FILE + END)

    unpack(tmp_path / "most")
    with pytest.raises(RefusedArchiveError, match="max_entries"):
        unpack(tmp_path / "more")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize(
    "version",
    [["--format=gnu"], *(["--format=posix", f"--sparse-version={one}"] for one in ("0.0", "0.1", "1.0"))],
)
def test_sparse_files_of_every_kind_come_out_whole(
    tmp_path: Path, version: list[str], packed: object
) -> None:
    """With more pieces than one header holds, data or a hole at the end, and files behind them."""
    source = tmp_path / "source"
    source.mkdir()
    for name, size in (("hole", 3_000_000), ("data", 2_490_004)):
        with (source / name).open("wb") as out:
            for number in range(50):
                out.seek(number * 50_000)
                out.write(b"data" * 1000)
            out.truncate(size)
    (source / "z").write_bytes(b"plain")
    pack = "z" if packed else ""
    argv = ["tar", f"-Sc{pack}f", str(tmp_path / "a"), *version, "-C", str(source), "."]
    subprocess.run(argv, check=True)

    made = unpack(tmp_path / "a")

    assert contents(made) == contents(source)
    assert (made / "hole").stat().st_blocks * 512 < 1_000_000


def test_what_the_kernel_cannot_make_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is another matter."""
    (tmp_path / "a").write_bytes(FILE + END)

    def fail(number: int) -> None:
        monkeypatch.setattr(os, "utime", lambda *_, **__: (_ for _ in ()).throw(OSError(number, "no")))

    fail(36)
    with pytest.raises(RefusedArchiveError, match="cannot be unpacked"):
        unpack(tmp_path / "a")
    fail(28)
    with pytest.raises(OSError, match="no"):
        unpack(tmp_path / "a")


# ---------------------------------------------------------------------- anything at all


def every_kind() -> bytes:
    """An archive with headers of every kind that is taken."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT, pax_headers={"comment": "c"}
    ) as out:
        for kind, name in (
            (tarfile.DIRTYPE, "d"),
            (tarfile.SYMTYPE, "d/l"),
            (tarfile.REGTYPE, "d/" + "f" * 150),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mtime, info.mode = kind, "t", 1.5, 0o755
            out.addfile(info)
    made = buffer.getvalue().rstrip(b"\0")
    return b"".join([
        block(made), header(tarfile.GNUTYPE_LONGNAME, b"long" * 50 + b"\0"), FILE,
        sparse([(0, 100), (600, 20)], 1000, 120), bytes(512), FILE, END,
    ])  # fmt: skip


EVERY_KIND = every_kind()


def mended(data: bytes) -> bytes:
    """With all checksums right, so that what was changed is read."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    return b"".join(sum_up(one) if one[257:262] == b"ustar" else one for one in blocks)


@settings(max_examples=LOOKS or 400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(EVERY_KIND) - 1), st.binary(min_size=1, max_size=13)),
        min_size=1,
        max_size=4,
    ),
    cut=st.integers(0, len(EVERY_KIND)) | st.none(),
)
def test_a_changed_archive_is_unpacked_or_refused(changes: list[tuple[int, bytes]], cut: int | None) -> None:
    """Nothing else becomes of it, and nothing outside is touched."""
    data = bytearray(EVERY_KIND)
    for at, what in changes:
        data[at : at + len(what)] = what
    with tempfile.TemporaryDirectory() as made:
        archive = Path(made) / "a"
        archive.write_bytes(mended(bytes(data))[:cut])
        out = Path(made) / "out"
        out.mkdir()
        with suppress(RefusedArchiveError):
            program.unpack(archive, out, LIMITS)
        assert sorted(path.name for path in Path(made).iterdir()) == ["a", "out"]


def test_the_archive_that_is_changed_is_a_good_one(tmp_path: Path) -> None:
    """Or the test above would show nothing."""
    (tmp_path / "a").write_bytes(EVERY_KIND)

    assert len(contents(unpack(tmp_path / "a"))) == 4


@given(st.binary(max_size=60) | st.text(alphabet="0123456789 =\nsizepath", max_size=40).map(str.encode))
def test_any_extended_header_is_taken_or_refused(data: bytes) -> None:
    """In a time that grows with its length alone, since each record is looked at once."""
    try:
        check_pax(data)
    except RefusedArchiveError:
        return
    assert not data or data[0] == 0 or b"=" in data
