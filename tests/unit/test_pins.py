"""constraints.txt and config/requirements/ pin, with hashes, what agentd, its extras and its tools need."""

from __future__ import annotations

import re
import runpy
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
_PIN: Final[dict[str, Any]] = runpy.run_path(str(ROOT / "scripts" / "pin.py"))
_WANTED: Final[dict[Path, tuple[str, dict[str, str], dict[str, str]]]] = _PIN["files"]()


def pinned(file: Path) -> dict[str, tuple[str, list[str]]]:
    """The version and hashes of each package, by name; a line that is neither pin, hash nor comment fails."""
    pins: dict[str, tuple[str, list[str]]] = {}
    for line in file.read_text().replace("\\\n", " ").splitlines():
        if not line.startswith("#"):
            found = re.fullmatch(r"([\w.-]+)==(\S+)( ; [^-]+)?((?: +--hash=sha256:[0-9a-f]{64})+)", line)
            assert found, line
            pins[found[1]] = found[2] + (found[3] or "").rstrip(), re.findall(r"[0-9a-f]{64}", found[4])
    return pins


@pytest.mark.parametrize("file", _WANTED, ids=lambda file: file.name)
def test_all_that_is_needed_is_pinned_and_nothing_else(file: Path) -> None:
    """What pyproject.toml names and all that this needs in turn; where it fails, run scripts/pin."""
    assert set(pinned(file)) == set(_WANTED[file][1].values())


@pytest.mark.parametrize("file", _WANTED, ids=lambda file: file.name)
def test_what_only_some_pythons_need_says_so(file: Path) -> None:
    """Where a package does not install, because Python has it by now, pip would refuse the whole file."""
    _, names, markers = _WANTED[file]
    said = {name: pin.partition(" ")[2] for name, (pin, _) in pinned(file).items()}

    assert said == {spelt: markers.get(name, "").removeprefix(" ") for name, spelt in names.items()}


def test_what_is_installed_is_what_is_pinned() -> None:
    """The tests run with the versions that an operator installs."""
    pins = pinned(ROOT / "constraints.txt")

    assert {name: pin.partition(" ")[0] for name, (pin, _) in pins.items()} == {
        name: version(name) for name in pins
    }


def test_a_package_has_the_same_hashes_in_every_file() -> None:
    """One that a person changed by hand in one file alone shows."""
    everything = pinned(ROOT / "constraints.txt")

    for file in _WANTED:
        assert {name: everything.get(name, pin) for name, pin in pinned(file).items()} == pinned(file)


def test_no_file_is_left_of_an_extra_that_is_gone() -> None:
    """config/requirements/ has one file for agentd and one for each extra."""
    assert {*(ROOT / "config" / "requirements").iterdir()} == {*_WANTED} - {ROOT / "constraints.txt"}


@pytest.mark.parametrize(
    "name",
    [
        "x-1.tar.gz", "x-1-py3-none-any.whl", "x-1-py2.py3-none-any.whl",
        "x-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        "x-1-py3-none-manylinux_2_17_x86_64.whl", "x-1-cp39-abi3-musllinux_1_2_aarch64.whl",
    ],
)  # fmt: skip
def test_files_for_a_linux_of_ours_are_hashed(name: str) -> None:
    """Both processors, both C libraries, and the source for everything else."""
    assert _PIN["fits"](name)


@pytest.mark.parametrize(
    "name",
    [
        "x-1-cp311-cp311-win_amd64.whl", "x-1-cp311-cp311-macosx_11_0_arm64.whl", "x-1.exe",
        "x-1-cp310-cp310-manylinux_2_17_x86_64.whl", "x-1-cp313-cp313t-manylinux_2_17_x86_64.whl",
    ],
)  # fmt: skip
def test_files_for_other_systems_are_not(name: str) -> None:
    """They would make the files four times as long for nobody."""
    assert not _PIN["fits"](name)
