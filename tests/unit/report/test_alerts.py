"""The alerts for Prometheus: each fires in its case, and in no neighbouring one.

Prometheus's own promtool evaluates them. Every value stands for one minute.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.pages import ROOT, of
from tests.promtool import ALERTS, NODE, labels_text, promtool
from tests.unit.report.promql import groupings, published, selectors

RULES: Final[dict[str, dict[str, Any]]] = {
    rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
}
Series = Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """When an alert fires, and when it does not.

    Attributes:
        fires: by metric, with labels other than job and instance, the values with which it fires at the end.
        labels: what the alert then says besides job and instance.
        silent: by description, values with which it fires at no time.
    """

    fires: Series
    silent: Mapping[str, Series]
    labels: Mapping[str, str] = field(default_factory=dict)


HANDLER: Final = {"handler": "blacklist"}
QUERY: Final = {"query": "key:a"}
EVENT: Final = {"event": "ban"}

CASES: Final = {
    "AgentdDown": Case(
        {"up": "1x3 0x6"},
        {"a restart": {"up": "1x3 0x3 1x9"}, "up": {"up": "1x9"}},
    ),
    "AgentdAbsent": Case(
        {'up{job="node"}': "1x20"},
        {"a target that is down": {"up": "0x20"}},
    ),
    "AgentdNotReady": Case(
        {"agentd_ready": "1x3 0x6"},
        {
            "a slow start": {"agentd_ready": "_x3 0x4 1x9"},
            "a daemon that is down": {"agentd_ready": "1x3 _x20"},
        },
    ),
    "AgentdStuck": Case(
        {"agentd_stuck_threads": "0x3 1x6"},
        {"one that moves again": {"agentd_stuck_threads": "0x3 1x3 0x9"}},
    ),
    "AgentdConfigRefused": Case(
        {"agentd_config_refused": "0x3 1x11"},
        {"one corrected at once": {"agentd_config_refused": "0x3 1x5 0x9"}},
    ),
    "AgentdNoContact": Case(
        {"agentd_consul_up": "1x3 0x6"},
        {
            "an election": {"agentd_consul_up": "1x3 0x2 1x9"},
            "a node that watches nothing": {"agentd_ready": "1x20"},
        },
    ),
    "AgentdQueryFailing": Case(
        {"agentd_query_failing{query='key:a'}": "0x3 1x11", "agentd_consul_up": "1x20"},
        {
            "Consul is down": {"agentd_query_failing{query='key:a'}": "1x20", "agentd_consul_up": "0x20"},
            "a failed poll now and then": {
                "agentd_query_failing{query='key:a'}": "0 1 1 0 1 1 0 1 1 0 1 1 0 0",
                "agentd_consul_up": "1x20",
            },
        },
        QUERY,
    ),
    "AgentdQuerySilent": Case(
        {
            "agentd_query_last_contact_seconds{query='key:a'}": "0+60x30",
            "agentd_query_failing{query='key:a'}": "0x30",
        },
        {
            "a poll that waits as long as it may": {
                "agentd_query_last_contact_seconds{query='key:a'}": "0+60x12 0+60x12",
                "agentd_query_failing{query='key:a'}": "0x30",
            },
            "one that fails": {
                "agentd_query_last_contact_seconds{query='key:a'}": "0+60x30",
                "agentd_query_failing{query='key:a'}": "1x30",
            },
        },
        QUERY,
    ),
    "AgentdQueryHeld": Case(
        {"agentd_query_held{query='key:a'}": "0x3 1x16"},
        {"a blip": {"agentd_query_held{query='key:a'}": "0x3 1x9 0x9"}},
        QUERY,
    ),
    "AgentdConsulLimits": Case(
        {"agentd_query_limited{query='key:a'}": "0x3 1x11"},
        {"a burst": {"agentd_query_limited{query='key:a'}": "0x3 1x5 0x9"}},
        QUERY,
    ),
    "AgentdItemsDropped": Case(
        {"agentd_watch_dropped_total{query='key:a',reason='Port'}": "_x20 1x5"},
        {
            "what was dropped long ago": {"agentd_watch_dropped_total{query='key:a',reason='Port'}": "7x40"},
        },
        QUERY | {"reason": "Port"},
    ),
    "AgentdEventsMissed": Case(
        {"agentd_events_missed_total": "0x5 12x5"},
        {
            "what was missed long ago": {"agentd_events_missed_total": "12x40"},
            "a restart": {"agentd_events_missed_total": "12x5 _ 0x20"},
        },
    ),
    "AgentdBehind": Case(
        {"agentd_behind_seconds{handler='blacklist'}": "0x3 60+60x10"},
        {
            "a slow change": {"agentd_behind_seconds{handler='blacklist'}": "0x3 60+60x4 0x9"},
            "a handler that is paused": {
                "agentd_behind_seconds{handler='blacklist'}": "60+60x20",
                "agentd_paused{handler='blacklist'}": "1x20",
            },
            "no handler": {"agentd_ready": "1x20"},
        },
        HANDLER,
    ),
    "AgentdDrifted": Case(
        {"agentd_drift{handler='blacklist'}": "0x3 2x11"},
        {"what is mended at once": {"agentd_drift{handler='blacklist'}": "0x3 2x8 0x9"}},
        HANDLER,
    ),
    "AgentdMendsAgain": Case(
        {"agentd_drift_mended_total{handler='blacklist'}": "0x5 1x9 2x9 3x9 4x9 5x9"},
        {
            "once": {"agentd_drift_mended_total{handler='blacklist'}": "0x5 1x60"},
            "a restart": {"agentd_drift_mended_total{handler='blacklist'}": "9x30 _ 0x30"},
        },
        HANDLER,
    ),
    "AgentdReloadPending": Case(
        {"agentd_reload_pending": "0x3 1x11"},
        {"reloads one after the other": {"agentd_reload_pending": "1 1 1 1 1 1 0 1 1 1 1 1 1 0"}},
    ),
    "AgentdReloadFailed": Case(
        {"agentd_reloads_total{result='failed'}": "0x5 1x5"},
        {
            "reloads that are proved": {"agentd_reloads_total{result='proved'}": "0+1x20"},
            "a restart": {"agentd_reloads_total{result='failed'}": "3x20 _ 0x20"},
        },
        {"result": "failed"},
    ),
    "AgentdNoNginx": Case(
        {"agentd_nginx_missing": "0x3 1x6"},
        {"a restart of nginx": {"agentd_nginx_missing": "0x3 1x3 0x9"}},
    ),
    "AgentdChangesFail": Case(
        {"agentd_outcomes_total{handler='blacklist',outcome='failed'}": "0x5 2x5"},
        {
            "what succeeds or is refused": {
                "agentd_outcomes_total{handler='blacklist',outcome='applied'}": "0+9x20",
                "agentd_outcomes_total{handler='blacklist',outcome='refused'}": "0+9x20",
            },
            "a restart": {"agentd_outcomes_total{handler='blacklist',outcome='failed'}": "4x20 _ 0x20"},
        },
        HANDLER | {"outcome": "failed"},
    ),
    "AgentdChangesRefused": Case(
        {"agentd_outcomes_total{handler='blacklist',outcome='refused'}": "0x5 2x5"},
        {
            "what fails": {"agentd_outcomes_total{handler='blacklist',outcome='failed'}": "0+9x20"},
            "long ago": {"agentd_outcomes_total{handler='blacklist',outcome='refused'}": "4x40"},
        },
        HANDLER | {"outcome": "refused"},
    ),
    "AgentdPausedLong": Case(
        {"agentd_paused{handler='blacklist'}": "1x1450"},
        {"a maintenance": {"agentd_paused{handler='blacklist'}": "0x3 1x600 0x9"}},
        HANDLER,
    ),
    "AgentdFeedFailing": Case(
        {"agentd_handler_blacklist_feeds_failing{handler='blacklist'}": "0x3 1x65"},
        {"one failed fetch": {"agentd_handler_blacklist_feeds_failing{handler='blacklist'}": "0x3 1x50 0x9"}},
        HANDLER,
    ),
    "AgentdTicketKeyOld": Case(
        {"agentd_handler_tls_ticket_key_promoted_age_seconds{handler='blacklist'}": "172000+60x30"},
        {
            "one that is rotated daily": {
                "agentd_handler_tls_ticket_key_promoted_age_seconds{handler='blacklist'}": (
                    "86000+60x20 0+60x20"
                )
            },
        },
        HANDLER,
    ),
    "AgentdRotationBlocked": Case(
        {
            "agentd_handler_tls_ticket_rotation_since_age_seconds{handler='blacklist'}": "3300+60x20",
            "agentd_handler_tls_ticket_rotation_phase{handler='blacklist'}": "1x20",
        },
        {
            "none under way": {
                "agentd_handler_tls_ticket_rotation_since_age_seconds{handler='blacklist'}": "3300+60x20",
                "agentd_handler_tls_ticket_rotation_phase{handler='blacklist'}": "0x20",
            },
            "one that goes on": {
                "agentd_handler_tls_ticket_rotation_since_age_seconds{handler='blacklist'}": "0+60x30",
                "agentd_handler_tls_ticket_rotation_phase{handler='blacklist'}": "1x30",
            },
        },
        HANDLER,
    ),
    "AgentdRotationLate": Case(
        {"agentd_handler_tls_ticket_rotation_due_age_seconds{handler='blacklist'}": "3300+60x20"},
        {
            "a fleet that is frozen": {
                "agentd_handler_tls_ticket_rotation_due_age_seconds{handler='blacklist'}": "3300+60x20",
                "agentd_fleet_frozen": "1x20",
            },
            "none due": {"agentd_handler_tls_ticket_rotation_due_age_seconds{handler='blacklist'}": "0x20"},
        },
        HANDLER,
    ),
    "AgentdUpstreamRefused": Case(
        {"agentd_handler_upstream_instances_refused{handler='blacklist'}": "0x3 1x11"},
        {"one corrected": {"agentd_handler_upstream_instances_refused{handler='blacklist'}": "0x3 1x8 0x9"}},
        HANDLER,
    ),
    "AgentdFleetTrouble": Case(
        {"agentd_fleet_troubles": "0x3 1x16", "agentd_consul_up": "1x30"},
        {
            "Consul is down": {"agentd_fleet_troubles": "2x30", "agentd_consul_up": "0x30"},
            "no fleet": {"agentd_consul_up": "1x30"},
        },
    ),
    "AgentdFleetWaits": Case(
        {"agentd_fleet_waits{event='ban'}": "0x3 1x16", "agentd_fleet_frozen": "0x30"},
        {
            "a fleet that is frozen": {
                "agentd_fleet_waits{event='ban'}": "1x30",
                "agentd_fleet_frozen": "1x30",
            },
            "Consul is down": {"agentd_fleet_waits{event='ban'}": "1x30", "agentd_consul_up": "0x30"},
            "one that arrives late": {"agentd_fleet_waits{event='ban'}": "0x3 1x9 0x9"},
        },
        EVENT,
    ),
    "AgentdFleetIncomplete": Case(
        {"agentd_fleet_incomplete{event='ban'}": "0x3 1x11"},
        {"one that catches up": {"agentd_fleet_incomplete{event='ban'}": "1x8 0x9"}},
        EVENT,
    ),
    "AgentdNameTaken": Case(
        {"agentd_fleet_name_taken": "0x3 1x6"},
        {"a node that is replaced": {"agentd_fleet_name_taken": "1x3 0x9"}},
    ),
    "AgentdMessagesDisbelieved": Case(
        {"agentd_fleet_refused_total{event='ban',reason='unsigned'}": "_x20 1x5"},
        {
            "a node that catches up": {"agentd_fleet_refused_total{event='ban',reason='expired'}": "0+9x30"},
        },
        EVENT | {"reason": "unsigned"},
    ),
    "AgentdJournalFull": Case(
        {"agentd_journal_dropped_total{what='waiting'}": "0x5 4x5"},
        {
            "history that is dropped": {"agentd_journal_dropped_total{what='history'}": "0+9x30"},
            "a restart": {"agentd_journal_dropped_total{what='waiting'}": "4x30 _ 0x30"},
        },
        {"what": "waiting"},
    ),
    "AgentdTasksHang": Case(
        {"agentd_tasks{handler='blacklist',state='hanging'}": "0x3 1x35"},
        {
            "tasks that run": {"agentd_tasks{handler='blacklist',state='running'}": "9x60"},
            "one that ends": {"agentd_tasks{handler='blacklist',state='hanging'}": "1x20 0x30"},
        },
        HANDLER | {"state": "hanging"},
    ),
    "AgentdStatusCrowded": Case(
        {"agentd_status_connections_dropped_total{reason='full'}": "0x5 4x5"},
        {"long ago": {"agentd_status_connections_dropped_total{reason='full'}": "4x40"}},
        {"reason": "full"},
    ),
    "AgentdFilesRunOut": Case(
        {"process_open_fds": "10x3 900x11", "process_max_fds": "1024x20"},
        {
            "just below": {"process_open_fds": "819x30", "process_max_fds": "1024x30"},
            "another program": {
                'process_open_fds{job="node"}': "1000x30",
                'process_max_fds{job="node"}': "1024x30",
            },
        },
    ),
}


def minutes(values: str) -> int:
    """How long these values last."""
    parts = (re.search(r"x([0-9]+)$", part) for part in values.split())
    return sum(int(found[1]) + 1 if found else 1 for found in parts)


def series(name: str) -> str:
    """The metric with job and instance, unless it names its job."""
    metric, _, labels = name.replace("'", '"').rstrip("}").partition("{")
    base = NODE | dict(re.findall(r'(\w+)="([^"]*)"', labels))
    return f"{metric}{labels_text(base)}"


def promtool_test(alert: str, values: Series, expected: Mapping[str, str] | None) -> dict[str, Any]:
    """One of promtool's tests: what fires at the end of the values; with None, that nothing ever did."""
    end = min(map(minutes, values.values())) - 1
    fired = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    wanted = []
    if expected is None:
        # What looks for new series takes all of them for new at first.
        fired = f"count_over_time({fired}[{end - 15 if 'offset' in RULES[alert]['expr'] else end}m])"
    else:
        labels = {"alertname": alert, "alertstate": "firing", **RULES[alert]["labels"], **expected}
        wanted = [{"labels": f"ALERTS{labels_text(labels)}", "value": 1}]
    return {
        "interval": "1m",
        "input_series": [{"series": series(name), "values": one} for name, one in values.items()],
        "promql_expr_test": [{"expr": fired, "eval_time": f"{end}m", "exp_samples": wanted}],
    }


