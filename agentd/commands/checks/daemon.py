"""The daemon that runs: whether it answers, and whether it runs with this configuration."""

from __future__ import annotations

from collections.abc import Iterator

from agentd import http
from agentd.commands.checks.finding import Finding
from agentd.commands.places import daemon_runs
from agentd.commands.status import ask_daemon
from agentd.config.load import Loaded
from agentd.values import parse_loopback


def findings(loaded: Loaded) -> Iterator[Finding]:
    """Nothing, if no daemon runs: before the first start there is none."""
    address = loaded.config.status.address
    if address is None or not daemon_runs(loaded.config.state):
        return
    try:
        state = ask_daemon(parse_loopback(address))
    except (http.ExchangeError, ValueError) as error:
        text = f"it runs, but does not answer on {address}: {error}"
        yield Finding("FAIL", "daemon", text, "see its log: `journalctl -u agentd`")
        return
    refused = state.get("config_refused") or ()
    for problem in refused:
        text = f"the last reload was refused, and the earlier configuration is in use: {problem}"
        yield Finding("FAIL", "daemon", text, "correct that, and `systemctl reload agentd`")
    if not refused:
        yield Finding("ok", "daemon", f"pid {state.get('pid')}, version {state.get('version')}")
