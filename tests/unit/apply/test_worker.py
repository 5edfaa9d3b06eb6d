"""A worker's order, batches, refusals and retries, on the real tree and journal."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from agentd.apply import attempts
from agentd.apply.worker import IDLE
from agentd.errors import JournalError, PermanentError, TemporaryError, TreeError
from agentd.handler import Change, Context, Event
from agentd.journal.entry import Outcome
from agentd.watch.changes import Message
from tests.unit.apply.stand import Scribe, Stand, event, settle, state, step


def test_changes_are_handled_in_the_order_of_arrival(stand: Stand) -> None:
    """What came first is handled first."""
    scribe = Scribe()
    worker = stand.worker(scribe)
    stand.receive(event("a", "write x=1"), event("b", "write x=2"))
    stand.receive(event("c", "write x=3"))

    settle(worker)

    assert scribe.calls == ["write x=1", "write x=2", "write x=3"]
    assert stand.files == {"x": b"3"}


def test_all_that_waits_goes_into_one_commit(stand: Stand) -> None:
    """A hundred changes make one generation."""
    worker = stand.worker(Scribe())
    before = stand.tree.current
    stand.receive(*(event(f"e{n}", f"write f{n}=1") for n in range(100)))

    settle(worker)

    assert stand.tree.current == before + 1
    assert len(stand.files) == 100
    assert set(stand.outcomes.values()) == {"applied"}


def test_a_batch_takes_no_more_than_there_is_time_for(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timed work, and what arrives meanwhile and supersedes the rest, need not wait for a long backlog."""
    monkeypatch.setattr(attempts, "_AT_ONCE", -1.0)
    scribe = Scribe()
    worker = stand.worker(scribe)
    stand.receive(event("a", "write x=1"), event("b", "write y=2"))

    first = worker.step(), list(scribe.calls)
    settle(worker)

    assert first == (None, ["write x=1"])
    assert scribe.calls == ["write x=1", "write y=2"]
    assert stand.outcomes == {"a": "applied", "b": "applied"}


def test_a_change_that_changes_nothing_ends_as_unchanged(stand: Stand) -> None:
    """Writing what is there already makes no generation."""
    worker = stand.worker(Scribe())
    stand.receive(event("a", "write x=1"))
    settle(worker)
    before = stand.tree.current
    stand.receive(event("b", "write x=1"))

    settle(worker)

    assert stand.outcomes == {"a": "applied", "b": "unchanged"}
    assert stand.tree.current == before


def test_a_change_that_ran_a_program_is_applied(stand: Stand) -> None:
    """A program may have done anything, so its change is not called unchanged."""
    worker = stand.worker(Scribe())
    stand.receive(event("a", "run true"))

    settle(worker)

    assert stand.outcomes == {"a": "applied"}


def test_a_program_run_beside_others_changes_is_applied(stand: Stand) -> None:
    """In a batch that commits files, too, a change that only ran a program is applied."""
    worker = stand.worker(Scribe())
    stand.receive(event("a", "write x=1"), event("b", "run true"), event("c", "write x=1"))

    settle(worker)

    assert stand.outcomes == {"a": "applied", "b": "applied", "c": "unchanged"}


def test_a_store_alone_makes_no_generation(stand: Stand) -> None:
    """What only the store remembers is saved without a commit of files."""
    worker = stand.worker(Scribe())
    before = stand.tree.current
    stand.receive(event("a", "store seen=1"))

    settle(worker)

    assert stand.journal.store("scribe") == {"seen": "1"}
    assert stand.tree.current == before
    assert stand.outcomes == {"a": "unchanged"}


# ---------------------------------------------------------------- refusals


def test_a_change_refused_by_the_handler_refuses_itself_alone(stand: Stand) -> None:
    """Those before and behind it are applied, in one commit, and nothing that it staged is."""
    scribe = Scribe()
    scribe.raises = {"write bad=1": [PermanentError("not a key")]}
    worker = stand.worker(scribe)
    before = stand.tree.current
    stand.receive(event("a", "write a=1"), event("b", "write bad=1"), event("c", "write c=1"))

    settle(worker)

    assert stand.outcomes == {"a": "applied", "b": "refused", "c": "applied"}
    assert stand.files == {"a": b"1", "c": b"1"}
    assert stand.reason("b") == "not a key"
    assert stand.tree.current == before + 1