def cases_of(alert: str) -> list[dict[str, Any]]:
    """The tests of its case."""
    case = CASES[alert]
    expected = ({"job": "agentd"} if alert == "AgentdAbsent" else NODE) | dict(case.labels)
    return [
        promtool_test(alert, case.fires, expected),
        *(promtool_test(alert, values, None) for values in case.silent.values()),
    ]


def test_every_alert_has_a_case() -> None:
    """And no case is left of an alert that is gone."""
    assert CASES.keys() == RULES.keys()


def test_alerts_fire_in_their_cases_alone(tmp_path: Path) -> None:
    """By Prometheus's own evaluation; each is in a file of its own, and evaluated for its own case."""
    for alert, rule in RULES.items():
        rules = {"groups": [{"name": "agentd", "rules": [rule]}]}
        (tmp_path / f"{alert}.rules").write_text(json.dumps(rules))
        often = "10m" if rule.get("for") == "1d" else "1m"
        test = {"rule_files": [f"{alert}.rules"], "evaluation_interval": often, "tests": cases_of(alert)}
        (tmp_path / f"{alert}.test").write_text(json.dumps(test))
    files = sorted(tmp_path.glob("*.test"))
    said = promtool("test", "rules", *files)
    assert "FAILED" not in said, said
    assert said.count("SUCCESS") == len(RULES)


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_says_what_it_is_about(alert: str) -> None:
    """How bad it is, where, what it means, and on which section of the page one reads on."""
    rule = RULES[alert]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description", "page"}
    assert rule["annotations"]["page"] == f"docs/monitoring.md#{alert.lower()}"
    assert f"\n### {alert}\n" in (ROOT / "docs" / "monitoring.md").read_text()
    named = re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))
    assert set(named) <= {"instance", *CASES[alert].labels}


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_asks_for_metrics_and_labels_that_there_are(alert: str) -> None:
    """So that a metric cannot be renamed without it."""
    expression = RULES[alert]["expr"]
    for metric, labels in selectors(expression):
        assert labels <= published()[metric]
        assert groupings(expression) <= published()[metric] | {"query", "handler"}


def test_prometheus_takes_the_configuration_on_the_page(tmp_path: Path) -> None:
    """With the alerts where they are here."""
    (block,) = of("yaml", page=ROOT / "docs" / "monitoring.md")
    text = block.text.replace("/usr/share/agentd/config/prometheus/alerts.yaml", str(ALERTS))
    assert text != block.text
    file = tmp_path / "prometheus.yml"
    file.write_text(text)
    assert "is valid prometheus config file syntax" in (said := promtool("check", "config", file)), said
