"""Which events `agentd check` recommends to keep, and what it says of the load; neither needs a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentd.commands.checks import fleet
from agentd.config.load import load

BLACKLIST = {"use": "ip_blacklist"}
COMMAND = {"use": "command", "options": {"argv": ["/bin/true"]}}
ONE_SITE = {"use": "deploy", "options": {"dests": ["/srv/www"]}}
ANY_SITE = {"use": "deploy", "options": {"dests": ["/srv/www/*"]}}


def kept(directory: Path, handler: dict[str, Any], keep: str | None) -> list[tuple[str, str]]:
    """Level and advice for a handler of the event `it`; Consul is away."""
    file = directory / "agentd.yaml"
    on = {"event": "it"} | ({"keep": keep} if keep else {})
    configuration = {
        "consul": {"address": f"unix://{directory}/none.sock"},
        "fleet": {"name": "prod"},
        "nginx": None,
        "handlers": {"h": handler | {"on": [on]}},
    }
    file.write_text(json.dumps(configuration))
    return [
        (one.level, one.advice or one.text)
        for one in fleet.findings(load(file))
        if one.subject == "fleet keep"
    ]


@pytest.mark.parametrize(
    "handler, keep, level, advice",
    [
        (BLACKLIST, None, "warn", "add `keep: all`"),
        (BLACKLIST, "latest", "warn", "set `keep: all`"),
        (ONE_SITE, None, "warn", "add `keep: latest`"),
        (ANY_SITE, None, "warn", "add `keep: all`"),
        (ANY_SITE, "latest", "warn", "set `keep: all`, or give each `dest` an event of its own"),
        (COMMAND, None, "ok", "only if running it late is right"),
    ],
)
def test_what_is_recommended(
    tmp_path: Path, handler: dict[str, Any], keep: str | None, level: str, advice: str
) -> None:
    """By what the handler does with events that come late, or not at all."""
    ((found, said),) = kept(tmp_path, handler, keep)
    assert found == level
    assert advice in said


@pytest.mark.parametrize(
    "handler, keep", [(BLACKLIST, "all"), (ONE_SITE, "latest"), (ANY_SITE, "all"), (COMMAND, "latest")]
)
def test_what_is_right_is_not_talked_about(tmp_path: Path, handler: dict[str, Any], keep: str) -> None:
    """Nor is anything where no fleet is configured."""
    assert kept(tmp_path, handler, keep) == []


def test_a_consul_that_is_away_is_told_of_the_fleet(tmp_path: Path) -> None:
    """And what that means for events."""
    kept(tmp_path, BLACKLIST, "all")
    (found,) = fleet.findings(load(tmp_path / "agentd.yaml"))
    assert (found.level, found.subject) == ("FAIL", "fleet")
    assert found.text.startswith("the fleet prod cannot be reached: ")
    assert found.advice == "until it can, events are applied as they are heard, and are not kept"


def test_without_a_fleet_nothing_is_said(tmp_path: Path) -> None:
    """All is as it was before."""
    file = tmp_path / "agentd.yaml"
    file.write_text(json.dumps({"handlers": {"h": BLACKLIST | {"on": [{"event": "it"}]}}}))
    assert list(fleet.findings(load(file))) == []


def test_the_load_grows_with_the_nodes_and_is_bounded_in_time() -> None:
    """Acknowledgements are spread, and wakes are rare, the more nodes there are."""
    small, large = fleet.load(5, 1), fleet.load(3000, 2)
    assert "5 blocking queries" in small
    assert "and 5 acknowledgements (4 KB)" in small
    assert "at most 5 acknowledgements and 5 rounds" in small
    assert "12.3 MB read by all" in large
    assert "at most 300 acknowledgements and 0.67 rounds of reads a second" in large
