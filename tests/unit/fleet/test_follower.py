"""Following a log: in order, once, as far as it can be used; and what of it a node does not believe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agentd.errors import ConsulUnavailable
from agentd.fleet.envelope import Envelope
from agentd.fleet.followed_freeze import FollowedFreeze
from agentd.fleet.follower import Follower
from agentd.fleet.gate import Gate
from agentd.fleet.head import Head
from agentd.fleet.heads_poll import Heads
from agentd.fleet.kept_name import Kept
from agentd.fleet.reader import Reader
from agentd.fleet.target import Services
from agentd.heartbeat import Heartbeats
from agentd.journal.entry import Ending, Outcome
from agentd.journal.followed import Followed, Given
from agentd.journal.history import Wanted, history
from agentd.journal.journal import Journal
from agentd.trust.pattern import FREEZE
from agentd.watch.changes import Event
from agentd.watch.poller import PollerStatus
from tests.servers.waiting import wait_until
from tests.unit.fleet.shelf import NOW, Shelf


class Library:
    """Reads the shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self.reader = Reader(shelf, shelf.keys_of)  # type: ignore[arg-type]

    def services(self) -> Services:
        """One, with a tag."""
        return [("web", ["blue"])]

    def lacking(self) -> str:
        """Nothing."""
        return ""

    def close(self) -> None:
        """Nothing is open."""


class Poll:
    """Says what the test says."""

    def __init__(self, came: Callable[[Heads], None]) -> None:
        self.came = came
        self.status = PollerStatus("keyprefix:agentd/test/names/")
        self.too_large = False

    def start(self) -> None:
        """Nothing polls."""

    def close(self) -> None:
        """Likewise."""


