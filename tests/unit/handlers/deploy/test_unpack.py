"""Archives: what comes out of good ones, and that bad ones write nothing anywhere else."""

from __future__ import annotations

import gzip
import io
import json
import os
import pwd
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.limits import OUT_OF_MEMORY, Limits
from handlers.deploy import unpack as program
from handlers.deploy.members import (
    DEEPEST,
    LONGEST_NAME,
    ArchiveLimits,
    RefusedArchiveError,
    leads_out,
    parts,
)
from tests.examples import LOOKS
from tests.servers.equipment import require, require_root
from tests.unit.handlers.deploy.deploying import Member, contents, file, member, pack

LIMITS = ArchiveLimits(size=10_000_000, entries=1_000)


def unpack(
    directory: Path, *members: Member, outside_links: bool = False, limits: ArchiveLimits = LIMITS
) -> Path:
    """Unpack an archive of these members into a new directory beside it."""
    archive = pack(directory / "a.tar", *members)
    return unpack_file(archive, outside_links=outside_links, limits=limits)


def unpack_file(archive: Path, *, outside_links: bool = False, limits: ArchiveLimits = LIMITS) -> Path:
    """Unpack this archive into a new directory beside it."""
    out = Path(tempfile.mkdtemp(dir=archive.parent, prefix="out-"))
    program.unpack(archive, out, limits, keep_owner=False, outside_links=outside_links)
    return out


# ---------------------------------------------------------------------- good archives


@pytest.mark.parametrize("form", ["gnu", "posix", "ustar"])
def test_what_tar_packs_comes_out_the_same(tmp_path: Path, form: str) -> None:
    """Files, directories, links of both kinds, modes and times, and a name that needs a long header."""
    source = tmp_path / "source"
    (source / "a" / "empty").mkdir(parents=True)
    (source / "a" / ("n" * (90 if form == "ustar" else 200))).write_bytes(b"long name")
    (source / "a" / "run").write_bytes(b"#!")
    (source / "a" / "run").chmod(0o750)
    os.utime(source / "a" / "run", (1, 1_500_000_000.25))
    (source / "link").symlink_to("a/run")
    os.link(source / "a" / "run", source / "hard")
    (source / "a" / "empty").chmod(0o500)
    subprocess.run(["tar", f"--format={form}", "-cf", tmp_path / "a.tar", "-C", source, "."], check=True)

    out = unpack_file(tmp_path / "a.tar")

    assert contents(out) == contents(source)
    assert stat.S_IMODE((out / "a" / "run").stat().st_mode) == 0o750
    assert stat.S_IMODE((out / "a" / "empty").stat().st_mode) == 0o500
    assert int((out / "a" / "run").stat().st_mtime) == 1_500_000_000
    assert (out / "hard").stat().st_ino == (out / "a" / "run").stat().st_ino


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz", "zstd"])
def test_packed_archives_are_known_by_their_first_bytes(tmp_path: Path, packer: str) -> None:
    """Whatever their name."""
    require(packer)
    plain = pack(tmp_path / "plain", file("a", b"x" * 100_000), file("b", b"y"))
    packed = tmp_path / "app"
    packed.write_bytes(subprocess.run([packer, "-c", plain], capture_output=True, check=True).stdout)

    assert contents(unpack_file(packed)) == {"a": b"x" * 100_000, "b": b"y"}


def test_an_archive_that_takes_too_much_memory_to_unpack_is_refused_as_such(tmp_path: Path) -> None:
    """Nothing comes out of it; but it is neither empty nor damaged."""
    require("xz")
    plain, packed = pack(tmp_path / "plain", file("a")), tmp_path / "app"
    hungry = ["xz", "-c", "--lzma2=preset=0,dict=1GiB", str(plain)]
    packed.write_bytes(subprocess.run(hungry, capture_output=True, check=True).stdout)

    with pytest.raises(RefusedArchiveError, match=r"xz reports that it .* takes too much memory"):
        unpack_file(packed)


def test_a_sparse_file_comes_out_whole(tmp_path: Path) -> None:
    """GNU tar leaves out the holes."""
    source = tmp_path / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as out:
        out.seek(1_000_000)
        out.write(b"end")
    subprocess.run(["tar", "-Scf", tmp_path / "a", "-C", source, "."], check=True)

    assert contents(unpack_file(tmp_path / "a")) == contents(source)


