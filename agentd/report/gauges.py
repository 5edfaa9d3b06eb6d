"""Gauges that are computed at each scrape: what the pollers know, and what handlers publish.

Owns the bounds on what handlers publish. Nothing here is counted; `metrics` does that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Protocol

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

MOST_GAUGES: Final = 64
"""How many gauges one handler may publish."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,95}")
_TIMESTAMP: Final = "_timestamp_seconds"


class QueryView(Protocol):
    """What a poller knows about itself."""

    @property
    def query(self) -> str:
        """Identity of the query."""

    @property
    def last_contact(self) -> float | None:
        """Unix seconds of the last good answer; None before the first."""

    @property
    def error(self) -> str | None:
        """Why the last poll failed; None if it did not."""

    @property
    def limited(self) -> str | None:
        """What Consul said when it had too many requests, and was to be asked later; None if it did not."""

    @property
    def held(self) -> str | None:
        """Why the last answer was not believed; None if it was."""

    @property
    def alarming(self) -> bool:
        """Whether that needs the operator, unlike a key that never was there."""

    @property
    def answers(self) -> int:
        """Good answers so far."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """Items of them that could not be used so far, by reason."""


class QueryGauges(Collector):
    """One line per configured query; a query that was never answered counts from the start."""

    def __init__(self, queries: Callable[[], Iterable[QueryView]], clock: Callable[[], float]) -> None:
        self._queries = queries
        self._clock = clock
        self._since = clock()

    def collect(self) -> Iterator[Metric]:
        """Ask the pollers."""
        views = list(self._queries())
        now = self._clock()
        silence = GaugeMetricFamily(
            "agentd_query_last_contact_seconds", "Seconds since Consul last answered.", labels=["query"]
        )
        failing = GaugeMetricFamily(
            "agentd_query_failing", "1 while the last poll ended in an error.", labels=["query"]
        )
        limited = GaugeMetricFamily(
            "agentd_query_limited", "1 while Consul answers that it has too many requests.", labels=["query"]
        )
        held = GaugeMetricFamily(
            "agentd_query_held",
            "1 while the last answer was not believed, and somebody should see why.",
            labels=["query"],
        )
        answers = CounterMetricFamily("agentd_query_answers", "Good answers from Consul.", labels=["query"])
        dropped = CounterMetricFamily(
            "agentd_watch_dropped", "Items of answers that could not be used.", labels=["query", "reason"]
        )
        for view in views:
            last = self._since if view.last_contact is None else view.last_contact
            silence.add_metric([view.query], max(0.0, now - last))
            failing.add_metric([view.query], view.error is not None)
            limited.add_metric([view.query], view.limited is not None)
            held.add_metric([view.query], view.held is not None and view.alarming)
            answers.add_metric([view.query], view.answers)
            for reason, count in view.dropped.items():
                dropped.add_metric([view.query, reason], count)
        if views:  # without one nothing is known
            up = any(view.limited or (view.error is None and view.last_contact is not None) for view in views)
            yield GaugeMetricFamily("agentd_consul_up", "1 while at least one query gets answers.", value=up)
        yield from (silence, failing, limited, held, answers, dropped)


@dataclass(frozen=True, slots=True)
class Condition:
    """What the daemon says of itself.

    Attributes:
        ready: as at /readyz.
        stuck: threads that show no sign of life; see /healthz.
        nginx_missing: whether no master of nginx runs that could be reloaded.
    """

    ready: bool
    stuck: int
    nginx_missing: bool


class ConditionGauges(Collector):
    """Whether the daemon is alive and ready, for those who look at no other address."""

    def __init__(self, condition: Callable[[], Condition]) -> None:
        self._condition = condition

    def collect(self) -> Iterator[Metric]:
        """Ask."""
        found = self._condition()
        yield GaugeMetricFamily(
            "agentd_ready", "1 once the first files of every handler are committed.", value=found.ready
        )
        yield GaugeMetricFamily(
            "agentd_stuck_threads", "Threads that show no sign of life.", value=found.stuck
        )
        yield GaugeMetricFamily(
            "agentd_nginx_missing", "1 while no master of nginx runs that could be reloaded.",
            value=found.nginx_missing,
        )  # fmt: skip


class BehindGauges(Collector):
    """Since when each handler is behind; read from the journal, which takes too long to do every second."""

    def __init__(self, behind: Callable[[], Mapping[str, float | None]], clock: Callable[[], float]) -> None:
        self._behind = behind
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Ask."""
        gauge = GaugeMetricFamily(
            "agentd_behind_seconds",
            "Seconds since what a handler stands for is not in force; 0: it is.",
            labels=["handler"],
        )
        now = self._clock()
        for handler, since in self._behind().items():
            gauge.add_metric([handler], 0.0 if since is None else max(0.0, now - since))
        yield gauge


