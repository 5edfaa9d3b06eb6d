"""What is installed from this checkout: by the commands of docs/installing.md, and as a wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from agentd import __version__

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("agentd", "handlers")


_DATA = ("config", "systemd")
_OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")


def files(*directories: str) -> set[str]:
    """What is below these, relative to the checkout."""
    return {
        str(file.relative_to(_ROOT))
        for directory in directories
        for file in (_ROOT / directory).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: setuptools leaves a `build/` and packs what is in it the next time."""
    copy = tmp_path_factory.mktemp("source")
    for directory in (*_PACKAGES, *_DATA):
        shutil.copytree(_ROOT / directory, copy / directory, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(_ROOT / file, copy)
    return copy


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's file, built offline."""
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", *_OFFLINE, "-w", directory, source], check=True)
    return next(directory.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    """The same, opened."""
    return zipfile.ZipFile(built)


def test_it_has_every_module_and_data_file_and_is_typed(wheel: zipfile.ZipFile) -> None:
    """Each file of the packages, `py.typed` included, and what is below config/ and systemd/; no tests."""
    prefix = next(
        name for name in wheel.namelist() if name.endswith(".data/data/share/agentd/config/agentd.yaml")
    )
    prefix = prefix.removesuffix("config/agentd.yaml")
    packed = {name.removeprefix(prefix) for name in wheel.namelist() if ".dist-info/" not in name}

    assert packed == files(*_PACKAGES, *_DATA)
    assert {f"{package}/py.typed" for package in _PACKAGES} <= packed


def test_an_sdist_has_the_same(source: Path, tmp_path: Path) -> None:
    """So that the commands of docs/installing.md install it, and a package can be built from it."""
    build = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=source, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}

    assert files(*_PACKAGES, *_DATA) | {"pyproject.toml", "README.md", "LICENSE"} <= packed


@pytest.mark.parametrize("where", [["--target", "{}"], ["--prefix", "{}"]], ids=["target", "prefix"])
def test_an_installed_agentd_finds_its_data_files(built: Path, where: list[str], tmp_path: Path) -> None:
    """In a directory that holds everything, and below a prefix, as in a virtual environment."""
    # Or pip uninstalls the agentd that the tests run.
    options = [*_OFFLINE, "--ignore-installed", "--no-compile", *(one.format(tmp_path) for one in where)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, built], check=True)
    code = next(tmp_path.rglob("agentd/shipped.py")).parents[1]
    ask = f"import sys; sys.path.insert(0, {str(code)!r}); import agentd.shipped as s; print(s.directory())"
    said = subprocess.run(
        [sys.executable, "-c", ask], check=True, capture_output=True, text=True, cwd="/"
    ).stdout

    assert said == f"{tmp_path}/share/agentd\n"
    assert (tmp_path / "share/agentd/systemd/nginx.service.d/agentd.conf").is_file()


def test_it_has_the_licence_and_no_address(wheel: zipfile.ZipFile) -> None:
    """The licence as a file and as SPDX names it; the project has no home page to name."""
    metadata, licence = (
        next(name for name in wheel.namelist() if name.endswith(end))
        for end in (".dist-info/METADATA", ".dist-info/licenses/LICENSE")
    )
    lines = wheel.read(metadata).decode().partition("\n\n")[0].splitlines()

    assert "License-Expression: MIT" in lines
    assert f"Version: {__version__}" in lines
    assert "Description-Content-Type: text/markdown" in lines
    assert not [line for line in lines if line.startswith(("Home-page:", "Project-URL:", "Download-URL:"))]
    assert wheel.read(licence) == (_ROOT / "LICENSE").read_bytes()


def test_it_registers_what_the_project_declares(wheel: zipfile.ZipFile) -> None:
    """Every entry point, in the group it is looked up in."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    declared = wheel.read(name).decode()

    for group, entries in project["entry-points"].items():
        assert f"[{group}]" in declared
        assert all(f"{entry} = {target}" in declared for entry, target in entries.items())


def test_rich_is_not_installed_beside_it() -> None:
    """Where rich is installed structlog imports it: 50 ms and 3 MB for every command we measure."""
    assert find_spec("rich") is None


def test_the_commands_of_the_page_install_it_in_a_fresh_environment(tmp_path: Path) -> None:
    """The installer accepts the hashed files on its own, and nothing is missing beside them."""
    source, prefix = tmp_path / "source", tmp_path / "agentd"
    shutil.copytree(_ROOT, source, ignore=shutil.ignore_patterns(".cache", ".git", "__pycache__"))
    page = (source / "docs/installing.md").read_text().replace("/opt/agentd", str(prefix))
    commands = re.findall(rf"(?m)^(?:python3 -m venv|{prefix}/bin/pip) .*$", page)
    hashed = f"{prefix}/bin/pip install --require-hashes -r config/requirements"

    for command in (*commands, f"{hashed}/template.txt", f"{hashed}/zstd.txt", f"{prefix}/bin/pip check"):
        done = subprocess.run(
            ["sh", "-c", command], cwd=source, capture_output=True, text=True, check=False, timeout=600
        )
        if "Failed to establish a new connection" in done.stderr + done.stdout:
            pytest.skip("no package index can be reached")
        assert done.returncode == 0, done.stdout + done.stderr

    assert len(commands) == 2
    told = subprocess.run([prefix / "bin" / "agentd", "handlers"], cwd="/", capture_output=True, check=True)
    assert b"tls_ticket_keys" in told.stdout
    machine = tmp_path / "machine"
    (machine / "usr/lib/systemd").mkdir(parents=True)
    (machine / "usr/lib/systemd/systemd").touch()
    init: list[str | Path] = [prefix / "bin" / "agentd", "init", "--root", machine, "--yes"]
    subprocess.run(init, cwd="/", capture_output=True, check=True)
    unit = (machine / "etc/systemd/system/agentd.service").read_text()
    assert f"ExecStart={prefix}/bin/agentd run --config /etc/agentd/agentd.yaml\n" in unit