def test_the_later_of_two_files_counts(tmp_path: Path) -> None:
    """As in an archive that was appended to; also a file in place of a link, and the other way round."""
    out = unpack(
        tmp_path, file("a", b"1"), file("a", b"2"), member("l", tarfile.SYMTYPE, "/etc"), file("l", b"3"),
        file("s", b"4"), member("s", tarfile.SYMTYPE, "a"),
    )  # fmt: skip

    assert contents(out) == {"a": b"2", "l": b"3", "s": "a"}


def test_directories_that_are_only_implied_are_made(tmp_path: Path) -> None:
    """With 0755; one that comes after its content still gets its own mode."""
    out = unpack(tmp_path, file("a/b/c"), member("a/b", tarfile.DIRTYPE, mode=0o2700), file("./d//e"))

    assert stat.S_IMODE((out / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((out / "a" / "b").stat().st_mode) == 0o2700
    assert set(contents(out)) == {"a/b/c", "d/e"}


def test_links_may_lead_anywhere_inside(tmp_path: Path) -> None:
    """Also up and down again, in a circle, or to what is not there."""
    out = unpack(
        tmp_path, file("a/b/c"), member("a/up", tarfile.SYMTYPE, "../a/b"), member("x", tarfile.SYMTYPE, "x"),
        member("none", tarfile.SYMTYPE, "a/none"), member("here", tarfile.SYMTYPE, "."),
    )  # fmt: skip

    assert (out / "a" / "up" / "c").read_bytes() == b"x"


def test_links_out_can_be_allowed(tmp_path: Path) -> None:
    """They are made, and never followed."""
    (tmp_path / "outside").mkdir()

    out = unpack(tmp_path, member("log", tarfile.SYMTYPE, str(tmp_path / "outside")), outside_links=True)

    assert (out / "log").readlink() == tmp_path / "outside"
    with pytest.raises(RefusedArchiveError, match="used as a directory"):
        unpack(tmp_path, member("log", tarfile.SYMTYPE, "../outside"), file("log/evil"), outside_links=True)
    assert contents(tmp_path / "outside") == {}


@pytest.mark.parametrize("keep", [True, False])
def test_owners_are_kept_for_root(tmp_path: Path, keep: object) -> None:
    """By name if this machine knows it, else by number; of files, directories and links."""
    require_root("give files away")
    directory = member("d", tarfile.DIRTYPE)
    link = member("l", tarfile.SYMTYPE, "f")
    for info, _ in (directory, link):
        info.uid, info.gid = 12345, 54321
    named = file("n", uname="daemon", gname="no-such-group", uid=4711, gid=54321)
    archive = pack(tmp_path / "a.tar", file("f", uid=12345, gid=54321), directory, link, named)
    out = tmp_path / "out"
    out.mkdir()

    program.unpack(archive, out, LIMITS, keep_owner=bool(keep), outside_links=False)

    owners = {name: (out / name).lstat() for name in "fdln"}
    ids = {name: (found.st_uid, found.st_gid) for name, found in owners.items()}
    theirs, daemon = (12345, 54321), (pwd.getpwnam("daemon").pw_uid, 54321)
    assert ids == (
        {"f": theirs, "d": theirs, "l": theirs, "n": daemon} if keep else dict.fromkeys("fdln", (0, 0))
    )


# ---------------------------------------------------------------------- bad archives


@pytest.mark.parametrize(
    "members,said",
    [
        ([file("/etc/cron.d/evil")], "absolute"),
        ([file("../evil")], "contains `"),
        ([file("a/../../evil")], "contains `"),
        ([file("a/..")], "contains `"),
        ([file("")], "empty or absolute"),
        ([file(".")], "names the destination itself"),
        ([member(".", tarfile.SYMTYPE, "/etc")], "names the destination itself"),
        ([file("d/" * DEEPEST + "x")], "deeper"),
        ([file("n" * (LONGEST_NAME + 1))], "longer"),
        ([member("dev", tarfile.CHRTYPE)], "character device"),
        ([member("dev", tarfile.BLKTYPE)], "block device"),
        ([member("fifo", tarfile.FIFOTYPE)], "fifo"),
        ([member("odd", b"Z")], "unknown type"),
        ([file("su", mode=0o4755)], "set-uid"),
        ([file("sg", mode=0o2755)], "set-uid or set-gid"),
        ([member("l", tarfile.SYMTYPE, "/etc/passwd")], "leads out"),
        ([member("l", tarfile.SYMTYPE, "..")], "leads out"),
        ([member("a/l", tarfile.SYMTYPE, "../../x")], "leads out"),
        ([member("l", tarfile.SYMTYPE, "")], "to nowhere"),
        ([member("l", tarfile.SYMTYPE, "x"), file("l/evil")], "used as a directory"),
        ([file("f"), file("f/evil")], "used as a directory"),
        ([file("d/f"), file("d")], "exists already, as a directory"),
        ([file("d/f"), member("d", tarfile.SYMTYPE, "x")], "exists already, as a directory"),
        ([member("h", tarfile.LNKTYPE, "/etc/passwd")], "absolute"),
        ([member("h", tarfile.LNKTYPE, "../x")], "contains `"),
        ([member("h", tarfile.LNKTYPE, "later"), file("later")], "is no earlier file"),
        ([member("d", tarfile.DIRTYPE), member("h", tarfile.LNKTYPE, "d")], "is no earlier file"),
        ([file("h"), member("h", tarfile.LNKTYPE, "h")], "is no earlier file"),
        ([member("h", tarfile.LNKTYPE, ".")], "is no earlier file"),
        ([member("l", tarfile.SYMTYPE, "x"), member("h", tarfile.LNKTYPE, "l/x")], "used as a directory"),
        ([file("x", uid=2**33)], "owner"),
        ([file("x", pax_headers={"mtime": "nan"})], "time"),
        ([file("x", pax_headers={"mtime": "1e300"})], "time"),
        ([file("x", pax_headers={"path": "../evil"})], "contains `"),
        ([file("x", pax_headers={"path": "a\0b"})], "b'path' that cannot be"),
        ([], "empty"),
    ],
)  # fmt: skip
def test_a_bad_member_refuses_the_archive(tmp_path: Path, members: list[Member], said: str) -> None:
    """And leaves everything outside as it was."""
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "file").write_bytes(b"mine")

    with pytest.raises(RefusedArchiveError, match=said):
        unpack(watched, *members)

    left = {path for path in watched.rglob("*") if "out-" not in str(path)}
    assert left == {watched / "file", watched / "a.tar"}


def test_links_that_are_harmless_one_by_one_are_seen_through(tmp_path: Path) -> None:
    """By its text `out` leads to `deep`; through `up` it leads above the root."""
    with pytest.raises(RefusedArchiveError, match="'out' is a link"):
        unpack(
            tmp_path, member("deep/er/up", tarfile.SYMTYPE, "../.."),
            member("out", tarfile.SYMTYPE, "deep/er/up/.."),
        )  # fmt: skip


def test_a_hard_link_to_a_link_is_a_link(tmp_path: Path) -> None:
    """It is judged where it lies."""
    with pytest.raises(RefusedArchiveError, match="'up' is a link"):
        unpack(
            tmp_path, file("x"), member("a/l", tarfile.SYMTYPE, "../x"), member("up", tarfile.LNKTYPE, "a/l")
        )


def test_limits_end_the_work(tmp_path: Path) -> None:
    """Number and size of members, and what a decompressor puts out."""
    bomb = tmp_path / "bomb.gz"
    with bomb.open("wb") as out:
        subprocess.run(["gzip", "-c"], input=bytes(3_000_000), stdout=out, check=True)
    many = [file(f"f{number}") for number in range(20)]

    with pytest.raises(RefusedArchiveError, match="max_entries"):
        unpack(tmp_path, *many, limits=ArchiveLimits(size=10**6, entries=19))
    with pytest.raises(RefusedArchiveError, match="max_unpacked"):
        unpack(tmp_path, *many, limits=ArchiveLimits(size=19, entries=100))
    with pytest.raises(RefusedArchiveError, match=r"empty|max_unpacked"):
        unpack_file(bomb, limits=ArchiveLimits(size=2_000_000, entries=10))


def test_what_a_decompressor_puts_out_is_limited(tmp_path: Path) -> None:
    """Headers count as well."""
    archive = pack(tmp_path / "a.tar.gz", *(file(f"f{number}", b"") for number in range(20)))

    with pytest.raises(RefusedArchiveError, match="unpacks to more"):
        unpack_file(archive, limits=ArchiveLimits(size=5_000, entries=100))


def test_a_decompressor_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be installed, so the archive is not refused."""
    archive = pack(tmp_path / "a.tar.gz", file("a"))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(OSError, match="gzip is needed"):
        unpack_file(archive)


@pytest.mark.parametrize("length", [1, 511, 513, 600, 1535, 1537, 2047, 2050, 4000, 5119])
def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path, length: int) -> None:
    """Wherever it is cut: in a header, in a file, in the padding."""
    archive = pack(tmp_path / "a.tar", file("a", os.urandom(700)), file("b", os.urandom(3000)))
    os.truncate(archive, length)

    with pytest.raises(RefusedArchiveError):
        unpack_file(archive)


@pytest.mark.parametrize("missing", [1, 8, 100, 600])
def test_a_packed_archive_that_is_cut_off_is_refused(tmp_path: Path, missing: int) -> None:
    """Also when all members have come out already, and only the packer's own checksum is missing."""
    archive = pack(tmp_path / "a.tar.gz", file("a", os.urandom(700)), file("b", b"x" * 3000))
    os.truncate(archive, archive.stat().st_size - missing)

    with pytest.raises(RefusedArchiveError):
        unpack_file(archive)


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    """A tar that believed so would deploy the half of it."""
    archive = pack(tmp_path / "a.tar", file("a"), file("b"), file("c"))
    data = bytearray(archive.read_bytes())
    data[1024 + 5] ^= 0xFF
    archive.write_bytes(data)

    with pytest.raises(RefusedArchiveError, match="damaged at byte 1024"):
        unpack_file(archive)


@pytest.mark.parametrize(
    "content", [b"", b"no archive", b"<html>404</html>" * 100, b"\x1f\x8b junk", bytes(100)]
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    """Such as an error page."""
    (tmp_path / "a").write_bytes(content)

    with pytest.raises(RefusedArchiveError):
        unpack_file(tmp_path / "a")


# ---------------------------------------------------------------------- the program


def execute(archive: Path, out: Path) -> tuple[int, dict[str, object]]:
    """Run it as the handler does; returns its exit status and what it printed."""
    argv = [sys.executable, "-I", "-m", program.__name__, "--max-size=1000000", "--max-entries=100"]
    done = subprocess.run([*argv, "--keep-owner", archive, out], capture_output=True, check=False, timeout=60)
    return done.returncode, json.loads(done.stdout)


def test_the_program_says_what_it_did(tmp_path: Path) -> None:
    """In JSON, with a status to match."""
    good, bad = pack(tmp_path / "good", file("a", b"12345")), pack(tmp_path / "bad", file("/a"))
    for name in ("1", "2"):
        (tmp_path / name).mkdir()

    assert execute(good, tmp_path / "1") == (0, {"entries": 1, "bytes": 5})
    status, said = execute(bad, tmp_path / "2")
    assert (status, list(said)) == (program.REFUSED, ["refused"])
    assert execute(good, tmp_path / "none") == (program.FAILED, {"failed": "No such file or directory"})


def test_the_program_and_its_decompressor_are_under_limits(tmp_path: Path) -> None:
    """They read what comes from outside; a larger archive may take more time."""
    (tmp_path / "xz").write_text("#!/bin/sh\n(ulimit -v; ulimit -t) >limits\n")
    (tmp_path / "xz").chmod(0o755)
    (tmp_path / "a").write_bytes(b"\xfd7zXZ\0")
    argv = [sys.executable, "-m", program.__name__, "--max-size=1000000000", "--max-entries=1", "a", "."]
    environment = os.environ | {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(Path.cwd())}

    subprocess.run(argv, cwd=tmp_path, env=environment, check=False, stdout=subprocess.PIPE)

    memory, cpu = (tmp_path / "limits").read_text().split()
    assert memory == str(2**20)
    assert cpu == str(program.limits_of(1_000_000_000).cpu)


def test_too_little_memory_is_told_by_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler knows then that it is no use to try again."""

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(program, "unpack", fail)
    monkeypatch.setattr(Limits, "apply", lambda _: None)

    assert program.main(["--max-size=1", "--max-entries=1", "a", str(tmp_path)]) == OUT_OF_MEMORY


def header(kind: bytes, size: int) -> bytes:
    """A header of this kind that claims a length."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_claims_a_huge_length_is_refused(tmp_path: Path, kind: bytes, packed: object) -> None:
    """It would have to be held in memory."""
    archive = tmp_path / "a"
    data = header(kind, 8 * 2**30) + bytes(2_000_000)
    archive.write_bytes(gzip.compress(data, 1) if packed else data)

    with pytest.raises(RefusedArchiveError, match="claims 8589934592 bytes"):
        unpack_file(archive)


def test_headers_without_end_are_refused(tmp_path: Path) -> None:
    """A thousand extended headers for one member."""
    archive = tmp_path / "a"
    archive.write_bytes((header(tarfile.XHDTYPE, 12) + b"12 path=abc\n".ljust(512, b"\0")) * 2000)

    with pytest.raises(RefusedArchiveError):
        unpack_file(archive)


# ---------------------------------------------------------------------- any archive at all

_names = st.lists(st.sampled_from(["a", "b", "c", "..", ".", ""]), min_size=1, max_size=4).map("/".join)
_kinds = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])


