"""The committer: tree and journal end together, whatever happens between them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from agentd.apply.commit import EVENTS, Committer
from agentd.errors import JournalError, PermanentError, TreeError
from agentd.journal.entry import Ending, Outcome
from agentd.journal.followed import Followed
from agentd.journal.plan import Plan, Rollback, parse, text
from tests.unit.apply.stand import Scribe, Stand, event, settle, state, step


class Kill(BaseException):
    """The process ends here."""


def kill(*_: object, **__: object) -> None:
    """In the place of a step that is never reached."""
    raise Kill


def write(stand: Stand, identity: str, payload: str) -> None:
    """Let a worker apply an event."""
    worker = stand.worker(Scribe())
    stand.receive(event(identity, payload))
    settle(worker)


def test_a_plan_survives_being_written_down() -> None:
    """Both kinds come back equal."""
    plan = Plan(
        "h", seqs=(1, 2), refused=((3, "no"),), store={"a": [1]}, notify=("r",), paths=("p",), started=1.5
    )
    rollback = Rollback("why", stores={"h": {"a": 1}}, notify=("r",), again=True, paths=("p",))

    assert parse(text(plan)) == plan
    assert parse(text(rollback)) == rollback


# ---------------------------------------------------------------- kills


@pytest.mark.parametrize(
    "step,applied_after",
    [("prepare", False), ("complete", True)],
)
def test_a_kill_around_the_flip_applies_the_change_once(stand: Stand, step: str, applied_after: bool) -> None:  # noqa: FBT001 (a case)
    """Before it, the change still waits; after it, the restart ends it without handling it again."""
    scribe = Scribe()
    worker = stand.worker(scribe)
    stand.receive(event("a", "write a=1; store k=1"))
    setattr(stand.committer.commits, step, kill)
    with pytest.raises(Kill):
        worker.step()

    stand.restart()
    right_after = stand.outcomes["a"]
    settle(stand.worker(scribe))

    assert (right_after == "applied") is applied_after
    assert stand.outcomes == {"a": "applied"}
    assert stand.files == {"a": b"1"}
    assert stand.journal.store("scribe") == {"k": "1"}
    assert len(scribe.calls) == (1 if applied_after else 2)


def test_a_kill_within_the_flip_leaves_a_plan_that_is_dropped(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan was written and `current` did not move: the change waits."""
    worker = stand.worker(Scribe())
    stand.receive(event("a", "write a=1"))
    with monkeypatch.context() as broken:
        broken.setattr(stand.tree, "_flip", kill)
        with pytest.raises(Kill):
            worker.step()

    stand.restart()

    assert stand.outcomes == {"a": None}
    assert stand.files == {}
    assert stand.journal.last_generation() == 1
    settle(stand.worker(Scribe()))
    assert stand.outcomes == {"a": "applied"}


def test_a_plan_left_behind_by_another_process_is_finished_first(stand: Stand) -> None:
    """A command line that was killed after its flip: the daemon's next commit carries its plan out."""
    write(stand, "a", "write a=1; store k=1")
    write(stand, "b", "write a=2; store k=2")
    command = Committer(stand.tree, stand.journal)
    command.commits.complete = kill  # type: ignore[assignment, method-assign]
    with pytest.raises(Kill):
        command.roll_back(2, "by hand", ("listener",))

    write(stand, "c", "write c=1")

    assert stand.files == {"a": b"1", "c": b"1"}
    assert stand.journal.store("scribe") == {"k": "1"}
    assert [entry.id for entry in stand.journal.pending("listener")] == ["rollback-2"]


