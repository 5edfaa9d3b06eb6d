"""Builds the Debian package: agentd and all that it needs but Python itself, nginx and Consul.

Where things go:

- /usr/lib/agentd: a virtual environment without pip, apart from what the system's Python has. Its packages
  are wheels, pinned and hashed in config/requirements/.
- /usr/local/lib/agentd: what the site adds by `pip install --target`; agentd_site.py adds it at
  each start.
- /usr/bin/agentd, the units, completions and man pages: where Debian looks for them.
- /usr/share/agentd: config/ and systemd/ of the repository; docs/ is in /usr/share/doc/agentd.

The same commit, and the same version of dpkg-deb, give the same bytes: order, times, modes and owners are
fixed. The wheels are taken as they were published; nothing is compiled here, so that arm64 is built on amd64.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from package_programs import ROOT, BuildError, copy, link, output, run, say
from package_python import MACHINES, PACKAGES, install_python
from package_texts import changelog, control, copyright_file, md5sums

DEBIAN: Final = ROOT / "scripts" / "debian"
_SHARED: Final = Path("usr/share/agentd")
_DOC: Final = Path("usr/share/doc/agentd")
_UNITS: Final = Path("lib/systemd/system")
_OPT: Final = "/opt/agentd/bin/agentd"  # the path in systemd/, for an environment of one's own
_LEFT_OUT: Final = ("gcs", "s3")  # extras that a site may add by pip
_PIP_ONLY: Final = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""What pip writes for itself into *.dist-info, and differently from version to version."""


