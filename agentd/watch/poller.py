"""The blocking-query loop: one daemon thread a distinct query, which asks, judges and delivers.

A poller is read-only and has no side effects, so it can be abandoned at any instruction. It never learns what
becomes of a change. What it remembers moves on only after `deliver` returned: whatever fails, the same answer
is judged again, and nothing is lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential, wait_random
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set
from tenacity.wait import wait_base

from agentd.errors import AgentdError, ConsulError, ConsulRefused
from agentd.watch.inquiry import Inquiry
from agentd.watch.memory import EventMemory, Memory, StateMemory, Verdict
from agentd.watch.pace import Pace
from agentd.watch.queries import EventQuery
from agentd.watch.query import Query, Snapshot, Source

_GRACE: Final = 150.0
"""Seconds without a heartbeat after which a poller is stuck: 20 to connect, 74 for the longest poll to begin
its answer, 30 to end it, and room to spare."""

BACKOFF: Final = wait_exponential(multiplier=0.25, max=10) + wait_random(0, 0.25)
"""Waits between failed attempts: from 0.25 s, doubled, to 10 s."""

log = structlog.get_logger()


class Heartbeat(Protocol):
    """Where a thread says that it is alive."""

    def beat(self, good_for: float) -> None:
        """Alive, and expected again within `good_for` seconds."""


@dataclass(frozen=True, slots=True)
class PollerStatus:
    """What a poller has to say for itself; replaced as a whole, so any thread may read it.

    Attributes:
        last_contact: unix time of the last answer, or None.
        error: why there is none now, or None.
        held: why the last answer was not believed, or None.
        answers: how many there were, `deliveries` of which had news.
        missed: events that went by unseen, an estimate by Lamport time.
    """

    query: str
    last_contact: float | None = None
    index: int = 0
    error: str | None = None
    held: str | None = None
    answers: int = 0
    deliveries: int = 0
    missed: int = 0


class Poller:
    """Polls one query until `stop` is set.

    Args:
        query: the question.
        connect: makes the client of this poller, anew after every failure.
        deliver: takes all news of one answer at once; if it raises, the answer is asked for again.
        stop: set it, or call `close`, to end the loop. One for each poller, or one for all.
        heartbeat: told before everything that may take long.
        memory: of a poller of the same query in this process, to go on where it stopped.
        clock: unix seconds, for the status.
        timer: monotonic seconds, for the pace.
        backoff: waits between failed attempts.
    """

    def __init__(  # noqa: PLR0913 (what a test may replace; each has a default)
        self,
        query: Query,
        connect: Callable[[], Source],
        deliver: Callable[[Snapshot], None],
        *,
        stop: threading.Event,
        heartbeat: Heartbeat | None = None,
        memory: Memory | None = None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        backoff: wait_base = BACKOFF,
    ) -> None:
        self.query = query
        self.memory: Memory = memory or (EventMemory() if isinstance(query, EventQuery) else StateMemory())
        self.status = PollerStatus(str(query))
        self._connect = connect
        self._deliver = deliver
        self._stop = stop
        self._heartbeat = heartbeat
        self._clock = clock
        self._timer = timer
        self._backoff = backoff
        self._pace = Pace(timer)
        self._client: Source | None = None
        self._thread = threading.Thread(target=self.run, name=f"poll {query}", daemon=True)
        self._trouble = ""  # the log event of what goes wrong now
        self._log = log.bind(query=str(query))

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the loop from another thread, by breaking off the request under way."""
        self._stop.set()
        client = self._client
        if client is not None:
            client.close()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread to end, `timeout` seconds at most; return whether it did."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def run(self) -> None:
        """Poll until `stop` is set; whatever goes wrong is told and tried again."""
        try:
            while not self._stop.is_set():
                # A new count of attempts for each answer: the backoff starts over at any contact.
                Retrying(
                    # Everything, as the loop must outlive any mistake, in `deliver` or in Consul's answer.
                    retry=retry_if_exception_type(Exception),
                    wait=self._backoff,
                    stop=stop_when_event_set(self._stop),
                    sleep=sleep_using_event(self._stop),
                    before_sleep=self._failed,
                    retry_error_callback=lambda _: None,  # told to stop
                )(self._turn)
        finally:
            self._drop_client()

    def _turn(self) -> None:
        """Ask once, judge, deliver, and only then remember."""
        if self._stop.is_set():
            return
        self._beat()
        began = self._timer()
        client = self._client = self._client or self._connect()
        if self._stop.is_set():  # `close` may have looked for a client before there was one
            return
        snapshot = self.query.fetch(client, self.memory.index, fresh=self.memory.fresh)
        took = self._timer() - began
        self._contact(snapshot)
        verdict = self.memory.judge(snapshot, Inquiry(self.query, client, self._beat))
        self._report(verdict)
        if verdict.news:
            self._beat()
            self._deliver(verdict.news)
        self._remember(verdict)
        self._stop.wait(self._pace.spend(took))

    def _contact(self, snapshot: Snapshot) -> None:
        self.status = replace(
            self.status, last_contact=self._clock(), index=snapshot.index, answers=self.status.answers + 1
        )

    def _report(self, verdict: Verdict) -> None:
        if verdict.held and verdict.held != self.status.held:
            tell = self._log.warning if verdict.alarming else self._log.info
            tell("state.held", reason=verdict.held)
        elif self.status.held and not verdict.held:
            self._log.info("state.released")
        self.status = replace(self.status, held=verdict.held)

    def _remember(self, verdict: Verdict) -> None:
        self.memory = verdict.memory
        if self._trouble:
            self._log.info("consul.recovered" if self._trouble.startswith("consul.") else "poller.recovered")
            self._trouble = ""
        if verdict.gap:
            self._log.warning("events.missed", gap=verdict.gap, missed=verdict.missed)
        self.status = replace(
            self.status,
            error=None,
            deliveries=self.status.deliveries + (verdict.news is not None),
            missed=self.status.missed + verdict.missed,
        )

    def _failed(self, attempt: RetryCallState) -> None:
        """Tell what went wrong, once at full voice; the next attempt begins with a new client."""
        error = attempt.outcome.exception() if attempt.outcome else None
        self._drop_client()
        if self._stop.is_set():
            return
        if isinstance(error, ConsulError):
            trouble = "consul.refused" if isinstance(error, ConsulRefused) else "consul.unavailable"
        else:
            trouble = "poller.failed"
        known, self._trouble = self._trouble == trouble, trouble
        # The text of an error that is not ours could hold anything, so the traceback is for the log alone.
        text = str(error) if isinstance(error, AgentdError) else f"{type(error).__name__}: see the log"
        self.status = replace(self.status, error=text)
        tell = self._log.debug if known else self._log.warning
        trace = {} if known or isinstance(error, ConsulError) else {"exc_info": error}
        tell(trouble, error=text, retry_in=round(attempt.upcoming_sleep, 2), **trace)
        self._beat()

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(ConsulError):
                client.close()

    def _beat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.beat(_GRACE)
