"""The worker and what waits for a task: the others go on, and nothing is lost or done twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.apply import attempts, tasks
from agentd.apply.worker import Worker
from agentd.errors import TreeError
from agentd.handler import Change, Context, Event, Handler, TaskContext, TemporaryError
from agentd.journal.entry import Outcome
from agentd.sources.fetcher import Sources
from agentd.sources.options import SourceOptions
from agentd.testing import message
from tests.servers.waiting import wait_until
from tests.unit.apply.stand import Stand, event, settle


class Downloader(Handler):
    """`slow NAME` writes a file once its download is done; anything else writes one at once.

    Attributes:
        gates: lets downloads end, by name; what is in `fails` they raise first, one after the other.
        seen: place and overtaken place of each change that was handled to its end.
    """

    def __init__(self) -> None:
        super().__init__(Handler.Options())
        self.gates: dict[str, threading.Event] = {}
        self.fails: list[Exception] = []
        self.fetched: list[str] = []
        self.seen: list[tuple[str, int | None]] = []

    def handle(self, change: Change, context: Context) -> None:
        """Do as it says."""
        assert isinstance(change, Event)
        text = change.payload.decode()
        verb, _, name = text.partition(" ")
        if verb == "slow":
            context.task(text, lambda task: self._fetch(name, task)).result()
        self.seen.append((change.id, context.overtakes))
        context.files.write(name or verb, change.id.encode())

    def _fetch(self, name: str, _: TaskContext) -> None:
        self.fetched.append(name)
        assert self.gates.setdefault(name, threading.Event()).wait(60)
        if self.fails:
            raise self.fails.pop(0)


@pytest.fixture
def handler() -> Iterator[Downloader]:
    """The handler, whose downloads end at the latest with the test."""
    made = Downloader()
    yield made
    for gate in made.gates.values():
        gate.set()


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    """The engine."""
    return Stand(tmp_path)


def new_worker(stand: Stand, handler: Downloader) -> Worker:
    """A worker whose handler may download."""
    sources = Sources(SourceOptions(), stand.directory / "state" / "fetched")
    return stand.worker(handler, sources=sources)


def let_go(handler: Downloader, worker: Worker, name: str) -> None:
    """End a download, and let the worker do what follows."""
    handler.gates.setdefault(name, threading.Event()).set()
    tasks = worker._attempts.tasks
    assert tasks is not None
    own = [one.task for one in tasks._known.values() if one.task.key == f"slow {name}"]
    wait_until(lambda: all(one.done for one in own), "the download")
    settle(worker)


def test_later_changes_go_on(stand: Stand, handler: Downloader) -> None:
    """The one that downloads stays pending, with a reason, and is applied when its download is there."""
    worker = new_worker(stand, handler)
    stand.receive(event("a", "slow list"), event("b", "quick"))
    settle(worker)
    during, reason = dict(stand.outcomes), stand.reason("a")
    let_go(handler, worker, "list")

    assert during == {"a": None, "b": "applied"}
    assert reason == "slow list: under way"
    assert stand.outcomes == {"a": "applied", "b": "applied"}
    assert stand.files == {"list": b"a", "quick": b"b"}
    assert handler.fetched == ["list"]


def test_a_change_knows_what_it_overtakes(stand: Stand, handler: Downloader) -> None:
    """By the place of the oldest that waits before it; the one that was overtaken overtakes nothing."""
    worker = new_worker(stand, handler)
    stand.receive(event("a", "quick"), event("b", "slow list"), event("c", "slow other"), event("d", "quick"))
    settle(worker)
    let_go(handler, worker, "other")
    let_go(handler, worker, "list")

    assert handler.seen == [("a", None), ("d", 2), ("c", 2), ("b", None)]


def test_a_download_that_failed_is_repeated_beside_the_others(stand: Stand, handler: Downloader) -> None:
    """Not even its backoff holds up what came later; it is fetched anew each time, and fails in the end."""
    worker = new_worker(stand, handler)
    handler.fails = [TemporaryError("503"), TemporaryError("503"), TemporaryError("503")]
    stand.receive(event("a", "slow list"))
    settle(worker)
    let_go(handler, worker, "list")
    stand.receive(event("b", "quick"))
    settle(worker)
    during = dict(stand.outcomes)
    for _ in range(2):
        stand.clock.now += 100
        settle(worker)
        let_go(handler, worker, "list")

    assert during == {"a": None, "b": "applied"}
    assert stand.outcomes["a"] == "failed"
    assert handler.fetched == ["list"] * 3


def test_a_kill_in_mid_download_loses_nothing(stand: Stand, handler: Downloader) -> None:
    """The change is still pending, and is fetched again before what arrives then is handled."""
    worker = new_worker(stand, handler)
    stand.receive(event("a", "slow list"), event("b", "quick"))
    settle(worker)
    stand.restart()
    again = new_worker(stand, handler)
    stand.receive(event("c", "quick"))
    settle(again)
    let_go(handler, again, "list")

    assert stand.outcomes == {"a": "applied", "b": "applied", "c": "applied"}
    assert [one for one in handler.seen if one[0] != "b"] == [("c", 1), ("a", None)]


def test_a_commit_that_fails_costs_no_second_download(stand: Stand, handler: Downloader) -> None:
    """What was fetched is kept until the change has ended."""
    worker = new_worker(stand, handler)
    stand.receive(event("a", "slow list"))
    settle(worker)
    stand.check.append(TemporaryError("nginx's configuration is broken elsewhere"))
    let_go(handler, worker, "list")
    before = stand.outcomes["a"]
    stand.clock.now += 100
    settle(worker)

    assert (before, stand.outcomes["a"]) == (None, "applied")
    assert handler.fetched == ["list"]


def test_a_download_does_not_make_a_change_too_old(stand: Stand, handler: Downloader) -> None:
    """It was begun in time, however long it took."""
    sources = Sources(SourceOptions(), stand.directory / "state" / "fetched")
    worker = stand.worker(handler, sources=sources, expire_after=60)
    stand.receive(event("a", "slow list"))
    settle(worker)
    stand.clock.now += 100
    let_go(handler, worker, "list")

    assert stand.outcomes == {"a": "applied"}


def test_what_the_disk_has_no_room_for_holds_up_nothing(stand: Stand, handler: Downloader) -> None:
    """A download may be the one thing that is too large: the others are committed without it."""
    worker = new_worker(stand, handler)
    stand.receive(event("a", "slow list"))
    settle(worker)
    stand.receive(event("b", "quick"))
    stand.check.append(TreeError("No space left on device"))
    let_go(handler, worker, "list")
    during = dict(stand.outcomes)
    stand.clock.now += 100
    settle(worker)

    assert during == {"a": None, "b": "applied"}
    assert stand.outcomes["a"] == "applied"
    assert handler.fetched == ["list"]


def limit(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let so many changes have tasks at the same time."""
    for module in (attempts, tasks):
        monkeypatch.setattr(module, "MOST_ASIDE", most)


