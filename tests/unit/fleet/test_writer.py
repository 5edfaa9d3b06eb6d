"""Appending to the log: each ID once, in transactions that Consul accepts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agentd.errors import (
    BadDocument,
    ConsulUnavailable,
    Contended,
    FleetError,
    LogLost,
    Overtaken,
    UnknownFormat,
)
from agentd.fleet.envelope import LARGEST_BODY, Draft
from agentd.fleet.head import Head, parse_head
from agentd.fleet.held import Held
from agentd.fleet.keys import POISONED, Keys
from agentd.fleet.log import Log
from agentd.fleet.pruning import LATEST, LEAST, MOST, PRUNED_AT_ONCE
from tests.unit.fleet.kv_model import ModelKV

KEYS = Keys("prod")
NAME = "deploy"
NOW = 1_764_180_000.0


def event(number: int, *, body: bytes = b"x", issued: float = NOW) -> Draft:
    """An event that a node heard."""
    return Draft(body, issued=issued, publisher="lb1", via="event", id=f"e{number}")


@pytest.fixture
def kv() -> ModelKV:
    """One store."""
    return ModelKV()


@pytest.fixture
def log(kv: ModelKV) -> Log:
    """One writer."""
    return Log(kv, KEYS, lambda: NOW)


def another(kv: ModelKV, now: float = NOW) -> Log:
    """One more writer."""
    return Log(kv, KEYS, lambda: now)


def ids(kv: ModelKV, name: str = NAME) -> list[str]:
    """The ID of each message in the log, in its order."""
    reader = another(kv)
    return [one.id for page in reader.after(name, 0, None) for one in page.messages]


def fill(log: Log, count: int, *, first: int = 0, issued: float = NOW) -> None:
    """Append so many events."""
    for at in range(first, first + count, 30):
        log.append(
            NAME, [event(n, issued=issued) for n in range(at, min(at + 30, first + count))], keep="all"
        )


def test_messages_are_numbered_by_the_clock_and_each_other(kv: ModelKV, log: Log) -> None:
    """Ascending, and each names the one before."""
    landed = log.append(NAME, [event(1), event(2)], keep="all")
    first = int(NOW * 1000)
    assert landed == {"e1": (first, True), "e2": (first + 1, True)}
    (page,) = log.after(NAME, 0, log.head(NAME))
    assert [(one.num, one.prev) for one in page.messages] == [(first, 0), (first + 1, first)]
    assert KEYS.record in kv.found


def test_of_two_that_follow_the_same_message_one_is_written(kv: ModelKV, log: Log) -> None:
    """The other one is told, whether it comes later or at the same moment."""
    first = log.append(NAME, [event(1)], keep="latest", newest=0)["e1"].num
    late, slow = another(kv), another(kv)
    kv.before_write = lambda: another(kv).append(NAME, [event(2)], keep="latest", newest=first)
    with pytest.raises(Contended):
        slow.append(NAME, [event(3)], keep="latest", newest=first)
    for one in (slow, late):
        with pytest.raises(Overtaken, match=f"no longer {first}"):
            one.append(NAME, [event(3)], keep="latest", newest=first)
    assert ids(kv)[-1] == "e2"


def test_junk_that_a_head_names_as_the_newest_can_be_followed(kv: ModelKV, log: Log) -> None:
    """Whoever wrote it cannot keep others from going on."""
    first = log.append(NAME, [event(1)], keep="latest", newest=0)["e1"].num
    head = log.head(NAME)
    assert head
    kv.put(KEYS.message(NAME, first + 1), kv.found[KEYS.message(NAME, first)].value)
    kv.put(KEYS.head(NAME), replace(head, newest=first + 1, recent=(), inline=None, count=2).render())
    writer = another(kv)
    assert writer.append(NAME, [event(2)], keep="latest", newest=first + 1)["e2"].num > first + 1


def test_what_was_written_without_an_answer_is_not_overtaken_by_itself(kv: ModelKV, log: Log) -> None:
    """The next attempt finds it in the log."""
    kv.faults.append("after")
    with pytest.raises(ConsulUnavailable):
        log.append(NAME, [event(1)], keep="latest", newest=0)
    assert not log.append(NAME, [event(1)], keep="latest", newest=0)["e1"].written


def test_a_clock_that_went_back_does_not_matter(kv: ModelKV, log: Log) -> None:
    """Numbers go on."""
    log.append(NAME, [event(1)], keep="all")
    assert another(kv, now=5.0).append(NAME, [event(2)], keep="all")["e2"].num == int(NOW * 1000) + 1


def test_an_event_says_how_late_it_was_written(kv: ModelKV, log: Log) -> None:
    """If it was more than a relay ever takes; what is published is never late, whatever its clock was."""
    published = replace(event(2, issued=NOW - 7200), via="publish")
    log.append(NAME, [event(0, issued=NOW - 5), event(1, issued=NOW - 7200), published], keep="all")
    log.append(NAME, [event(3, issued=NOW + 7200)], keep="all")
    (page,) = another(kv).after(NAME, 0, None)
    assert [one.late for one in page.messages] == [0, 7200, 0, 0]


def test_what_another_wrote_is_not_written_again(kv: ModelKV, log: Log) -> None:
    """It is found by its ID."""
    log.append(NAME, [event(1)], keep="all")
    landed = another(kv).append(NAME, [event(2), event(1)], keep="all")
    assert [landed["e1"].written, landed["e2"].written] == [False, True]
    assert ids(kv) == ["e1", "e2"]


def test_of_two_writers_at_once_one_reads_on(kv: ModelKV, log: Log) -> None:
    """The second sees what the first has written."""
    kv.before_write = lambda: another(kv).append(NAME, [event(1)], keep="all")
    with pytest.raises(Contended):
        log.append(NAME, [event(1)], keep="all")
    assert log.append(NAME, [event(1)], keep="all")["e1"].written is False
    assert ids(kv) == ["e1"]


@pytest.mark.parametrize("via", ["event", "publish"])
def test_an_answer_that_was_lost_is_no_second_message(kv: ModelKV, log: Log, via: str) -> None:
    """The next call reads on, and finds it: also the first message, and one that was published."""
    draft = event(1) if via == "event" else Draft(b"x", issued=NOW, publisher="ops")
    kv.faults.append("after")
    with pytest.raises(ConsulUnavailable):
        log.append(NAME, [draft], keep="all")
    assert log.append(NAME, [draft], keep="all")[draft.id].written is False
    assert ids(kv) == [draft.id]


def test_a_draft_twice_is_one_message(kv: ModelKV, log: Log) -> None:
    """A node may have heard it twice."""
    log.append(NAME, [event(1), event(1)], keep="all")
    assert ids(kv) == ["e1"]


def test_many_are_left_for_the_next_call(kv: ModelKV, log: Log) -> None:
    """By number."""
    drafts = [event(number) for number in range(40)]
    assert len(log.append(NAME, drafts, keep="all")) == 30
    assert len(log.append(NAME, drafts, keep="all")) == 40
    assert len(ids(kv)) == 40


def test_large_ones_are_left_for_the_next_call(kv: ModelKV, log: Log) -> None:
    """By size: the model refuses what Consul would."""
    drafts = [event(number, body=b"x" * LARGEST_BODY) for number in range(12)]
    while len(log.append(NAME, drafts, keep="all")) < 12:
        pass
    assert len(ids(kv)) == 12


def test_a_large_body_is_there_before_its_message(kv: ModelKV, log: Log) -> None:
    """Whoever finds the message finds the body."""
    body = b"x" * (LARGEST_BODY + 1)
    kv.faults.extend(["none", "before"])
    with pytest.raises(ConsulUnavailable):
        log.append(NAME, [event(1, body=body)], keep="all")
    assert not kv.keys(KEYS.messages(NAME))
    assert len(kv.keys(KEYS.bodies)) == 1
    log.append(NAME, [event(1, body=body)], keep="all")
    (page,) = log.after(NAME, 0, log.head(NAME))
    assert log.payload(page.messages[0]) == body


def test_a_body_that_is_another_is_not_believed(kv: ModelKV, log: Log) -> None:
    """Its digest says so; none at all is to be waited for."""
    log.append(NAME, [event(1, body=b"x" * (LARGEST_BODY + 1))], keep="all")
    (page,) = log.after(NAME, 0, log.head(NAME))
    (key,) = kv.keys(KEYS.bodies)
    kv.put(key, b"another")
    with pytest.raises(BadDocument, match="does not match its SHA-256"):
        log.payload(page.messages[0])
    kv.delete(key)
    assert log.payload(page.messages[0]) is None


def test_a_gap_is_one_round_trip(kv: ModelKV, log: Log) -> None:
    """The head names the numbers, so that no listing is needed."""
    fill(log, 50)
    head = log.head(NAME)
    assert head
    kv.reads = 0
    pages = list(log.after(NAME, head.recent[10], head))
    assert [len(page.messages) for page in pages] == [39]
    assert kv.reads == 1


def test_pruned_messages_are_those_beyond_the_most(kv: ModelKV, log: Log) -> None:
    """In steps; `cut` says that they were in force, `base` that they were not lost."""
    fill(log, MOST + 3 * PRUNED_AT_ONCE)
    left = ids(kv)
    head = log.head(NAME)
    assert head
    assert MOST <= len(left) <= MOST + PRUNED_AT_ONCE
    assert head.count == len(left)
    assert left[-1] == f"e{MOST + 3 * PRUNED_AT_ONCE - 1}"
    assert head.base == head.cut == head.oldest - 1
    assert kv.most <= 64


def test_what_is_old_goes_but_not_below_the_least(kv: ModelKV, log: Log) -> None:
    """Four rings of an agent stay, however old."""
    fill(another(kv, NOW - 8 * 86400), LEAST + 6, issued=NOW - 8 * 86400)
    fill(log, 300, first=5000)
    head = log.head(NAME)
    assert head
    assert head.count == len(ids(kv)) == LEAST
    assert head.cut == head.base > 0


def test_a_message_of_a_node_whose_clock_is_behind_is_not_old(kv: ModelKV, log: Log) -> None:
    """Those before it show when it was written."""
    log.append(NAME, [replace(event(0), expires=NOW - 1)], keep="all")
    fill(another(kv, NOW - 30 * 86400), LEAST, first=100, issued=NOW - 30 * 86400)
    fill(log, 30, first=9000)
    assert len(ids(kv)) == LEAST + 30


def test_a_writer_whose_clock_is_ahead_deletes_nothing_young(kv: ModelKV, log: Log) -> None:
    """What others wrote lately shows that no week has passed, also at its second write."""
    fill(log, LEAST + 3 * PRUNED_AT_ONCE)
    ahead = another(kv, NOW + 365 * 86400)
    for number in (9000, 9001):
        ahead.append(NAME, [replace(event(number, issued=NOW + 365 * 86400), publisher="lb2")], keep="all")
    assert len(ids(kv)) == LEAST + 3 * PRUNED_AT_ONCE + 2
    log.append(NAME, [event(9002, issued=NOW + 8 * 86400)], keep="all")
    another(kv, NOW + 8 * 86400).append(NAME, [replace(event(9003), publisher="lb3")], keep="all")
    assert len(ids(kv)) < LEAST + 3 * PRUNED_AT_ONCE


def test_what_has_expired_makes_nobody_incomplete(log: Log) -> None:
    """It is pruned without a cut."""
    for at in range(0, LEAST + 60, 30):
        drafts = [replace(event(n), expires=NOW - 1) for n in range(at, at + 30)]
        log.append(NAME, drafts, keep="all")
    head = log.head(NAME)
    assert head
    assert head.cut == 0 < head.base


def test_a_snapshot_stands_for_all_before_it(kv: ModelKV, log: Log) -> None:
    """They go, a step at each write."""
    fill(log, 100)
    snapshot = Draft(b"all", issued=NOW, publisher="ops", snapshot=True)
    log.append(NAME, [snapshot], keep="all")
    fill(log, 3, first=200)
    for number in range(300, 305):
        log.append(NAME, [event(number)], keep="all")
    head = log.head(NAME)
    assert ids(kv)[0] == snapshot.id
    assert head
    assert (head.cut, head.oldest) == (0, head.snapshot)


def test_of_the_latest_a_few_are_kept(kv: ModelKV, log: Log) -> None:
    """So that they can be brought back; nobody is incomplete without the others."""
    for number in range(100):
        log.append(NAME, [event(number)], keep="latest")
    head = log.head(NAME)
    assert head
    assert LATEST <= head.count == len(ids(kv)) <= 2 * LATEST
    assert ids(kv)[-1] == "e99"
    assert head.cut == 0


def test_whoever_needs_all_of_what_was_kept_as_the_latest_is_incomplete(log: Log) -> None:
    """What was pruned until then may have been in force; not so what was forgotten on purpose."""
    for number in range(40):
        log.append(NAME, [event(number)], keep="latest")
    before = log.head(NAME)
    log.append(NAME, [event(40)], keep="all")
    after = log.head(NAME)
    assert before
    assert after
    assert after.cut == before.base > before.cut == 0

    log.forget(NAME)
    log.append(NAME, [event(41)], keep="latest")
    log.append(NAME, [event(42)], keep="all")
    last = log.head(NAME)
    assert last
    assert last.cut == after.cut


def test_a_pruned_event_is_not_written_again(kv: ModelKV, log: Log) -> None:
    """A slow node may still hold it."""
    for number in range(100):
        log.append(NAME, [event(number)], keep="latest")
    assert another(kv).append(NAME, [event(3)], keep="latest")["e3"] == (0, False)


def test_keep_can_only_grow(kv: ModelKV, log: Log) -> None:
    """One node with an older configuration prunes nothing that others want."""
    log.append(NAME, [event(1)], keep="latest")
    log.append(NAME, [event(2)], keep="all")
    another(kv).append(NAME, [event(3)], keep="latest")
    assert parse_head(kv.found[KEYS.head(NAME)].value).keep == "all"


# ---------------------------------------------------------------------- what should not be there


@pytest.mark.parametrize(
    "value",
    [
        b"", b"garbage", b"[]", b'{"format":1}', b'{"format":1,"format":1}', b"x" * 100_000,
        Head("all", POISONED - 1, 5, 3, recent=(POISONED - 1,)).render(),
    ],
    ids=["empty", "garbage", "list", "bare", "twice", "large", "absurd"],
)  # fmt: skip
@pytest.mark.parametrize("via", ["event", "publish"])
def test_a_poisoned_head_is_made_anew(kv: ModelKV, log: Log, value: bytes, via: str) -> None:
    """From the messages: nobody can have believed it. Nothing that was written is written again."""
    log.append(NAME, [event(1), event(2)], keep="all")
    kv.put(KEYS.head(NAME), value)
    new = event(3) if via == "event" else Draft(b"x", issued=NOW, publisher="ops")
    other = another(kv)
    drafts = [event(1), new] if via == "event" else [new]
    landed = other.append(NAME, drafts, keep="all")
    assert ids(kv) == ["e1", "e2", new.id]
    assert landed[new.id] == (int(NOW * 1000) + 2, True)
    head = log.head(NAME)
    assert head
    assert (head.count, len(head.recent)) == (3, 3)


def test_a_head_that_was_deleted_is_made_anew(kv: ModelKV, log: Log) -> None:
    """Its messages are still there: none of them is written again."""
    log.append(NAME, [event(1), event(2)], keep="all")
    kv.delete(KEYS.head(NAME))
    landed = another(kv).append(NAME, [event(1), event(3)], keep="all")
    assert [landed["e1"].written, landed["e3"].written] == [False, True]
    head = log.head(NAME)
    assert head
    assert (head.count, ids(kv)) == (3, ["e1", "e2", "e3"])


def test_a_head_of_a_newer_agentd_is_left_alone(kv: ModelKV, log: Log) -> None:
    """It waits."""
    kv.put(KEYS.head(NAME), b'{"format":3}')
    with pytest.raises(UnknownFormat):
        log.append(NAME, [event(1)], keep="all")
    assert kv.found[KEYS.head(NAME)].value == b'{"format":3}'


def test_junk_where_the_next_message_belongs_is_passed_over(kv: ModelKV, log: Log) -> None:
    """Whatever number it has taken."""
    log.append(NAME, [event(1)], keep="all")
    kv.put(KEYS.message(NAME, int(NOW * 1000) + 1), b"junk")
    with pytest.raises(Contended):
        log.append(NAME, [event(2)], keep="all")
    assert log.append(NAME, [event(2)], keep="all")["e2"].written
    assert ids(kv) == ["e1", "e2"]


def test_junk_where_the_next_message_belongs_costs_no_mark(kv: ModelKV, log: Log) -> None:
    """Or what was forgotten would come back."""
    fill(log, 3)
    log.forget(NAME, int(NOW * 1000) + 1)
    before = log.head(NAME)
    kv.put(KEYS.message(NAME, int(NOW * 1000) + 3), b"junk")
    with pytest.raises(Contended):
        log.append(NAME, [event(4)], keep="all")
    log.append(NAME, [event(4)], keep="all")
    after = log.head(NAME)
    assert before
    assert after
    assert (after.floor, after.base, after.mended) == (before.floor, before.base, before.mended)


def test_junk_of_higher_numbers_hides_no_message(
    kv: ModelKV, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much there is."""
    monkeypatch.setattr("agentd.fleet.reader.MOST_LISTED", 70)
    fill(log, 70)
    for number in range(1, 80):
        kv.put(KEYS.message(NAME, POISONED - number), b"junk")
    pages = log.after(NAME, 0, log.head(NAME))
    assert sum(len(page.messages) for page in pages) == 70


