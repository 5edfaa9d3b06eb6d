"""Whose turn it is to write to a log in which a rollout is open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentd.errors import BadDocument, Contended, Overtaken, RolloutOpen, RolloutOver
from agentd.fleet.envelope import Draft, Kind
from agentd.fleet.head import Head
from agentd.fleet.held import Held
from agentd.fleet.log import Log
from agentd.fleet.pruning import LATEST
from agentd.fleet.rollout import ALL, Admission
from agentd.trust.keyring import Signer
from tests.unit.fleet.kv_model import ModelKV
from tests.unit.fleet.test_writer import KEYS, NAME, NOW, another, event
from tests.unit.trust.samples import FLEET, OPS


@pytest.fixture
def kv() -> ModelKV:
    """One store."""
    return ModelKV()


@pytest.fixture
def log(kv: ModelKV) -> Log:
    """One writer."""
    return Log(kv, KEYS, lambda: NOW)


def step(below: int = 0, rollout: str = "r1", **more: str | tuple[str, ...]) -> Draft:
    """A step of a rollout."""
    admission = Admission(below, **more)  # type: ignore[arg-type] # of the fields' types
    return Draft(b"new", NOW, "ops@admin1", kind="admit", rollout=rollout, admission=admission)


def end(kind: Kind = "release", rollout: str = "r1", restores: int = 0) -> Draft:
    """The end of a rollout."""
    return Draft(b"x", NOW, "ops@admin1", kind=kind, rollout=rollout, restores=restores)


def publish(log: Log, draft: Draft | None = None, newest: int | None = None) -> int:
    """Append one message, as a command does that runs anew."""
    draft = draft or Draft(b"old", NOW, "ops@admin1")
    return another_log(log).publish(NAME, draft, keep="latest", newest=newest)


def another_log(log: Log) -> Log:
    """A writer that has read nothing yet."""
    return Log(log.kv, KEYS, lambda: NOW, signer=log._signer)


def head_of(log: Log) -> Head:
    """The head, which is there."""
    head = log.head(NAME)
    assert head
    return head


def numbers(log: Log) -> list[int]:
    """Of all messages."""
    return log.numbers(NAME)


def test_a_rollout_is_opened_widened_and_released(log: Log) -> None:
    """The head says meanwhile what all others take."""
    old = publish(log)
    first = publish(log, step(nodes=("lb1",)))
    second = publish(log, step(ALL // 2, nodes=("lb1",)))
    opened = log.open_rollout(NAME, head_of(log))
    assert opened
    assert (opened.first.num, opened.newest.num, opened.released) == (first, second, old)
    assert head_of(log).released == old
    last = publish(log, end())
    head = head_of(log)
    assert (head.newest, head.released, log.open_rollout(NAME, head)) == (last, None, None)


def test_an_abort_ends_a_rollout_too(log: Log) -> None:
    """Under a new number, which all nodes take."""
    old = publish(log)
    publish(log, step(1))
    num = publish(log, end("abort", restores=old))
    message = log.message(NAME, num)
    assert message
    assert (message.kind, message.restores, head_of(log).released) == ("abort", old, None)


@pytest.mark.parametrize(
    "draft",
    [
        Draft(b"x", NOW, "eve@admin2"),
        Draft(b"x", NOW, "eve@admin2", node="lb1"),
        Draft(b"x", NOW, "eve@admin2", via="again"),
        step(5, "r2"),
        end("release", "r2"),
        end("abort", "r2", restores=1),
    ],
)
def test_nothing_else_is_published_meanwhile(log: Log, draft: Draft) -> None:
    """The error says what is open, and what to do."""
    publish(log)
    num = publish(log, step(1))
    with pytest.raises(
        RolloutOpen, match=rf"since 2025-.* \(message {num}, by ops@admin1\).*rollout abort {NAME}"
    ):
        publish(log, draft)
    assert head_of(log).newest == num


def test_a_rollout_that_is_not_believed_holds_up_nobody(log: Log) -> None:
    """Nor hides one that is; whoever may write to the log opened it."""
    publish(log, Draft(b"old", NOW, "ops@admin1"))
    forged = publish(log, step(ALL))
    judge = Log(log.kv, KEYS, lambda: NOW, believes=lambda message: message.num != forged)
    num = judge.publish(NAME, Draft(b"new", NOW, "ops@admin1"), keep="latest")
    assert (head_of(log).newest, head_of(log).released) == (num, None)
    publish(log, step(1))
    forged = publish(log, step(ALL))
    with pytest.raises(RolloutOpen):
        judge.publish(NAME, Draft(b"x", NOW, "ops@admin1"), keep="latest")


def test_a_step_that_is_put_back_opens_nothing(kv: ModelKV, log: Log) -> None:
    """A later message for all has ended it, whatever the head says."""
    publish(log)
    before = publish(log, step(1))
    raw = kv.pairs([KEYS.message(NAME, before)])[KEYS.message(NAME, before)].value
    num = publish(log, end())
    kv.put(KEYS.message(NAME, before), raw)
    head = replace(head_of(log), released=0, oldest=before, count=2, recent=(before, num), base=0)
    kv.put(KEYS.head(NAME), head.render())
    assert log.open_rollout(NAME, head_of(log)) is None
    assert publish(log) > num


def test_a_writer_that_has_read_the_log_before_sees_that_a_rollout_was_opened(kv: ModelKV, log: Log) -> None:
    """The head decides, which the write checks."""
    log.publish(NAME, Draft(b"old", NOW, "ops@admin1"), keep="latest")
    publish(log, step(1))
    with pytest.raises(RolloutOpen):
        log.publish(NAME, Draft(b"x", NOW, "ops@admin1"), keep="latest")

    def opens() -> None:
        publish(log, step(1))

    publish(log, end())
    kv.before_write = opens
    with pytest.raises(Contended):
        log.append(NAME, [Draft(b"x", NOW, "ops@admin1")], keep="latest")


def test_an_event_ends_a_rollout(log: Log) -> None:
    """Nobody can be told that it came at the wrong time; the rollout's command is."""
    publish(log)
    num = publish(log, step(1))
    log.append(NAME, [event(1)], keep="latest")
    assert head_of(log).released is None
    for draft in (end(), end("abort", restores=1)):
        with pytest.raises(RolloutOver, match="another message has replaced it"):
            publish(log, draft)
    with pytest.raises(Overtaken):
        publish(log, step(2), newest=num)


