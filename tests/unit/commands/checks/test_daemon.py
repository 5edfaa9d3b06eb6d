"""What `agentd check` says of the daemon that runs."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest

from agentd.commands.checks import daemon
from agentd.commands.checks.finding import Finding
from agentd.config.load import load
from agentd.http import TCPAddress
from agentd.options import StatusOptions
from agentd.report.certificate import Certificate
from agentd.tree.claim import Claim
from tests.unit.scripted_http import scripted_server

NOW = 1_800_000_000.0


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


@pytest.mark.parametrize(
    "begins,expires,level,said",
    [
        (-60.0, 90 * 86400.0, "ok", "certificate for lb1.example.org until 20"),
        (-60.0, 13 * 86400.0, "warn", "expires on"),
        (-60.0, -1.0, "FAIL", "expired on"),
        (60.0, 86400.0, "FAIL", "is not valid yet"),
    ],
)
def test_a_certificate_is_told_before_it_ends(begins: float, expires: float, level: str, said: str) -> None:
    """Two weeks are enough to renew it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found = daemon._validity(Certificate(context, ("lb1.example.org",), NOW + begins, NOW + expires), NOW)

    assert found.level == level
    assert said in found.text


def test_a_token_that_everybody_can_read_fails(tmp_path: Path) -> None:
    """The daemon would not start with it."""
    token = tmp_path / "token"
    token.write_text("correct-horse-battery-staple")
    token.chmod(0o644)

    (found,) = daemon._files(StatusOptions(token_file=token))

    assert found.level == "FAIL"
    assert "chmod 0600" in found.text