def test_what_lies_far_ahead_is_not_the_newest_of_a_log_without_a_head(kv: ModelKV, log: Log) -> None:
    """It would leave no number."""
    kv.put(KEYS.message(NAME, POISONED - 1), b'{"format":3}')
    assert log.append(NAME, [event(1)], keep="all")["e1"].num == int(NOW * 1000)


def test_no_number_left_is_told(kv: ModelKV, log: Log) -> None:
    """Somebody wrote a message with the last one."""
    draft = event(1).numbered("prod", NAME, POISONED - 1, 0)
    kv.put(KEYS.message(NAME, draft.num), draft.raw)
    kv.put(KEYS.head(NAME), Head("all", draft.num, draft.num, 1, recent=(draft.num,)).render())
    with pytest.raises(FleetError, match="no number left"):
        log.append(NAME, [event(2)], keep="all")


def test_a_copied_message_is_none(kv: ModelKV, log: Log) -> None:
    """Under another number it would be applied a second time."""
    num = log.append(NAME, [event(1)], keep="all")["e1"].num
    kv.put(KEYS.message(NAME, num + 1), kv.found[KEYS.message(NAME, num)].value)
    reading = log.read(NAME, [num, num + 1, num + 2])
    assert [one.num for one in reading.messages] == [num]
    assert list(reading.troubles) == [num + 1]
    assert reading.missing == (num + 2,)