class Bench:
    """A follower whose turns the test takes, on a real journal."""

    def __init__(self, directory: Path, *, keep: str = "all", once: bool = False) -> None:
        self.now = NOW
        self.shelf = Shelf()
        self.journal = Journal(directory / "journal.db", clock=lambda: self.now)
        self.numbers: list[int] = []
        self.heads: list[int | None] = []
        self.bodies: list[int] = []
        self.given: list[Given] = []
        self.refused: list[tuple[str, str]] = []
        self.gate = Gate(None)
        self.urgent: set[str] = set()
        self.freezes: list[int] = []
        self.is_lacking = False
        self.dropped = 0
        self.kept = Kept("ban", keep == "latest", {"deny": once})
        self.keep = keep
        self.follower = self.restart()

    def restart(self) -> Follower:
        """A new follower, as after a restart of the daemon."""
        self.follower = Follower(
            [self.kept],
            self.shelf.keys_of,
            lambda: "node1",
            self.journal,
            lambda: Library(self.shelf),
            self._poll,
            gate=self.gate,
            freeze=self._new_freeze(),
            given=self.given.append,
            refused=lambda name, reason: self.refused.append((name, reason)),
            witness=self,
            heartbeat=Heartbeats().register("follow"),
            clock=lambda: self.now,
        )
        self.follower.join_log()
        return self.follower

    def _new_freeze(self) -> FollowedFreeze:
        self.freeze = FollowedFreeze(
            self.gate,
            is_urgent=lambda name: name in self.urgent,
            refused=lambda name, reason: self.refused.append((name, reason)),
            changed=lambda: None,
            clock=lambda: self.now,
        )
        return self.freeze

    def _poll(self, came: Callable[[Heads], None]) -> Poll:
        self.poll = Poll(came)
        return self.poll

    def saw(self, name: str, head: Head | None) -> None:
        """See `Witness`."""
        if name == "ban":
            self.heads.append(head.newest if head else None)

    def read(
        self, name: str, head: Head, messages: Sequence[Envelope], bodies: Mapping[str, bytes] | None = None
    ) -> None:
        """See `Witness`."""
        if name == FREEZE:
            self.freezes += [one.num for one in messages]
            return
        assert (name, head.keep) == ("ban", self.keep)
        self.numbers += [one.num for one in messages]
        self.bodies += [len(body) for body in (bodies or {}).values()]

    def highest(self, name: str) -> int:
        """See `Witness`."""
        assert name == "ban"
        return max(self.numbers, default=0)

    def pruned(self, name: str) -> int:
        """See `Witness`."""
        assert name == "ban"
        return self.dropped

    def lacks(self, name: str) -> bool:
        """See `Witness`."""
        return self.is_lacking and name == "ban"

    def has_all(self, name: str) -> None:
        """See `Witness`."""
        self.is_lacking = self.is_lacking and name != "ban"

    def unread(self, name: str, head: Head, numbers: Iterable[int]) -> list[int] | None:
        """See `Witness`."""
        assert (name, head.keep) == ("ban", "all")
        return sorted(set(numbers).difference(self.numbers))

    def publish(self, body: str | bytes, **more: Any) -> Envelope:  # noqa: ANN401 (as Shelf.publish)
        """Append to the log."""
        return self.shelf.publish("ban", body, keep=self.keep, **more)

    def turn(self, *, live: bool = True, news: bool = True) -> float:
        """The poll answers with the heads, and the follower takes its turn."""
        if news:
            self.poll.came(Heads(dict(self.shelf.values), live))
        return self.follower._turn()

    @property
    def waiting(self) -> list[str]:
        """The payloads that wait for the handler, in order."""
        return [entry.change.payload.decode() for entry in self._entries()]

    @property
    def messages(self) -> list[Event]:
        """What waits for the handler."""
        return [entry.change for entry in self._entries()]

    def _entries(self) -> list:  # type: ignore[type-arg]
        return self.journal.pending("deny")

    @property
    def position(self) -> int:
        """Of the handler."""
        return Followed(self.journal).positions()["deny", "ban"].num

    @property
    def waits(self) -> str:
        """Why the name waits."""
        return self.follower.status["ban"].waits

    def handle(self) -> None:
        """End whatever waits."""
        self.journal.end([Ending(entry, Outcome.APPLIED) for entry in self._entries()])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Of a name of which all messages are kept."""
    made = Bench(tmp_path)
    with closing(made.journal):
        yield made


@pytest.fixture
def latest(tmp_path: Path) -> Iterator[Bench]:
    """Of a name of which the newest is kept."""
    made = Bench(tmp_path, keep="latest")
    with closing(made.journal):
        yield made


def test_messages_come_in_the_order_of_the_log(bench: Bench) -> None:
    """Once, however often the poll answers; and whoever asked learns what was queued."""
    for body in "abc":
        bench.publish(body)
    bench.turn()
    bench.publish("d")
    bench.turn()
    bench.turn()

    assert bench.waiting == ["a", "b", "c", "d"]
    assert bench.position == 4
    assert bench.numbers == [1, 2, 3, 4]
    assert [names for one in bench.given for _, names in one.queued] == [["deny"]] * 4


def test_the_newest_alone_is_not_fetched(bench: Bench) -> None:
    """It stands in its head."""
    bench.publish("a")
    bench.turn()

    assert bench.waiting == ["a"]
    assert bench.shelf.asked == 0


def test_many_messages_are_read_in_pieces(bench: Bench) -> None:
    """Also those that the head does not list."""
    for number in range(200):
        bench.publish(str(number))
    bench.turn()

    assert bench.waiting == [str(number) for number in range(200)]


def test_who_catches_up_tells_the_handlers_once(bench: Bench) -> None:
    """So that they take all of it into one commit, and nginx is reloaded once."""
    for number in range(200):
        bench.publish(str(number))
    bench.turn()

    assert [len(one.queued) for one in bench.given] == [200]


def test_who_catches_up_queues_all_at_once(bench: Bench) -> None:
    """A worker that looks meanwhile for reasons of its own finds no part of it, to reload nginx for that."""
    seen: list[int] = []
    bench.shelf.answers = lambda: seen.append(len(bench.waiting))
    for number in range(200):
        bench.publish(str(number))
    bench.turn()

    assert len(seen) > 3
    assert set(seen) == {0}
    assert len(bench.waiting) == 200


def test_what_was_read_before_an_error_is_not_read_again(bench: Bench) -> None:
    """Or a node whose Consul answers now and then would never come to the end of a long log."""
    for number in range(200):
        bench.publish(str(number))

    def fails_late() -> None:
        if bench.shelf.asked == 3:
            raise ConsulUnavailable("it is restarting")

    bench.shelf.answers = fails_late
    bench.turn()
    first = bench.position
    bench.turn()

    assert first == 60
    assert bench.numbers == list(range(1, 201))
    assert bench.waiting == [str(number) for number in range(200)]


def test_a_restart_goes_on_where_it_was(bench: Bench) -> None:
    """The position is in the journal."""
    bench.publish("a")
    bench.turn()
    bench.handle()
    bench.publish("b")
    bench.restart()
    bench.turn(live=False)

    assert bench.waiting == ["b"]


def test_of_latest_only_the_newest_is_given(latest: Bench) -> None:
    """A node that was away does not repeat what is over."""
    for body in "abc":
        latest.publish(body)
    latest.turn(live=False)

    assert latest.waiting == ["c"]
    assert latest.position == 3


def test_of_latest_the_newest_for_this_node_is_given(latest: Bench) -> None:
    """One that is for others only stands for nothing here."""
    latest.publish("a")
    latest.publish("b", node="^node2$")
    latest.turn()

    assert latest.waiting == ["a"]
    assert latest.position == 2


@pytest.mark.parametrize(
    "target, comes",
    [
        ({"node": "^node1$"}, True), ({"node": "node2"}, False), ({"service": "we"}, True),
        ({"service": "db"}, False), ({"service": "web", "tag": "blue"}, True),
        ({"service": "web", "tag": "green"}, False), ({"tag": "blue"}, True),
        ({"node": "(a+)+$"}, False), ({"node": "("}, False), ({"node": ".*.*.*.*x"}, False),
    ],
)  # fmt: skip
def test_a_message_for_others_is_passed_over(bench: Bench, target: dict[str, str], comes: object) -> None:
    """As is one whose filter cannot be used, or could take long."""
    bench.publish("a", **target)
    bench.publish("b")
    bench.turn()

    assert bench.waiting == (["a", "b"] if comes else ["b"])


def test_who_catches_up_passes_over_what_is_over(bench: Bench) -> None:
    """And counts from when it was issued."""
    bench.publish("over", issued=NOW - 100, expires=NOW - 1)
    bench.publish("good", issued=NOW - 100, expires=NOW + 1)
    bench.turn(live=False)

    [event] = bench.messages
    assert event.message
    assert (event.message.counts_from, event.message.expires) == (NOW - 100, NOW + 1)


def test_who_listens_counts_from_its_own_first_sight(bench: Bench) -> None:
    """Whatever the clock of the publisher says, and however slow the relay was."""
    bench.turn()
    bench.publish("late", issued=NOW - 100, expires=NOW - 1)
    bench.publish("early", issued=NOW + 100, expires=NOW + 199)
    bench.turn()

    assert [event.message and event.message.counts_from for event in bench.messages] == [NOW, NOW + 100]
    assert [event.message and event.message.expires for event in bench.messages] == [NOW + 99, NOW + 199]


def test_after_an_error_it_catches_up(bench: Bench) -> None:
    """What came about meanwhile may be of any time."""
    bench.publish("a", issued=NOW - 100)
    bench.publish("b", issued=NOW - 100)
    bench.shelf.down = True
    bench.turn()
    assert "nothing is listening" in bench.follower.trouble

    bench.shelf.down = False
    bench.turn(news=False)

    assert bench.follower.trouble == ""
    assert [event.message and event.message.counts_from for event in bench.messages] == [NOW - 100] * 2


def test_a_message_of_a_newer_format_waits(bench: Bench) -> None:
    """And so does what comes after it; what came before does not."""
    bench.publish("a")
    bench.publish("b")
    key = bench.shelf.keys_of.message("ban", 2)
    raw = bench.shelf.values[key]
    bench.shelf.values[key] = raw.replace(b'"format":1', b'"format":99')
    bench.publish("c")
    bench.turn()
    assert bench.waiting == ["a"]
    assert "newer format" in bench.waits

    bench.shelf.values[key] = raw
    bench.turn(news=False)
    assert bench.waiting == ["a", "b", "c"]
    assert bench.waits == ""


def test_what_is_wrong_with_a_message_is_told_once(bench: Bench) -> None:
    """It is read again every few seconds, for weeks perhaps."""
    for num, junk in ((1, b"junk"), (2, b'{"format":99}')):
        bench.publish("a")
        bench.shelf.values[bench.shelf.keys_of.message("ban", num)] = junk
    with capture_logs() as told:
        for _ in range(5):
            bench.turn(news=False)
            bench.turn()
    assert [(one["event"], one["num"]) for one in told if "num" in one] == [
        ("fleet.message_unusable", 1), ("fleet.waits_for_format", 2),
    ]  # fmt: skip


def test_a_snapshot_stands_for_a_payload_that_is_lost(bench: Bench) -> None:
    """As it does for all messages before it; the others of them are not dropped."""
    for payload in ("a", b"x" * 40_000, "b"):
        message = bench.publish(payload)
        if message.sha256:
            del bench.shelf.values[bench.shelf.keys_of.body(message.sha256)]
    bench.turn()
    assert bench.waiting == ["a"]
    assert "agentd publish ban --snapshot" in bench.waits

    bench.publish("all", snapshot=True)
    bench.turn()
    assert bench.waiting == ["a", "b", "all"]
    assert bench.waits == ""


def test_a_snapshot_stands_for_many_large_payloads_that_are_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not queued takes no room."""
    monkeypatch.setattr("agentd.fleet.followed_name.MOST_BYTES", 100_000)
    for number in range(4):
        lost = bench.publish(bytes([number]) * 40_000)
        del bench.shelf.values[bench.shelf.keys_of.body(lost.sha256 or "")]
    bench.publish("all", snapshot=True)
    for _ in range(3):
        bench.turn()

    assert bench.waiting == ["all"]


