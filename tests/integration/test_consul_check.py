"""`config/consul/service.hcl` on a real agent: its checks follow the endpoints of agentd, without a fleet."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.heartbeat import Heartbeats
from agentd.options import StatusOptions
from agentd.report.metrics import Metrics
from agentd.report.status import Status
from tests.pages import ROOT
from tests.servers.consul import ConsulAgent
from tests.servers.waiting import wait_until

pytestmark = pytest.mark.integration

DEFINITION = (ROOT / "config" / "consul" / "service.hcl").read_text()


class Daemon:
    """What stands behind the endpoints."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reasons: list[str] = []
        self.heartbeats = Heartbeats(lambda: self.now)
        self.server = Status(
            StatusOptions(address="127.0.0.1:0"),
            self.heartbeats,
            Metrics(list),
            not_ready=lambda: self.reasons,
            behind=lambda: (),
            snapshot=dict,
        )


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """The endpoints of a daemon that is well."""
    made = Daemon()
    made.server.start()
    yield made
    made.server.stop()


def test_the_checks_follow_the_daemon(consul: ConsulAgent, daemon: Daemon, tmp_path: Path) -> None:
    """Both pass while it is alive and ready; each fails by itself, and passes again."""
    assert daemon.server.address is not None
    file = tmp_path / "agentd.hcl"
    here = DEFINITION.replace("127.0.0.1:9521", f"127.0.0.1:{daemon.server.address[1]}")
    file.write_text(here.replace('interval = "10s"', 'interval = "1s"'))

    def said(alive: str, ready: str) -> None:
        def both() -> bool:
            checks = consul.get("/v1/agent/checks")
            return [checks[name]["Status"] for name in ("agentd-alive", "agentd-ready")] == [alive, ready]

        wait_until(both, f"the checks to be {alive} and {ready}")

    services(consul, "register", file)
    try:
        said("passing", "passing")
        daemon.reasons = ["the first files of blacklist are not committed"]
        said("passing", "critical")
        daemon.reasons = []
        said("passing", "passing")
        daemon.heartbeats.register("handler blacklist", good_for=-1.0)
        said("critical", "passing")
    finally:
        services(consul, "deregister", file)


def services(consul: ConsulAgent, verb: str, file: Path) -> None:
    """Register or deregister what the file defines."""
    environment = os.environ | consul.environment
    subprocess.run(["consul", "services", verb, file], env=environment, check=True, capture_output=True)


def test_an_agent_takes_the_file_as_its_configuration(tmp_path: Path) -> None:
    """As it is."""
    (tmp_path / "agentd.hcl").write_text(DEFINITION)
    (tmp_path / "data.hcl").write_text(f'data_dir = "{tmp_path}/data"')
    done = subprocess.run(["consul", "validate", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
