"""The blocking-query loop, run in the test's own thread until the script is at its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from structlog.testing import capture_logs
from tenacity import wait_none

from agentd.errors import ConsulLimited, ConsulRefused, ConsulUnavailable, JournalError
from agentd.watch.client import Answer
from agentd.watch.parsing import TOO_LARGE, Odd
from agentd.watch.poller import BACKOFF, Poller, PollerStatus
from agentd.watch.queries import EventQuery, KeyQuery
from agentd.watch.query import Query, Snapshot
from tests.unit.watch.sources import ScriptedSource, answer, event, identity, value_of
from tests.unit.watch.sources import pair as one_pair

KEY = KeyQuery("k")
DOWN = ConsulUnavailable("no Consul agent listens")


def pair(value: str) -> list[dict[str, str]]:
    """What Consul answers for the key."""
    return [one_pair(value)]


class Run:
    """A poller run to the end of a script, and what came of it."""

    def __init__(
        self,
        query: Query,
        script: Iterable[Answer | Exception | Callable[[], Answer]],
        *,
        deliver: Callable[[Snapshot], None] = lambda _: None,
        rights: Callable[[str, str, str], bool | None] = lambda *_: None,
        **options: Any,  # noqa: ANN401 - the poller's own
    ) -> None:
        self.stop = threading.Event()
        self.source = ScriptedSource(script, rights=rights, exhausted=self.stop.set)
        self.snapshots: list[Snapshot] = []
        self.connections = 0

        def take(snapshot: Snapshot) -> None:
            deliver(snapshot)
            self.snapshots.append(snapshot)

        settings: dict[str, Any] = {
            "backoff": wait_none(),
            "clock": lambda: 1000.0,
            "timer": lambda: 0.0,
        } | options
        self.poller = Poller(query, self.connect, take, stop=self.stop, **settings)
        with capture_logs() as self.logs:
            self.poller.run()

    def connect(self) -> ScriptedSource:
        """The same source each time, counted."""
        self.connections += 1
        return self.source

    @property
    def values(self) -> list[str | None]:
        """The key's values that were delivered."""
        return [one.changes[0].raw and value_of(one.changes[0].raw) for one in self.snapshots]

    @property
    def indexes(self) -> list[int | None]:
        """What was asked with."""
        return [index for _, _, index in self.source.asked]

    def told(self, level: str) -> list[str]:
        """The log events of one level."""
        return [entry["event"] for entry in self.logs if entry["log_level"] == level]


def test_each_question_carries_the_index_of_the_last_answer() -> None:
    """That is what makes it block."""
    run = Run(KEY, [answer(pair("a"), 5), answer(pair("b"), 8)])
    assert (run.values, run.indexes) == (["a", "b"], [0, 5, 8])


def test_an_index_that_went_back_is_followed_by_a_question_from_the_start() -> None:
    """The answer itself is not delivered."""
    run = Run(KEY, [answer(pair("new"), 9), answer(pair("old"), 5), answer(pair("new"), 9)])
    assert (run.values, run.indexes) == (["new"], [0, 9, 0, 9])


def test_errors_change_nothing_and_are_told_once() -> None:
    """The index stays, the backoff is the debug log's, the recovery is told."""
    run = Run(KEY, [answer(pair("a"), 5), DOWN, DOWN, DOWN, answer(pair("a"), 6)])
    assert (run.values, run.indexes) == (["a"], [0, 5, 5, 5, 5, 6])
    assert run.told("warning") == ["consul.unavailable"]
    assert run.told("debug") == ["consul.unavailable"] * 2
    assert run.told("info") == ["consul.recovered"]


class Waits(threading.Event):
    """Notes how long is waited, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Go on at once."""
        self.waited.append(timeout or 0.0)
        return self.is_set()


def test_a_consul_that_limits_requests_is_no_outage() -> None:
    """It is asked later over the same connection; status, log and metric say so."""
    seen: list[PollerStatus] = []

    def look() -> Answer:
        seen.append(poller.status)
        return answer(pair("b"), 6)

    script: list[Answer | Exception | Callable[[], Answer]] = [
        answer(pair("a"), 5),
        ConsulLimited("too many"),
        ConsulLimited("too many"),
        look,
    ]
    stop = Waits()
    source = ScriptedSource(script, exhausted=stop.set)
    taken: list[Snapshot] = []
    poller = Poller(KEY, lambda: source, taken.append, stop=stop, backoff=wait_none())

    with capture_logs() as logs:
        poller.run()

    assert (seen[0].error, seen[0].limited) == (None, "too many")
    assert [entry["log_level"] for entry in logs if entry["event"] == "consul.limited"] == [
        "warning",
        "debug",
    ]
    assert [entry["event"] for entry in logs if entry["log_level"] == "info"] == ["consul.recovered"]
    assert (len(taken), source.closed) == (2, 1)  # closed at the end


