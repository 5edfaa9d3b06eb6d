"""What Prometheus sees of agentd. Owns the metrics' names and labels, and keeps their number bounded.

Label values come from the configuration or from fixed lists. Anything else counts as "other", above all the
name of an event, which its sender chose. No metric contains a payload or a key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from prometheus_client.metrics import Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry
from prometheus_client.utils import floatToGoString

from agentd.apply.observer import Observer
from agentd.clock import unix_time
from agentd.journal.entry import Outcome
from agentd.journal.limit import Trimmed
from agentd.report.gauges import (
    BehindGauges,
    Condition,
    ConditionGauges,
    FleetGauges,
    HandlerGauges,
    QueryGauges,
    QueryView,
)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OTHER: Final = "other"
OUTCOMES: Final = frozenset(map(str, Outcome))
DROPPED: Final = ("history", "payload", "waiting")
CROWDED: Final = ("full", "head", "answer")
RELOADS: Final = frozenset({"proved", "failed", "waiting", "skipped"})

_QUICK: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)


class Metrics(Observer):
    """All metrics of one daemon, in a separate registry. Any thread may call any method.

    Args:
        queries: returns the state of the pollers; called at each scrape.
        handlers: names of the configured handlers.
        events: names of the events that the configuration mentions.
        behind: by handler, the unix time since which it is behind, None if it is not; called at each scrape.
        fleet: returns what is known of the fleet's log, None without one; called at each scrape.
        condition: what the daemon says of itself; called at each scrape.
        clock: unix seconds.
    """

    def __init__(  # noqa: PLR0913 (the daemon's callables, all named)
        self,
        queries: Callable[[], Iterable[QueryView]],
        *,
        handlers: Collection[str] = (),
        events: Collection[str] = (),
        behind: Callable[[], Mapping[str, float | None]] = dict,
        fleet: Callable[[], Mapping[str, Any] | None] = lambda: None,
        condition: Callable[[], Condition] | None = None,
        clock: Callable[[], float] = unix_time,
    ) -> None:
        # Otherwise each counter has one more series, the time at which it was created.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left its annotation out
        self._registry = CollectorRegistry()
        self._handler_gauges = HandlerGauges(clock)
        self._registry.register(QueryGauges(queries, clock))
        self._registry.register(BehindGauges(behind, clock))
        self._registry.register(FleetGauges(fleet))
        if condition is not None:
            self._registry.register(ConditionGauges(condition))
        self._registry.register(self._handler_gauges)
        ProcessCollector(registry=self._registry)
        self._make_event_metrics()
        self._make_handler_metrics()
        self._make_tree_metrics()
        self.configure(handlers=handlers, events=events)

    def _make_event_metrics(self) -> None:
        self._received = self._counter(
            "events_received", "User events received, by name (other: not configured).", "event"
        )
        self._events_missed = self._counter(
            "events_missed", "User events lost because Consul's buffer overflowed or was reset (estimate)."
        )
        self._refused = self._counter(
            "events_refused", "User events refused, by name (other: not configured).", "event"
        )
        self._disbelieved = self._counter(
            "fleet_refused",
            "Messages of the fleet's log, and events, refused because of trust: by name, and why.",
            "event",
            "reason",
        )

    def _make_handler_metrics(self) -> None:
        self._outcomes = self._counter(
            "outcomes", "Changes handled, by handler and final outcome.", "handler", "outcome"
        )
        self._retries = self._counter("retries", "Retries of changes, by handler.", "handler")
        self._living = self._histogram(
            "change_duration_seconds",
            "Time from the arrival of a change until it was applied, which means live, by handler.",
            "handler",
        )
        # The prefix agentd_handler_ is reserved for the gauges that handlers publish.
        self._handling = self._histogram(
            "attempt_duration_seconds", "Duration of one attempt, by handler.", "handler"
        )

        self._drift = self._gauge(
            "drift", "Things outside the tree that are not as a handler committed them.", "handler"
        )
        self._paused = self._gauge(
            "paused", "1 while a handler takes nothing new (`agentd pause`), by handler.", "handler"
        )
        self._tasks = self._gauge(
            "tasks", "Downloads and the like outside a handler's calls: running, waiting, hanging.",
            "handler", "state",
        )  # fmt: skip
        self._mended = self._counter(
            "drift_mended", "Things outside the tree that were restored, by handler.", "handler"
        )

    def _make_tree_metrics(self) -> None:
        self._commits = self._histogram(
            "commit_duration_seconds", "Duration of a commit, including its `nginx -t`."
        )
        self._checks = self._histogram("check_duration_seconds", "Duration of one `nginx -t`.")
        self._reloading = self._histogram("reload_duration_seconds", "Time from SIGHUP to the proof.")
        self._reloads = self._counter("reloads", "Reloads of nginx, by result.", "result")
        self._dropped = self._counter(
            "status_connections_dropped",
            "Connections to the status address without an answer: all places were taken (full), or the client"
            " was too slow to ask (head) or to read (answer).",
            "reason",
        )
        self._merged = self._counter("reloads_merged", "Reloads avoided by merging several into one.")
        self._rollbacks = self._counter(
            "rollbacks", "Generations rolled back because nginx did not serve them."
        )
        self._generation = self._gauge("generation", "Number of the current generation.")
        self._config_refused = self._gauge(
            "config_refused", "1 while a configuration that was refused waits to be corrected."
        )
        self._journal_size = self._gauge("journal_bytes", "Size of the journal on the disk.")
        self._journal_dropped = self._counter(
            "journal_dropped", "What the journal dropped to stay within journal.max_size.", "what"
        )
        self._reload_pending = self._gauge(
            "reload_pending", "1 while a generation still waits to be reloaded and proved."
        )

    # ------------------------------------------------------------------ configuration

    def configure(self, *, handlers: Collection[str], events: Collection[str]) -> None:
        """Set the label values to use from now on; what was counted under other names is kept."""
        self._handlers = frozenset(handlers)
        self._events = frozenset(events)
        self._handler_gauges.keep_only(self._handlers)
        self._paused.clear()  # every worker says so anew
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Start every series at 0: for a series that begins at 1, `rate()` misses the first increment."""
        for event in (*self._events, OTHER):
            self._received.labels(event)
            self._refused.labels(event)
        for handler in self._handlers:
            self._retries.labels(handler)
            self._mended.labels(handler)
            self._drift.labels(handler)
            for outcome in OUTCOMES:
                self._outcomes.labels(handler, outcome)
        for result in RELOADS:
            self._reloads.labels(result)
        for what in DROPPED:
            self._journal_dropped.labels(what)
        for reason in CROWDED:
            self._dropped.labels(reason)

    # ------------------------------------------------------------------ events and queries

    def event_received(self, name: str) -> None:
        """A user event was seen for the first time."""
        self._received.labels(self._known_event(name)).inc()

    def event_refused(self, name: str) -> None:
        """A user event ended as refused."""
        self._refused.labels(self._known_event(name)).inc()

    def disbelieved(self, event: str, reason: str) -> None:
        """A message of the fleet's log, or an event, is not believed."""
        self._disbelieved.labels(self._known_event(event), reason).inc()

    def missed(self, events: int) -> None:
        """About this many user events were missed."""
        self._events_missed.inc(events)

    # ------------------------------------------------------------------ handlers

    def outcome(self, handler: str, outcome: str) -> None:
        """A change reached its final outcome in a handler."""
        known = outcome if outcome in OUTCOMES else OTHER
        self._outcomes.labels(self._known_handler(handler), known).inc()

    def applied(self, handler: str, seconds: float) -> None:
        """A change was live so long after it had arrived."""
        self._living.labels(self._known_handler(handler)).observe(seconds)

    def retried(self, handler: str) -> None:
        """A change is being retried."""
        self._retries.labels(self._known_handler(handler)).inc()

    def handled(self, handler: str, seconds: float) -> None:
        """One attempt of a handler took this long."""
        self._handling.labels(self._known_handler(handler)).observe(seconds)

    def drifted(self, handler: str, standing: int, mended: int) -> None:
        """So many things do not hold outside the tree, and so many were restored."""
        known = self._known_handler(handler)
        self._drift.labels(known).set(standing)
        self._mended.labels(known).inc(mended)

    def paused(self, handler: str, *, since: float | None) -> None:
        """Whether a handler is paused."""
        self._paused.labels(self._known_handler(handler)).set(since is not None)

    def tasks(self, handler: str, running: int, waiting: int, hanging: int) -> None:
        """How many tasks a handler has, by state."""
        known = self._known_handler(handler)
        for state, count in (("running", running), ("waiting", waiting), ("hanging", hanging)):
            self._tasks.labels(known, state).set(count)

    def gauged(self, handler: str, gauges: Mapping[str, float]) -> None:
        """Publish each gauge that a metric can be; a handler's mistake is no reason to stop."""
        for name, value in gauges.items():
            with suppress(ValueError, TypeError):  # a name or number that a metric cannot have
                self.publish(handler, name, value)

    def config_refused(self, *, refused: bool) -> None:
        """Whether the file was refused at the last reload of the configuration."""
        self._config_refused.set(refused)

    def publish(self, handler: str, name: str, value: float) -> None:
        """Publish a value of a handler as agentd_handler_NAME{handler="HANDLER"}.

        A name that ends in `_timestamp_seconds` (unix time) also shows its age, as `_age_seconds`.

        Raises:
            ValueError: `name` does not consist of lower-case letters, digits and underscores, or the handler
                publishes too many.
        """
        if handler in self._handlers:
            self._handler_gauges.publish(handler, name, value)

    # ------------------------------------------------------------------ the tree and nginx

    def committed(self, seconds: float) -> None:
        """A commit took this long, from staged files to the flip."""
        self._commits.observe(seconds)

    def checked(self, seconds: float) -> None:
        """An `nginx -t` took this long."""
        self._checks.observe(seconds)

    def generation(self, number: int) -> None:
        """This generation is current."""
        self._generation.set(number)

    def reload_pending(self, *, pending: bool) -> None:
        """Whether a generation still waits to be reloaded and proved."""
        self._reload_pending.set(pending)

    def reloaded(self, result: str, seconds: float) -> None:
        """A reload ended after `seconds`: "proved", "failed", or "skipped" because nginx is not running."""
        self._reloads.labels(result if result in RELOADS else OTHER).inc()
        if result != "skipped":
            self._reloading.observe(seconds)

    def reloads_merged(self, count: int) -> None:
        """This many reloads were avoided by merging."""
        self._merged.inc(count)

    def dropped(self, reason: str) -> None:
        """A connection to the status address was dropped before it had its answer."""
        self._dropped.labels(reason).inc()

    def rolled_back(self) -> None:
        """A generation was rolled back."""
        self._rollbacks.inc()

    def trimmed(self, trimmed: Trimmed) -> None:
        """The journal was kept within its limit."""
        self._journal_size.set(trimmed.size)
        for what, count in zip(DROPPED, (trimmed.rows, trimmed.payloads, len(trimmed.endings)), strict=True):
            self._journal_dropped.labels(what).inc(count)

    # ------------------------------------------------------------------ the page

    def render(self) -> bytes:
        """The page that Prometheus scrapes, of `CONTENT_TYPE`."""
        return "".join(line for metric in self._registry.collect() for line in _lines(metric)).encode()

    def _known_event(self, name: str) -> str:
        return name if name in self._events else OTHER

    def _known_handler(self, name: str) -> str:
        return name if name in self._handlers else OTHER

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"agentd_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"agentd_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"agentd_{name}", text, labels, registry=self._registry, buckets=_QUICK)


def _lines(metric: Metric) -> Iterator[str]:
    """One metric family in the text format (https://prometheus.io/docs/instrumenting/exposition_formats/).

    prometheus_client's own function is in a module that also imports HTTP servers and clients.
    """
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    yield f"# HELP {name} {metric.documentation}\n"
    yield f"# TYPE {name} {metric.type}\n"
    for sample in metric.samples:
        labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in sorted(sample.labels.items()))
        yield f"{sample.name}{f'{{{labels}}}' if labels else ''} {_number(sample.value)}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call] # the library left its annotation out