@pytest.mark.parametrize("wider", [step(7, nodes=("lb1",)), step(1, nodes=("lb1",)), step(ALL)])
def test_a_step_lets_no_node_out_again(log: Log, wider: Draft) -> None:
    """It would keep what it has, and nobody would know."""
    publish(log)
    publish(log, step(1, nodes=("lb1",)))
    for narrower in (step(0, nodes=("lb1",)), step(1), step(1, tag="canary")):
        with pytest.raises(BadDocument, match="admits all nodes"):
            publish(log, narrower)
    publish(log, wider)


def test_names_of_which_all_messages_are_kept_have_no_rollouts(log: Log) -> None:
    """What is not admitted would be lost among what adds to it."""
    with pytest.raises(BadDocument, match="keep: all"):
        log.append(NAME, [step(1)], keep="all")
    log.append(NAME, [event(1)], keep="all")
    with pytest.raises(BadDocument, match="keep: all"):
        log.append(NAME, [step(1)], keep="latest")


def test_the_first_message_of_a_name_may_open_a_rollout(log: Log) -> None:
    """Then the others take nothing, and the end is for all."""
    publish(log, step(1))
    assert head_of(log).released == 0
    publish(log, end())
    assert head_of(log).released is None


def test_what_nodes_may_take_is_not_pruned(log: Log) -> None:
    """However many steps there are, and however many messages were there before."""
    released = [publish(log) for _ in range(2 * LATEST)][-1]
    steps = [publish(log, step(number)) for number in range(1, 3 * LATEST)]
    assert numbers(log) == [released, *steps]
    last = publish(log, end())
    assert numbers(log)[-1] == last
    for _ in range(2):
        last = publish(log)
    assert len(numbers(log)) <= 2 * LATEST