@pytest.mark.parametrize("asked,least,most", [(7.0, 7.0, 8.75), (0.0, 0.0, 0.0), (86_400.0, 60.0, 75.0)])
def test_a_limit_is_waited_out(asked: float, least: float, most: float) -> None:
    """As long as Consul asks for, with jitter, and no longer than a minute or so."""
    stop = Waits()
    source = ScriptedSource([ConsulLimited("too many", asked)], exhausted=stop.set)

    Poller(KEY, lambda: source, lambda _: None, stop=stop, timer=lambda: 0.0, backoff=wait_none()).run()

    assert least <= stop.waited[0] <= most


def test_a_refusal_is_told_by_its_own_name() -> None:
    """Waiting does not help there."""
    run = Run(KEY, [DOWN, ConsulRefused("Permission denied"), answer(pair("a"), 5)])
    assert run.told("warning") == ["consul.unavailable", "consul.refused"]


def test_every_failure_is_followed_by_a_new_client() -> None:
    """It reads the token and the certificates anew."""
    run = Run(KEY, [answer(pair("a"), 5), DOWN, answer(pair("b"), 6), answer(pair("c"), 7)])
    assert (run.connections, run.source.closed) == (2, 2)


def test_a_client_that_cannot_be_made_is_tried_again() -> None:
    """Say, while the token file is missing."""
    attempts = iter([ConsulRefused("token_file"), None])
    stop = threading.Event()
    source = ScriptedSource([answer(pair("a"), 5)], exhausted=stop.set)
    taken: list[Snapshot] = []

    def connect() -> ScriptedSource:
        if error := next(attempts):
            raise error
        return source

    Poller(KEY, connect, taken.append, stop=stop, backoff=wait_none()).run()
    assert len(taken) == 1


def test_an_answer_without_leader_is_an_error() -> None:
    """Promise 2: it is never a state."""
    run = Run(KEY, [answer(pair("a"), 5, known_leader=False)])
    assert run.snapshots == []
    assert run.told("warning") == ["consul.unavailable"]
    assert run.poller.status.last_contact is None


def test_an_empty_state_is_delivered_once_the_right_is_proved() -> None:
    """A deletion reaches the handler."""
    asked: list[tuple[str, str, str]] = []

    def rights(*right: str) -> bool:
        asked.append((right[0], right[1], right[2]))
        return True

    run = Run(KEY, [answer(pair("a"), 5), answer(None, 6), answer(None, 6)], rights=rights)
    assert run.values == ["a", None]
    assert asked == [("key", "read", "k")] * 2
    assert run.indexes == [0, 5, 0, 6]


def test_an_empty_state_without_the_right_is_held_and_told_once() -> None:
    """The status says which right is missing."""
    run = Run(KEY, [answer(pair("a"), 5), answer(None, 6), answer(None, 7)], rights=lambda *_: False)
    assert run.values == ["a"]
    assert run.told("warning").count("state.held") == 1
    assert run.poller.status.held == "empty answer held: the token has no right to read key 'k'"
    assert run.poller.status.alarming


def test_a_consul_that_refuses_to_say_holds_the_state() -> None:
    """Neither a yes nor a reason to stop polling."""

    def rights(*_: str) -> bool:
        raise ConsulRefused("blocked")

    run = Run(KEY, [answer(pair("a"), 5), answer(None, 6)], rights=rights)
    assert (run.values, run.poller.status.held) == (["a"], "empty answer held: blocked")


def test_a_held_state_that_is_believed_again_is_told() -> None:
    """The operator sees that the token was mended."""
    rights = iter([False, True, True])
    script = [answer(pair("a"), 5), answer(None, 6), answer(None, 6), answer(None, 6)]
    run = Run(KEY, script, rights=lambda *_: next(rights))
    assert run.values == ["a", None]
    assert run.told("info") == ["state.released"]


def test_a_delivery_that_fails_is_made_again() -> None:
    """The memory moves on only after it: nothing is lost when the journal's disk is full."""
    failures = iter([OSError("disk full"), OSError("disk full"), None])

    def deliver(_: Snapshot) -> None:
        if error := next(failures):
            raise error

    run = Run(EventQuery(), [answer([event(1), event(2)])] * 3, deliver=deliver)
    assert [[change.id for change in one.changes] for one in run.snapshots] == [[identity(1), identity(2)]]
    assert run.told("warning") == ["poller.failed"]
    assert run.told("info") == ["poller.recovered"]