class FleetGauges(Collector):
    """How far this node follows the fleet's log; no samples without a fleet."""

    def __init__(self, fleet: Callable[[], Mapping[str, Any] | None]) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        """Ask; see `Fleet.status`."""
        told = self._fleet()
        if told is None:
            return
        newest = GaugeMetricFamily(
            "agentd_fleet_newest", "Number of the newest known message of a name.", labels=["event"]
        )
        position = GaugeMetricFamily(
            "agentd_fleet_position",
            "Number of the message up to which the handlers were given everything.",
            labels=["event"],
        )
        waits = GaugeMetricFamily(
            "agentd_fleet_waits",
            "1 while a message of a name cannot be given to the handlers yet.",
            labels=["event"],
        )
        incomplete = GaugeMetricFamily(
            "agentd_fleet_incomplete", "1 while this node lacks messages that are no longer in the log.",
            labels=["event"],
        )  # fmt: skip
        for name, one in told["names"].items():
            newest.add_metric([name], one["newest"])
            position.add_metric([name], one["position"])
            waits.add_metric([name], bool(one["waits"]))
            incomplete.add_metric([name], one["incomplete_since"] is not None)
        yield GaugeMetricFamily(
            "agentd_fleet_troubles",
            "Number of problems with the fleet on this node; `agentd status` describes them.",
            value=len(told["troubles"]),
        )
        yield from (newest, position, waits, incomplete)
        yield GaugeMetricFamily(
            "agentd_fleet_frozen", "1 while the fleet is frozen, as this node knows it.",
            value=told["frozen"] is not None,
        )  # fmt: skip
        acknowledged = told["acknowledged"]
        yield GaugeMetricFamily(
            "agentd_fleet_name_taken",
            "1 while this node does not acknowledge because another node has its name.",
            value=acknowledged["name_taken"],
        )
        yield GaugeMetricFamily(
            "agentd_fleet_acknowledged_timestamp_seconds",
            "Unix time at which this node last wrote its acknowledgement; 0 before the first time.",
            value=acknowledged["written"] or 0.0,
        )
        yield CounterMetricFamily(
            "agentd_fleet_acknowledgements",
            "How often this node wrote its acknowledgement.",
            value=acknowledged["writes"],
        )


class HandlerGauges(Collector):
    """What handlers publish about themselves; any thread may publish."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._values: dict[str, dict[str, float]] = {}

    def publish(self, handler: str, name: str, value: float) -> None:
        """Set one gauge.

        Raises:
            ValueError: a bad name, or more than `MOST_GAUGES` of them.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"a gauge's name is lower-case letters, digits and _, at most 96: {name!r}")
        with self._lock:
            values = self._values.setdefault(handler, {})
            if name not in values and len(values) >= MOST_GAUGES:
                raise ValueError(f"handler {handler!r} publishes more than {MOST_GAUGES} gauges")
            values[name] = float(value)

    def keep_only(self, handlers: Collection[str]) -> None:
        """Forget what was published by handlers that are no longer configured."""
        with self._lock:
            self._values = {name: values for name, values in self._values.items() if name in handlers}

    def collect(self) -> Iterator[Metric]:
        """One family per name, and one more for the age of each timestamp."""
        families: dict[str, GaugeMetricFamily] = {}
        for handler, values in self._shown().items():
            for name, value in values.items():
                if name not in families:
                    families[name] = GaugeMetricFamily(
                        f"agentd_handler_{name}", "Published by a handler.", labels=["handler"]
                    )
                families[name].add_metric([handler], value)
        yield from families.values()

    def _shown(self) -> dict[str, dict[str, float]]:
        """What each handler published, and the ages that follow from it unless it published those too."""
        with self._lock:
            published = {handler: dict(values) for handler, values in self._values.items()}
        now = self._clock()
        return {
            handler: {
                f"{name.removesuffix(_TIMESTAMP)}_age_seconds": max(0.0, now - value)
                for name, value in values.items()
                if name.endswith(_TIMESTAMP)
            }
            | values
            for handler, values in published.items()
        }
