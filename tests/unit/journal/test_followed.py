"""How far handlers have come in the fleet's log: each message once, in order, whatever is lost."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import JournalError
from agentd.journal.entry import Ending, Outcome
from agentd.journal.followed import Followed
from agentd.journal.history import Wanted, history, replay
from agentd.journal.journal import Journal
from agentd.journal.numbers import Numbers
from agentd.journal.position import Position
from agentd.watch.changes import Event, Message
from tests.unit.conftest import ROOM

NOW = 1_700_000_000.0


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """An empty one, whose time stands still."""
    with closing(Journal(tmp_path / "journal.db", clock=lambda: NOW)) as journal:
        yield journal


@pytest.fixture
def followed(journal: Journal) -> Followed:
    """Nothing followed yet."""
    return Followed(journal)


def message(
    num: int, identity: str = "", *, issued: float = NOW, snapshot: bool = False, targeted: bool = False
) -> Event:
    """One of the log of `ban`."""
    said = Message(num, issued, issued, snapshot=snapshot, targeted=targeted)
    raw = {"ID": identity or f"id-{num}", "Name": "ban", "Payload": "", "LTime": 0, "Message": said.raw}
    return Event("log:ban", raw, num)


def heard(identity: str) -> Event:
    """The same event as an agent listed it."""
    return Event("event", {"ID": identity, "Name": "ban", "Payload": "", "LTime": 3})


def waiting(journal: Journal, handler: str = "deny") -> list[str]:
    """The IDs of what waits for it."""
    return [entry.id for entry in journal.pending(handler)]


def end_all(journal: Journal, handler: str = "deny") -> None:
    """Handle whatever waits."""
    journal.end([Ending(entry, Outcome.APPLIED) for entry in journal.pending(handler)])


def test_messages_are_queued_once_and_in_order(journal: Journal, followed: Followed) -> None:
    """Also if the same are given again."""
    for _ in range(2):
        followed.give("ban", {"deny": False}, [message(1), message(2)], 2)

    assert waiting(journal) == ["id-1", "id-2"]
    assert followed.positions()["deny", "ban"].num == 2


def test_a_position_never_falls(followed: Followed) -> None:
    """Whatever the log looks like now."""
    followed.give("ban", {"deny": False}, [message(7)], 7)
    followed.give("ban", {"deny": False}, [message(3)], 3)

    assert followed.positions()["deny", "ban"].num == 7


def test_an_event_that_was_given_provisionally_comes_again_in_its_place(
    journal: Journal, followed: Followed
) -> None:
    """So that the order of the log holds in the end."""
    followed.give_provisionally(["deny"], heard("b"))
    followed.give("ban", {"deny": False}, [message(1, "a"), message(2, "b")], 2)

    assert waiting(journal) == ["b", "a", "b#2"]
    assert followed.positions()["deny", "ban"].provisional == ()


def test_what_runs_once_does_not_run_again_in_the_order_of_the_log(
    journal: Journal, followed: Followed
) -> None:
    """Even if the row of the first time was dropped meanwhile."""
    followed.join("run", "ban")
    followed.give_provisionally(["run"], heard("b"))
    end_all(journal, "run")
    with journal.database.transaction() as db:
        db.execute("DELETE FROM changes")
    [ending] = followed.give("ban", {"run": True}, [message(1, "b")], 1).endings

    assert waiting(journal, "run") == []
    assert ending.outcome is Outcome.UNCHANGED
    assert history(journal, Wanted(handler="run"))[0]["outcome"] == "unchanged"


@pytest.mark.parametrize("outcome, live", [(Outcome.APPLIED, {"ban": 1}), (Outcome.FAILED, {})])
def test_what_ran_once_as_it_was_heard_is_in_force(
    journal: Journal, followed: Followed, outcome: Outcome, live: dict[str, int]
) -> None:
    """With the number of its message, if it was done; else the fleet would take the node for drifted."""
    followed.give_provisionally(["run"], heard("b"))
    journal.end([Ending(entry, outcome) for entry in journal.pending("run")])
    followed.give("ban", {"run": True}, [message(1, "b")], 1)

    assert Numbers(journal.database).live("run") == live


def test_what_runs_once_is_in_force_up_to_the_newest_although_others_came_late(
    journal: Journal, followed: Followed
) -> None:
    """The number does not fall for good."""
    followed.join("run", "ban")
    followed.give("ban", {"run": True}, [message(2)], 2)
    end_all(journal, "run")
    followed.owe("ban", ["run"], [1, 2], [1])
    followed.give("ban", {"run": True}, [message(1), message(2)], 2)
    assert waiting(journal, "run") == ["id-1"]
    end_all(journal, "run")

    assert Numbers(journal.database).live("run") == {"ban": 2}


def test_what_runs_once_leaves_alone_what_is_older_than_its_first_start(
    journal: Journal, followed: Followed
) -> None:
    """A joiner."""
    followed.join("run", "ban")
    [ending] = followed.give(
        "ban", {"run": True, "deny": False}, [message(1, issued=NOW - 1), message(2)], 2
    ).endings

    assert (ending.outcome, ending.entry.id) == (Outcome.EXPIRED, "id-1")
    assert waiting(journal, "run") == ["id-2"]
    assert waiting(journal) == ["id-1", "id-2"]


def test_a_handler_past_the_reach_of_the_log_is_incomplete_until_a_snapshot(followed: Followed) -> None:
    """It says since when."""
    followed.give("ban", {"deny": False}, [message(1)], 1)
    followed.give("ban", {"deny": False}, [message(9)], 9, cut=5)
    assert followed.positions()["deny", "ban"].incomplete_since == 1

    followed.give("ban", {"deny": False}, [message(10, snapshot=True)], 10, cut=5)
    assert followed.positions()["deny", "ban"].incomplete_since is None


@pytest.mark.parametrize("start", [0, 1])
def test_a_snapshot_that_is_not_applied_leaves_a_handler_incomplete(
    journal: Journal, followed: Followed, start: int
) -> None:
    """If the log has nothing else of what the handler missed; until another one is applied."""
    if start:
        followed.give("ban", {"deny": False}, [message(1)], 1)
        end_all(journal)
    found = []
    for num, outcome in ((6, Outcome.REFUSED), (8, Outcome.FAILED), (9, Outcome.APPLIED)):
        followed.give("ban", {"deny": False}, [message(num, snapshot=True)], num, pruned=num - 1)
        given = followed.positions()["deny", "ban"].incomplete_since
        journal.end([Ending(entry, outcome) for entry in journal.pending("deny")])
        found.append((given, followed.positions()["deny", "ban"].incomplete_since))

    assert found == [(None, start), (None, start), (None, None)]


def test_a_snapshot_that_is_refused_takes_nothing_from_who_followed(
    journal: Journal, followed: Followed
) -> None:
    """They still have what was before it."""
    followed.give("ban", {"deny": False}, [message(1), message(5)], 5)
    end_all(journal)
    followed.give("ban", {"deny": False}, [message(6, snapshot=True)], 6, pruned=5)
    journal.end([Ending(entry, Outcome.REFUSED) for entry in journal.pending("deny")])

    assert followed.positions()["deny", "ban"].incomplete_since is None


def test_a_joiner_lacks_nothing_that_it_would_not_do(followed: Followed) -> None:
    """What was pruned before its first start a `command` runs as little as what is still there."""
    joined = int(followed.join("run", "ban").joined * 1000)
    followed.join("deny", "ban")
    followed.give("ban", {"run": True, "deny": False}, [], joined, cut=joined - 5)
    found = followed.positions()
    assert (found["run", "ban"].incomplete_since, found["deny", "ban"].incomplete_since) == (None, 0)
    followed.join("late", "ban")
    followed.give("ban", {"late": True}, [], joined + 9000, cut=joined + 9000)
    assert followed.positions()["late", "ban"].incomplete_since == 0


def test_the_newest_alone_is_never_incomplete(followed: Followed) -> None:
    """It stands for those before it."""
    followed.give("ban", {"deny": False}, [message(9)], 9, cut=5, latest=True)

    assert followed.positions()["deny", "ban"].incomplete_since is None


def test_a_lost_journal_gets_what_was_waiting_and_nothing_twice(journal: Journal, tmp_path: Path) -> None:
    """From what is kept beside the tree."""
    followed = Followed(journal)
    followed.give("ban", {"deny": False}, [message(one) for one in range(1, 5)], 4)
    done = [entry for entry in journal.pending("deny") if entry.change.index in (1, 3)]
    journal.end([Ending(entry, Outcome.APPLIED) for entry in done])
    kept = followed.kept()

    with closing(Journal(tmp_path / "new.db")) as new:
        again = Followed(new)
        again.restore(kept)
        position = again.positions()["deny", "ban"]
        assert position.reads_from == 1
        again.give("ban", {"deny": False}, [message(one) for one in range(2, 6)], 5)
        assert waiting(new) == ["id-2", "id-4", "id-5"]
        assert again.positions()["deny", "ban"].owed == ()


def test_what_is_part_of_the_generation_is_not_owed(journal: Journal, followed: Followed) -> None:
    """Its commit ends it."""
    followed.give("ban", {"deny": False}, [message(1), message(2)], 2)
    [first, _] = journal.pending("deny")

    assert followed.kept([first.seq])["positions"]["deny"]["ban"]["owed"] == (2,)


def test_a_row_that_outlived_its_position_is_not_given_again(journal: Journal, followed: Followed) -> None:
    """As when only a part of a damaged journal could be read."""
    followed.give("ban", {"deny": False}, [message(1)], 1)
    end_all(journal)
    with journal.database.transaction() as db:
        db.execute("DELETE FROM followed")
    followed.give("ban", {"deny": False}, [message(1)], 1)

    assert waiting(journal) == []


def test_the_log_of_another_fleet_is_followed_from_its_beginning(followed: Followed) -> None:
    """Its numbers are others; those of the same fleet stay."""
    for fleet, num in (("a@", 7), ("a@", 7), ("b@", 0)):
        followed.belong_to(fleet)
        if fleet == "a@":
            followed.give("ban", {"deny": False}, [], 7)
        assert followed.join("deny", "ban").num == num


def test_a_replay_has_its_time_to_live_anew(journal: Journal, followed: Followed) -> None:
    """Whoever replays it wants it now."""
    followed.give("ban", {"deny": False}, [message(1, issued=NOW - 99)], 1)
    end_all(journal)
    [entry] = replay(journal, "id-1")

    assert isinstance(entry.change, Event)
    assert entry.change.message == Message(1, NOW - 99, NOW, replayed=True)


def test_a_position_that_is_none_is_an_error_of_the_journal(followed: Followed, journal: Journal) -> None:
    """Not one of whoever asked."""
    with journal.database.transaction() as db:
        db.execute("INSERT INTO followed VALUES ('deny', 'ban', '[1]')")

    with pytest.raises(JournalError, match="restart agentd"):
        followed.positions()


_positions = st.builds(
    Position,
    num=st.integers(0, 9 * 10**15),
    joined=st.floats(0, 4e9),
    provisional=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    owed=st.lists(st.integers(1, 99), max_size=3).map(tuple),
    late=st.none() | st.integers(1, 99),
    incomplete_since=st.none() | st.integers(0, 99),
)


@given(_positions)
def test_a_position_is_read_back(position: Position) -> None:
    """Through JSON's types."""
    assert Position.of(position.kept()) == position