def test_a_journal_that_fails_after_the_flip_is_caught_up_with(stand: Stand) -> None:
    """Without a restart: the next commit finishes the plan, and the change is not applied twice."""
    scribe = Scribe()
    worker = stand.worker(scribe)
    stand.receive(event("a", "write a=1; store n=1"))
    complete = stand.committer.commits.complete
    failures = [JournalError("full")]

    def failing(generation: int) -> list[object]:
        if failures:
            raise failures.pop()
        return complete(generation)  # type: ignore[return-value]  # the same list

    stand.committer.commits.complete = failing  # type: ignore[assignment, method-assign]
    wait = step(worker)

    settle(worker)

    assert wait > 0
    assert stand.outcomes == {"a": "applied"}
    assert stand.tree.current == 2


# ---------------------------------------------------------------- trees that moved by themselves


def test_a_deleted_tree_is_restored_before_the_next_commit(stand: Stand) -> None:
    """Nothing is emptied: the other files are there again."""
    write(stand, "a", "write a=1; store k=1")
    shutil.rmtree(stand.tree.path)

    write(stand, "b", "write b=1")

    assert stand.files == {"a": b"1", "b": b"1"}
    assert stand.journal.store("scribe") == {"k": "1"}


def test_a_tree_lost_with_its_mirror_owes_states_again(stand: Stand) -> None:
    """Stores begin anew with the files; an event is not applied twice."""
    worker = stand.worker(Scribe())
    stand.receive(event("e", "write e=1; store k=1"), state("write s=1"))
    settle(worker)
    number = stand.tree.current
    shutil.rmtree(stand.tree.path)
    shutil.rmtree(stand.directory / "state" / "mirror")

    stand.restart()
    settle(stand.worker(Scribe()))

    assert stand.files == {"s": b"1"}
    assert stand.journal.store("scribe") == {}
    assert stand.tree.current > number


def test_a_lost_journal_takes_the_stores_from_the_tree(stand: Stand) -> None:
    """The manifest remembers them."""
    write(stand, "a", "write a=1; store k=1")
    stand.journal.close()
    for path in (stand.directory / "state").glob("journal.db*"):
        path.unlink()

    stand.open()
    stand.committer.recover()

    assert stand.journal.store("scribe") == {"k": "1"}
    assert stand.files == {"a": b"1"}


def test_a_lost_journal_learns_from_the_tree_which_events_were_seen(stand: Stand) -> None:
    """The newest generation remembers; what waited for its turn then counts as not seen."""
    stand.journal.receive([], seen=(EVENTS, {"last": "b", "ltime": 7, "epoch": 2}))
    write(stand, "a", "write a=1")
    stand.journal.receive([(event("b"), ["other"])])
    write(stand, "c", "write c=1")
    stand.committer.roll_back(1, "by hand", ())
    stand.journal.close()
    for path in (stand.directory / "state").glob("journal.db*"):
        path.unlink()

    stand.open()
    stand.committer.recover()

    assert stand.journal.seen(EVENTS) == {"last": "b", "ltime": 7, "epoch": 2, "owed": ["b"]}


def test_a_lost_journal_learns_from_the_tree_how_far_the_log_was_followed(stand: Stand) -> None:
    """What waited for its turn is owed again."""
    log = [replace(event(one), query="log:deploy", index=at) for at, one in enumerate("ab", 1)]
    Followed(stand.journal).give("deploy", {"other": False}, log, 2)
    first = stand.journal.pending("other")[0]
    stand.journal.end([Ending(first, Outcome.APPLIED)])
    write(stand, "c", "write c=1")
    stand.journal.close()
    for path in (stand.directory / "state").glob("journal.db*"):
        path.unlink()

    stand.open()
    stand.committer.recover()

    [position] = Followed(stand.journal).positions().values()
    assert (position.num, position.owed) == (2, (2,))


def test_a_journal_that_knows_what_was_seen_asks_no_tree(stand: Stand) -> None:
    """A generation from before may be current again."""
    stand.journal.receive([], seen=(EVENTS, {"last": "a", "ltime": 1}))
    write(stand, "a", "write a=1")
    write(stand, "b", "write b=1")
    stand.journal.receive([], seen=(EVENTS, {"last": "b", "ltime": 2}))
    (stand.tree.path / "current").unlink()
    (stand.tree.path / "current").symlink_to("generations/000001")

    stand.restart()

    assert stand.journal.seen(EVENTS) == {"last": "b", "ltime": 2}


