"""What is done to a log beside appending: publish, again, forget, write back, sweep, remove."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import pytest

from agentd.errors import ConsulRefused, ConsulUnavailable, Contended, FleetError
from agentd.fleet.bodies import KEPT
from agentd.fleet.envelope import LARGEST_BODY, Draft, Envelope
from agentd.fleet.head import Head, parse_head
from agentd.fleet.held import Held
from agentd.fleet.keys import POISONED
from agentd.fleet.log import Log
from tests.unit.fleet.kv_model import ModelKV
from tests.unit.fleet.test_writer import KEYS, NAME, NOW, another, event, fill, ids

LARGE = b"x" * (LARGEST_BODY + 1)


@pytest.fixture
def kv() -> ModelKV:
    """One store."""
    return ModelKV()


@pytest.fixture
def log(kv: ModelKV) -> Log:
    """One writer."""
    return Log(kv, KEYS, lambda: NOW)


def draft(body: bytes = b"x") -> Draft:
    """A message that somebody publishes."""
    return Draft(body, issued=NOW, publisher="ops@admin1")


def no_pause(*_: float) -> None:
    """Time is not needed."""


def held(kv: ModelKV) -> Held:
    """All that there is, as a node holds it."""
    reader = another(kv)
    head = reader.head(NAME)
    assert head
    return Held(head, [one for page in reader.after(NAME, 0, head) for one in page.messages])


def messages(kv: ModelKV) -> list[Envelope]:
    """What the log has."""
    return list(held(kv).messages)


# ---------------------------------------------------------------------- publish


@pytest.mark.parametrize("fault", ["before", "after"])
def test_publish_goes_on_until_the_message_is_there_once(kv: ModelKV, log: Log, fault: str) -> None:
    """Whether the first write took effect or not."""
    kv.faults.append("before" if fault == "before" else "after")
    message = draft()
    num = log.publish(NAME, message, keep="all", pause=no_pause)
    assert [(one.num, one.id) for one in messages(kv)] == [(num, message.id)]


def test_publish_gives_up_at_last(kv: ModelKV, log: Log) -> None:
    """With the reason."""
    kv.faults.extend(["before"] * 100)
    with pytest.raises(ConsulUnavailable):
        log.publish(NAME, draft(), keep="all", patience=0.0, pause=no_pause)


def test_publish_does_not_wait_for_a_write_back(kv: ModelKV, log: Log) -> None:
    """A command holds nothing; its number is above all that it has seen."""
    first = log.publish(NAME, draft(), keep="all", pause=no_pause)
    kv.restore({})
    log._clock = lambda: 5.0
    assert log.publish(NAME, draft(), keep="all", pause=no_pause) > first


# ---------------------------------------------------------------------- forget


def test_forgotten_messages_are_not_written_back(kv: ModelKV, log: Log) -> None:
    """Nor written again by a node that still has their event; the numbers go on."""
    fill(log, 3)
    memory = held(kv)
    assert log.forget(NAME) == 3
    assert ids(kv) == []
    assert another(kv).write_back(NAME, memory, pause=no_pause) == 0
    assert another(kv).append(NAME, [event(1)], keep="all")["e1"] == (0, False)
    landed = log.append(NAME, [event(9)], keep="all")
    assert landed["e9"].num > memory.messages[-1].num


def test_forget_keeps_what_is_newer(kv: ModelKV, log: Log) -> None:
    """Up to a number, and that number too."""
    fill(log, 5)
    log.forget(NAME, messages(kv)[2].num)
    assert ids(kv) == ["e3", "e4"]
    head = log.head(NAME)
    assert head
    assert (head.count, head.oldest, head.floor) == (2, messages(kv)[0].num, messages(kv)[0].num - 1)
    assert head.inline == messages(kv)[-1].raw


@pytest.mark.parametrize(
    "lose",
    [
        lambda kv: kv.found.pop(KEYS.head(NAME)),
        lambda kv: kv.put(KEYS.head(NAME), b"junk"),
        lambda kv: kv.found.pop(KEYS.pruned(NAME)),
        lambda kv: kv.put(KEYS.pruned(NAME), b"junk"),
        lambda kv: kv.found.pop(KEYS.record),
    ],
)
@pytest.mark.parametrize("is_whole", [True, False])
def test_what_was_forgotten_stays_so_though_a_key_is_lost(
    kv: ModelKV, log: Log, lose: Callable[[ModelKV], object], *, is_whole: bool
) -> None:
    """Also for a node that was away, and knows nothing of it; and whatever others write meanwhile."""
    fill(log, 5)
    away = held(kv)
    log.forget(NAME, None if is_whole else away.messages[2].num)
    left = [] if is_whole else ["e3", "e4"]
    lose(kv)
    new = another(kv).publish(NAME, draft(), keep="all", pause=no_pause)
    another(kv).write_back(NAME, away, pause=no_pause)
    assert [one.id for one in messages(kv)[:-1]] == left
    assert messages(kv)[-1].num == new > away.head.newest
    head = log.head(NAME)
    assert head
    assert head.floor == away.messages[-1 if is_whole else 2].num


def test_what_came_back_is_forgotten_again_by_whoever_knows(kv: ModelKV, log: Log) -> None:
    """A node that was away wrote it into a store that was wiped."""
    fill(log, 3)
    away = held(kv)
    log.forget(NAME)
    fill(log, 1, first=5)
    there = held(kv)
    kv.restore({})
    assert another(kv).write_back(NAME, away, pause=no_pause) == 3
    another(kv).write_back(NAME, there, pause=no_pause)
    assert (ids(kv), len(kv.keys(KEYS.messages(NAME)))) == (["e5"], 1)
    assert another(kv).write_back(NAME, away, pause=no_pause) == 0


def test_what_is_forgotten_is_not_read_although_its_key_is_still_there(kv: ModelKV, log: Log) -> None:
    """Consul may be gone when only the head has been written."""
    fill(log, 70)
    kv.faults.extend(["none", "before"])
    with pytest.raises(ConsulUnavailable):
        log.forget(NAME, messages(kv)[4].num)
    assert len(kv.keys(KEYS.messages(NAME))) == 70
    assert [one.id for one in messages(kv)] == [f"e{number}" for number in range(5, 70)]


def test_forget_needs_a_log(log: Log) -> None:
    """And a number that it has reached."""
    with pytest.raises(FleetError, match="no log of deploy"):
        log.forget(NAME)
    fill(log, 1)
    with pytest.raises(FleetError, match="newest message"):
        log.forget(NAME, POISONED - 1)


def test_a_forgotten_log_may_keep_less(kv: ModelKV, log: Log) -> None:
    """It is the way from `all` to `latest`."""
    fill(log, 1)
    log.forget(NAME)
    log.append(NAME, [event(9)], keep="latest")
    assert parse_head(kv.found[KEYS.head(NAME)].value).keep == "latest"


# ---------------------------------------------------------------------- write back


def test_a_wiped_log_is_written_back_verbatim(kv: ModelKV, log: Log) -> None:
    """All of it, with its numbers, and its bodies."""
    fill(log, 100)
    log.append(NAME, [event(200, body=LARGE)], keep="all")
    memory, before = held(kv), kv.snapshot()
    kv.restore({})
    relay = another(kv)
    assert relay.write_back(NAME, memory, body=lambda _: LARGE, pause=no_pause) == 101
    for key, pair in before.items():
        if key.startswith((KEYS.messages(NAME), KEYS.bodies)):
            assert kv.found[key].value == pair.value
    found = log.head(NAME)
    assert found
    assert found.mended > memory.head.mended
    assert replace(found, mended=memory.head.mended) == memory.head
    assert kv.most <= 64
    relay.append(NAME, [event(300), event(5)], keep="all")
    assert ids(kv)[-1] == "e300"
    assert len(ids(kv)) == 102


def test_bodies_that_may_not_be_written_keep_no_message_away(kv: ModelKV, log: Log) -> None:
    """They are written back without, and the right that is missing is told."""
    log.append(NAME, [event(1, body=LARGE), event(2)], keep="all")
    memory = held(kv)
    kv.restore({})
    relay = another(kv)
    with (
        patch.object(relay.bodies, "put", side_effect=ConsulRefused("403")),
        pytest.raises(ConsulRefused),
    ):
        relay.write_back(NAME, memory, body=lambda _: LARGE, pause=no_pause)
    assert ids(kv) == ["e1", "e2"]


def test_an_older_snapshot_is_brought_up_to_date(kv: ModelKV, log: Log) -> None:
    """What it has stays, what came later comes back below what was written since."""
    fill(log, 3)
    snapshot = kv.snapshot()
    fill(log, 3, first=3)
    memory = held(kv)
    kv.restore(snapshot)
    another(kv, NOW + 9).append(NAME, [event(7)], keep="all")
    assert another(kv).write_back(NAME, memory, pause=no_pause) == 3
    assert ids(kv) == ["e0", "e1", "e2", "e3", "e4", "e5", "e7"]


def doubting(kv: ModelKV) -> Log:
    """A relay that believes what lb1 wrote and nothing else."""
    return Log(kv, KEYS, lambda: NOW, believes=lambda message: message.publisher == "lb1")


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_forged_message_at_its_number_does_not_keep_a_message_out(kv: ModelKV, log: Log, at: int) -> None:
    """Nobody believes what lies there, so the true one replaces it, the newest as well."""
    fill(log, 3)
    memory = held(kv)
    true = memory.messages[at]
    forged = draft().numbered(KEYS.fleet, NAME, true.num, true.prev)
    kv.put(KEYS.message(NAME, true.num), forged.raw)
    assert another(kv).write_back(NAME, memory, pause=no_pause) == 0
    assert doubting(kv).write_back(NAME, memory, pause=no_pause) == 1
    assert messages(kv) == memory.messages


def test_a_forged_message_with_its_id_does_not_keep_a_message_out(kv: ModelKV, log: Log) -> None:
    """It stays as what it is, a message that some nodes do not believe."""
    fill(log, 3)
    memory = held(kv)
    kv.restore({})
    another(kv).append(NAME, [replace(draft(), id="e1")], keep="all")
    assert doubting(kv).write_back(NAME, memory, pause=no_pause) == 3
    assert [one.id for one in messages(kv) if one.publisher == "lb1"] == ["e0", "e1", "e2"]


def test_a_message_that_is_not_believed_protects_no_place(kv: ModelKV, log: Log) -> None:
    """Neither rival is believed here, so which of them is there is not for this node to decide."""
    fill(log, 3)
    memory = held(kv)
    memory = replace(memory, messages=[replace(one, publisher="lb2") for one in memory.messages])
    forged = draft().numbered(KEYS.fleet, NAME, memory.messages[1].num, memory.messages[1].prev)
    kv.put(KEYS.message(NAME, forged.num), forged.raw)
    assert doubting(kv).write_back(NAME, memory, pause=no_pause) == 0


def test_what_was_heard_again_meanwhile_is_not_written_back(kv: ModelKV, log: Log) -> None:
    """Each ID once, wherever it is now."""
    fill(log, 3)
    memory = held(kv)
    kv.restore({})
    another(kv, NOW + 9).append(NAME, [event(1)], keep="all")
    another(kv).write_back(NAME, memory, pause=no_pause)
    assert sorted(ids(kv)) == ["e0", "e1", "e2"]


def test_the_log_goes_on_above_what_a_node_has_reached(kv: ModelKV, log: Log) -> None:
    """A node whose clock is behind wrote the newest message anew: the others would miss what comes next."""
    fill(log, 2)
    memory = held(kv)
    kv.restore({})
    late = another(kv, NOW - 600)
    late.append(NAME, [event(1)], keep="all")
    another(kv).write_back(NAME, memory, pause=no_pause)
    assert [one.raw for one in messages(kv)] == [one.raw for one in memory.messages]
    assert another(kv, NOW - 600).append(NAME, [event(2)], keep="all")["e2"].num > memory.head.newest


def test_what_has_expired_stays_away(kv: ModelKV, log: Log) -> None:
    """Except the newest, from whose number the log goes on."""
    drafts = [replace(event(n), expires=NOW + 5) for n in range(3)]
    log.append(NAME, [*drafts, event(3), replace(event(4), expires=NOW + 5)], keep="all")
    memory = held(kv)
    kv.restore({})
    assert another(kv, NOW + 6).write_back(NAME, memory, pause=no_pause) == 2
    assert ids(kv) == ["e3", "e4"]


def test_one_look_is_not_enough(kv: ModelKV, log: Log) -> None:
    """Consul may be on its way back."""
    fill(log, 3)
    memory, before = held(kv), kv.snapshot()
    kv.restore({})
    assert another(kv).write_back(NAME, memory, pause=lambda: kv.restore(before)) == 0
    assert kv.found == before


def test_no_number_of_others_hides_a_loss(kv: ModelKV, log: Log) -> None:
    """Neither of those that are over, nor of what was written since: the log is longer than before."""
    log.append(NAME, [replace(event(n), expires=NOW + 5) for n in range(5)], keep="all")
    snapshot = kv.snapshot()
    fill(log, 2, first=5)
    memory = held(kv)
    kv.restore(snapshot)
    later = another(kv, NOW + 9)
    later.append(NAME, [event(number) for number in range(10, 20)], keep="all")
    assert another(kv, NOW + 9).write_back(NAME, memory, pause=no_pause) == 2
    assert ids(kv)[5:7] == ["e5", "e6"]


def test_nothing_lost_is_nothing_written(kv: ModelKV, log: Log) -> None:
    """Not even the head."""
    fill(log, 3)
    before = kv.snapshot()
    assert another(kv).write_back(NAME, held(kv), pause=no_pause) == 0
    assert kv.found == before


@pytest.mark.parametrize(
    "head", [b"junk", Head("all", POISONED - 1, 1, 5, POISONED - 2, recent=(POISONED - 1,)).render()]
)
def test_a_head_that_nobody_believes_is_made_anew(kv: ModelKV, log: Log, head: bytes) -> None:
    """Though no message is lost, and no new one comes."""
    fill(log, 3)
    memory = held(kv)
    kv.put(KEYS.head(NAME), head)
    assert another(kv).write_back(NAME, memory, pause=no_pause) == 0
    found = log.head(NAME)
    assert found
    assert (found.count, found.newest) == (3, memory.head.newest)


def test_of_two_that_write_back_both_add_what_they_hold(kv: ModelKV, log: Log) -> None:
    """The one that held less was first."""
    fill(log, 10)
    whole = held(kv)
    part = Held(whole.head, whole.messages[7:])
    kv.restore({})
    assert another(kv).write_back(NAME, part, pause=no_pause) == 3
    assert another(kv).write_back(NAME, whole, pause=no_pause) == 7
    assert len(ids(kv)) == 10


def test_what_others_wrote_below_what_is_held_is_not_written_again(kv: ModelKV, log: Log) -> None:
    """Another node wrote it while the log was lost, and a third one wrote back the rest."""
    fill(log, 3)
    memory = held(kv)
    kv.restore({})
    another(kv, NOW - 9).append(NAME, [event(9)], keep="all")
    assert another(kv).write_back(NAME, memory, pause=no_pause) == 3
    relay = another(kv)
    assert relay.write_back(NAME, memory, pause=no_pause) == 0
    assert relay.append(NAME, [event(9)], keep="all")["e9"].written is False
    assert ids(kv) == ["e9", "e0", "e1", "e2"]


def test_a_writer_that_was_first_is_no_second_message(kv: ModelKV, log: Log) -> None:
    """The check-and-set of the head says so."""
    fill(log, 3)
    memory = held(kv)
    kv.restore({})
    kv.before_write = lambda: another(kv).write_back(NAME, memory, pause=no_pause)
    relay = another(kv)
    with pytest.raises(Contended):
        relay.write_back(NAME, memory, pause=no_pause)
    assert relay.write_back(NAME, memory, pause=no_pause) == 0
    assert len(ids(kv)) == 3


def test_junk_in_the_place_of_a_message_gives_way(kv: ModelKV, log: Log) -> None:
    """It is held as it was."""
    fill(log, 3)
    memory = held(kv)
    kv.put(KEYS.message(NAME, memory.messages[1].num), b"junk")
    kv.put(KEYS.head(NAME), b"junk")
    another(kv).write_back(NAME, memory, pause=no_pause)
    assert ids(kv) == ["e0", "e1", "e2"]


@pytest.mark.parametrize("spoil", [lambda kv: kv.restore({}), lambda kv: kv.put(KEYS.head(NAME), b"x")])
def test_a_lost_floor_comes_back(kv: ModelKV, log: Log, spoil: Callable[[ModelKV], None]) -> None:
    """What was forgotten stays so."""
    fill(log, 3)
    log.forget(NAME)
    fill(log, 1, first=5)
    memory = held(kv)
    spoil(kv)
    another(kv).write_back(NAME, memory, pause=no_pause)
    head = log.head(NAME)
    assert head
    assert head.floor == memory.head.floor
    assert ids(kv) == ["e5"]


def test_a_log_of_nothing_is_not_lost(log: Log) -> None:
    """A node that holds nothing writes nothing, and goes on."""
    empty = Held(Head("all", newest=int(NOW * 1000) + 50))
    assert log.write_back(NAME, empty, pause=no_pause) == 0
    assert log.append(NAME, [event(1)], keep="all")["e1"].num == int(NOW * 1000) + 51


# ---------------------------------------------------------------------- bodies


def test_a_body_is_swept_a_day_after_its_last_reference(kv: ModelKV) -> None:
    """Not before, however old it is."""
    clock = [NOW]
    log = Log(kv, KEYS, lambda: clock[0])
    log.publish(NAME, draft(LARGE), keep="all", pause=no_pause)
    clock[0] += 10 * KEPT
    assert log.sweep() == 0
    log.forget(NAME)
    assert log.sweep() == 0
    clock[0] += KEPT - 1
    assert log.sweep() == 0
    clock[0] += 2
    assert log.sweep() == 1
    assert kv.keys(KEYS.bodies) == (KEYS.swept,)


@pytest.mark.parametrize("written", [0, int(NOW + 10 * KEPT), (1 << 63) - 1])
def test_a_body_of_no_believable_time_is_swept(kv: ModelKV, written: int) -> None:
    """Whoever may write bodies cannot have them stay for ever, nor hold up what is swept after them."""
    clock = [NOW]
    log = Log(kv, KEYS, lambda: clock[0])
    kv.replace(KEYS.body("ab" * 32), b"junk", written, 0)
    assert log.sweep() == 0
    clock[0] += KEPT + 1
    assert log.sweep() == 1


def test_a_body_that_is_used_again_begins_anew(kv: ModelKV) -> None:
    """Also if it is published between the two looks of a sweep."""
    clock = [NOW]
    log = Log(kv, KEYS, lambda: clock[0])
    log.publish(NAME, draft(LARGE), keep="all", pause=no_pause)
    log.forget(NAME)
    log.sweep()
    clock[0] += 2 * KEPT
    kv.before_write = lambda: Log(kv, KEYS, lambda: clock[0]).publish(NAME, draft(LARGE), keep="all")
    assert log.sweep() == 0
    assert log.payload(messages(kv)[-1]) == LARGE


def test_junk_among_messages_does_not_keep_bodies_for_ever(kv: ModelKV) -> None:
    """Whatever lies there: nobody will apply it, so it needs no body."""
    clock = [NOW]
    log = Log(kv, KEYS, lambda: clock[0])
    log.publish(NAME, draft(LARGE), keep="all", pause=no_pause)
    log.forget(NAME)
    kv.put(KEYS.message(NAME, 1), b"junk")
    assert log.sweep() == 0
    clock[0] += KEPT + 1
    assert log.sweep() == 1


def test_a_sweep_takes_nothing_that_it_cannot_judge(kv: ModelKV, log: Log) -> None:
    """A newer message may refer to it."""
    num = log.publish(NAME, draft(), keep="all", pause=no_pause)
    kv.put(KEYS.message(NAME, num), b'{"format":3}')
    with pytest.raises(FleetError):
        log.sweep()
