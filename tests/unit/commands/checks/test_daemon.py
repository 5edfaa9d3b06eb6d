"""What `agentd check` says of the daemon that runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentd.commands.checks import daemon
from agentd.commands.checks.finding import Finding
from agentd.config.load import load
from agentd.http import TCPAddress
from agentd.tree.claim import Claim
from tests.unit.scripted_http import scripted_server


def check(directory: Path, body: bytes) -> list[Finding]:
    """What is found while the state directory is claimed and somebody answers like this."""
    with scripted_server() as server:
        server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)]
        assert isinstance(server.address, TCPAddress)
        file = directory / "agentd.yaml"
        configuration = {
            "nginx": None,
            "tree": {"path": str(directory / "tree")},
            "state": str(directory / "state"),
            "status": {"address": f"127.0.0.1:{server.address.port}"},
            "handlers": {"a": {"use": "command", "options": {"argv": ["/bin/true"]}}},
        }
        file.write_text(json.dumps(configuration))
        claim = Claim(directory / "state", "a test", name="agentd.lock")
        claim.take()
        try:
            return list(daemon.findings(load(file)))
        finally:
            claim.release()


@pytest.mark.parametrize("body", [b"[]", b'"well"', b'{"status": "green"}', b"not JSON"])
def test_somebody_else_on_the_status_address_is_told(tmp_path: Path, body: bytes) -> None:
    """Whatever it answers, it does not speak for agentd."""
    (found,) = check(tmp_path, body)

    assert (found.level, found.subject) == ("FAIL", "daemon")
    assert "does not answer" in found.text


def test_a_daemon_that_is_well_is_told_with_its_pid(tmp_path: Path) -> None:
    """And with the version that runs."""
    (found,) = check(tmp_path, json.dumps({"generation": 7, "pid": 42, "version": "0.1.0"}).encode())

    assert (found.level, found.text) == ("ok", "pid 42, version 0.1.0")


def test_a_configuration_that_was_refused_fails(tmp_path: Path) -> None:
    """With what is wrong with it."""
    state = {"generation": 7, "config_refused": ["agentd.yaml:3: colour: unknown"]}

    (found,) = check(tmp_path, json.dumps(state).encode())

    assert found.level == "FAIL"
    assert "agentd.yaml:3: colour: unknown" in found.text