@given(early=st.sets(st.integers(1, 9), min_size=1), once=st.booleans(), again=st.booleans())
def test_what_comes_late_is_given_and_the_order_of_the_log_holds(
    *, early: set[int], once: bool, again: bool
) -> None:
    """From the first late one on all is given in order; what runs once gets each only once."""
    log = range(1, 10)
    late = [num for num in log if num not in early and num < max(early)]
    with (
        tempfile.TemporaryDirectory(dir=ROOM) as place,
        closing(Journal(Path(place, "journal.db"), clock=lambda: NOW)) as journal,
    ):
        followed = Followed(journal)
        followed.join("deny", "ban")
        followed.give("ban", {"deny": once}, [message(num) for num in sorted(early)], max(early))
        for _ in range(1 + again):  # a kill may come between this and what follows
            followed.owe("ban", ["deny"], log, late)
        after = followed.positions()["deny", "ban"].reads_from
        for _ in range(1 + again):
            followed.give("ban", {"deny": once}, [message(num) for num in log if num > after], 9)

        given = [entry.change.index for entry in journal.pending("deny")]

    assert set(given) == set(log)
    if once:
        assert len(given) == len(log)
    else:
        assert given == [*sorted(early), *range(min(late, default=max(early) + 1), 10)]


def took(path: Path, *messages: Event, latest: bool = False) -> str:
    """The place of a node that took those messages, and nothing else."""
    with closing(Journal(path / f"{uuid.uuid4()}.db", clock=lambda: NOW)) as journal:
        followed = Followed(journal)
        for one in messages:
            followed.give("ban", {"deny": False}, [one], one.index, latest=latest)
            end_all(journal)
        return followed.place("deny", ["ban"])


