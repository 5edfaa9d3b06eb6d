"""`agentd fire`: what is refused before Consul is asked. The rest needs a Consul: see tests/integration."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.cli import main
from agentd.errors import ConsulRefused
from agentd.watch.client import AgentInfo, ConsulClient

SECRET = b"5ecret-" + b"x" * 600


@pytest.fixture
def fired(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes]]:
    """What would have been fired, in place of a Consul that fires it."""
    calls: list[tuple[str, bytes]] = []

    def fire(_client: ConsulClient, name: str, payload: bytes) -> str:
        calls.append((name, payload))
        return "0000-id"

    monkeypatch.setattr(ConsulClient, "fire", fire)
    return calls


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration that can be loaded."""
    file = tmp_path / "agentd.yaml"
    file.write_text("handlers: {a: {use: command, options: {argv: [/bin/true]}}}\n")
    return str(file)


def test_too_large_payload_is_refused_unsent_and_unquoted(
    config: str, tmp_path: Path, fired: list[tuple[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Above 512 bytes Consul is not asked; the error says what to do, and does not hold the payload."""
    (tmp_path / "payload").write_bytes(SECRET)
    assert main(["fire", "--config", config, "name", "--file", str(tmp_path / "payload")]) == 1
    error = capsys.readouterr().err
    assert "Consul's limit is 512" in error
    assert "kv:PATH" in error
    assert "5ecret" not in error
    assert fired == []


@pytest.mark.parametrize("version", ["1.8.7", None])
def test_payload_that_newer_releases_refuse_is_warned_of(
    config: str,
    fired: list[tuple[str, bytes]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    version: str | None,
) -> None:
    """From 101 bytes on there is a warning; it is fired all the same, also if the release is not known."""
    monkeypatch.setattr(ConsulClient, "self_info", says(version))
    assert main(["fire", "--config", config, "name", "x" * 101]) == 0
    assert "warning" in capsys.readouterr().err
    assert len(fired[0][1]) == 101


def test_payload_that_this_release_refuses_is_not_sent(
    config: str,
    fired: list[tuple[str, bytes]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The agent says that it is newer; the error says what to use instead."""
    monkeypatch.setattr(ConsulClient, "self_info", says("1.22.1"))
    assert main(["fire", "--config", config, "name", "x" * 101]) == 1
    error = capsys.readouterr().err
    assert "Consul 1.22.1 takes at most 100" in error
    assert "kv:PATH" in error
    assert fired == []


def says(version: str | None) -> Callable[[ConsulClient], AgentInfo]:
    """An agent of this version, or one that the token may not read."""

    def self_info(_: ConsulClient) -> AgentInfo:
        if version is None:
            raise ConsulRefused("no agent:read")
        return AgentInfo("node1", "dc1", version, server=True)

    return self_info


def test_file_is_fired_byte_for_byte(
    config: str, tmp_path: Path, fired: list[tuple[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes that are no text arrive as they are; the ID alone is printed."""
    (tmp_path / "payload").write_bytes(b"\x00\xff\n")
    assert main(["fire", "--config", config, "name", "--file", str(tmp_path / "payload")]) == 0
    assert fired == [("name", b"\x00\xff\n")]
    assert capsys.readouterr() == ("0000-id\n", "")


@pytest.mark.parametrize("argv", [["-"], ["--file", "-"]])
def test_dash_is_standard_input(
    argv: list[str], config: str, fired: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret can come through a pipe."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))
    assert main(["fire", "--config", config, "name", *argv]) == 0
    assert fired == [("name", b"from a pipe")]


def test_no_payload_is_an_empty_one(config: str, fired: list[tuple[str, bytes]]) -> None:
    """An event may be a bare name."""
    assert main(["fire", "--config", config, "name"]) == 0
    assert fired == [("name", b"")]


def test_unreadable_file_is_one_clear_line(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong path is told before anything is sent."""
    assert main(["fire", "--config", config, "name", "--file", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"agentd: {tmp_path} cannot be read: Is a directory\n"


def test_consul_that_is_away_is_told_with_its_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No agent on the socket: status 1 and where it was looked for."""
    file = tmp_path / "agentd.yaml"
    file.write_text(
        f"consul: {{address: unix://{tmp_path}/none.sock}}\n"
        "handlers: {a: {use: command, options: {argv: [/bin/true]}}}\n"
    )
    assert main(["fire", "--config", str(file), "name"]) == 1
    assert f"unix://{tmp_path}/none.sock" in capsys.readouterr().err
