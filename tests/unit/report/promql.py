"""What a PromQL expression names, and what agentd's metrics are called: for tests of alerts and boards."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from agentd.report.gauges import Condition
from agentd.report.metrics import Metrics
from tests.pages import ROOT
from tests.unit.report.test_metrics import Poll

SCRAPED: Final = frozenset({"job", "instance"})
"""Labels that Prometheus adds."""
_FOREIGN: Final = {"up": SCRAPED, "ALERTS": SCRAPED | {"alertname", "alertstate", "severity"}}
_SELECTOR: Final = re.compile(r"\b((?:agentd|process)_\w+|up|ALERTS)\b(?:\{([^}]*)\})?")
_MATCHER: Final = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPING: Final = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_TEXT: Final = re.compile(r'"(?:[^"\\]|\\.)*"')


def selectors(expression: str) -> list[tuple[str, frozenset[str]]]:
    """The metrics that it names, each with the labels by which it selects."""
    plain = _TEXT.sub('""', expression)
    return [(found[1], frozenset(_MATCHER.findall(found[2] or ""))) for found in _SELECTOR.finditer(plain)]


def groupings(expression: str) -> frozenset[str]:
    """The labels by which it groups or joins."""
    found = ",".join(_GROUPING.findall(expression))
    return frozenset(label.strip() for label in found.split(",") if label.strip())


@cache
def published() -> dict[str, frozenset[str]]:
    """By name of each metric of a daemon that has everything, its labels."""
    name = {"newest": 2, "position": 1, "waits": "x", "incomplete_since": 1}
    fleet: dict[str, Any] = {
        "names": {"ban": name},
        "troubles": [],
        "frozen": None,
        "acknowledged": {"name_taken": False, "written": 1.0, "writes": 1},
    }
    metrics = Metrics(
        lambda: [Poll("event", dropped={"Port": 1})],
        handlers=["tls"],
        events=["rotate"],
        behind=lambda: {"tls": None},
        fleet=lambda: fleet,
        condition=lambda: Condition(ready=True, stuck=0, nginx_missing=False),
    )
    metrics.tasks("tls", 0, 0, 0)
    metrics.paused("tls", since=None)
    metrics.disbelieved("rotate", "unsigned")
    metrics.handled("tls", 1.0)
    metrics.applied("tls", 1.0)
    found: dict[str, frozenset[str]] = dict(_FOREIGN)
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, SCRAPED) | sample.labels.keys()
    return found | {f"agentd_handler_{gauge}": SCRAPED | {"handler"} for gauge in _gauges_of_handlers()}


def _gauges_of_handlers() -> set[str]:
    """The names of gauges that stand in the handlers' sources; a timestamp also gives an age."""
    code = "".join(file.read_text() for file in (ROOT / "handlers").rglob("*.py"))
    names = set(re.findall(r'"((?:tls|blacklist|upstream|deploy)_[a-z0-9_]+)"\s*:', code))
    return names | {
        f"{name.removesuffix('_timestamp_seconds')}_age_seconds"
        for name in names
        if name.endswith("_timestamp_seconds")
    }
