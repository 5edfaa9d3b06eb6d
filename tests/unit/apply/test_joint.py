"""A joint handler is made from the newest states of all its queries, wherever they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Final
from unittest.mock import Mock

import pytest

from agentd.errors import JournalError
from agentd.handler import Change, Context, Handler, KeyState, PermanentError
from agentd.journal.history import history
from agentd.journal.summary import summary
from tests.unit.apply.stand import Stand, settle, state

ON: Final = [{"key": "a"}, {"key": "b"}]


class Sum(Handler):
    """Writes the values of all keys side by side, and refuses one that is `bad`."""

    joint: ClassVar[bool] = True

    def __init__(self, options: Any = None) -> None:  # noqa: ANN401 (as Handler's)
        super().__init__(options or Handler.Options())
        self.rendered = 0

    def handle(self, change: Change, context: Context) -> None:
        """Nothing."""

    def render(self, context: Context) -> None:
        """Write."""
        self.rendered += 1
        found = [one.state for one in context.states()]
        values = [(one.value or b"-") if isinstance(one, KeyState) else b"?" for one in found]
        if b"bad" in values:
            raise PermanentError("it is bad")
        context.files.write("sum", b" ".join(values))


def test_nothing_is_handled_until_each_query_has_a_state(stand: Stand) -> None:
    """What waits says for what, and ends as applied together with the last one."""
    handler = Sum()
    worker = stand.worker(handler, on=ON)
    stand.receive(state("1", key="a"))
    settle(worker)

    assert handler.rendered == 0
    assert summary(stand.journal, ["scribe"])["scribe"]["waiting_reason"] == "waits for key:b"

    stand.receive(state("2", key="b"))
    settle(worker)
    assert (stand.files, set(stand.outcomes.values()), handler.rendered) == ({"sum": b"1 2"}, {"applied"}, 1)


def test_an_item_that_is_there_twice_is_one_state(stand: Stand) -> None:
    """Nobody has to tell apart what is the same."""
    stand.receive(state("1", key="a"), state("2", key="b"))
    settle(stand.worker(Sum(), on=[*ON, ON[0]]))

    assert stand.files == {"sum": b"1 2"}


def test_a_key_that_was_never_there_is_a_state(stand: Stand) -> None:
    """So that the others need not wait for it."""
    worker = stand.worker(Sum(), on=ON)
    stand.receive(state("1", key="a"), replace(state("", key="b"), raw=None))
    settle(worker)

    assert stand.files == {"sum": b"1 -"}


def test_the_other_states_are_there_after_a_restart(stand: Stand) -> None:
    """The journal has them; nothing else keeps a copy."""
    stand.receive(state("1", key="a"), state("2", key="b"))
    settle(stand.worker(Sum(), on=ON))

    stand.restart()
    stand.receive(state("3", 2, key="a"))
    settle(stand.worker(Sum(), on=ON))

    assert stand.files == {"sum": b"3 2"}
    assert stand.journal.store("scribe") == {}


def test_a_refused_state_leaves_the_others_refused_and_all_recover_with_it(stand: Stand) -> None:
    """A bad value holds the last good file; once it is corrected, nothing is left behind."""
    worker = stand.worker(Sum(), on=ON)
    stand.receive(state("1", key="a"), state("2", key="b"))
    settle(worker)
    stand.receive(state("bad", 2, key="a"))
    settle(worker)
    stand.receive(state("3", 3, key="b"))
    settle(worker)
    assert stand.files == {"sum": b"1 2"}

    stand.clock.now += 1
    stand.receive(state("4", 4, key="a"))
    settle(worker)

    assert stand.files == {"sum": b"4 3"}
    assert summary(stand.journal, ["scribe"])["scribe"]["behind"] is None
    assert [row["outcome"] for row in history(stand.journal, limit=2)] == ["unchanged", "applied"]


class Timed(Sum):
    """Counts how often its timed work is done."""

    done = 0

    def due(self, now: float, context: Context) -> None:  # noqa: ARG002 (the interface)
        """Count."""
        self.done += 1


def test_what_waits_for_a_state_holds_up_nothing_else_on_a_full_disk(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it waits cannot be written down then; timed work goes on."""
    handler = Timed()
    worker = stand.worker(handler, on=ON)
    stand.receive(state("1", key="a"))
    monkeypatch.setattr(stand.journal, "hold", Mock(side_effect=JournalError("the disk is full")))

    settle(worker)

    assert handler.done


class Sealed(Sum):
    """Keeps them in a file that is secret."""

    end = b""

    def render(self, context: Context) -> None:
        """Write."""
        found = [one.state for one in context.states()]
        values = [one.value or b"-" for one in found if isinstance(one, KeyState)]
        context.files.write("sum", b" ".join(values) + self.end, 0o600, secret=True)


def test_a_state_stays_while_it_is_what_consul_has(stand: Stand) -> None:
    """Also if the file no longer has exactly that content: the next change is made from it."""
    stand.committer.joint = {"scribe"}
    stand.receive(state("a long secret", key="a"))
    settle(stand.worker(Sealed(), on=ON[:1]))

    handler = Sealed()
    handler.end = b"\n"
    stand.journal.owe_states()
    settle(stand.worker(handler, on=ON[:1]))
    stand.committer.tidy()
    assert stand.files == {"sum": b"a long secret\n"}

    stand.receive(state("2", key="b"))
    settle(stand.worker(handler, on=ON))
    assert stand.files == {"sum": b"a long secret 2\n"}
