"""The key of the fleet as a credential of the unit, under a real systemd."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from typing import Any, Final

import pytest

from agentd.trust.keys import new_fleet_key, new_secret_key
from tests.servers.nspawn import Machine
from tests.servers.waiting import wait_until

HANDLERS: Final[dict[str, Any]] = {
    "blacklist": {"use": "ip_blacklist", "notify": ["nginx-reload"]},  # the machine's nginx.conf needs it
    "tickets": {
        "use": "tls_ticket_keys",
        "on": [{"event": "ticket-key", "keep": "latest"}],
        "notify": ["nginx-reload"],
    },
    "nginx-reload": {"use": "nginx_reload", "options": {"interval": "0s"}},
}
DROP_IN: Final = "[Service]\nLoadCredential=fleet.key:/etc/agentd/keys/fleet.key\n"
PUBLISHER: Final = "/etc/agentd/publisher.yaml"
TICKETS: Final = "/etc/nginx/agentd/current/tickets"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine whose unit has the credential, and on which somebody may publish."""
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
        made.configure(HANDLERS, fleet=section, trust=trust | {"fleet_keys": ["credential:fleet.key"]})
        files = {"signing_key": "/etc/agentd/keys/ops.key", "fleet_keys": ["/etc/agentd/keys/fleet.key"]}
        made.write(PUBLISHER, json.dumps({"fleet": section, "trust": trust | files}))
        made.boot()
        made.wait_for("agentd")
        yield made


def publish(machine: Machine) -> bytes:
    """Publish a ticket key, sealed; its payload is not in the arguments."""
    key = secrets.token_bytes(80)
    text = base64.b64encode(key).decode()
    machine.run("agentd", "--config", PUBLISHER, "publish", "ticket-key", "-", "--keep=latest", stdin=text)
    return key


def await_key(machine: Machine, key: bytes) -> None:
    """Wait until the key is in a file that nginx reads."""
    encode = f"for file in {TICKETS}/*.key; do base64 -w0 $file; echo; done"
    text = base64.b64encode(key).decode()
    wait_until(lambda: text in machine.attempt("sh", "-c", encode).stdout.split(), "the key", pause=0.2)


def test_a_sealed_message_is_opened_with_the_credential(machine: Machine) -> None:
    """Which nobody but root may read."""
    await_key(machine, publish(machine))
    shown = machine.run("stat", "--format=%a %U", "/run/credentials/agentd.service/fleet.key")
    assert shown.split() in (["400", "root"], ["440", "root"])


@pytest.mark.parametrize("how", ["reload", "restart"])
def test_the_credential_is_there_after_a_reload_and_a_restart(machine: Machine, how: str) -> None:
    """What is published afterwards is opened as well."""
    machine.run("systemctl", how, "agentd")
    machine.wait_for("agentd")
    await_key(machine, publish(machine))


def test_a_unit_without_the_credential_says_what_to_add(machine: Machine) -> None:
    """What was published meanwhile is opened once it starts again."""
    machine.run("rm", "/etc/systemd/system/agentd.service.d/credential.conf")
    machine.run("systemctl", "daemon-reload")
    machine.attempt("systemctl", "restart", "agentd")
    wait_until(lambda: "LoadCredential=fleet.key" in machine.log(), "the reason", pause=0.2)
    key = publish(machine)

    machine.write("/etc/systemd/system/agentd.service.d/credential.conf", DROP_IN)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "reset-failed", "agentd")
    machine.run("systemctl", "restart", "agentd")
    await_key(machine, key)