def test_a_rollout_has_a_limit(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is kept, and read by each node that joins."""
    most = 12
    monkeypatch.setattr("agentd.fleet.turns.MOST_KEPT", most)
    for number in range(most):
        publish(log, step(number))
    with pytest.raises(BadDocument, match="too many steps"):
        publish(log, step(most))
    publish(log, end())


def test_old_secrets_go_with_the_end_of_a_rollout(kv: ModelKV) -> None:
    """Not before, since nodes may still need them."""
    log = Log(kv, KEYS, lambda: NOW, signer=Signer(OPS, FLEET))

    def sealed(draft: Draft) -> Draft:
        return Draft(
            draft.body,
            NOW,
            "ops",
            kind=draft.kind,
            rollout=draft.rollout,
            admission=draft.admission,
            sealed=True,
        )

    first = publish(log, sealed(Draft(b"old", NOW, "ops@admin1")))
    steps = [publish(log, sealed(step(number))) for number in (1, 2)]
    assert numbers(log) == [first, *steps]
    last = publish(log, sealed(end()))
    assert numbers(log) == [last]


def test_a_forged_head_stops_nobody(kv: ModelKV, log: Log) -> None:
    """It says that a rollout is open, and there is none."""
    num = publish(log)
    forged = Head("latest", newest=num, oldest=num, count=1, released=num - 1)
    kv.put(KEYS.head(NAME), forged.render())
    publish(log)
    assert head_of(log).released is None


# ---------------------------------------------------------------------- mending


def held(log: Log) -> Held:
    """All that there is, as a node holds it."""
    head = head_of(log)
    return Held(head, [one for page in log.after(NAME, 0, head) for one in page.messages])


def test_a_head_that_was_deleted_in_mid_rollout_is_made_anew(kv: ModelKV, log: Log) -> None:
    """The messages say that it is open."""
    old = publish(log)
    num = publish(log, step(1))
    kv.delete(KEYS.head(NAME))
    with pytest.raises(RolloutOpen):
        publish(log)
    publish(log, step(2))
    assert head_of(log).released == old
    assert num in numbers(log)


@pytest.mark.parametrize("lost", ["all", "head", "since the first step"])
def test_a_log_that_is_lost_in_mid_rollout_is_written_back_as_it_was(
    kv: ModelKV, log: Log, lost: str
) -> None:
    """With the rollout open, and what all others take."""
    old = publish(log)
    before = dict(kv.found)
    publish(log, step(1))
    publish(log, step(2))
    copy = held(log)
    if lost == "head":
        kv.delete(KEYS.head(NAME))
    else:
        kv.restore({} if lost == "all" else before)
    another(kv).write_back(NAME, copy, pause=lambda: None)
    assert held(log).messages == copy.messages
    assert head_of(log).released == old
    with pytest.raises(RolloutOpen):
        publish(log)


def test_what_was_published_while_the_log_was_lost_ends_the_rollout(kv: ModelKV, log: Log) -> None:
    """It is newer, and for all nodes."""
    publish(log)
    num = publish(log, step(1))
    copy = held(log)
    kv.restore({})
    later = publish(log, Draft(b"x", NOW, "eve"), newest=0)
    while later <= num:
        later = publish(log, Draft(b"x", NOW, "eve"))
    another(kv).write_back(NAME, copy, pause=lambda: None)
    assert (head_of(log).newest, head_of(log).released) == (later, None)


def test_steps_that_are_written_while_the_log_is_lost_find_what_was_released(kv: ModelKV, log: Log) -> None:
    """Once that is written back."""
    old = publish(log)
    publish(log, step(1))
    copy = held(log)
    kv.restore({})
    log.publish(NAME, step(2), keep="latest", above=copy.head.newest)
    assert head_of(log).released == 0
    another(kv).write_back(NAME, copy, pause=lambda: None)
    assert head_of(log).released == old
    assert len(numbers(log)) == 3


def test_a_rollout_stays_open_if_what_was_released_is_forgotten(log: Log) -> None:
    """An operator may forget the older ones of its messages."""
    old = publish(log)
    publish(log, step(1))
    log.forget(NAME, old)
    assert head_of(log).released == 0
    log.forget(NAME)
    assert head_of(log).released is None
    publish(log)