def test_the_newest_number_shows_how_far_a_name_is_behind(bench: Bench) -> None:
    """Also while the message that comes next has to wait."""
    bench.publish("a")
    lost = bench.publish(b"x" * 40_000)
    del bench.shelf.values[bench.shelf.keys_of.body(lost.sha256 or "")]
    bench.publish("b")
    bench.turn()

    status = bench.follower.status["ban"]
    assert (status.position, status.newest) == (1, 3)


def test_a_message_whose_payload_is_not_there_waits(bench: Bench) -> None:
    """Or whose payload is another one."""
    large = b"x" * 40_000
    bench.publish("a")
    key = bench.shelf.keys_of.body(bench.publish(large).sha256 or "")
    del bench.shelf.values[key]
    bench.turn()
    assert bench.waiting == ["a"]
    assert "payload of message 2 is missing" in bench.waits

    bench.shelf.values[key] = b"y" * 40_000
    bench.turn(news=False)
    assert bench.waiting == ["a"]

    bench.shelf.values[key] = large
    bench.turn(news=False)
    assert len(bench.waiting[-1]) == 40_000
    assert bench.bodies == [40_000]


def test_a_head_is_believed_only_with_its_message(bench: Bench) -> None:
    """Whoever may write a head could otherwise make a node deaf."""
    bench.publish("a")
    bench.shelf.head("ban", replace(bench.shelf.heads["ban"], newest=8 * 10**15, recent=(), inline=None))
    bench.turn()
    assert bench.position == 1
    assert "is missing or unusable" in bench.waits
    assert bench.heads[-1] is None

    bench.shelf.head("ban", Head("all", newest=1, oldest=1, count=1, recent=(1,)))
    bench.publish("b")
    bench.turn()
    assert bench.waiting == ["a", "b"]