def test_an_error_of_ours_is_told_in_its_own_words() -> None:
    """A full disk is no bug, and needs no traceback."""
    failures = iter([JournalError("the disk is full"), None])

    def deliver(_: Snapshot) -> None:
        if error := next(failures):
            raise error

    run = Run(EventQuery(), [answer([event(1)])] * 2, deliver=deliver)
    (line,) = [line for line in run.logs if line["log_level"] == "warning"]
    assert line["error"] == "the disk is full"
    assert "exc_info" not in line


def test_an_error_that_is_not_ours_is_not_quoted_in_the_status() -> None:
    """Its text could hold a payload."""
    seen: list[str | None] = []

    def deliver(_: Snapshot) -> None:
        raise ValueError("c2VjcmV0")

    def look() -> Answer:
        seen.append(run_status())
        return answer(pair("a"), 5)

    stop = threading.Event()
    source = ScriptedSource([answer(pair("a"), 5), look], exhausted=stop.set)
    poller = Poller(KEY, lambda: source, deliver, stop=stop, backoff=wait_none())

    def run_status() -> str | None:
        return poller.status.error

    poller.run()
    assert seen == ["ValueError: see the log"]


def test_all_new_events_of_one_answer_come_at_once() -> None:
    """The journal takes them in one transaction."""
    run = Run(EventQuery(), [answer([event(1)], 3), answer([event(1), event(2), event(3)], 2)])
    assert [[change.id for change in one.changes] for one in run.snapshots] == [
        [identity(1)],
        [identity(2), identity(3)],
    ]
    assert run.indexes == [0, 3, 2]


def test_events_that_went_by_unseen_are_counted_and_told() -> None:
    """300 events of another name between two polls."""
    run = Run(EventQuery(), [answer([event(1)]), answer([event(n, "other") for n in range(46, 302)], 2)])
    assert run.poller.status.missed == 44
    assert [entry for entry in run.logs if entry["event"] == "events.missed"] == [
        {"event": "events.missed", "log_level": "warning", "query": "event", "gap": "overflow", "missed": 44}
    ]


def test_an_event_list_that_the_token_may_not_read_is_told_and_polled_on() -> None:
    """With ACLs it is empty for ever, without an error."""
    run = Run(EventQuery(), [answer([], 1), answer([event(1)], 9)], rights=lambda *_: False)
    assert run.told("warning")[0] == "state.held"
    assert (len(run.snapshots), run.indexes) == (1, [0, 1, 9])


def test_the_status_tells_what_was() -> None:
    """For `agentd status` and the metrics."""
    stop = threading.Event()
    statuses = []

    def look() -> Answer:
        statuses.append(poller.status)
        return answer(pair("a"), 6)

    source = ScriptedSource([answer(pair("a"), 5), look], exhausted=stop.set)
    poller = Poller(KEY, lambda: source, lambda _: None, stop=stop, clock=lambda: 1000.0, backoff=wait_none())
    poller.run()
    status = statuses[0]
    assert (status.query, status.last_contact, status.index, status.error) == ("key:k", 1000.0, 5, None)
    assert (status.answers, status.deliveries) == (1, 1)
    assert (poller.status.answers, poller.status.deliveries) == (2, 1)


def test_the_heartbeat_covers_the_longest_poll() -> None:
    """Before each question, and before each delivery."""

    class Recorder:
        beats: list[float] = []  # noqa: RUF012 - one instance

        def beat(self, good_for: float) -> None:
            self.beats.append(good_for)

    recorder = Recorder()
    Run(KEY, [answer(pair("a"), 5)], heartbeat=recorder)
    assert len(recorder.beats) >= 3
    assert min(recorder.beats) > 20 + 60 * 17 / 16 + 10 + 30


def test_an_agent_that_answers_at_once_for_ever_is_not_asked_in_a_busy_loop() -> None:
    """Once the burst is spent each answer costs 0.1 s."""

    class Waits(threading.Event):
        waited: list[float] = []  # noqa: RUF012 - one instance

        def wait(self, timeout: float | None = None) -> bool:
            if timeout:
                self.waited.append(timeout)
            return self.is_set()

    stop = Waits()
    source = ScriptedSource([answer(pair("a"), 5)] * 300, exhausted=stop.set)
    Poller(KEY, lambda: source, lambda _: None, stop=stop, timer=lambda: 0.0, backoff=wait_none()).run()
    assert len(stop.waited) == 300 - 256
    assert min(stop.waited) >= 0.1


