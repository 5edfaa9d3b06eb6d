"""What the daemon says of itself, without starting it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.agent import Agent
from agentd.config.load import load
from agentd.supervisor import Daemon, Supervisor, fingerprint
from tests.unit.apply.stand import Scribe

_CONFIGURATION = """
state: {0}/state
tree: {{path: {0}/nginx/agentd}}
nginx: {{conf: {0}/nginx/nginx.conf, pid: {0}/nginx.pid}}
status: {{address: null}}
handlers:
  motd: {{use: tests.unit.apply.stand:Scribe, on: [{{event: motd}}]}}
  reload: {{use: nginx_reload}}
"""


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    """A daemon that is not started, on an empty state directory."""
    monkeypatch.setattr("agentd.report.log.configure", lambda *_args, **_options: None)
    file = tmp_path / "agentd.yaml"
    file.write_text(_CONFIGURATION.format(tmp_path))
    made = Agent(load(file))
    yield made
    made._stop()


def test_an_upgrade_of_the_files_does_not_change_what_a_running_daemon_says(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says the version that it runs, not the one that is installed by now."""
    runs = importlib.metadata.version("agentd")
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "99.0")

    assert agent._status()["version"] == runs


def test_an_nginx_that_does_not_run_is_told(agent: Agent, tmp_path: Path) -> None:
    """Where a handler is there to reload it."""
    agent._supervisor = Supervisor(
        agent._loaded, agent._committer, agent._heartbeats, Daemon("1", str, lambda: None)
    )

    told = agent._status()["nginx_missing"]
    agent._supervisor = None  # its threads were not started

    assert told == f"no master of nginx runs with {tmp_path}/nginx/nginx.conf"


def test_a_configuration_that_was_refused_is_told_until_one_is_accepted(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each problem, while the daemon goes on with the one before."""
    file = tmp_path / "agentd.yaml"
    good = file.read_text()

    file.write_text(f"{good}nonsense: 1\n")
    agent._reload()
    refused = agent._status()["config_refused"]
    file.write_text(good)
    monkeypatch.setattr(agent, "_supervise", lambda _loaded: None)  # it starts threads
    agent._reload()

    assert [problem.partition(": ")[2] for problem in refused] == ["nonsense: unknown field"]
    assert agent._status()["config_refused"] == ()


class Forgetful(Scribe):
    """Reads a file that may not be there."""

    @property
    def inputs(self) -> str:
        """What is in it."""
        return Path("/nonexistent/motd").read_text(encoding="utf-8")


def test_a_handler_that_cannot_say_what_it_reads_does_not_keep_the_daemon_from_starting(
    agent: Agent,
) -> None:
    """Nor is it taken for changed at each start."""
    handler = replace(agent._loaded.handlers[0], type=Forgetful)

    assert fingerprint(handler) == fingerprint(handler) != fingerprint(agent._loaded.handlers[0])