def test_a_log_that_was_forgotten_is_not_waited_for(bench: Bench) -> None:
    """A node that was away finds no message, and nothing is wrong with that."""
    bench.shelf.head("ban", Head("all", newest=7, floor=7, base=7))
    bench.turn()
    assert bench.waits == ""


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff" * 5000, b'{"format":7}'])
def test_a_head_that_cannot_be_used_waits(bench: Bench, junk: bytes) -> None:
    """Nothing is lost, and it goes on once somebody wrote a good one."""
    bench.publish("a")
    good = bench.shelf.values[bench.shelf.keys_of.head("ban")]
    bench.shelf.values[bench.shelf.keys_of.head("ban")] = junk
    bench.turn()
    assert "head cannot be used" in bench.waits

    bench.shelf.values[bench.shelf.keys_of.head("ban")] = good
    bench.turn()
    assert bench.waiting == ["a"]


def test_junk_among_the_messages_is_passed_over(bench: Bench) -> None:
    """Every node does so."""
    bench.publish("a")
    bench.publish("b")
    bench.shelf.values[bench.shelf.keys_of.message("ban", 2)] = b"junk"
    bench.publish("c")
    bench.turn()

    assert bench.waiting == ["a", "c"]


def test_a_log_that_is_gone_is_told_and_the_position_stays(bench: Bench) -> None:
    """A wiped store, or an older one, gives nobody an older state."""
    bench.publish("a")
    bench.publish("b")
    bench.turn()
    bench.shelf.values.clear()
    bench.turn()
    bench.shelf.heads.clear()
    bench.publish("a")
    bench.turn()

    assert bench.heads == [2, None, 1]
    assert bench.position == 2
    assert bench.waiting == ["a", "b"]


