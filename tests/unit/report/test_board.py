"""The board for Grafana: it can be imported, and asks for what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from tests.pages import ROOT
from tests.promtool import promtool
from tests.unit.report.promql import groupings, published, selectors

BOARD: Final = json.loads((ROOT / "config" / "grafana" / "agentd.json").read_text())
PANELS: Final = [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def expressions(panel: dict[str, Any]) -> list[str]:
    """What a panel asks for, with values for the board's variables."""
    known = {"$instance": ".*", "$handler": ".*", "$__rate_interval": "5m"}
    asked = [target["expr"] for target in panel["targets"]]
    return [re.sub(r"\$\w+", lambda name: known[name[0]], one) for one in asked]


def test_every_expression_is_promql(tmp_path: Path) -> None:
    """Prometheus's own promtool parses all of them."""
    every = [expression for panel in PANELS for expression in expressions(panel)]
    rules = [{"record": f"panel:{at}", "expr": expression} for at, expression in enumerate(every)]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    said = promtool("check", "rules", file)
    assert f"{len(every)} rules found" in said, said
    assert "FAILED" not in said, said


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_for_metrics_and_labels_that_there_are(panel: dict[str, Any]) -> None:
    """So that a metric cannot be renamed without the board."""
    for expression, target in zip(expressions(panel), panel["targets"], strict=True):
        named = selectors(expression)
        assert named
        assert all(metric in published() and labels <= published()[metric] for metric, labels in named)
        known = frozenset[str]().union(*(published()[metric] for metric, _ in named))
        assert groupings(expression) | set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known


def test_the_board_is_ready_to_be_imported() -> None:
    """It names no server: neither an ID of its own nor a data source but the variable."""
    assert (BOARD["id"], BOARD["uid"]) == (None, "agentd")
    assert set(re.findall(r'"uid": "([^"]*)"', json.dumps(BOARD))) == {"agentd", "$datasource"}
    names = [variable["name"] for variable in BOARD["templating"]["list"]]
    assert names == ["datasource", "instance", "handler"]
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_no_panel_covers_another() -> None:
    """Each place of the grid, 24 wide, has at most one."""
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert taken.isdisjoint(cells)
        taken |= cells


def test_every_metric_is_on_the_board_or_left_out_on_purpose() -> None:
    """A new one is not forgotten."""
    text = json.dumps(BOARD)
    seen = {name for panel in PANELS for one in expressions(panel) for name, _ in selectors(one)}
    left_out = re.compile(
        r"process_virtual_memory_bytes|agentd_fleet_acknowledged_timestamp_seconds|.*_(sum|count)|agentd_handler_.*"
    )
    assert [name for name in published() if name not in seen and not left_out.fullmatch(name)] == []
    assert "agentd_handler_" in text