def test_nodes_that_committed_the_same_are_equally_far(tmp_path: Path) -> None:
    """Also one that joined, and never got what came first."""
    assert took(tmp_path, message(1), message(2)) == took(tmp_path, message(2))
    assert took(tmp_path, message(1)) != took(tmp_path, message(2))


def test_who_took_what_was_for_some_nodes_is_elsewhere(tmp_path: Path) -> None:
    """Until a snapshot, which stands for it as well."""
    some, other = message(2, targeted=True), message(3, targeted=True)
    nodes = [[message(1)], [message(1), some], [message(1), some, other], [some, other]]
    after = [took(tmp_path, *one, message(4)) for one in nodes]
    healed = [took(tmp_path, *one, message(4), message(5, snapshot=True), message(6)) for one in nodes]

    assert after[2] == after[3]
    assert len(set(after)) == 3
    assert len(set(healed)) == 1


def test_a_snapshot_for_some_nodes_puts_them_elsewhere(tmp_path: Path) -> None:
    """They have what the others do not."""
    snapshot = message(2, snapshot=True, targeted=True)

    assert took(tmp_path, message(1), snapshot, message(3)) != took(tmp_path, message(1), message(3))


def test_of_latest_the_number_tells_all(tmp_path: Path) -> None:
    """What was for some nodes is replaced by the next message."""
    some = message(1, targeted=True)

    assert took(tmp_path, some, message(2), latest=True) == took(tmp_path, message(2), latest=True)


