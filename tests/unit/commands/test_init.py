"""`agentd init`, in a root of its own."""

from __future__ import annotations

import errno
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from agentd import shipped
from agentd.cli import main
from agentd.commands.installation import Installation, includes, program, untrusted_owner
from agentd.errors import AgentdError
from agentd.tree import disk

UNIT = "etc/systemd/system/agentd.service"
LINKS = {"leak": "/etc/passwd", "nowhere": "absent"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with systemd and nginx."""
    made = tmp_path / "root"
    for directory in ("usr/lib/systemd/system", "etc/nginx"):
        (made / directory).mkdir(parents=True)
    (made / "usr/lib/systemd/systemd").touch()
    return made


def init(root: Path, *options: str) -> int:
    """Run it there."""
    return main(["init", "--root", str(root), *options])


def written(root: Path) -> dict[str, str]:
    """The files below etc/, with their modes."""
    files = [one for one in (root / "etc").rglob("*") if one.is_file()]
    return {str(one.relative_to(root)): oct(one.stat().st_mode & 0o777) for one in files}


def test_what_is_missing_is_written_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what is left to do; a second run writes nothing, and says so."""
    assert init(root, "--yes") == 0

    assert set(written(root).values()) == {"0o644"}
    assert set(written(root)) == {
        "etc/agentd/agentd.yaml",
        UNIT,
        "etc/systemd/system/agentd-rotate-tickets.service",
        "etc/systemd/system/agentd-rotate-tickets.timer",
        "etc/systemd/system/nginx.service.d/agentd.conf",
        "etc/tmpfiles.d/agentd.conf",
        "etc/nginx/snippets/agentd-http.conf",
        "etc/nginx/snippets/agentd-server.conf",
    }
    said = capsys.readouterr().out
    assert "+WatchdogSec=30" in said
    assert "include agentd/current/agentd.conf;" in said.partition("What is left to do")[2]
    assert f"systemctl --root={root} enable agentd" in said
    before = {one: one.stat().st_mtime_ns for one in root.rglob("*")}
    assert init(root, "--yes") == 0
    assert "Nothing is missing, and nothing has been written." in capsys.readouterr().out
    assert {one: one.stat().st_mtime_ns for one in root.rglob("*")} == before


@pytest.mark.parametrize("options, status", [(["--dry-run"], 0), (["--dry-run", "--yes"], 0), ([], 1)])
def test_nothing_is_written_without_leave(
    options: list[str], status: int, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a dry run, and where nobody can be asked and `--yes` is missing."""
    assert init(root, *options) == status

    assert written(root) == {}
    advice = "this was a dry run" if "--dry-run" in options else "add --yes to write"
    assert f"Nothing has been written yet: {advice}" in capsys.readouterr().out


@pytest.mark.parametrize("answer, files", [(b"y\n", 8), (b"\x04", 0)])
def test_a_person_is_asked(answer: bytes, files: int, root: Path) -> None:
    """On a terminal; all but a yes leaves everything as it is."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "agentd", "init", "--root", str(root)]
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ) as process:
        os.close(theirs)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 65536)
        os.write(ours, answer)
        try:
            while os.read(ours, 65536):
                pass
        except OSError:  # how a terminal says that the other end was closed
            pass
    os.close(ours)

    assert b"Write what is missing (8 files)?" in said
    assert len(written(root)) == files
    assert process.returncode == int(not files)


def test_the_unit_starts_the_agentd_that_wrote_it(root: Path) -> None:
    """With the configuration that it was told."""
    assert init(root, "--yes", "--config", "/srv/agentd/own.yaml") == 0

    started = [line for line in (root / UNIT).read_text().splitlines() if line.startswith("ExecStart=")]
    assert started == [f"ExecStart={program()} run --config /srv/agentd/own.yaml"]
    assert (root / "srv/agentd/own.yaml").read_bytes() == shipped.file("config/agentd.yaml").read_bytes()


def test_an_agentd_within_the_root_is_named_as_it_will_be_there(root: Path) -> None:
    """As in the image of a machine."""
    assert Installation(root, Path("/etc/a.yaml"), root / "opt/agentd/bin/agentd").program == Path(
        "/opt/agentd/bin/agentd"
    )


