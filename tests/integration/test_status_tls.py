"""A real daemon whose endpoints want TLS and a token: all that asks it on the node goes on working."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import urllib3

from tests.servers.agentd import AgentdProcess
from tests.servers.consul import ConsulAgent
from tests.servers.ports import free_port
from tests.servers.tls import Certificate
from tests.servers.waiting import wait_until

TOKEN = "correct-horse-battery-staple"


class Secured:
    """The daemon, and a client from elsewhere."""

    def __init__(
        self, make: Callable[..., AgentdProcess], directory: Path, certificate: Certificate, consul: str
    ) -> None:
        port = free_port()
        self.fleet = f"tls-{port}"
        self.token = directory / "token"
        self.token.write_text(TOKEN)
        for secret in (self.token, certificate.key):
            secret.chmod(0o600)
        entry = {"use": "command", "on": [{"event": self.fleet}], "options": {"argv": ["/bin/true"]}}
        configuration = {
            "consul": {"address": consul},
            "nginx": None,
            "tree": {"path": str(directory / "tree")},
            "state": str(directory / "state"),
            "fleet": {"name": self.fleet, "node": "lb1"},
            "status": {
                "address": f"127.0.0.1:{port}",
                "cert_file": str(certificate.certificate),
                "key_file": str(certificate.key),
                "token_file": str(self.token),
            },
            "handlers": {"a": entry},
        }
        self.daemon = make(configuration, ("127.0.0.1", port))
        trusted = str(certificate.certificate)
        self._pool = urllib3.HTTPSConnectionPool("127.0.0.1", port, ca_certs=trusted)
        self.daemon.process.start(lambda: self.get("/readyz")[0] == 200)

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and body; with the token unless other headers are given."""
        sent = headers or {"Authorization": f"Bearer {TOKEN}"}
        try:
            answer = self._pool.request("GET", path, headers=sent, timeout=30, retries=False)
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(str(error)) from error
        return answer.status, answer.data.decode()


@pytest.fixture
def secured(
    new_agentd: Callable[..., AgentdProcess], directory: Path, certificate: Certificate, consul: ConsulAgent
) -> Secured:
    """One daemon in a fleet of its own, on the shared Consul agent."""
    address = f"{consul.address}:{consul.ports['http']}"
    return Secured(new_agentd, directory, certificate, address)


def test_a_daemon_with_tls_and_a_token(secured: Secured, consul: ConsulAgent) -> None:
    """Strangers learn nothing; commands, Consul's check, Prometheus and browsers are answered."""
    assert secured.get("/status", Accept="*/*")[0] == 401
    assert json.loads(secured.get("/healthz", Accept="*/*")[1]) == {"healthy": True}
    assert "agentd_generation" in secured.get("/metrics")[1]
    assert "All is well" in secured.get("/")[1]

    told = json.loads(secured.daemon.command("status", "--json").stdout)
    assert (told["source"], told["trouble"]) == ("daemon", [])
    checked = secured.daemon.command("check").stdout
    assert re.search(r"warn +status +its certificate expires on 20", checked)
    assert re.search(r"ok +daemon +pid", checked)

    def passes() -> bool:
        one = consul.get("/v1/agent/checks").get(f"service:agentd-{secured.fleet}-lb1", {})
        return one.get("Status") == "passing" and "200 OK" in one.get("Output", "")

    wait_until(passes, "Consul's check over HTTPS")
    wait_until(lambda: "lb1" in secured.get("/fleet")[1], "the fleet's page")

    secured.token.write_text("another-token-of-some-length")
    wait_until(lambda: secured.get("/status")[0] == 401, "the new token")
    assert json.loads(secured.daemon.command("status", "--json").stdout)["source"] == "daemon"
