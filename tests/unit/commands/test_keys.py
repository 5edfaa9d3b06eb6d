"""`agentd keys`: keys are made, listed and replaced, and no secret is ever printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd.cli import main
from agentd.trust.key_files import read_key, write_key
from agentd.trust.keys import SecretKey
from agentd.trust.options import TrustOptions
from tests.unit.trust.samples import FLEET, OPS


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the keys are."""
    return tmp_path / "keys"


def run(capsys: pytest.CaptureFixture[str], *argv: object, status: int = 0) -> str:
    """What the command prints."""
    assert main(["keys", *map(str, argv)]) == status
    said = capsys.readouterr()
    return said.out + said.err


def secrets_in(directory: Path) -> list[str]:
    """The content of all files."""
    return [path.read_text().strip() for path in directory.iterdir()]


def test_a_new_publisher_is_told_what_to_configure(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it is to paste is a valid section, with the public key of the file."""
    said = run(capsys, "generate", "publisher", "ops", "--directory", directory)
    key = read_key(str(directory / "ops.key"))
    assert isinstance(key, SecretKey)
    lines = [line for line in said.splitlines() if line.startswith("  ")]
    pasted = yaml.safe_load("\n".join(lines[:3]).replace("NAME", "deploy"))["trust"]
    assert TrustOptions.model_validate(pasted).publishers["ops"].key == (key.public.text,)
    assert f"signing_key: {directory}/ops.key" in said
    assert key.text not in said


def test_a_new_fleet_key_is_told_what_to_configure(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its name has a default."""
    said = run(capsys, "generate", "fleet", "--directory", directory)
    assert f"fleet_keys: [{directory}/fleet.key]" in said
    assert not any(secret in said for secret in secrets_in(directory))


def test_no_key_is_overwritten(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even by one of the other kind."""
    write_key(directory / "ops.key", OPS)
    assert "is there already" in run(capsys, "generate", "fleet", "ops", "--directory", directory, status=1)
    assert read_key(str(directory / "ops.key")) == OPS


@pytest.mark.parametrize("name", ["../ops", "a/b", ".ops", "-", "a b", "é"])
def test_a_name_is_no_path(name: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It stands in the configuration as well."""
    said = run(capsys, "generate", "publisher", name, "--directory", directory, status=2)
    assert "A-Za-z0-9" in said
    assert not directory.exists()


def test_a_publisher_needs_a_name(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There may be several."""
    assert "NAME" in run(capsys, "generate", "publisher", "--directory", directory, status=2)


def shown(capsys: pytest.CaptureFixture[str], *argv: object, status: int = 0) -> Any:  # noqa: ANN401 (any JSON)
    """What `show --json` prints."""
    return json.loads(run(capsys, "show", "--json", *argv, status=status))


def test_keys_are_listed_without_their_secrets(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a publisher the public key, which goes into the configuration."""
    write_key(directory / "ops.key", OPS)
    write_key(directory / "fleet.key", FLEET)
    (directory / "notes.txt").write_text("no key")
    assert shown(capsys, "--directory", directory) == [
        {"file": f"{directory}/fleet.key", "kind": "fleet", "id": FLEET.kid, "public": None},
        {"file": f"{directory}/ops.key", "kind": "publisher", "id": OPS.kid, "public": OPS.public.text},
    ]
    said = run(capsys, "show", directory / "ops.key")
    assert OPS.public.text in said
    assert OPS.text not in said


def test_a_key_that_cannot_be_used_hides_no_other(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named with the reason, and the status is 1."""
    write_key(directory / "ops.key", OPS)
    write_key(directory / "fleet.key", FLEET)
    (directory / "fleet.key").chmod(0o644)
    for argv in (["--directory", directory], [directory / "ops.key", directory / "fleet.key"]):
        said = run(capsys, "show", *argv, status=1)
        assert OPS.kid in said
        assert "chmod 0600" in said
    assert "unusable" in shown(capsys, "--directory", directory, status=1)[1]


def test_there_may_be_no_keys(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that is none is something else."""
    assert "There are no keys" in run(capsys, "show", "--directory", directory)
    directory.write_text("")
    assert "cannot be read" in run(capsys, "show", "--directory", directory, status=1)


def test_a_key_gets_a_successor_of_its_kind(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The old one stays until it is not needed any more; a third goes on from the second."""
    write_key(directory / "ops.key", OPS)
    write_key(directory / "fleet.key", FLEET)
    said = run(capsys, "rotate", directory / "ops.key")
    new = read_key(str(directory / "ops-2.key"))
    assert isinstance(new, SecretKey)
    assert OPS.public.text in said
    assert new.public.text in said
    assert f"fleet_keys: [{directory}/fleet-2.key]" in run(capsys, "rotate", directory / "fleet.key")
    run(capsys, "rotate", directory / "fleet-2.key")
    run(capsys, "rotate", directory / "fleet.key")
    files = sorted(path.name for path in directory.iterdir())
    assert files == ["fleet-2.key", "fleet-3.key", "fleet-4.key", "fleet.key", "ops-2.key", "ops.key"]
    assert read_key(str(directory / "ops.key")) == OPS
    assert len(set(secrets_in(directory))) == len(files)


def test_what_is_no_key_has_no_successor(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written."""
    run(capsys, "rotate", directory / "ops.key", status=1)
    assert not directory.exists()
