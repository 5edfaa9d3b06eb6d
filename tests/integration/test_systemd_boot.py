"""A boot under a real systemd, with ticket keys in memory and without Consul."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from agentd.trust.keys import new_fleet_key, new_secret_key
from handlers.tls_ticket_keys.document import Document
from tests.servers.nspawn import Machine
from tests.servers.tls import Certificate
from tests.servers.waiting import wait_until

HANDLERS: Final[dict[str, Any]] = {
    "tickets": {
        "use": "tls_ticket_keys",
        "on": [{"event": "ticket-key", "keep": "latest"}],
        "notify": ["nginx-reload"],
    },
    "nginx-reload": {"use": "nginx_reload", "options": {"interval": "0s"}},
}
TREE: Final = {"path": "/etc/nginx/agentd", "secrets": "/run/agentd/secrets"}
KEYS: Final = [bytes((at * step) % 251 for at in range(80)) for step in (7, 11)]
DROP_IN: Final = "[Service]\nLoadCredential=fleet.key:/etc/agentd/keys/fleet.key\n"
PUBLISHER: Final = "/etc/agentd/publisher.yaml"
NGINX: Final = """\
user www-data;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
events {}
http {
    access_log off;
    include agentd/current/agentd.conf;
    server {
        listen 127.0.0.1:443 ssl;
        ssl_certificate /etc/nginx/cert.pem;
        ssl_certificate_key /etc/nginx/key.pem;
        location / { return 200 "served"; }
    }
}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Machine]:
    """A machine in a fleet, whose ticket keys are in memory, and on which somebody may publish."""
    ops, fleet = new_secret_key(), new_fleet_key()
    trust = {
        "publishers": {"ops": {"key": ops.public.text, "may": "ticket-key"}},
        "require": "signed",
        "seal": ["ticket-key"],
    }
    section = {"name": "test", "service": False}
    with Machine(tmp_path_factory.mktemp("machine")) as made:
        made.write("/etc/agentd/keys/ops.key", ops.text, 0o600)
        made.write("/etc/agentd/keys/fleet.key", fleet.text, 0o600)
        made.write("/etc/systemd/system/agentd.service.d/credential.conf", DROP_IN)
        keys = {"fleet_keys": ["credential:fleet.key"]}
        made.configure(HANDLERS, fleet=section, tree=TREE, trust=trust | keys)
        files = {"signing_key": "/etc/agentd/keys/ops.key", "fleet_keys": ["/etc/agentd/keys/fleet.key"]}
        made.write(PUBLISHER, json.dumps({"fleet": section, "trust": trust | files}))
        made.write("/etc/nginx/nginx.conf", NGINX)
        made.write("/etc/nginx/cert.pem", certificate.certificate.read_text())
        made.write("/etc/nginx/key.pem", certificate.key.read_text(), 0o600)
        made.boot()
        made.wait_for("agentd")
        yield made


def connect(machine: Machine, *arguments: str) -> str:
    """What openssl says of a TLS 1.2 handshake with nginx."""
    argv = ["nsenter", f"--target={machine.leader}", "--net", "--", "openssl", "s_client"]
    argv += ["-connect", "127.0.0.1:443", "-tls1_2", *arguments]
    done = subprocess.run(argv, input="", capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


def on_disk(machine: Machine, key: bytes) -> list[str]:
    """The files of the machine's disk that contain a key."""
    found = (path for path in machine.files.rglob("*") if path.is_file() and not path.is_symlink())
    return [str(path) for path in found if key in path.read_bytes()]


def test_sessions_are_resumed_after_a_boot_without_consul(machine: Machine, tmp_path: Path) -> None:
    """The ring is restored before nginx starts; what was in memory was nowhere else."""
    session = str(tmp_path / "session")
    document = Document("idle", (KEYS[0], KEYS[1]), since=1_700_000_000).render().decode()
    machine.run(
        "agentd", "--config", PUBLISHER, "publish", "ticket-key", "-", "--keep=latest", stdin=document
    )
    wait_until(
        lambda: len(machine.attempt("sh", "-c", "ls /run/agentd/secrets").stdout.split()) >= len(KEYS),
        "the ring",
        pause=0.2,
    )
    wait_until(lambda: machine.attempt("agentd", "status").returncode == 0, "all to be well", pause=1.0)
    assert "New, TLSv1.2" in connect(machine, "-sess_out", session)
    machine.run("systemctl", "disable", "consul")
    assert on_disk(machine, KEYS[0]) == []

    machine.reboot()
    machine.wait_for("nginx")

    assert machine.attempt("systemctl", "is-active", "consul").returncode != 0
    ready, started = (
        int(machine.show(unit, f"{what}TimestampMonotonic"))
        for unit, what in (("agentd", "ActiveEnter"), ("nginx", "InactiveExit"))
    )
    assert 0 < ready <= started
    assert "Reused, TLSv1.2" in connect(machine, "-sess_in", session)
    assert on_disk(machine, KEYS[0]) == []
    assert machine.run("stat", "--format=%a", "/run/agentd/secrets").strip() == "700"
    checked = json.loads(machine.attempt("agentd", "check", "--json").stdout)
    assert [one["level"] for one in checked if one["subject"] == "secrets"] == ["ok"]


def test_the_journal_knows_how_serious_a_line_is(machine: Machine) -> None:
    """`journalctl -p warning` shows what it should, and nothing else."""
    journal = ("journalctl", "--unit=agentd", "--identifier=agentd", "--output=cat")
    shown = machine.run(*journal, "--priority=warning")

    levels = {json.loads(line)["level"] for line in shown.splitlines()}
    assert "warning" in levels
    assert levels <= {"warning", "error", "critical"}
    assert '"level": "info"' in machine.run(*journal)