def test_a_refused_change_leaves_the_store_alone(stand: Stand) -> None:
    """What a refused call stored is dropped with its files."""
    scribe = Scribe()
    scribe.raises = {"store k=2": [PermanentError("no")]}
    worker = stand.worker(scribe)
    stand.receive(event("a", "store k=1"), event("b", "store k=2"))

    settle(worker)

    assert stand.journal.store("scribe") == {"k": "1"}


def test_a_change_refused_by_the_check_refuses_itself_alone(stand: Stand) -> None:
    """A batch that nginx does not accept goes one by one."""
    stand.refuses = lambda made: PermanentError("[emerg] bad") if (made / "bad").exists() else None
    worker = stand.worker(Scribe())
    stand.receive(event("a", "write a=1"), event("b", "write bad=1"), event("c", "write c=1"))

    settle(worker)

    assert stand.outcomes == {"a": "applied", "b": "refused", "c": "applied"}
    assert stand.files == {"a": b"1", "c": b"1"}
    assert stand.reason("b") == "[emerg] bad"


def test_a_refusal_that_another_change_caused_is_taken_back(stand: Stand) -> None:
    """Was it refused because of one that the check then refused, it gets its own chance."""

    class First(Scribe):
        def handle(self, change: Change, context: Context) -> None:
            if context.files.read("taken") is not None:
                raise PermanentError("taken")
            super().handle(change, context)

    stand.refuses = lambda made: (
        PermanentError("bad")
        if (made / "taken").exists() and (made / "taken").read_bytes() == b"bad"
        else None
    )
    worker = stand.worker(First())
    stand.receive(event("a", "write taken=bad"), event("b", "write taken=good"))

    settle(worker)

    assert stand.outcomes == {"a": "refused", "b": "applied"}
    assert stand.files == {"taken": b"good"}


def test_one_by_one_stops_at_the_first_that_fails_for_now(stand: Stand) -> None:
    """Even then a change that is put off holds back those behind it."""
    scribe = Scribe()
    # In the batch it succeeds; alone, after the check refused the batch, it fails once.
    calls = {"n": 0}

    class Second(Scribe):
        def handle(self, change: Change, context: Context) -> None:
            super().handle(change, context)
            if self.calls[-1] == "write b=1":
                calls["n"] += 1
                if calls["n"] == 2:
                    raise TemporaryError("busy")

    scribe = Second()
    stand.refuses = lambda made: PermanentError("bad") if (made / "bad").exists() else None
    worker = stand.worker(scribe)
    stand.receive(event("a", "write bad=1"), event("b", "write b=1"), event("c", "write c=1"))

    settle(worker)

    assert stand.outcomes == {"a": "refused", "b": None, "c": None}
    stand.clock.now += 10
    settle(worker)
    assert stand.outcomes == {"a": "refused", "b": "applied", "c": "applied"}


# ---------------------------------------------------------------- retries


def test_a_change_that_fails_for_now_holds_back_those_behind_it(stand: Stand) -> None:
    """Order may matter: the one behind waits, the one before is committed."""
    scribe = Scribe()
    scribe.raises = {"write b=1": [TemporaryError("busy")]}
    worker = stand.worker(scribe)
    stand.receive(event("a", "write a=1"), event("b", "write b=1"), event("c", "write c=1"))

    wait = settle(worker)

    assert stand.outcomes == {"a": "applied", "b": None, "c": None}
    assert 1 <= wait <= 1.25
    stand.clock.now += 2
    settle(worker)
    assert stand.outcomes == {"a": "applied", "b": "applied", "c": "applied"}


def test_a_clock_that_is_set_back_prolongs_no_wait(stand: Stand) -> None:
    """What was put off for a second is not put off for a year and a second."""
    scribe = Scribe()
    scribe.raises = {"write b=1": [TemporaryError("busy")]}
    worker = stand.worker(scribe)
    stand.receive(event("b", "write b=1"))
    settle(worker)
    stand.clock.now -= 365 * 86400.0

    settle(worker)

    assert stand.outcomes == {"b": "applied"}


def test_waits_between_attempts_double(stand: Stand) -> None:
    """The second wait is about twice the first."""
    scribe = Scribe()
    scribe.raises = {"write b=1": [TemporaryError("busy"), TemporaryError("busy")]}
    worker = stand.worker(scribe, retry={"attempts": 9})
    stand.receive(event("b", "write b=1"))
    waits = []
    for _ in range(2):
        settle(worker)
        waits.append(stand.journal.pending("scribe")[0].not_before - stand.clock.now)
        stand.clock.now += waits[-1]

    assert 1.0 <= waits[0] <= 1.25
    assert 2.0 <= waits[1] <= 2.25


