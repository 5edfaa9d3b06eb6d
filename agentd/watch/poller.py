"""The blocking-query loop: one daemon thread per distinct query asks, judges and delivers.

A poller is read-only and has no side effects, so it can be abandoned at any instruction. It never learns what
becomes of a change. Its memory is updated only after `deliver` has returned: whatever fails, the same answer
is judged again, and nothing is lost.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential, wait_random
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set
from tenacity.wait import wait_base

from agentd.clock import unix_time
from agentd.errors import AgentdError, ConsulError, ConsulLimited, ConsulRefused
from agentd.heartbeat import Heartbeat
from agentd.watch.event_ring import EventRing
from agentd.watch.judgement import Inquiry, StateMemory, Verdict
from agentd.watch.queries import EventQuery
from agentd.watch.query import Query, Snapshot, Source
from agentd.watch.rate_limit import RateLimit

_GRACE: Final = 150.0
"""Seconds without a heartbeat after which a poller is stuck: 20 to connect, 74 for the longest poll to begin
its answer, 30 to end it, and room to spare."""

BACKOFF: Final = wait_exponential(multiplier=0.25, max=10) + wait_random(0, 0.25)
"""Waits between failed attempts: from 0.25 s, doubled, to 10 s."""
_SILENCE: Final = 600.0
"""Seconds between two log lines about items of one kind that cannot be used."""
_FIRST_WAIT: Final = 4.0  # seconds
_LONGEST: Final = 60.0
"""Seconds that a Consul is left alone at most: if it limits requests, whatever it asks for; if its answers
cost much to read and cannot be used."""
_COSTLY: Final = 0.25
"""Seconds of processor time that such an answer may take without a rest."""
_REST: Final = 20.0
"""Seconds of rest for each second of processor time."""

Memory: TypeAlias = StateMemory | EventRing
"""What to ask next (`index`, `fresh`), and the judgement of the answer (`judge`)."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PollerStatus:
    """The state of a poller; replaced as a whole, so any thread may read it.

    Attributes:
        last_contact: unix time of the last answer, or None.
        error: why there is none now, or None.
        limited: Consul answers that it has too many requests, so that it is asked later; or None.
        held: why the last answer was not believed, or None.
        alarming: whether `held` needs the operator.
        answers: how many there were, `deliveries` of which had news.
        missed: events that went by unseen, ever; an estimate by Lamport time.
        dropped: how many items of answers could not be used, by reason; one that stays is counted once.
        odd: how many such items the last answer had.
        rest: seconds between two questions, because the last answer was costly to read and had such items.
        epoch: how often Consul's data was lost, for the query of events.
    """

    query: str
    last_contact: float | None = None
    index: int = 0
    error: str | None = None
    limited: str | None = None
    held: str | None = None
    alarming: bool = False
    answers: int = 0
    deliveries: int = 0
    missed: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    odd: int = 0
    rest: float = 0.0
    epoch: int = 0


