"""From a snapshot to the mailboxes: who gets what, and what is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agentd.apply.dispatcher import Dispatcher, Route
from agentd.apply.observer import Observer
from agentd.errors import JournalError
from agentd.handler import Change, Event
from agentd.journal.entry import RELAY, Ending, Outcome
from agentd.journal.history import Wanted, history, replay
from agentd.journal.payloads import scrub
from agentd.watch.client import Answer
from agentd.watch.query import Snapshot
from tests.unit.apply.stand import Stand, event, state

ROUTES = (
    Route("deploys", "event", "deploy"),
    Route("all", "event", "*"),
    Route("all", "event", "deploy"),
    Route("site", "key:site"),
)


class Tally(Observer):
    """Counts, and remembers who was woken."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.lost = 0
        self.woken: set[str] = set()
        self.disbelief: list[tuple[str, str]] = []

    def received(self, change: Change) -> None:
        """Remember it."""
        self.came.append(change.id)

    def missed(self, events: int) -> None:
        """Count them."""
        self.lost += events

    def disbelieved(self, event: str, reason: str) -> None:
        """Remember it."""
        self.disbelief.append((event, reason))

    def notified(self, handlers: Sequence[str]) -> None:
        """Remember them."""
        self.woken |= set(handlers)


@pytest.fixture
def tally() -> Tally:
    """Nothing counted yet."""
    return Tally()


@pytest.fixture
def dispatcher(stand: Stand, tally: Tally) -> Dispatcher:
    """With a few routes."""
    return Dispatcher(stand.journal, ROUTES, observer=tally)


def snapshot(*changes: Change, missed: int = 0) -> Snapshot:
    """One answer of one query."""
    answer = Answer(200, 1, [change.raw for change in changes])
    return Snapshot(changes[0].query, 1, changes, answer, missed=missed)


def test_an_event_goes_to_those_that_chose_its_name(
    dispatcher: Dispatcher, stand: Stand, tally: Tally
) -> None:
    """Once to each, however often it was chosen."""
    dispatcher.deliver(snapshot(event("a", name="deploy"), event("b", name="other")))

    assert [entry.id for entry in stand.journal.pending("deploys")] == ["a"]
    assert [entry.id for entry in stand.journal.pending("all")] == ["a", "b"]
    assert tally.woken == {"deploys", "all"}


def test_a_state_goes_to_those_of_its_query(dispatcher: Dispatcher, stand: Stand, tally: Tally) -> None:
    """And to no other."""
    dispatcher.deliver(snapshot(state("x")))

    assert len(stand.journal.pending("site")) == 1
    assert stand.journal.backlog() == {"site": 1}
    assert tally.woken == {"site"}


def test_only_what_is_new_wakes_and_counts(dispatcher: Dispatcher, stand: Stand, tally: Tally) -> None:
    """After a restart Consul's whole list comes again."""
    dispatcher.deliver(snapshot(event("a"), missed=3))
    tally.woken.clear()

    dispatcher.deliver(snapshot(event("a")))

    assert tally.woken == set()
    assert tally.came == ["a"]
    assert tally.lost == 3
    assert len(stand.journal.pending("all")) == 1


def test_what_nobody_takes_is_counted(stand: Stand, tally: Tally) -> None:
    """But not written down."""
    Dispatcher(stand.journal, (), observer=tally).deliver(snapshot(event("a")))

    assert tally.came == ["a"]
    assert history(stand.journal) == []


def test_what_cannot_be_written_down_is_told_to_the_poller(
    dispatcher: Dispatcher, stand: Stand, tally: Tally
) -> None:
    """Nothing is counted or woken; it asks again."""
    stand.journal.close()

    with pytest.raises(JournalError):
        dispatcher.deliver(snapshot(event("a")))

    assert (tally.came, tally.woken) == ([], set())
    stand.open()


def test_a_kept_name_waits_for_the_relay(stand: Stand, tally: Tally) -> None:
    """Its handlers are fed from the log; those that take every event hear it as before."""
    routes = (Route("deny", "event", "ban", kept=True), Route("all", "event", "*"))
    Dispatcher(stand.journal, routes, observer=tally).deliver(snapshot(event("a", name="ban")))

    assert stand.journal.backlog() == {RELAY: 1, "all": 1}
    assert RELAY in tally.woken


