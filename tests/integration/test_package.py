"""What is in the Debian package, as scripts/package builds it."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Final

import pytest

from agentd import __version__
from agentd.commands import OWN
from tests.servers.debian_package import EPOCH, NEWER, ROOT, package
from tests.servers.equipment import require

LIBRARY: Final = "./usr/lib/agentd/"
SITE: Final = f"{LIBRARY}lib/python3.11/site-packages/"


class Contents:
    """What is in a package."""

    def __init__(self, file: Path) -> None:
        """Read all of it."""
        self.members: dict[str, tarfile.TarInfo] = {}
        self.texts: dict[str, bytes] = {}
        for option in ("--ctrl-tarfile", "--fsys-tarfile"):
            data = subprocess.run(["dpkg-deb", option, file], capture_output=True, check=True).stdout
            where = "DEBIAN" if option.startswith("--ctrl") else "."
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                for member in archive:
                    name = member.name.replace(".", where, 1)
                    self.members[name] = member
                    if member.isfile() and (read := archive.extractfile(member)) is not None:
                        self.texts[name] = read.read()

    def text(self, name: str) -> str:
        """One of its texts."""
        return self.texts[name].decode()


@pytest.fixture(scope="module")
def contents() -> Contents:
    """Those of the package."""
    return Contents(package())


def settings(text: str) -> set[str]:
    """The lines that are no comment."""
    return {line for line in text.splitlines() if line and not line.startswith("#")}


def renamed(name: str) -> str:
    """What a file is called in the newer package."""
    return name.replace(f"agentd-{__version__}", f"agentd-{NEWER}")


def test_it_has_the_code_and_every_data_file(contents: Contents) -> None:
    """What the wheel has, the data in /usr/share/agentd; the pins of what is left out; nothing compiled."""
    code = {
        f"{SITE}{file.relative_to(ROOT)}"
        for top in ("agentd", "handlers")
        for file in (ROOT / top).rglob("*.py")
        if "__pycache__" not in file.parts
    }
    data = {
        f"./usr/share/agentd/{file.relative_to(ROOT)}"
        for top in ("config", "systemd")
        for file in (ROOT / top).rglob("*")
        if file.is_file() and not {"requirements", "__pycache__"} & set(file.parts)
    }

    assert (code | data) - set(contents.members) == set()
    pins = {Path(name).name for name in contents.texts if "/requirements/" in name}
    assert pins == {"gcs.txt", "s3.txt"}
    assert [name for name in contents.members if name.endswith(".pyc")] == []


def test_the_units_start_the_package_and_are_there_once(contents: Contents) -> None:
    """/usr/bin/agentd, and no path of another kind of installation in what systemd reads."""
    units = {name for name in contents.texts if name.startswith("./lib/systemd/system/agentd")}

    assert {Path(name).name for name in units} == {
        "agentd.service", "agentd-rotate-tickets.service", "agentd-rotate-tickets.timer",
    }  # fmt: skip
    assert "ExecStart=/usr/bin/agentd run " in contents.text("./lib/systemd/system/agentd.service")
    assert [name for name in units if "/opt/" in contents.text(name)] == []
    link = contents.members["./usr/share/agentd/systemd/agentd.service"]
    assert link.linkname == "/lib/systemd/system/agentd.service"


def test_only_the_configuration_is_a_conffile(contents: Contents) -> None:
    """What an operator changes is kept by dpkg; the rest is replaced by an upgrade."""
    assert contents.text("DEBIAN/conffiles") == "/etc/agentd/agentd.yaml\n"
    assert contents.texts["./etc/agentd/agentd.yaml"] == (ROOT / "config/agentd.yaml").read_bytes()


def test_every_command_has_a_man_page_and_every_shell_its_completion(contents: Contents) -> None:
    """Where man and the shells of Debian look for them."""
    pages = {name for name in contents.texts if name.startswith("./usr/share/man/man1/")}

    assert {f"./usr/share/man/man1/agentd-{name}.1.gz" for name in OWN} <= pages
    assert {
        "./usr/share/bash-completion/completions/agentd",
        "./usr/share/zsh/vendor-completions/_agentd",
        "./usr/share/fish/vendor_completions.d/agentd.fish",
    } <= set(contents.texts)


def test_owners_modes_and_times_are_those_of_any_build(contents: Contents) -> None:
    """root's, 0644 or 0755, dated with the commit."""
    found = {
        (one.uid, one.gid, one.mode, one.mtime)
        for one in contents.members.values()
        if one.isfile() or one.isdir()
    }

    assert found == {(0, 0, 0o644, EPOCH), (0, 0, 0o755, EPOCH)}