@pytest.mark.parametrize("used,rest", [(0.2, 0.0), (2.0, 40.0), (5.0, 60.0)])
@pytest.mark.parametrize("refused", [False, True], ids=["odd items", "refused"])
def test_answers_that_cannot_be_used_and_cost_much_are_asked_for_seldom(
    used: float, rest: float, *, refused: bool
) -> None:
    """24 MB of brackets take 4 s of processor time at each poll, for ever; good answers are not held up."""
    stop, spent = Waits(), [0.0]

    def costly(found: Answer) -> Callable[[], Answer]:
        def read() -> Answer:
            spent[0] += used
            if refused and found.odd:
                raise ConsulUnavailable("not JSON that agentd can read")
            return found

        return read

    good = costly(answer([event(1)], 1))
    script = [good, costly(answer([event(1), event(2)], 2, odd=(Odd("x", TOO_LARGE),))), good]
    source = ScriptedSource(script, exhausted=stop.set)
    poller = Poller(
        EventQuery(), lambda: source, lambda _: None, stop=stop, timer=lambda: 0.0, work=lambda: spent[0],
        backoff=wait_none(),
    )  # fmt: skip
    poller.run()

    assert [wait for wait in stop.waited if wait] == [rest] * (rest > 0)


def test_the_backoff_grows_to_ten_seconds_and_no_further() -> None:
    """And begins early enough for an agent that was only restarted."""

    class Attempt:
        def __init__(self, number: int) -> None:
            self.attempt_number = number

    waits = [BACKOFF(Attempt(number)) for number in (1, 2, 50)]  # type: ignore[arg-type] # all that it reads
    assert waits[0] <= 0.5
    assert 10 <= waits[2] <= 10.25


def test_closing_ends_the_thread_in_mid_poll() -> None:
    """Closing the client wakes the request under way."""
    asked = threading.Event()
    woken = threading.Event()

    def hang() -> Answer:
        asked.set()
        woken.wait(60)
        raise DOWN

    class Source(ScriptedSource):
        def close(self) -> None:
            woken.set()

    poller = Poller(KEY, lambda: Source([hang]), lambda _: None, stop=threading.Event())
    with capture_logs() as logs:
        poller.start()
        asked.wait(60)
        poller.close()
        assert poller.join(60)
    assert logs == []


def test_a_poller_that_never_started_is_closed_and_joined() -> None:
    """A start that fails half-way ends what there is."""
    poller = Poller(KEY, lambda: ScriptedSource([]), lambda _: None, stop=threading.Event())
    poller.close()
    assert poller.join(0.1)


def test_a_stop_during_the_connection_asks_nothing() -> None:
    """`close` had no client to close then."""
    stop = threading.Event()
    source = ScriptedSource([])

    def connect() -> ScriptedSource:
        stop.set()
        return source

    Poller(KEY, connect, lambda _: None, stop=stop).run()
    assert (source.asked, source.closed) == ([], 1)


def test_the_thread_is_a_daemon_named_after_its_query() -> None:
    """So that it can be abandoned, and found in a stack dump."""
    poller = Poller(KEY, lambda: ScriptedSource([]), lambda _: None, stop=threading.Event())
    assert (poller._thread.name, poller._thread.daemon) == ("poll key:k", True)


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), MemoryError()])
def test_no_mistake_ends_the_loop(error: Exception) -> None:
    """Promise 6: nothing that Consul does makes the daemon exit."""
    run = Run(KEY, [error, answer(pair("a"), 5)])
    assert run.values == ["a"]


def test_an_odd_item_that_stays_is_counted_and_told_once() -> None:
    """It stands in the ring of 256 at each poll, and a second one of its kind soon after it."""
    odd, other = event(2) | {"LTime": "seven"}, event(3) | {"LTime": None}
    lists = [[event(1), odd], [event(1), odd], [event(1), odd, other, event(4)], [event(4)]]
    run = Run(EventQuery(), [answer(events, index) for index, events in enumerate(lists, start=1)])

    assert [change.id for one in run.snapshots for change in one.changes] == [identity(1), identity(4)]
    assert (run.poller.status.dropped, run.poller.status.odd) == ({"LTime": 2}, 0)
    told = [entry for entry in run.logs if entry["event"] == "consul.item_dropped"]
    assert [(entry["reason"], entry["item"], entry["dropped"]) for entry in told] == [
        ("LTime", identity(2), 1)
    ]


def test_the_first_question_after_a_failure_is_answered_within_seconds() -> None:
    """Until there is an answer the status says that Consul is gone, however long it has been back."""
    run = Run(KEY, [answer(pair("a"), 5), DOWN, DOWN, answer(pair("a"), 5), answer(pair("b"), 6)])

    assert [wait and wait <= 4 for wait in run.source.waits] == [None, None, True, True, None, None]