def test_the_handler_may_say_when_to_try_again(stand: Stand) -> None:
    """`retry_after` replaces the backoff."""
    scribe = Scribe()
    scribe.raises = {"x": [TemporaryError("later", retry_after=30)]}
    worker = stand.worker(scribe)
    stand.receive(event("a", "x"))

    settle(worker)

    assert stand.journal.pending("scribe")[0].not_before == stand.clock.now + 30


@pytest.mark.parametrize("after", [-5.0, 0.0])
def test_a_retry_never_comes_at_once(stand: Stand, after: float) -> None:
    """A handler that says "now" for ever cannot keep a processor busy."""
    scribe = Scribe()
    scribe.raises = {"x": [TemporaryError("now", retry_after=after)]}
    worker = stand.worker(scribe)
    stand.receive(event("a", "x"))

    assert settle(worker) > 0


def test_attempts_are_capped(stand: Stand) -> None:
    """After the last attempt the change ends as failed, and those behind it go on."""
    scribe = Scribe()
    scribe.raises = {"x": [TemporaryError("down")] * 3}
    worker = stand.worker(scribe)
    stand.receive(event("a", "x"), event("b", "write b=1"))
    for _ in range(3):
        settle(worker)
        stand.clock.now += 60

    settle(worker)

    assert stand.outcomes == {"a": "failed", "b": "applied"}
    assert stand.reason("a") == "down (attempt 3, the last)"


def test_attempts_and_waits_survive_a_restart(stand: Stand) -> None:
    """The journal counts attempts and knows when the next one is due."""
    scribe = Scribe()
    scribe.raises = {"x": [TemporaryError("down")] * 3}
    worker = stand.worker(scribe)
    stand.receive(event("a", "x"))
    settle(worker)
    stand.restart()

    worker = stand.worker(scribe)
    settle(worker)
    early = list(scribe.calls)
    stand.clock.now += 60
    settle(worker)

    assert early == ["x"]
    assert scribe.calls == ["x", "x"]
    assert stand.journal.pending("scribe")[0].attempts == 2