def test_nothing_tells_where_it_was_built(contents: Contents) -> None:
    """No path of the checkout or of the temporary directory of the build."""
    told = re.compile(rf"{re.escape(str(ROOT))}|agentd-package-".encode())

    assert [name for name, text in contents.texts.items() if told.search(text)] == []


def test_another_build_differs_in_the_version_alone(contents: Contents) -> None:
    """With another time zone, umask and order of hashing, and another version by the option."""
    other = Contents(package(NEWER))

    assert list(other.members) == [renamed(name) for name in contents.members]
    differ = {Path(name).name for name, text in contents.texts.items() if other.texts[renamed(name)] != text}
    pages = {name for name in differ if name.startswith("agentd") and name.endswith(".1.gz")}
    assert differ - pages == {"control", "md5sums", "changelog.gz", "METADATA", "__init__.py"}
    assert f'__version__ = "{NEWER}"' in other.text(f"{SITE}agentd/__init__.py")
    assert f"\nVersion: {NEWER}\n" in other.text("DEBIAN/control")


def test_the_copyright_names_every_python_package(contents: Contents) -> None:
    """With the text of its licence; the digests of all files are there for `dpkg --verify`."""
    text = contents.text("./usr/share/doc/agentd/copyright")
    below = {name.removeprefix(SITE).split("/")[0] for name in contents.members if name.startswith(SITE)}
    bundled = {name for name in below if name.endswith(".dist-info")}

    assert {name for name in bundled if not name.startswith("agentd-") and f"/{name}/*" not in text} == set()
    lines = contents.text("DEBIAN/md5sums").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    files = {name[2:] for name in contents.texts if name.startswith("./") and not name.startswith("./etc")}
    assert set(sums) == files
    one = "usr/bin/agentd"
    assert sums[one] == hashlib.md5(contents.texts[f"./{one}"], usedforsecurity=False).hexdigest()


def test_what_a_removal_leaves_for_nginx_is_what_the_package_had(contents: Contents) -> None:
    """The directories and the clean-up without which nginx would not start again."""
    script = contents.text("DEBIAN/postrm")
    tmpfiles, drop_in = (settings(part.partition("\nEND\n")[0]) for part in script.split("<<'END'\n")[1:])
    shipped = settings(contents.text("./usr/lib/tmpfiles.d/agentd.conf"))
    shipped_drop_in = contents.text("./lib/systemd/system/nginx.service.d/agentd.conf")

    assert tmpfiles == {line for line in shipped if "secrets" not in line}
    assert drop_in == {"[Service]", *re.findall(r"(?m)^ExecStartPre=.*$", shipped_drop_in)}


def test_nginx_does_not_start_an_agentd_that_is_not_enabled(contents: Contents) -> None:
    """Its drop-in orders the two and wants nothing: installing the package starts nothing, also not later."""
    drop_in = settings(contents.text("./lib/systemd/system/nginx.service.d/agentd.conf"))

    assert {line.partition("=")[0] for line in drop_in if "=" in line} == {"After", "ExecStartPre"}


def test_lintian_finds_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a warning; what is overridden says why."""
    require("lintian")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # it leaves files there
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on=error,warning", package()],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