def test_an_emptiness_that_is_not_believed_is_told(bench: Bench) -> None:
    """The index went back, as when Consul was rebuilt."""
    bench.publish("a")
    bench.turn()
    bench.poll.status = replace(bench.poll.status, held="its data may be lost", alarming=True)
    bench.turn(news=False)

    assert bench.heads[1] is None


def test_a_prefix_that_is_too_large_is_read_by_key(bench: Bench) -> None:
    """Junk beside the heads makes nobody deaf."""
    bench.publish("a")
    bench.poll.too_large = True
    bench.turn(news=False)
    assert bench.waiting == ["a"]

    bench.publish("b", issued=NOW - 100)
    bench.turn(news=False)
    assert [event.message and event.message.counts_from for event in bench.messages] == [NOW, NOW]


def test_past_the_reach_of_the_log_a_node_is_incomplete(bench: Bench) -> None:
    """And says since when."""
    bench.publish("a")
    bench.turn()
    bench.publish("z", num=50)
    bench.shelf.head("ban", replace(bench.shelf.heads["ban"], cut=40))
    bench.turn(live=False)
    assert bench.follower.status["ban"].incomplete_since == 1

    bench.publish("all", snapshot=True)
    bench.turn()
    assert bench.follower.status["ban"].incomplete_since is None


def test_a_node_that_needs_all_is_incomplete_where_the_latest_was_kept(bench: Bench) -> None:
    """Somebody began the log for less than its handlers need."""
    bench.publish("a")
    bench.turn()
    bench.publish("z", num=50)
    bench.shelf.head("ban", replace(bench.shelf.heads["ban"], keep="latest", base=40))
    bench.keep = "latest"
    bench.turn(live=False)
    assert bench.follower.status["ban"].incomplete_since == 1