def archive_of(drawn: list[tuple[bytes, str, str]]) -> bytes:
    """An archive of members that were drawn: kind, name, target."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for kind, name, target in drawn:
            info, content = file(name) if kind == tarfile.REGTYPE else member(name, kind, target)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def stays_inside(path: Path, root: Path) -> bool:
    """Whether the kernel follows `path` to a place below `root`, or nowhere."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return True
    return real == root or root in real.parents


@settings(max_examples=LOOKS or 150)
@given(st.lists(st.tuples(_kinds, _names, _names), min_size=1, max_size=8))
def test_no_archive_writes_or_leads_outside(drawn: list[tuple[bytes, str, str]]) -> None:
    """Whatever its members are, nothing around the directory changes, and what is accepted stays inside."""
    with tempfile.TemporaryDirectory() as made:
        outside = Path(made).resolve()
        out = outside / "one" / "two"
        out.mkdir(parents=True)
        (outside / "a").write_bytes(archive_of(drawn))
        try:
            program.unpack(outside / "a", out, LIMITS, keep_owner=False, outside_links=False)
            accepted = True
        except RefusedArchiveError:
            accepted = False

        around = {path for path in outside.rglob("*") if out not in path.parents}
        assert around == {outside / "a", outside / "one", out}
        assert not accepted or all(stays_inside(path, out) for path in out.rglob("*"))


_places = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(tuple)
_targets = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=5).map("/".join)


@given(st.dictionaries(_places, _targets, min_size=1, max_size=6))
def test_links_are_followed_as_the_kernel_follows_them(drawn: dict[tuple[str, ...], str]) -> None:
    """What is said to stay inside does so on a real filesystem with these links."""
    # A link is no directory, so nothing lies below one.
    links = {
        path: to for path, to in drawn.items() if not any(path[:n] in drawn for n in range(1, len(path)))
    }
    with tempfile.TemporaryDirectory() as made:
        root = Path(made, "1", "2", "3", "4", "5", "6").resolve()
        for path, target in links.items():
            place = root.joinpath(*path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(target)

        for path in links:
            assert leads_out(path, links) or stays_inside(root.joinpath(*path), root)


@given(st.text(alphabet="ab./\0é", max_size=12))
def test_a_name_is_taken_apart_or_refused(name: str) -> None:
    """What is taken has only plain components, in the order in which they stand."""
    try:
        found = parts(name)
    except RefusedArchiveError:
        return
    assert not {"", ".", ".."} & set(found)
    assert os.path.normpath(name) == ("/".join(found) or ".")
