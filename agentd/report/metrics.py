"""What Prometheus may know of agentd. Owns the names, the labels and how many of them there can be.

Label values come from the configuration or from fixed lists; whatever else turns up, an event's name above
all, which its sender chose, counts as "other". No metric holds a payload or a key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from agentd.report.gauges import HandlerGauges, QueryGauges, QueryView

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OTHER: Final = "other"
OUTCOMES: Final = frozenset({"applied", "unchanged", "refused", "failed", "expired"})
RELOADS: Final = frozenset({"proved", "failed", "skipped"})

_QUICK: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)


class Metrics:
    """All metrics of one daemon, in a registry of its own. Any thread may call any method.

    Args:
        queries: what the pollers know of themselves, asked at each scrape.
        handlers: names of the configured handlers.
        events: names of the events that the configuration mentions.
        clock: unix seconds.
    """

    def __init__(
        self,
        queries: Callable[[], Iterable[QueryView]],
        *,
        handlers: Collection[str] = (),
        events: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Each counter would have one more series, the time of its making.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left its annotation out
        self._registry = CollectorRegistry()
        self._handler_gauges = HandlerGauges(clock)
        self._registry.register(QueryGauges(queries, clock))
        self._registry.register(self._handler_gauges)
        ProcessCollector(registry=self._registry)
        self._make_event_metrics()
        self._make_handler_metrics()
        self._make_tree_metrics()
        self.configure(handlers=handlers, events=events)

    def _make_event_metrics(self) -> None:
        self._received = self._counter("events_received", "User events seen, by configured name.", "event")
        self._missed = self._counter(
            "events_missed", "User events lost to a ring overflow or a restart (estimate)."
        )
        self._refused = self._counter("events_refused", "User events refused, by configured name.", "event")

    def _make_handler_metrics(self) -> None:
        self._outcomes = self._counter(
            "outcomes", "Changes by handler and final outcome.", "handler", "outcome"
        )
        self._retries = self._counter("retries", "Attempts after the first, by handler.", "handler")
        # agentd_handler_* is left to what handlers publish.
        self._handling = self._histogram("attempt_duration_seconds", "One attempt of a handler.", "handler")

    def _make_tree_metrics(self) -> None:
        self._commits = self._histogram("commit_duration_seconds", "Stage to flip, the check included.")
        self._checks = self._histogram("check_duration_seconds", "One `nginx -t` of a candidate.")
        self._reloading = self._histogram("reload_duration_seconds", "SIGHUP to proof.")
        self._reloads = self._counter("reloads", "Reloads of nginx, by result.", "result")
        self._merged = self._counter("reloads_merged", "Reloads saved because several were merged into one.")
        self._rollbacks = self._counter("rollbacks", "Generations taken back because their proof failed.")
        self._generation = self._gauge("generation", "The generation that is current.")
        self._owed = self._gauge("reload_owed", "1 while nginx has yet to be told of a generation.")

    # ------------------------------------------------------------------ configuration

    def configure(self, *, handlers: Collection[str], events: Collection[str]) -> None:
        """Name the label values from now on; what was counted under other names stays as it is."""
        self._handlers = frozenset(handlers)
        self._events = frozenset(events)
        self._handler_gauges.keep_only(self._handlers)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Show what did not happen yet: the rate of a series that begins at 1 misses the first."""
        for event in (*self._events, OTHER):
            self._received.labels(event)
            self._refused.labels(event)
        for handler in self._handlers:
            self._retries.labels(handler)
            for outcome in OUTCOMES:
                self._outcomes.labels(handler, outcome)
        for result in RELOADS:
            self._reloads.labels(result)

    # ------------------------------------------------------------------ events and queries

    def event_received(self, name: str) -> None:
        """A user event was seen for the first time."""
        self._received.labels(self._known_event(name)).inc()

    def event_refused(self, name: str) -> None:
        """A user event ended as refused."""
        self._refused.labels(self._known_event(name)).inc()

    def events_missed(self, count: int) -> None:
        """So many user events, by estimate, went by unseen."""
        self._missed.inc(count)

    # ------------------------------------------------------------------ handlers

    def outcome(self, handler: str, outcome: str) -> None:
        """A change reached its end in a handler."""
        known = outcome if outcome in OUTCOMES else OTHER
        self._outcomes.labels(self._known_handler(handler), known).inc()

    def retry(self, handler: str) -> None:
        """A change is tried again."""
        self._retries.labels(self._known_handler(handler)).inc()

    def handled(self, handler: str, seconds: float) -> None:
        """One attempt of a handler took so long."""
        self._handling.labels(self._known_handler(handler)).observe(seconds)

    def publish(self, handler: str, name: str, value: float) -> None:
        """Show a handler's own value as agentd_handler_NAME{handler="HANDLER"}.

        A name that ends in `_timestamp_seconds` (unix time) also shows its age, as `_age_seconds`.

        Raises:
            ValueError: `name` is not lower-case letters, digits and underscores, or the handler has too many.
        """
        if handler in self._handlers:
            self._handler_gauges.publish(handler, name, value)

    # ------------------------------------------------------------------ the tree and nginx

    def committed(self, seconds: float) -> None:
        """A commit took so long, from staged files to the flip."""
        self._commits.observe(seconds)

    def checked(self, seconds: float) -> None:
        """A check of a candidate took so long."""
        self._checks.observe(seconds)

    def generation(self, number: int) -> None:
        """This generation is current."""
        self._generation.set(number)

    def reload_owed(self, *, owed: bool) -> None:
        """Whether nginx has yet to be told of a generation."""
        self._owed.set(owed)

    def reloaded(self, result: str, seconds: float) -> None:
        """A reload ended after `seconds`: "proved", "failed", or "skipped" since no nginx runs."""
        self._reloads.labels(result if result in RELOADS else OTHER).inc()
        if result != "skipped":
            self._reloading.observe(seconds)

    def reloads_merged(self, count: int) -> None:
        """So many reloads were saved, since others stood for them."""
        self._merged.inc(count)

    def rolled_back(self) -> None:
        """A generation was taken back."""
        self._rollbacks.inc()

    # ------------------------------------------------------------------ the page

    def render(self) -> bytes:
        """The page that Prometheus scrapes, of `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def _known_event(self, name: str) -> str:
        return name if name in self._events else OTHER

    def _known_handler(self, name: str) -> str:
        return name if name in self._handlers else OTHER

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"agentd_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"agentd_{name}", text, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"agentd_{name}", text, labels, registry=self._registry, buckets=_QUICK)