def test_a_message_of_a_newer_agentd_does_not_hold_up_a_writer(kv: ModelKV, log: Log) -> None:
    """It waits for those who read; the log goes on."""
    num = log.append(NAME, [event(1)], keep="all")["e1"].num
    raw = json.loads(kv.found[KEYS.message(NAME, num)].value) | {"format": 3}
    kv.put(KEYS.message(NAME, num), json.dumps(raw).encode())
    assert another(kv).append(NAME, [event(2)], keep="all")["e2"].written


def test_other_keys_are_not_heads(kv: ModelKV, log: Log) -> None:
    """Junk below `names/` is passed over, a bad head is told with its name."""
    log.append(NAME, [event(1)], keep="all")
    kv.put(f"{KEYS.names}a/b", b"x")
    kv.put(f"{KEYS.names}bad", b"x")
    heads = log.heads()
    assert set(heads) == {NAME, "bad"}
    assert isinstance(heads["bad"], BadDocument)


# ---------------------------------------------------------------------- lost


def test_a_log_that_is_gone_is_not_begun_anew(kv: ModelKV, log: Log) -> None:
    """What it held comes first."""
    log.append(NAME, [event(1)], keep="all")
    kv.restore({})
    with pytest.raises(LogLost):
        log.append(NAME, [event(2)], keep="all")