def test_what_waits_does_not_count_yet(followed: Followed, journal: Journal) -> None:
    """A node is as far as what it has committed."""
    followed.give("ban", {"deny": False}, [message(1)], 1)
    end_all(journal)
    before = followed.place("deny", ["ban"])
    followed.give("ban", {"deny": False}, [message(2, targeted=True)], 2)

    assert followed.place("deny", ["ban"]) == before
    end_all(journal)
    assert followed.place("deny", ["ban"]) != before


# ---------------------------------------------------------------------- rollouts


def step(num: int, rollout: str = "r1", *, restores: int = 0, issued: float = NOW) -> Event:
    """A message of a rollout: one that admits or releases, or one that aborts."""
    said = Message(num, issued, issued, rollout=rollout, restores=restores)
    raw = {"ID": f"id-{num}", "Name": "ban", "Payload": "", "LTime": 0, "Message": said.raw}
    return Event("log:ban", raw, num)


def endings(followed: Followed, *messages: Event, once: bool = True) -> list[str]:
    """How those end that a handler is not to run."""
    found = followed.give("ban", {"run": once}, messages, messages[-1].index, latest=True)
    return [one.outcome for one in found.endings]


def live(journal: Journal) -> int | None:
    """The number that is in force for that handler."""
    return Numbers(journal.database).live("run").get("ban")