def test_messages_of_the_log_wait_for_room(
    stand: Stand, handler: Downloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused on a node that catches up, they would be in force on all others; and they hold up nothing."""
    limit(monkeypatch, 2)
    worker = new_worker(stand, handler)
    stand.receive(*(message("ban", f"slow {n}", num=n) for n in range(1, 6)), message("ban", "quick", num=6))
    settle(worker)
    during, fetched = dict(stand.outcomes), sorted(handler.fetched)
    reason = stand.reason("ban-3")
    for n in range(1, 6):
        let_go(handler, worker, str(n))

    assert during == dict.fromkeys(f"ban-{n}" for n in range(1, 6)) | {"ban-6": "applied"}
    assert fetched == ["1", "2"]
    assert reason == "2 changes of this handler already wait for downloads"
    assert set(stand.outcomes.values()) == {"applied"}
    assert sorted(handler.fetched) == ["1", "2", "3", "4", "5"]


def test_what_waits_for_room_is_known_to_what_overtakes_it(
    stand: Stand, handler: Downloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also once those are done that had room before it."""
    limit(monkeypatch, 1)
    worker = new_worker(stand, handler)
    stand.receive(message("ban", "slow 1", num=1), message("ban", "slow 2", num=2))
    settle(worker)
    let_go(handler, worker, "1")
    stand.receive(message("ban", "quick", num=3))
    settle(worker)

    assert handler.seen[-1] == ("ban-3", 2)


def test_only_so_many_may_wait(stand: Stand, handler: Downloader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may fire events cannot fill the memory with downloads that never end."""
    limit(monkeypatch, 2)
    worker = new_worker(stand, handler)
    stand.receive(*(event(str(n), f"slow {n}") for n in range(3)), event("z", "quick"))
    settle(worker)

    assert stand.outcomes == {"0": None, "1": None, "2": "refused", "z": "applied"}
    assert stand.reason("2") == "2 changes of this handler already wait for downloads; try again later"


def test_what_has_ended_is_not_downloaded_on(stand: Stand, handler: Downloader) -> None:
    """However it ended; its files go as well."""
    worker = new_worker(stand, handler)
    stand.receive(event("a", "slow list"))
    settle(worker)
    (entry,) = stand.journal.pending("scribe")
    worker._attempts.end([entry], Outcome.EXPIRED, "superseded")
    settle(worker)

    assert not list((stand.directory / "state" / "fetched").iterdir())
    assert not worker._attempts.aside


class Feeder(Downloader):
    """Downloads by itself, once, and stages what came."""

    def due(self, now: float, context: Context) -> float | None:  # noqa: ARG002 (the interface)
        """Take the download when it is there."""
        if not context.store.get("fed"):
            task = context.task("feed", lambda one: self._fetch("feed", one))
            if task.done:
                task.result()
                context.store["fed"] = True
                context.files.write("feed", b"fed")
        return None


def test_timed_work_that_cannot_be_committed_holds_up_no_event(stand: Stand) -> None:
    """Nor is it downloaded again: it is committed as soon as that is possible."""
    feeder = Feeder()
    worker = new_worker(stand, feeder)
    settle(worker)
    stand.check.append(TreeError("No space left on device"))
    feeder.gates.setdefault("feed", threading.Event()).set()
    tasks = worker._attempts.tasks
    assert tasks is not None
    wait_until(lambda: all(one.task.done for one in tasks._known.values()), "the download")
    settle(worker)
    stand.receive(event("b", "quick"))
    settle(worker)
    during = stand.outcomes["b"], set(stand.files)
    stand.clock.now += 100
    settle(worker)

    assert during == ("applied", {"quick"})
    assert set(stand.files) == {"quick", "feed"}
    assert feeder.fetched == ["feed"]