class Poller:
    """Polls one query until `stop` is set.

    Args:
        query: the question.
        connect: makes the client of this poller, and a new one after every failure.
        deliver: takes all news of one answer at once; if it raises, the answer is asked for again.
        stop: set it, or call `close`, to end the loop. One for each poller, or one for all.
        heartbeat: beats before anything that may take long.
        clock: unix seconds, for the status.
        timer: monotonic seconds, for the limit.
        work: seconds of processor time of the calling thread.
        backoff: waits between failed attempts.
        ring: what an earlier poller of events remembered.
        proves_absence: whether to deliver as well that nothing was ever there (`Snapshot.absent`).
    """

    def __init__(  # noqa: PLR0913 (what a test may replace; each has a default)
        self,
        query: Query,
        connect: Callable[[], Source],
        deliver: Callable[[Snapshot], None],
        *,
        stop: threading.Event,
        heartbeat: Heartbeat | None = None,
        clock: Callable[[], float] = unix_time,
        timer: Callable[[], float] = time.monotonic,
        work: Callable[[], float] = time.thread_time,
        backoff: wait_base = BACKOFF,
        ring: EventRing | None = None,
        proves_absence: bool = False,
    ) -> None:
        self.query = query
        state = StateMemory(proves_absence=proves_absence)
        self.memory: Memory = (ring or EventRing()) if isinstance(query, EventQuery) else state
        self.status = PollerStatus(str(query))
        self._connect = connect
        self._deliver = deliver
        self._stop = stop
        self._heartbeat = heartbeat
        self._clock = clock
        self._timer = timer
        self._work = work
        self._began = 0.0  # what `work` said at the beginning of this turn
        self._backoff = backoff
        self._rate_limit = RateLimit(timer)
        self._client: Source | None = None
        self._known = query.known_items()
        self._thread = threading.Thread(target=self.run, name=f"poll {query}", daemon=True)
        self._trouble = ""  # the log event of what goes wrong now
        self._odd: frozenset[str] = frozenset()  # IDs of the items of the last answer that cannot be used
        self._told: dict[str, float] = {}  # when such an item was last logged, by reason
        self._log = log.bind(query=str(query))

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the loop from another thread, by aborting the request in progress."""
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
        """Poll until `stop` is set; whatever goes wrong is logged and retried."""
        try:
            while not self._stop.is_set():
                # Attempts are counted anew for each answer: the backoff starts over at any contact.
                Retrying(
                    # Everything, as the loop must outlive any mistake, in `deliver` or in Consul's answer.
                    retry=retry_if_exception_type(Exception),
                    wait=self._wait,
                    stop=stop_when_event_set(self._stop),
                    sleep=sleep_using_event(self._stop),
                    before_sleep=self._failed,
                    retry_error_callback=lambda _: None,  # `stop` was set
                )(self._turn)
        finally:
            self._drop_client()

    def _turn(self) -> None:
        """Ask once, judge, deliver, and only then remember."""
        if self._stop.is_set():
            return
        self._beat()
        began, self._began = self._timer(), self._work()
        client = self._client = self._client or self._connect()
        if self._stop.is_set():  # `close` may have looked for a client before there was one
            return
        wait = self._first_wait() if self.status.error else None
        index, fresh = self.memory.index, self.memory.fresh
        snapshot = self.query.fetch(client, index, fresh=fresh, wait=wait, known=self._known)
        took = self._timer() - began
        rest = self._rest() if snapshot.odd else 0.0
        self._contact(snapshot, rest)
        verdict = self.memory.judge(snapshot, Inquiry(self.query, client, self._beat))
        self._report(verdict)
        if verdict.news:
            self._beat()
            self._deliver(_with_memory(verdict.news, verdict.memory))
        elif verdict.absent:
            self._deliver(replace(verdict.absent, absent=True))
        self._remember(verdict)
        self._beat()
        self._stop.wait(max(rest, self._rate_limit.spend(took)))

    def _first_wait(self) -> float:
        """Seconds to block after a failure: until an answer comes, nobody knows that Consul is back."""
        return random.uniform(_FIRST_WAIT / 4, _FIRST_WAIT)  # noqa: S311 (spreads a fleet, see `_wait`)

    def _rest(self) -> float:
        """Seconds to leave Consul alone, so that answers that cannot be used cost little, however often."""
        used = self._work() - self._began
        return min(used * _REST, _LONGEST) if used > _COSTLY else 0.0

    def _contact(self, snapshot: Snapshot, rest: float) -> None:
        self.status = replace(
            self.status,
            last_contact=self._clock(),
            index=snapshot.index,
            answers=self.status.answers + 1,
            rest=round(rest, 1),
        )
        self._drop(snapshot)

    def _drop(self, snapshot: Snapshot) -> None:
        """Count the items that cannot be used, and log the first of each kind; they stay in later answers."""
        new = [one for one in snapshot.odd if one.id not in self._odd]
        self._odd = frozenset(one.id for one in snapshot.odd)
        dropped = Counter(self.status.dropped) + Counter(one.reason for one in new)
        self.status = replace(self.status, dropped=dict(dropped), odd=len(self._odd))
        for one in new:
            now = self._timer()
            if now - self._told.get(one.reason, -_SILENCE) >= _SILENCE:
                self._told[one.reason] = now
                self._log.warning(
                    "consul.item_dropped",
                    reason=one.reason,
                    item=one.name or one.id[:12],
                    dropped=dropped[one.reason],
                )

    def _report(self, verdict: Verdict) -> None:
        if verdict.held and verdict.held != self.status.held:
            tell = self._log.warning if verdict.alarming else self._log.info
            tell("state.held", reason=verdict.held)
        elif self.status.held and not verdict.held:
            self._log.info("state.released")
        self.status = replace(
            self.status, held=verdict.held, alarming=bool(verdict.held) and verdict.alarming
        )

    def _remember(self, verdict: Verdict) -> None:
        self.memory = verdict.memory
        if self._trouble:
            self._log.info("consul.recovered" if self._trouble.startswith("consul.") else "poller.recovered")
            self._trouble = ""
        if verdict.gap:
            self._say_gap(verdict)
        self.status = replace(
            self.status,
            error=None,
            limited=None,
            deliveries=self.status.deliveries + bool(verdict.news and verdict.news.changes),
        )
        if isinstance(verdict.memory, EventRing):
            self.status = replace(self.status, missed=verdict.memory.missed, epoch=verdict.memory.epoch)

    def _say_gap(self, verdict: Verdict) -> None:
        """Warn of a loss; an agent that was restarted without one is only worth a mention."""
        if verdict.gap == "epoch":
            self._log.warning("events.new_epoch", reason="Consul's event clock went back: its data was lost")
        elif verdict.missed or verdict.gap == "overflow":
            self._log.warning("events.missed", gap=verdict.gap, missed=verdict.missed)
        else:
            self._log.info("events.ring_lost", reason="the Consul agent was restarted; no event is missing")

    def _failed(self, attempt: RetryCallState) -> None:
        """Log what went wrong, loudly once; the next attempt begins with a new client."""
        error = attempt.outcome.exception() if attempt.outcome else None
        if isinstance(error, ConsulLimited):
            self._say_limited(error, attempt.upcoming_sleep)
            return
        self._drop_client()
        self.memory = self.memory.interrupted()
        if self._stop.is_set():
            return
        if isinstance(error, ConsulError):
            trouble = "consul.refused" if isinstance(error, ConsulRefused) else "consul.unavailable"
        else:
            trouble = "poller.failed"
        known, self._trouble = self._trouble == trouble, trouble
        # The text of an error that is not ours could hold anything, so only the log gets the traceback.
        text = str(error) if isinstance(error, AgentdError) else f"{type(error).__name__}: see the log"
        self.status = replace(self.status, error=text, limited=None)
        tell = self._log.debug if known else self._log.warning
        trace = {} if known or isinstance(error, AgentdError) else {"exc_info": error}
        tell(trouble, error=text, retry_in=round(attempt.upcoming_sleep, 2), **trace)
        self._beat()

    def _wait(self, attempt: RetryCallState) -> float:
        """Seconds until the next attempt: with jitter, so that not all of a fleet come back at once."""
        error = attempt.outcome.exception() if attempt.outcome else None
        wait = max(self._backoff(attempt), self._rest() if isinstance(error, ConsulError) else 0.0)
        if isinstance(error, ConsulLimited) and error.retry_after is not None:
            return min(max(error.retry_after, wait), _LONGEST) * random.uniform(1.0, 1.25)  # noqa: S311 (as said)
        return wait

    def _say_limited(self, error: ConsulLimited, wait: float) -> None:
        """Consul is there, so this is no outage: the connection and what was learnt stay."""
        known, self._trouble = self._trouble == "consul.limited", "consul.limited"
        self.status = replace(self.status, error=None, limited=str(error))
        tell = self._log.debug if known else self._log.warning
        tell("consul.limited", reason=str(error), retry_in=round(wait, 2))
        self._beat()

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(ConsulError):
                client.close()

    def _beat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.beat(_GRACE)


def _with_memory(news: Snapshot, memory: Memory) -> Snapshot:
    return replace(news, seen=memory.kept()) if isinstance(memory, EventRing) else news