@pytest.mark.parametrize("name", ["NodeFilter", "ServiceFilter", "TagFilter"])
def test_an_event_for_some_nodes_is_not_kept(stand: Stand, tally: Tally, name: str) -> None:
    """Only the agents that match list it."""
    some = event("a", name="ban")
    some = replace(some, raw=some.raw | {name: "web"})
    routes = (Route("deny", "event", "ban", kept=True),)
    Dispatcher(stand.journal, routes, observer=tally).deliver(snapshot(some))

    assert stand.journal.backlog() == {"deny": 1}


def test_without_a_fleet_what_waits_for_the_relay_goes_to_its_handlers(stand: Stand, tally: Tally) -> None:
    """`fleet:` was removed before the log had it."""
    kept = (Route("deny", "event", "ban", kept=True),)
    Dispatcher(stand.journal, kept, observer=tally).deliver(snapshot(event("a", name="ban")))
    Dispatcher(stand.journal, (Route("deny", "event", "ban"),), observer=tally).release()

    assert [entry.id for entry in stand.journal.pending("deny")] == ["a"]
    assert stand.journal.backlog() == {"deny": 1}


def test_without_a_relay_what_waits_for_it_is_given_as_it_was_heard(stand: Stand, tally: Tally) -> None:
    """`relay: false` was set before the log had it: another node may have written it, or none."""
    kept = (Route("deny", "event", "ban", kept=True), Route("all", "event", "*"))
    Dispatcher(stand.journal, kept, observer=tally).deliver(snapshot(event("a", name="ban")))
    Dispatcher(stand.journal, kept, observer=tally, relays=False).release()

    [entry] = stand.journal.pending("deny")
    assert isinstance(entry.change, Event)
    assert entry.change.provisional
    assert stand.journal.backlog() == {"deny": 1, "all": 1}


def test_a_node_that_does_not_relay_leaves_it_to_others(stand: Stand, tally: Tally) -> None:
    """It only follows."""
    kept = (Route("deny", "event", "ban", kept=True),)
    dispatcher = Dispatcher(stand.journal, kept, observer=tally, relays=False)
    dispatcher.deliver(snapshot(event("a", name="ban")))

    assert stand.journal.backlog() == {}
    assert tally.came == ["a"]


def test_what_waits_for_the_relay_is_not_replayed(stand: Stand, tally: Tally) -> None:
    """It is no handler."""
    routes = (Route("deny", "event", "ban", kept=True),)
    Dispatcher(stand.journal, routes, observer=tally).deliver(snapshot(event("abcd", name="ban")))

    with pytest.raises(JournalError, match="only went to the fleet's log"):
        replay(stand.journal, "abcd")


def refusing(stand: Stand, tally: Tally, *, signed: bool = True) -> Dispatcher:
    """With one kept name and a handler of every event; events with a payload are refused."""
    routes = (Route("deny", "event", "ban", kept=True), Route("all", "event", "*"))

    def refuses(event: Event, kept: bool) -> str:  # noqa: FBT001 (as the dispatcher calls it)
        return "not signed" if event.payload and (signed or kept) else ""

    return Dispatcher(stand.journal, routes, observer=tally, signed=lambda _: signed, refuses=refuses)


def loaded(identity: str, name: str = "ban") -> Event:
    """An event with a payload."""
    return event(identity, "plain text", name)


def test_an_event_that_must_not_be_applied_ends_refused_at_once(stand: Stand, tally: Tally) -> None:
    """For all who take it, whether its name is kept or not, in the transaction that records it."""
    dispatcher = refusing(stand, tally)
    dispatcher.deliver(snapshot(loaded("a"), loaded("b", "other")))

    rows = history(stand.journal)
    assert {(row["id"], row["handler"], row["outcome"], row["reason"]) for row in rows} == {
        ("a", "deny", "refused", "not signed"),
        ("a", "all", "refused", "not signed"),
        ("b", "all", "refused", "not signed"),
    }
    assert tally.woken == set()
    assert tally.came == ["a", "b"]
    assert tally.disbelief == [("ban", "unsigned"), ("other", "unsigned")]