def test_a_bug_is_retried_and_capped_with_its_name(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    """Any other exception is a bug: its traceback is logged, and it is retried."""
    scribe = Scribe()
    scribe.raises = {"x": [ZeroDivisionError("oops")] * 3}
    worker = stand.worker(scribe)
    stand.receive(event("a", "x"))
    for _ in range(3):
        settle(worker)
        stand.clock.now += 60

    assert stand.outcomes == {"a": "failed"}
    assert stand.reason("a") == "bug in the handler: ZeroDivisionError: oops (attempt 3, the last)"
    assert "Traceback" in capsys.readouterr().out


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_a_handler_cannot_end_the_daemon(stand: Stand, error: BaseException) -> None:
    """`sys.exit()` in a handler is a bug like another."""
    scribe = Scribe()
    scribe.raises = {"x": [error]}
    worker = stand.worker(scribe)
    stand.receive(event("a", "x"))

    settle(worker)

    assert stand.journal.pending("scribe")[0].attempts == 1


def test_a_store_that_is_not_json_is_a_bug_of_the_handler(stand: Stand) -> None:
    """It is told as one, and what was stored before it stays."""

    class Odd(Scribe):
        def handle(self, change: Change, context: Context) -> None:
            super().handle(change, context)
            context.store["when"] = object()

    worker = stand.worker(Odd(), retry={"attempts": 1})
    stand.receive(event("a", "x"))

    settle(worker)

    assert stand.outcomes == {"a": "failed"}
    assert "bug in the handler: TypeError" in stand.reason("a")
    assert stand.journal.store("scribe") == {}


# ---------------------------------------------------------------- time limits


class Slow(Scribe):
    """Does not return from `slow` until it is let go, and then writes."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.gone = threading.Event()

    def handle(self, change: Change, context: Context) -> None:
        """Wait if it says so."""
        super().handle(change, context)
        if self.calls[-1] == "slow":
            self.go.wait(60)
            context.files.write("late", b"1")
            self.gone.set()


def test_a_call_beyond_its_time_limit_changes_nothing(stand: Stand) -> None:
    """What it stages later belongs to a batch that was dropped."""
    slow = Slow()
    worker = stand.worker(slow, timeout=1.0)
    stand.receive(event("a", "write a=1"), event("b", "slow"))
    settle(worker)
    slow.go.set()
    assert slow.gone.wait(60)

    settle(worker)

    assert stand.files == {"a": b"1"}
    assert stand.outcomes == {"a": "applied", "b": None}
    assert "did not return within 1 s" in stand.reason("b")


def test_no_call_is_made_while_one_has_not_returned(stand: Stand) -> None:
    """One object serves one call at a time; what waits counts no attempts."""
    slow = Slow()
    worker = stand.worker(slow, timeout=1.0)
    stand.receive(event("a", "slow"))
    worker.step()
    stand.receive(event("b", "write b=1"))
    stand.clock.now += 60

    waits = [step(worker) for _ in range(5)]

    assert waits == [IDLE] * 5
    assert slow.calls == ["slow"]
    slow.go.set()
    assert slow.gone.wait(60)


# ---------------------------------------------------------------- commits that cannot be made


def test_a_change_waits_while_nginx_is_broken_by_others(stand: Stand) -> None:
    """No attempt is counted, however often it is tried, and it is applied once that is mended."""
    worker = stand.worker(Scribe())
    stand.check = [TemporaryError("[emerg] elsewhere")] * 10
    stand.receive(event("a", "write a=1"))
    for _ in range(10):
        settle(worker)
        stand.clock.now += 11
    waiting = stand.journal.pending("scribe")[0]

    settle(worker)

    assert waiting.attempts == 0
    assert stand.outcomes == {"a": "applied"}
    assert stand.files == {"a": b"1"}


def test_waits_for_a_broken_nginx_grow_to_ten_seconds(stand: Stand) -> None:
    """It is asked less often the longer it lasts, but soon after it is mended."""
    worker = stand.worker(Scribe())
    stand.check = [TemporaryError("[emerg] elsewhere")] * 8
    stand.receive(event("a", "write a=1"))
    waits = []
    for _ in range(8):
        settle(worker)
        waits.append(stand.journal.pending("scribe")[0].not_before - stand.clock.now)
        stand.clock.now += waits[-1]

    assert waits[0] < 2
    assert waits[-1] == 10


def test_a_full_disk_is_waited_for(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree that cannot be written refuses nothing and counts no attempt."""
    worker = stand.worker(Scribe())
    stand.receive(event("a", "write a=1"))
    with monkeypatch.context() as broken:
        broken.setattr(stand.tree, "commit", _raise(TreeError("the disk is full")))
        settle(worker)
    waiting = stand.journal.pending("scribe")[0]
    stand.clock.now += 11

    settle(worker)

    assert (waiting.attempts, waiting.not_before > 0) == (0, True)
    assert stand.reason("a") == ""
    assert stand.outcomes == {"a": "applied"}


def test_a_tree_that_cannot_be_read_is_waited_for(stand: Stand) -> None:
    """A handler that cannot read its files has no bug."""
    scribe = Scribe()
    scribe.raises = {"write a=1": [TreeError("gone")]}
    worker = stand.worker(scribe)
    stand.receive(event("a", "write a=1"))
    settle(worker)
    waiting = stand.journal.pending("scribe")[0]
    stand.clock.now += 11

    settle(worker)

    assert waiting.attempts == 0
    assert stand.outcomes == {"a": "applied"}


def test_a_journal_that_cannot_be_written_ends_no_worker(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn fails, is logged, and the next one does the work."""
    worker = stand.worker(Scribe())
    stand.receive(event("a", "write a=1"))
    with monkeypatch.context() as broken:
        broken.setattr(worker._attempts.committer.commits, "prepare", _raise(JournalError("full")))
        wait = step(worker)

    settle(worker)

    assert wait > 0
    assert stand.outcomes == {"a": "applied"}


def _raise(error: Exception):  # type: ignore[no-untyped-def]  # noqa: ANN202 (stands in for any method)
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


# ---------------------------------------------------------------- what is void


def test_a_newer_state_makes_an_older_one_void(stand: Stand) -> None:
    """Only the newest of what waits is handled; the others end as expired."""
    scribe = Scribe()
    worker = stand.worker(scribe)
    stand.receive(state("write a=1", 1))
    stand.receive(state("write a=2", 2), state("write o=1", 2, key="other"))
    stand.receive(state("write a=3", 3))

    settle(worker)

    assert scribe.calls == ["write o=1", "write a=3"]
    assert sorted(one or "" for one in stand.outcomes.values()) == [
        "applied",
        "applied",
        "expired",
        "expired",
    ]
    assert [ending.outcome for ending in stand.endings].count(Outcome.EXPIRED) == 2


def test_a_newer_state_ends_the_wait_of_one_that_failed(stand: Stand) -> None:
    """Newer data interrupts a retry."""
    scribe = Scribe()
    scribe.raises = {"write a=1": [TemporaryError("down")]}
    worker = stand.worker(scribe)
    stand.receive(state("write a=1", 1))
    settle(worker)
    stand.receive(state("write a=2", 2))

    settle(worker)

    assert stand.files == {"a": b"2"}


def test_a_change_that_waited_too_long_expires(stand: Stand) -> None:
    """`expire_after` counts from its arrival."""
    scribe = Scribe()
    worker = stand.worker(scribe, expire_after=60)
    stand.receive(event("old", "write a=1"))
    stand.clock.now += 61
    stand.receive(event("new", "write b=1"))

    settle(worker)

    assert stand.outcomes == {"old": "expired", "new": "applied"}
    assert stand.reason("old") == "waited longer than 60 s"
    assert scribe.calls == ["write b=1"]


def message(identity: str, payload: str, issued: float, expires: float | None = None) -> Event:
    """One of the fleet's log."""
    said = Message(1, issued, issued, expires=expires)
    heard = event(identity, payload)
    return replace(heard, query="log:deploy", raw=heard.raw | {"Message": said.raw}, index=1)


def test_a_message_expires_by_its_own_age(stand: Stand) -> None:
    """A node that catches up counts the time before it came."""
    scribe = Scribe()
    worker = stand.worker(scribe, expire_after=60)
    stand.receive(message("old", "write a=1", stand.clock.now - 61))
    stand.receive(message("new", "write b=1", stand.clock.now - 59))

    settle(worker)

    assert stand.outcomes == {"old": "expired", "new": "applied"}


def test_a_message_expires_when_its_publisher_said(stand: Stand) -> None:
    """Without `expire_after`, too, and also while it waits."""
    scribe = Scribe()
    worker = stand.worker(scribe)
    stand.receive(message("over", "write a=1", stand.clock.now, stand.clock.now + 9))
    stand.receive(message("good", "write b=1", stand.clock.now, stand.clock.now + 11))
    stand.clock.now += 10

    settle(worker)

    assert stand.outcomes == {"over": "expired", "good": "applied"}
    assert stand.reason("over") == "its publisher gave it a time to live, which is over"


def test_an_event_of_unknown_age_expires(stand: Stand) -> None:
    """It may have waited in Consul's buffer for weeks; without `expire_after` it is handled."""
    limited, other = Scribe(), Scribe()
    stand.journal.receive([(replace(event("a", "write a=1"), undated=True), ["limited", "other"])])

    settle(stand.worker(limited, name="limited", expire_after=60))
    settle(stand.worker(other, name="other"))

    assert (limited.calls, other.calls) == ([], ["write a=1"])


# ---------------------------------------------------------------- initial files


def test_the_first_commit_makes_the_tree(stand: Stand) -> None:
    """Even a handler that stages nothing leaves a generation behind, for nginx to include."""
    stand.worker(Scribe())

    assert stand.tree.current == 1


def test_initial_files_are_committed_before_changes_are_handled(stand: Stand) -> None:
    """A failing start is tried again, and what waits keeps waiting."""

    class Start(Scribe):
        def initial(self, context: Context) -> None:
            context.files.write("start", b"1")

    stand.check = [TemporaryError("[emerg] elsewhere")]
    scribe = Start()
    worker = stand.raw_worker(scribe)
    stand.receive(event("a", "write a=1"))

    stand.found(worker)
    early = (step(worker) > 0, worker.ready.is_set())
    stand.found(worker)
    settle(worker)

    assert early == (True, False)
    assert stand.files == {"start": b"1", "a": b"1"}


def test_a_batch_whose_ground_moved_begins_again(stand: Stand) -> None:
    """A rollback in the middle of a batch: its files would be laid over others than it read."""
    worker = stand.worker(Scribe())
    for n in range(2):
        stand.receive(event(f"e{n}", f"write a={n}; store n={n}"))
        settle(worker)

    class Meddler(Scribe):
        def handle(self, change: Change, context: Context) -> None:
            before = context.files.read("a")
            if len(self.calls) == 0:
                stand.committer.roll_back(2, "by hand", ())
            super().handle(change, context)
            context.files.write("b", (before or b"") + context.store["n"].encode())

    worker._attempts.handler = meddler = Meddler()
    stand.receive(event("late", "write c=1"))

    settle(worker)

    assert meddler.calls == ["write c=1", "write c=1"]
    assert stand.files == {"a": b"0", "b": b"00", "c": b"1"}
    assert stand.journal.store("scribe") == {"n": "0"}
