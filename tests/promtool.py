"""Prometheus's promtool, for tests of what agentd gives to Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from tests.pages import ROOT

ALERTS: Final = ROOT / "config" / "prometheus" / "alerts.yaml"
NODE: Final[dict[str, str]] = {"job": "agentd", "instance": "lb1:9521"}
_MINUTES: Final = 40


def promtool(*argv: str | Path) -> str:
    """What it says, to whichever stream."""
    done = subprocess.run(["promtool", *argv], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def labels_text(labels: dict[str, str]) -> str:
    """As PromQL writes them."""
    return "{" + ", ".join(f"{name}={json.dumps(value)}" for name, value in sorted(labels.items())) + "}"


def firing(scraped: str, directory: Path) -> set[str]:
    """The alerts that fire if a node answers this at /metrics for 40 minutes on end."""
    asked = set(re.findall(r"\b(?:agentd|process)_\w+", ALERTS.read_text()))
    series = [{"series": f"up{labels_text(NODE)}", "values": f"1x{_MINUTES}"}] + [
        {
            "series": f"{sample.name}{labels_text(sample.labels | NODE)}",
            "values": f"{sample.value:.3f}x{_MINUTES}",
        }
        for family in text_string_to_metric_families(scraped)
        for sample in family.samples
        if sample.name in asked
    ]
    test = {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [
            {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{_MINUTES}m", "exp_samples": []}
        ],
    }
    file = directory / "firing.json"
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]}))
    said = promtool("test", "rules", file)
    assert ("SUCCESS" in said) != ("got:" in said), said
    return set(re.findall(r'alertname="(\w+)"', said))