def test_what_was_refused_is_not_counted_again_when_the_list_comes_again(stand: Stand, tally: Tally) -> None:
    """As after a restart."""
    for _ in range(2):
        refusing(stand, tally).deliver(snapshot(loaded("a")))
    assert tally.disbelief == [("ban", "unsigned")]
    assert len(history(stand.journal)) == 2


def test_the_payload_of_a_refused_event_is_not_recorded(stand: Stand, tally: Tally) -> None:
    """It cannot be replayed either."""
    refusing(stand, tally).deliver(snapshot(loaded("abcd")))
    assert stand.journal.database.rows("SELECT body FROM changes WHERE body IS NOT NULL") == []
    with pytest.raises(JournalError):
        replay(stand.journal, "abcd")


def test_where_the_log_takes_only_what_is_signed_an_empty_event_moves_nothing(
    stand: Stand, tally: Tally
) -> None:
    """It is neither relayed nor given to who follows the log; of another name it is as it was heard."""
    refusing(stand, tally).deliver(snapshot(event("a", name="ban")))
    assert stand.journal.backlog() == {"all": 1}
    refusing(stand, tally).deliver(snapshot(event("a", name="ban"), event("b", name="other")))
    assert stand.journal.backlog() == {"all": 2}


def test_an_event_that_is_accepted_though_its_name_is_signed_is_as_it_was_heard(
    stand: Stand, tally: Tally
) -> None:
    """While some nodes know no other way yet; it never gets into the log."""
    routes = (Route("keys", "event", "tickets", kept=True),)
    for relays in (True, False):
        dispatcher = Dispatcher(stand.journal, routes, observer=tally, relays=relays, signed=lambda _: True)
        dispatcher.deliver(snapshot(loaded(f"a-{relays}", "tickets")))
    assert stand.journal.backlog() == {"keys": 2}


def test_what_waited_for_the_relay_when_that_changed_is_settled(stand: Stand, tally: Tally) -> None:
    """With a payload it is refused; without, it goes to those that do not follow the log."""
    kept = (Route("deny", "event", "ban", kept=True),)
    Dispatcher(stand.journal, kept, observer=tally).deliver(snapshot(loaded("a"), event("b", name="ban")))
    refusing(stand, tally).release()

    assert stand.journal.backlog() == {"all": 1}
    assert tally.disbelief == [("ban", "unsigned")]
    assert {row["outcome"] for row in history(stand.journal, Wanted(identity="a"))} == {"refused"}


def test_only_what_is_to_be_sealed_is_taken_from_a_relay(stand: Stand, tally: Tally) -> None:
    """The rest goes into the log as before."""
    kept = (Route("deny", "event", "ban", kept=True),)
    Dispatcher(stand.journal, kept, observer=tally).deliver(snapshot(loaded("a"), event("b", name="ban")))
    refusing(stand, tally, signed=False).release()
    assert [entry.id for entry in stand.journal.pending(RELAY)] == ["b"]


def test_that_nothing_was_ever_there_is_a_state_for_joint_handlers_alone(stand: Stand, tally: Tally) -> None:
    """And only for those that know of none."""
    routes = (
        Route("site", "key:site"),
        Route("new", "key:site", joint=True),
        Route("old", "key:site", joint=True),
    )
    stand.receive(state("a"), handler="old")
    nothing = replace(state("a", 9), raw=None)

    Dispatcher(stand.journal, routes, observer=tally).deliver(replace(snapshot(nothing), absent=True))

    pending = {
        name: [one.change.raw for one in stand.journal.pending(name)] for name in ("site", "new", "old")
    }
    assert pending == {"site": [], "new": [None], "old": [state("a").raw]}
    assert tally.woken == {"new"}


def test_a_joint_handler_gets_a_wiped_state_again(stand: Stand, tally: Tally) -> None:
    """It needs the newest state of each query, whatever was retired with an earlier file."""
    dispatcher = Dispatcher(stand.journal, (Route("joint", "key:site", joint=True),), observer=tally)
    dispatcher.deliver(snapshot(state("a secret")))
    stand.journal.end([Ending(one, Outcome.APPLIED) for one in stand.journal.pending("joint")])
    dispatcher.deliver(snapshot(state("a secret")))
    assert not stand.journal.pending("joint")
    scrub(stand.journal, [b"a secret"])

    dispatcher.deliver(snapshot(state("a secret")))

    assert [one.change for one in stand.journal.pending("joint")] == [state("a secret")]