def test_a_log_that_went_on_without_its_end_is_lost(kv: ModelKV, log: Log) -> None:
    """The newest message follows an older one than was read."""
    log.append(NAME, [event(1)], keep="all")
    snapshot = kv.snapshot()
    log.append(NAME, [event(2)], keep="all")
    kv.restore(snapshot)
    another(kv, now=NOW + 9).append(NAME, [event(3)], keep="all")
    with pytest.raises(LogLost):
        log.append(NAME, [event(4)], keep="all")


def test_what_came_below_what_was_read_is_not_written_again(kv: ModelKV, log: Log) -> None:
    """While the log was lost, a node whose clock is behind wrote it; the newest message is the same again."""
    log.append(NAME, [event(1)], keep="all")
    head = log.head(NAME)
    assert head
    held = Held(head, [one for page in log.after(NAME, 0, head) for one in page.messages])
    kv.restore({})
    another(kv, now=NOW - 600).append(NAME, [event(2)], keep="all")
    another(kv).write_back(NAME, held, pause=lambda: None)
    with pytest.raises(LogLost):
        log.append(NAME, [event(2)], keep="all")
    log.write_back(NAME, held, pause=lambda: None)
    assert log.append(NAME, [event(2)], keep="all")["e2"].written is False


def test_a_restart_goes_on_from_what_is_held(kv: ModelKV, log: Log) -> None:
    """Without reading it all, and without a second message."""
    fill(log, 90)
    head = log.head(NAME)
    assert head
    messages = [one for page in log.after(NAME, 0, head) for one in page.messages]
    later = another(kv)
    later.resume(NAME, Held(head, messages))
    kv.reads = 0
    assert later.append(NAME, [event(5)], keep="all")["e5"].written is False
    assert kv.reads == 1