@pytest.mark.parametrize("place", ["etc/systemd/system", "usr/lib/systemd/system"])
def test_what_differs_is_shown_and_left(place: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As from an older agentd, or from its package; all else is written."""
    older = root / place / "agentd.service"
    older.parent.mkdir(parents=True, exist_ok=True)
    older.write_text("[Service]\nExecStart=/opt/agentd/bin/agentd run\n")

    assert init(root, "--yes") == 0

    said = capsys.readouterr().out
    assert "-ExecStart=/opt/agentd/bin/agentd run\n" in said
    assert f"{older} differs, and is left as it is. If it is from an older agentd" in said
    assert older.read_text().endswith("agentd run\n")
    assert len(written(root)) == 8 - (older.parent.parts[-3] != "etc")


def test_what_a_package_brought_is_there_already(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Units below /usr/lib count, and so does a configuration that somebody wrote, which is not read."""
    assert init(root, "--yes") == 0
    (root / UNIT).rename(root / "usr/lib/systemd/system/agentd.service")
    (root / "etc/agentd/agentd.yaml").write_text("token: secret")
    capsys.readouterr()

    assert init(root) == 0

    said = capsys.readouterr().out
    assert "usr/lib/systemd/system/agentd.service" in said
    assert "agentd.yaml" in said
    assert "secret" not in said
    assert not (root / UNIT).exists()


def test_a_masked_unit_stays_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody does not want it to run."""
    (root / UNIT).parent.mkdir(parents=True)
    (root / UNIT).symlink_to("/dev/null")

    assert init(root, "--yes") == 0

    assert (root / UNIT).is_symlink()
    assert "systemctl unmask" in capsys.readouterr().out


@pytest.mark.parametrize("gone, left", [("usr/lib/systemd/systemd", 3), ("etc/nginx", 5)])
def test_what_does_not_fit_the_machine_is_left_out(
    gone: str, left: int, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Units without systemd, includes without nginx; it says so."""
    (root / gone).rename(root / "gone")

    assert init(root, "--yes", "--json") == 0

    told = json.loads(capsys.readouterr().out)
    assert len(told["written"]) == len(written(root)) == left
    assert len(told["left_out"]) == 1


@pytest.mark.parametrize("way", ["out", "leak", "nowhere", "directory"])
def test_a_link_or_a_directory_in_the_way_is_an_error(
    way: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written through a link that leads out of the root, nor to where one leads."""
    if way == "out":
        (tmp_path / "outside").mkdir()
        (root / "etc/systemd").symlink_to(tmp_path / "outside")
    else:
        (root / UNIT).parent.mkdir(parents=True)
        (root / UNIT).symlink_to("absent") if way == "nowhere" else (root / UNIT).mkdir()

    assert init(root, "--yes") == 1

    assert written(root) == {}
    assert not list((tmp_path / "outside").iterdir()) if way == "out" else not (root / "absent").exists()
    assert "remove that link" in (said := capsys.readouterr().err) or "move it away" in said


@pytest.mark.parametrize(
    "number, told", [(errno.ENOSPC, "the file system is full"), (errno.EROFS, "read-only")]
)
def test_what_cannot_be_written_leaves_nothing_half(
    number: int, told: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third file fails: the first two are whole, nothing of the third is left; the next run goes on."""
    real, count = disk.sync, iter(range(100))

    def sync(paths: list[Path]) -> None:
        if next(count) == 4:
            raise OSError(number, os.strerror(number), str(paths[0]))
        real(paths)

    monkeypatch.setattr(disk, "sync", sync)
    assert init(root, "--yes") == 1

    said = capsys.readouterr().err
    assert told in said
    assert f"written before: {root}/etc/agentd/agentd.yaml, {root}/{UNIT}" in said
    assert len(written(root)) == 2
    monkeypatch.undo()
    assert init(root, "--yes") == 0
    assert len(written(root)) == 8


@pytest.mark.parametrize(
    "text, told",
    [
        ("events {}\nhttp {\n include agentd/current/agentd.conf;\n}\n", True),
        ("events {}\nhttp {\n include snippets/*.conf;\n}\n", True),
        ("events {}\nhttp {\n # include agentd/current/agentd.conf;\n}\n", False),
        ("include agentd/current/agentd.conf;\n", False),
    ],
    ids=["itself", "snippet", "comment", "outside"],
)
def test_an_include_that_is_there_is_not_asked_for(text: str, told: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """In `http {}`, as nginx reads it, by way of another file as well."""
    (tmp_path / "snippets").mkdir()
    snippet = shipped.file("config/nginx/agentd-http.conf").read_text()
    (tmp_path / "snippets/agentd-http.conf").write_text(snippet)
    (tmp_path / "nginx.conf").write_text(text)

    assert includes(tmp_path / "nginx.conf", tmp_path / "agentd") is told


def test_somebody_who_writes_first_wins(root: Path) -> None:
    """A file that appears after it was looked for is not replaced."""
    here = Installation(root, Path("/etc/agentd/agentd.yaml"), Path("/opt/agentd/bin/agentd"))
    item = here.items()[0]
    item.target.parent.mkdir(parents=True)
    item.target.write_text("theirs")

    with pytest.raises(AgentdError, match="File exists"):
        here.write(item)

    assert [one.name for one in item.target.parent.iterdir()] == ["agentd.yaml"]
    assert item.target.read_text() == "theirs"


@pytest.mark.parametrize("path", ["/opt/a b/agentd", "/opt/%h/agentd", "/opt/$X/agentd", "/opt/a\nb/agentd"])
def test_a_program_that_a_unit_would_read_otherwise_is_refused(path: str, root: Path) -> None:
    """Systemd gives a meaning to these characters."""
    with pytest.raises(AgentdError, match="cannot be named in a unit"):
        Installation(root, Path("/etc/agentd/agentd.yaml"), Path(path))


def test_a_program_of_somebody_else_is_told(tmp_path: Path) -> None:
    """The unit runs as root whatever that user writes there."""
    directory = tmp_path / "theirs"
    directory.mkdir()
    (directory / "agentd").touch()
    if os.geteuid() == 0:
        os.chown(directory, 65534, -1)

    assert str(directory) in untrusted_owner(directory / "agentd")


def test_a_program_that_others_may_write_is_told(tmp_path: Path) -> None:
    """In an image, what is above its root does not count."""
    program = tmp_path / "root/opt/agentd"
    program.parent.mkdir(parents=True)
    program.touch()
    for place in (program, *program.parents[:2]):
        place.chmod(0o755)
    if os.geteuid() == 0:
        assert untrusted_owner(program, program.parents[1]) == ""
    program.parent.chmod(0o757)

    assert untrusted_owner(program, program.parents[1]).startswith(
        ("others can write to", f"{program} belongs")
    )


def test_the_program_of_an_image_need_not_be_on_this_machine(root: Path) -> None:
    """It is looked at where it is now."""
    program = root / "opt/agentd/bin/agentd"
    program.parent.mkdir(parents=True)
    program.touch()

    made = Installation(root, Path("/etc/agentd/agentd.yaml"), program)

    assert (made.program, made.started) == (Path("/opt/agentd/bin/agentd"), program)