def test_a_rollout_runs_once_in_all_of_its_steps(journal: Journal, followed: Followed) -> None:
    """And every step counts as in force; what others run, they run at each."""
    followed.join("run", "ban")
    assert endings(followed, step(1)) == []
    end_all(journal, "run")
    assert endings(followed, step(2)) == endings(followed, step(3)) == ["unchanged"]
    assert (waiting(journal, "run"), live(journal)) == ([], 3)
    assert endings(followed, step(4), once=False) == []
    assert waiting(journal, "run") == ["id-4"]


def test_a_rollout_runs_once_although_history_was_dropped(journal: Journal, followed: Followed) -> None:
    """It may go on for longer than the journal reaches back."""
    followed.join("run", "ban")
    endings(followed, step(1))
    end_all(journal, "run")
    with journal.database.transaction() as db:
        db.execute("DELETE FROM changes")
    assert endings(followed, step(2)) == ["unchanged"]
    assert live(journal) == 2


def test_another_rollout_runs_again(journal: Journal, followed: Followed) -> None:
    """As does any other message."""
    followed.join("run", "ban")
    for one in (step(1), message(2), step(3), step(4, "r2"), message(5)):
        assert endings(followed, one) == []
        end_all(journal, "run")


def test_an_abort_runs_only_where_the_rollout_ran(journal: Journal, followed: Followed) -> None:
    """The other nodes have what it brings back."""
    followed.join("run", "ban")
    followed.join("other", "ban")
    for handler in ("run", "other"):
        followed.give("ban", {handler: True}, [message(1)], 1, latest=True)
        end_all(journal, handler)
    followed.give("ban", {"run": True}, [step(2)], 2, latest=True)
    followed.give("ban", {"other": True}, [], 2, latest=True)
    end_all(journal, "run")
    found = followed.give("ban", {"run": True, "other": True}, [step(3, restores=1)], 3, latest=True)

    assert [(one.entry.handler, one.outcome) for one in found.endings] == [("other", "unchanged")]
    assert waiting(journal, "run") == ["id-3"]
    assert Numbers(journal.database).live("other") == {"ban": 3}
    end_all(journal, "run")
    assert endings(followed, step(4)) == []


def test_an_abort_runs_where_what_it_brings_back_never_ran(journal: Journal, followed: Followed) -> None:
    """The node was away, and comes back when all is over."""
    followed.join("run", "ban")
    endings(followed, message(1))
    end_all(journal, "run")
    later = int(NOW * 1000) + 5000
    assert endings(followed, step(later + 2, restores=later)) == []


def test_a_node_that_joins_after_what_an_abort_brings_back_does_not_run_it(
    journal: Journal, followed: Followed
) -> None:
    """Nothing runs belatedly."""
    followed.join("run", "ban")
    assert endings(followed, step(8, restores=7)) == ["expired"]
    assert waiting(journal, "run") == []


def test_a_node_that_joins_in_mid_rollout_runs_what_is_released(followed: Followed) -> None:
    """The step was too old for it, the release is not."""
    followed.join("run", "ban")
    assert endings(followed, step(1, issued=NOW - 60)) == ["expired"]
    assert endings(followed, step(2)) == []


def test_what_ended_badly_is_told_again_at_the_next_step(journal: Journal, followed: Followed) -> None:
    """It is neither in force, nor was it rolled back."""
    followed.join("run", "ban")
    endings(followed, step(1))
    journal.end([Ending(entry, Outcome.FAILED, "exit status 1") for entry in journal.pending("run")])
    assert endings(followed, step(2)) == ["refused"]
    assert live(journal) is None


def test_a_rollout_does_not_run_again_after_the_journal_is_lost(followed: Followed, tmp_path: Path) -> None:
    """It is remembered beside the tree; how it ended is not, so nobody says that it is in force."""
    followed.join("run", "ban")
    endings(followed, step(5))
    with closing(Journal(tmp_path / "fresh.db", clock=lambda: NOW)) as fresh:
        restored = Followed(fresh)
        restored.restore(followed.kept())
        assert restored.positions()["run", "ban"].rollout == ("r1", 5)
        assert endings(restored, step(6)) == endings(restored, step(7)) == ["expired"]
        assert live(fresh) is None