def test_a_hand_that_moved_current_is_followed(stand: Stand) -> None:
    """The stores are those of the generation that is current now."""
    write(stand, "a", "write a=1; store k=1")
    write(stand, "b", "write a=2; store k=2")
    (stand.tree.path / "current").unlink()
    (stand.tree.path / "current").symlink_to("generations/000002")

    stand.restart()

    assert stand.journal.store("scribe") == {"k": "1"}


def test_what_waited_for_its_proof_in_a_lost_generation_is_handled_again(stand: Stand) -> None:
    """It was never proved, and its files are gone."""
    worker = stand.worker(Scribe(), notify=("prover",), provers=("prover",))
    stand.committer.prove(stand.tree.current)
    stand.receive(event("a", "write a=1"))
    settle(worker)
    (stand.tree.path / "current").unlink()
    (stand.tree.path / "current").symlink_to("generations/000001")

    stand.restart()

    assert [entry.id for entry in stand.journal.pending("scribe")] == ["a"]
    assert stand.journal.unproved() == []


# ---------------------------------------------------------------- rollbacks by hand


def test_a_rollback_restores_files_and_stores(stand: Stand) -> None:
    """And tells who is to load them."""
    write(stand, "a", "write a=1; store k=1")
    write(stand, "b", "write a=2; store k=2")

    stand.committer.roll_back(2, "by hand", ("listener",))

    assert stand.files == {"a": b"1"}
    assert stand.journal.store("scribe") == {"k": "1"}
    assert stand.journal.pending("listener")[0].change.raw["rollback"] is True
    assert stand.told == ["listener"]


def test_a_rollback_fails_only_what_it_undoes(stand: Stand) -> None:
    """What the older generation holds still waits for its proof."""
    worker = stand.worker(Scribe(), notify=("prover",), provers=("prover",))
    for name in "ab":
        stand.receive(event(name, f"write {name}=1"))
        settle(worker)

    stand.committer.roll_back(2, "by hand", ("prover",))
    between = stand.outcomes
    stand.committer.prove(2)

    assert between == {"a": None, "b": "failed"}
    assert stand.outcomes == {"a": "applied", "b": "failed"}
    assert stand.reason("b") == "by hand"


def test_a_rollback_can_be_undone(stand: Stand) -> None:
    """A later generation is still there to go to, with its store."""
    write(stand, "a", "write a=1; store k=1")
    write(stand, "b", "write a=2; store k=2")
    stand.committer.roll_back(2, "by hand", ())

    stand.committer.roll_back(3, "after all", ())

    assert stand.files == {"a": b"2"}
    assert stand.journal.store("scribe") == {"k": "2"}


def test_a_rollback_to_nowhere_changes_nothing(stand: Stand) -> None:
    """The error says that there is no such generation."""
    write(stand, "a", "write a=1")

    with pytest.raises(TreeError, match="no generation 77"):
        stand.committer.roll_back(77, "by hand", ())

    assert stand.files == {"a": b"1"}


def test_a_rollback_that_nginx_does_not_take_changes_nothing(stand: Stand) -> None:
    """With `check`, the older generation is tried first."""
    write(stand, "a", "write a=1")
    stand.check = [PermanentError("[emerg]")]

    with pytest.raises(PermanentError):
        stand.committer.roll_back(1, "by hand", (), check=True)

    assert stand.tree.current == 2
    assert stand.committer.commits.current() == 2


def test_the_generation_to_go_back_to_is_never_pruned(stand: Stand) -> None:
    """However many commits pile up before the proof (the tree keeps five)."""
    worker = stand.worker(Scribe(), notify=("prover",), provers=("prover",))
    stand.committer.prove(1)
    for n in range(12):
        stand.receive(event(f"e{n}", f"write a={n}"))
        settle(worker)

    back = stand.committer.disprove("no", ("prover",))

    assert back == 1
    assert stand.tree.current == 1