def main(arguments: Sequence[str]) -> int:
    """Build; print the paths of the packages."""
    parser = argparse.ArgumentParser(prog="scripts/package", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", choices=[*MACHINES, "all"], help="default: this machine's")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR", help="default: dist/")
    parser.add_argument("--version", help="a version other than the code's own, to try an upgrade")
    chosen = parser.parse_args(arguments)
    try:
        version = chosen.version or own_version()
        arch = chosen.arch or own_architecture()
        os.environ["SOURCE_DATE_EPOCH"] = str(epoch())
        chosen.out.mkdir(parents=True, exist_ok=True)
        for one in MACHINES if arch == "all" else (arch,):
            print(build(one, version, chosen.out))
    except BuildError as error:
        print(f"package: error: {error}", file=sys.stderr)
        return 1
    return 0


def build(arch: str, version: str, out: Path) -> Path:
    """One package; returns its path."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="agentd-package-") as made:
        source, tree = Path(made, "source"), Path(made, "tree")
        say(f"agentd {version} for {arch}")
        copy_source(source, version)
        install_python(source, tree, arch)
        _install_data(source, tree)
        _install_shell_files(source, tree)
        _install_documents(source, tree, version)
        _write_control(tree, arch, version)
        normalise(tree)
        target = out / f"agentd_{version}_{arch}.deb"
        options = ["--root-owner-group", "-Zxz", "--threads-max=1"]  # more threads, other bytes
        run("dpkg-deb", *options, "--build", str(tree), str(target))
    say(f"{target.name}: {target.stat().st_size / 1e6:.1f} MB after {time.monotonic() - began:.0f} s")
    return target


# ---------------------------------------------------------------- what it is built from


def own_version() -> str:
    """The version of the code."""
    found = re.search(r'(?m)^__version__ = "(.+)"$', (ROOT / "agentd" / "__init__.py").read_text())
    if found is None:
        raise BuildError('agentd/__init__.py has no line `__version__ = "..."`')
    return found[1]


def own_architecture() -> str:
    """This machine's, as Debian calls it."""
    arch = output("dpkg", "--print-architecture").strip()
    if arch not in MACHINES:
        raise BuildError(f"there are no packages for {arch}: choose one with --arch")
    return arch


def epoch() -> int:
    """Seconds since 1970 that all files are dated with: SOURCE_DATE_EPOCH, or the time of the commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not given:
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        given = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if not given.isdecimal():
        raise BuildError("this is no git checkout: set SOURCE_DATE_EPOCH to the seconds of the release")
    return int(given)


def copy_source(target: Path, version: str) -> None:
    """Copy what the package is made from, without what a build leaves behind, and set the version."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
    for name in ("agentd", "handlers", "config", "systemd", "docs"):
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for file in (*ROOT.glob("*.toml"), *ROOT.glob("*.md"), ROOT / "LICENSE"):
        shutil.copy(file, target)
    main_module = target / "agentd" / "__init__.py"
    main_module.write_text(
        re.sub(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', main_module.read_text())
    )


# ---------------------------------------------------------------- files


def _install_data(source: Path, tree: Path) -> None:
    shared = tree / _SHARED
    shutil.copytree(source / "config", shared / "config", ignore=shutil.ignore_patterns("requirements"))
    for extra in _LEFT_OUT:
        copy(source / f"config/requirements/{extra}.txt", shared / f"config/requirements/{extra}.txt")
    shutil.copytree(source / "systemd", shared / "systemd")
    copy(source / "config/agentd.yaml", tree / "etc/agentd/agentd.yaml")
    for unit in sorted((source / "systemd").glob("*.*")):
        if unit.suffix in {".service", ".timer"} and unit.is_file():
            copy(unit, tree / _UNITS / unit.name)
            installed = tree / _UNITS / unit.name
            installed.write_text(installed.read_text().replace(_OPT, "/usr/bin/agentd"))
            # There is one of each, so that nobody copies the one with the other path.
            (shared / "systemd" / unit.name).unlink()
            link(shared / "systemd" / unit.name, f"/{_UNITS}/{unit.name}")
    copy(source / "systemd/nginx.service.d/agentd.conf", tree / _UNITS / "nginx.service.d/agentd.conf")
    copy(source / "systemd/agentd.tmpfiles", tree / "usr/lib/tmpfiles.d/agentd.conf")


def _install_shell_files(source: Path, tree: Path) -> None:
    """Completions and man pages, written from the command line's own parser."""
    program = ROOT / "scripts" / "shell_files.py"
    made = source / "shell"
    run(sys.executable, str(program), str(made), PYTHONPATH=str(source))
    places = {
        "completions/bash/agentd": "usr/share/bash-completion/completions/agentd",
        "completions/zsh/_agentd": "usr/share/zsh/vendor-completions/_agentd",
        "completions/fish/agentd.fish": "usr/share/fish/vendor_completions.d/agentd.fish",
    }
    for name, place in places.items():
        copy(made / name, tree / place)
    for page in sorted((made / "man/man1").iterdir()):
        copy(page, tree / "usr/share/man/man1" / page.name)
        _compress(tree / "usr/share/man/man1" / page.name)


def _install_documents(source: Path, tree: Path, version: str) -> None:
    doc = tree / _DOC
    shutil.copytree(source / "docs", doc / "docs")
    copy(source / "README.md", doc / "README.md")
    copy(source / "CHANGELOG.md", doc / "CHANGELOG.md")
    link(doc / "examples", "../../agentd/config/examples")
    (doc / "changelog").write_text(changelog(version, (source / "CHANGELOG.md").read_text(), epoch()))
    _compress(doc / "changelog")
    (doc / "copyright").write_text(copyright_file(source / "LICENSE", tree / PACKAGES, PACKAGES))
    for information in (tree / PACKAGES).glob("*.dist-info"):
        for name in _PIP_ONLY:
            (information / name).unlink(missing_ok=True)
    copy(DEBIAN / "lintian-overrides", tree / "usr/share/lintian/overrides/agentd")


def _write_control(tree: Path, arch: str, version: str) -> None:
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    size = sum(-(-path.stat().st_size // 1024) for path in files)
    directory = tree / "DEBIAN"
    directory.mkdir()
    settings = [path for path in files if tree / "etc" in path.parents]
    texts = {
        "control": control(DEBIAN / "control", version=version, architecture=arch, size=size),
        "conffiles": "".join(f"/{path.relative_to(tree)}\n" for path in settings),
        "md5sums": md5sums(tree, files),
    }
    for name, text in texts.items():
        (directory / name).write_text(text)
    for name in ("postinst", "prerm", "postrm"):
        copy(DEBIAN / name, directory / name)


def normalise(tree: Path) -> None:
    """Fix what depends on who builds, and when: modes and times."""
    seconds = epoch()
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or _is_program(path) else 0o644)
        os.utime(path, (seconds, seconds), follow_symlinks=False)


def _is_program(path: Path) -> bool:
    """Whether it is one of ours; what a wheel or an example has of them is not started by its path."""
    return path.parent.name in {"bin", "DEBIAN"} and path.read_bytes()[:2] == b"#!"


def _compress(file: Path) -> None:
    run("gzip", "-9n", str(file))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