def test_no_more_is_read_than_there_is_room_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a slow handler leaves waiting must not fill the journal."""
    monkeypatch.setattr("agentd.fleet.followed_name.MOST_WAITING", 50)
    for number in range(200):
        bench.publish(str(number))
    while bench.position < 200:
        assert bench.turn(news=not bench.position) < 1.0 or bench.position == 200
        assert 0 < len(bench.waiting) <= 50
        bench.handle()

    assert bench.waits == ""


@pytest.mark.parametrize("once", [False, True])
def test_what_was_written_back_below_the_position_is_given(tmp_path: Path, *, once: bool) -> None:
    """The store was wiped, and a command wrote to it, when this node came back; then others wrote back.

    What follows in the log is given again, so that the order holds, unless the handler does each thing once.
    """
    bench = Bench(tmp_path, once=once)
    bench.publish("1")
    bench.turn()
    bench.handle()
    whole = [bench.publish(body, issued=NOW + 1) for body in ("2", "3", "4")]
    head, values = bench.shelf.heads["ban"], dict(bench.shelf.values)
    for lost in whole[:2]:
        del bench.shelf.values[bench.shelf.keys_of.message("ban", lost.num)]
    bench.shelf.head("ban", replace(head, count=1, oldest=4, recent=(4,)))
    bench.turn(live=False)
    assert bench.waiting == ["4"]

    bench.shelf.values = values
    bench.shelf.head("ban", replace(head, mended=1))
    bench.turn()
    for _ in range(3):
        bench.turn(news=False)

    assert bench.waiting == (["4", "2", "3"] if once else ["4", "2", "3", "4"])
    assert bench.position == 4
    bench.journal.close()


def test_what_comes_below_the_position_waits_for_what_follows_it(bench: Bench) -> None:
    """The store was wiped, and a host whose clock is behind published before the others wrote back."""
    before = [bench.publish(body, num=num) for num, body in ((5, "5"), (6, "6"))]
    bench.turn()
    bench.handle()
    bench.shelf.values.clear()
    bench.shelf.heads.clear()
    late = bench.publish("2", num=2)
    bench.shelf.head("ban", replace(bench.shelf.heads["ban"], mended=1))
    bench.turn()
    assert bench.waiting == []

    for one in before:
        bench.shelf.put(bench.shelf.keys_of.message("ban", one.num), one.raw)
    bench.shelf.head("ban", Head("all", newest=6, oldest=2, count=3, mended=2, recent=(late.num, 5, 6)))
    bench.turn()

    assert bench.waiting == ["2", "5", "6"]
    assert bench.position == 6


def test_junk_among_the_messages_makes_nobody_list_them_again_and_again(bench: Bench) -> None:
    """Once for each time that the log was mended."""
    bench.publish("1")
    bench.publish("2")
    bench.shelf.values[bench.shelf.keys_of.message("ban", 1)] = b"junk"
    bench.shelf.head("ban", replace(bench.shelf.heads["ban"], mended=1))
    bench.turn()
    bench.publish("3")
    asked = bench.shelf.asked
    bench.turn()

    assert bench.waiting == ["2", "3"]
    assert bench.shelf.asked == asked


def test_what_is_not_held_any_more_is_read_again(bench: Bench) -> None:
    """Once, long bodies too, though no handler is given any of it."""
    for body in ("a", b"x" * 40_000, "c"):
        bench.publish(body)
    bench.turn()
    bench.handle()
    bench.numbers.clear()
    bench.bodies.clear()

    bench.is_lacking = True
    bench.turn()
    bench.turn()

    assert (bench.numbers, bench.bodies, bench.waiting) == ([1, 2, 3], [40_000], [])


def test_what_is_not_held_waits_for_no_lost_body(bench: Bench) -> None:
    """Its handlers had it."""
    body = bench.publish(b"x" * 40_000)
    bench.turn()
    del bench.shelf.values[bench.shelf.keys_of.body(body.sha256 or "")]
    bench.is_lacking = True
    bench.turn()

    assert (bench.waits, bench.is_lacking) == ("", False)


def test_a_stuck_handler_keeps_no_other_waiting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one name: the other goes on, and counts as one that listens; nothing is read for the stuck one."""
    monkeypatch.setattr("agentd.fleet.followed_name.MOST_WAITING", 50)
    bench.kept = replace(bench.kept, handlers={"deny": False, "stuck": False})
    bench.restart()
    for number in range(200):
        bench.publish(str(number))
        bench.turn()
        bench.handle()
    assert bench.position == 200
    [full] = [at for (handler, _), at in Followed(bench.journal).positions().items() if handler == "stuck"]
    assert full.num == 50

    bench.publish("late", issued=NOW - 100, expires=NOW - 1)
    asked = bench.shelf.asked
    bench.turn()
    assert bench.waiting == ["late"]
    assert bench.shelf.asked == asked

    while stuck := bench.journal.pending("stuck"):
        bench.journal.end([Ending(entry, Outcome.APPLIED) for entry in stuck])
        bench.turn()
    ended = history(bench.journal, Wanted(handler="stuck"), limit=1000)
    assert [row["id"] for row in reversed(ended)] == [f"ban-{number + 1}" for number in range(200)]