# ---------------------------------------------------------------- handlers that go and come back


def test_a_handler_that_is_dropped_leaves_nothing_behind(stand: Stand) -> None:
    """Its files go with its store, in one commit, and others keep theirs."""
    write(stand, "a", "write a=1; store k=1")

    stand.worker(Scribe(), "other")

    assert stand.files == {}
    assert stand.journal.store("scribe") == {}
    assert stand.tree.manifest(stand.tree.current).extra["store"] == {"start": {}}


def test_a_handler_that_comes_back_gets_its_states_again(stand: Stand) -> None:
    """Nothing of Consul's changed meanwhile, but its files are gone."""
    stand.journal.reconfigured("scribe", "1", {"key:site"})
    worker = stand.worker(Scribe())
    stand.receive(state("write s=1"))
    settle(worker)
    stand.worker(Scribe(), "other")

    stand.journal.reconfigured("scribe", "1", {"key:site"})
    settle(stand.worker(Scribe()))

    assert stand.files == {"s": b"1"}


# ---------------------------------------------------------------- the revision


def test_a_batch_on_an_old_revision_is_refused(stand: Stand) -> None:
    """Its handler's files were committed or rolled back since it began."""
    worker = stand.worker(Scribe())
    attempt = worker._attempts.begin()
    attempt.do(lambda context: context.files.write("late", b"1"))
    write(stand, "a", "write a=1")

    assert not attempt.commit()

    assert stand.files == {"a": b"1"}


def test_commits_of_others_do_not_change_the_revision(stand: Stand) -> None:
    """Two handlers commit side by side."""
    worker = stand.worker(Scribe())
    attempt = worker._attempts.begin()
    attempt.do(lambda context: context.files.write("mine", b"1"))
    other = stand.worker(Scribe(), "other")
    stand.receive(event("a", "write theirs=1"), handler="other")
    settle(other)

    assert attempt.commit()

    assert stand.files == {"mine": b"1", "theirs": b"1"}


def test_an_entry_that_ended_meanwhile_is_not_committed(stand: Stand) -> None:
    """A worker that was left behind must not apply what its successor has ended."""
    worker = stand.worker(Scribe())
    stand.receive(event("a", "write a=1"))
    entry = stand.journal.pending("scribe")[0]
    attempt = worker._attempts.begin()
    attempt.call(entry)
    stand.worker(Scribe())._attempts.end([entry], Outcome.REFUSED, "by the other one")

    assert not attempt.commit()

    assert stand.files == {}


# ---------------------------------------------------------------- stillness


def test_nobody_commits_while_a_proof_keeps_current_still(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who waits gives signs of life meanwhile."""
    monkeypatch.setattr("agentd.apply.commit._BEAT_EVERY", 0.01)
    worker = stand.worker(Scribe())
    stand.receive(event("a", "write a=1"))
    beats = threading.Event()
    worker._attempts.beat_for_commit = beats.set  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: settle(worker))
    with stand.committer.pinned():
        beats.clear()
        thread.start()
        assert beats.wait(60)
        before = stand.tree.current
        beats.clear()
        assert beats.wait(60)
        assert stand.tree.current == before

    thread.join(60)
    assert stand.outcomes == {"a": "applied"}


def test_outcomes_are_reported_once_and_outside_of_the_locks(stand: Stand) -> None:
    """A reporter may look into journal and tree."""
    seen: list[tuple[str, int]] = []
    look: Callable[[], int] = lambda: stand.tree.current  # noqa: E731 (read late)
    stand.ended = lambda ending: seen.append((ending.entry.id, look()))  # type: ignore[method-assign]

    write(stand, "a", "write a=1")

    assert seen == [("a", 2)]