# ---------------------------------------------------------------- what another reader of the node has read


def test_what_the_follower_has_read_is_not_read_again(kv: ModelKV, log: Log) -> None:
    """In a large fleet that would double what each message costs."""
    fill(another(kv), 90)
    messages = [one for page in log.after(NAME, 0, log.head(NAME)) for one in page.messages]
    log.saw(NAME, messages)
    kv.reads = 0
    assert log.append(NAME, [event(5)], keep="all")["e5"] == (messages[5].num, False)
    assert kv.reads == 1


def test_messages_with_a_gap_before_them_do_not_hide_it(kv: ModelKV, log: Log) -> None:
    """What is in the gap is read before anything is written."""
    fill(another(kv), 90)
    messages = [one for page in log.after(NAME, 0, log.head(NAME)) for one in page.messages]
    log.saw(NAME, messages[60:])
    assert log.append(NAME, [event(5)], keep="all")["e5"].written is False


def test_what_was_read_can_be_searched_without_a_question(kv: ModelKV, log: Log) -> None:
    """And so can which node wrote the newest event; whoever publishes is no relay."""
    fill(another(kv), 3)
    another(kv).append(NAME, [Draft(b"x", issued=NOW, publisher="ops")], keep="all")
    messages = [one for page in log.after(NAME, 0, log.head(NAME)) for one in page.messages]
    assert (log.find(NAME, ["e1"]), log.relayed_by(NAME)) == ({}, "")
    log.saw(NAME, messages)
    kv.reads = 0
    assert log.find(NAME, ["e1", "e9"]) == {"e1": messages[1].num}
    assert (log.relayed_by(NAME), kv.reads) == ("lb1", 0)


def test_nothing_is_written_if_all_that_is_due_is_there(kv: ModelKV, log: Log) -> None:
    """The others may be left to another node."""
    another(kv).append(NAME, [event(1)], keep="all")
    landed = log.append(NAME, [event(1), event(2)], keep="all", due=["e1"])
    assert (list(landed), ids(kv)) == (["e1"], ["e1"])


def test_all_are_written_if_one_of_those_that_are_due_is_not_there(kv: ModelKV, log: Log) -> None:
    """A transaction takes what there is."""
    log.append(NAME, [event(1), event(2)], keep="all", due=["e1"])
    assert ids(kv) == ["e1", "e2"]