def test_large_messages_are_read_in_portions(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their bytes, too."""
    monkeypatch.setattr("agentd.fleet.followed_name.MOST_BYTES", 100_000)
    for number in range(9):
        bench.publish(str(number) + "x" * 40_000)
    seen = []
    bench.turn()
    while bench.waiting:
        assert len(bench.waiting) <= 3
        seen += [one[0] for one in bench.waiting]
        bench.handle()
        bench.turn(news=False)

    assert "".join(seen) == "012345678"


def test_the_thread_outlives_what_is_wrong_with_the_journal(bench: Bench) -> None:
    """And begins again where it was."""
    bench.publish("a")
    bench.journal.most = 1
    with bench.journal.database.transaction() as db:
        db.execute("DELETE FROM followed")
    refusal, bench.journal.refusal = bench.journal.refusal, lambda: "it is full"  # type: ignore[method-assign]
    bench.turn()
    assert bench.follower.trouble == "it is full"

    bench.journal.refusal = refusal  # type: ignore[method-assign]
    bench.journal.most = None
    bench.turn(news=False)
    assert bench.waiting == ["a"]


def test_a_burst_of_answers_is_of_any_time_if_one_is(bench: Bench) -> None:
    """The first answer after a start was not read when the second came."""
    bench.publish("a", issued=NOW - 100)
    bench.poll.came(Heads(dict(bench.shelf.values), live=False))
    bench.publish("b", issued=NOW - 100)
    bench.turn()

    assert [event.message and event.message.counts_from for event in bench.messages] == [NOW - 100] * 2


def test_it_runs_in_a_thread_and_ends(bench: Bench) -> None:
    """Woken by the poll."""
    follower = bench.restart()
    follower.start()
    bench.publish("a")
    bench.poll.came(Heads(dict(bench.shelf.values), live=True))

    wait_until(lambda: bench.given, "the message")
    follower.close()
    assert follower.join(30)


def test_a_log_was_read_once_all_that_can_be_was(latest: Bench) -> None:
    """Not before the first turn, and not while Consul does not answer."""
    for body in "ab":
        latest.publish(body)
    latest.shelf.heads["ban"] = replace(latest.shelf.heads["ban"], inline=None)
    latest.shelf.head("ban", latest.shelf.heads["ban"])
    latest.shelf.down = True
    latest.turn()
    before = latest.follower.was_read("ban")
    latest.shelf.down = False
    latest.turn()

    assert (before, latest.follower.was_read("ban")) == (False, True)


def test_a_log_without_messages_was_read(latest: Bench) -> None:
    """Nobody waits for what was never published."""
    latest.turn()

    assert latest.follower.was_read("ban")


@pytest.mark.parametrize("alarming", [False, True])
def test_an_empty_consul_was_read_unless_that_is_in_doubt(latest: Bench, *, alarming: bool) -> None:
    """Nobody waits for a fleet that has published nothing."""
    latest.poll.status = PollerStatus("keyprefix:", held="empty answer held", alarming=alarming)

    assert latest.follower.was_read("ban") is not alarming
