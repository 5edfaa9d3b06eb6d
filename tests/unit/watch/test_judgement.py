"""How a state is judged by what came before."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import ConsulUnavailable
from agentd.watch.judgement import Inquiry, StateMemory, Verdict
from agentd.watch.poller import Memory
from agentd.watch.queries import KeyQuery, NodesQuery
from agentd.watch.query import Snapshot
from tests.unit.watch.sources import ScriptedSource, answer, pair, value_of


def state(value: str | None, index: int, **facts: Any) -> Snapshot:  # noqa: ANN401 - Answer's own fields
    """A snapshot of a key; None means that there is none."""
    raw = None if value is None else [pair(value)]
    return KeyQuery("k").fetch(ScriptedSource([answer(raw, index, **facts)]))


class Says(Inquiry):
    """Answers to an empty answer's questions: a reason to refuse, in turn, and the leader's snapshot."""

    def __init__(self, *refusals: str | Exception | None, leader: Snapshot | None = None) -> None:
        self.refusals = list(refusals)
        self.leader = leader
        self.asked = 0

    def refusal(self) -> str | None:
        """The next reason; the last one stays."""
        self.asked += 1
        reason = self.refusals.pop(0) if len(self.refusals) > 1 else self.refusals[0]
        if isinstance(reason, Exception):
            raise reason
        return reason

    def again(self) -> Snapshot:
        """What the leader has."""
        assert self.leader
        return self.leader


class _Repeats(Says):
    """The token may read, and the leader says the same again."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(None, leader=snapshot)


def judge(memory: Memory, snapshot: Snapshot) -> Verdict:
    """Judge it with the right to read, and a leader who agrees."""
    return memory.judge(snapshot, _Repeats(snapshot))


MAY_NOT = Says("no right")


def walk(*snapshots: Snapshot) -> list[Verdict]:
    """Judge one after the other, each by the memory of those before."""
    memory: Memory = StateMemory()
    verdicts = []
    for snapshot in snapshots:
        verdicts.append(judge(memory, snapshot))
        memory = verdicts[-1].memory
    return verdicts


def values(verdicts: list[Verdict]) -> list[str | None]:
    """What was delivered."""
    raws = [verdict.news.changes[0].raw for verdict in verdicts if verdict.news]
    return [raw and value_of(raw) for raw in raws]


def test_that_nothing_was_ever_there_is_told_apart_once_it_is_proved() -> None:
    """Only to who asks for it, only with the right to read, and once."""
    memory, nothing = StateMemory(proves_absence=True), state(None, 5)

    first = memory.judge(nothing, Says(None, leader=state(None, 6)))
    again = first.memory.judge(state(None, 7), Says(None, leader=state(None, 7)))
    refused = memory.judge(nothing, Says(None, "no right", leader=state(None, 6)))
    there = memory.judge(nothing, Says(None, leader=state("a", 6)))

    assert (first.absent is not None, first.news, first.alarming) == (True, None, False)
    assert (again.absent, refused.absent, refused.alarming) == (None, None, True)
    assert (there.absent, values([there])) == (None, ["a"])
    assert judge(StateMemory(), nothing).absent is None


# ---------------------------------------------------------------- states


def test_a_first_state_is_news() -> None:
    """And the next question blocks from its index on."""
    (verdict,) = walk(state("a", 5))
    assert (values([verdict]), verdict.memory.index) == (["a"], 5)


def test_the_same_index_is_no_news() -> None:
    """The wait was over, that is all; the content is not even looked at."""
    assert values(walk(state("a", 5), state("b", 5))) == ["a"]


def test_the_same_content_is_no_news() -> None:
    """Consul moves an index for reasons of its own."""
    verdicts = walk(state("a", 5), state("a", 6))
    assert (values(verdicts), verdicts[-1].memory.index) == (["a"], 6)


def test_an_index_that_went_back_asks_the_leader_from_the_start() -> None:
    """Promise 2: lower than before -> 0. The old answer itself is dropped."""
    verdicts = walk(state("new", 9), state("old", 5))
    memory = verdicts[-1].memory
    assert (values(verdicts), memory.index, memory.fresh) == (["new"], 0, True)


def test_a_server_that_lags_brings_no_old_state_back() -> None:
    """The leader says what is."""
    verdicts = walk(state("new", 9), state("old", 5), state("new", 9), state("newer", 10))
    assert values(verdicts) == ["new", "newer"]


def test_a_restored_consul_is_believed_when_its_leader_says_so() -> None:
    """Its indexes begin low, but it is what there is."""
    verdicts = walk(state("a", 900), state("b", 5), state("b", 5), state("c", 6))
    assert values(verdicts) == ["a", "b", "c"]


def test_a_key_that_is_deleted_is_news() -> None:
    """The transition to empty is delivered once the right to read is proved."""
    assert values(walk(state("a", 5), state(None, 6), state(None, 7), state("b", 8))) == ["a", None, "b"]


def test_nothing_at_the_start_is_no_state() -> None:
    """Promise 2: a first-ever empty answer is never delivered."""
    verdicts = walk(state(None, 5), state(None, 6), state("a", 7))
    assert values(verdicts) == ["a"]
    assert verdicts[1].held == "empty answer held: nothing was ever there since the start"
    assert verdicts[2].held is None


def test_a_missing_key_asks_for_its_right_once() -> None:
    """Consul answers for a missing key with every write to the whole KV store."""
    says = Says(None)
    memory = StateMemory().judge(state(None, 5), says).memory
    memory.judge(state(None, 6), says)
    assert says.asked == 1


def test_an_empty_answer_without_the_right_to_read_is_held() -> None:
    """Silence may be the ACL's."""
    memory = judge(StateMemory(), state("a", 5)).memory
    verdict = memory.judge(state(None, 6), MAY_NOT)
    assert (verdict.news, verdict.held, verdict.alarming) == (None, "empty answer held: no right", True)


def test_a_held_answer_counts_again_at_the_same_index() -> None:
    """When the right comes back the index has not moved."""
    memory = judge(StateMemory(), state("a", 5)).memory
    memory = memory.judge(state(None, 6), MAY_NOT).memory
    assert values([judge(memory, state(None, 6))]) == [None]


def test_the_old_content_after_a_held_answer_is_no_news() -> None:
    """The right came back, and nothing had changed."""
    memory = judge(StateMemory(), state("a", 5)).memory
    memory = memory.judge(state(None, 6), MAY_NOT).memory
    verdict = judge(memory, state("a", 6))
    assert (verdict.news, verdict.held) == (None, None)


def test_a_token_that_loses_its_right_is_noticed_at_the_same_index() -> None:
    """ACLs do not move an index."""
    memory = judge(StateMemory(), state("a", 5)).memory
    assert memory.judge(state(None, 5), MAY_NOT).held == "empty answer held: no right"


def test_an_empty_answer_at_the_same_index_is_no_news() -> None:
    """Promise 2: same -> poll on, even if the token may read."""
    memory = judge(StateMemory(), state("a", 5)).memory
    assert judge(memory, state(None, 5)).news is None


def test_an_answer_that_acls_filtered_is_never_an_empty_state() -> None:
    """Newer Consuls say so themselves."""
    verdicts = walk(state("a", 5), state(None, 6, filtered_by_acls=True))
    assert values(verdicts) == ["a"]
    assert verdicts[1].alarming


def test_a_consul_that_lost_its_data_empties_nothing() -> None:
    """Promise 6: the index went back, so that nothing is there is not believed."""
    verdicts = walk(state("a", 900), state(None, 5), state(None, 5), state(None, 6))
    assert values(verdicts) == ["a"]
    assert verdicts[-1].held == "empty answer held: Consul's index went back, so its data may be lost"


@pytest.mark.parametrize("last", [state(None, 901), state("b", 7)])
def test_a_consul_that_lost_its_data_is_believed_again(last: Snapshot) -> None:
    """Once it has something, or has passed where it was."""
    verdicts = walk(state("a", 900), state(None, 5), state(None, 5), last)
    assert verdicts[-1].news is last


def test_an_unanswered_question_for_the_right_is_an_error() -> None:
    """The state is judged again, when Consul can say."""
    memory = judge(StateMemory(), state("a", 5)).memory
    with pytest.raises(ConsulUnavailable):
        memory.judge(state(None, 6), Says(ConsulUnavailable("no leader")))


def test_a_right_that_came_back_after_the_answer_proves_nothing_of_it() -> None:
    """What the first answer left out is there still, so it is the second one that counts."""
    memory = judge(StateMemory(), state("a", 5)).memory
    verdict = memory.judge(state(None, 6), Says(None, leader=state("a", 6)))
    assert (verdict.news, verdict.held, verdict.memory.index) == (None, None, 6)


def test_a_change_that_the_second_answer_has_is_news() -> None:
    """It is the present state."""
    memory = judge(StateMemory(), state("a", 5)).memory
    verdict = memory.judge(state(None, 6), Says(None, leader=state("b", 8)))
    assert (values([verdict]), verdict.memory.index) == (["b"], 8)


def test_a_right_that_goes_while_we_ask_holds_the_state() -> None:
    """An empty answer counts only between two proofs."""
    memory = judge(StateMemory(), state("a", 5)).memory
    verdict = memory.judge(state(None, 6), Says(None, "no right", leader=state(None, 6)))
    assert (verdict.news, verdict.held) == (None, "empty answer held: no right")


def test_a_leader_that_says_lower_is_asked_from_the_start() -> None:
    """Its history may be a new one."""
    memory = judge(StateMemory(), state("a", 5)).memory
    verdict = memory.judge(state(None, 6), Says(None, leader=state(None, 2)))
    assert (verdict.news, verdict.memory.index, verdict.memory.fresh) == (None, 0, True)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 3)), min_size=1, max_size=30))
def test_the_last_state_delivered_is_the_present_one(steps: list[tuple[str | None, int]]) -> None:
    """Whatever servers that lag answered in between; and no state is delivered twice in a row."""
    memory: Memory = StateMemory()
    history: list[Snapshot] = []
    verdicts = []
    for value, lag in steps:
        history.append(state(value, len(history) + 1))
        # The leader never lags; at the end it is asked once more.
        shown = history[-1] if memory.fresh else history[-1 - min(lag, len(history) - 1)]
        verdicts.append(memory.judge(shown, Says(None, leader=history[-1])))
        memory = verdicts[-1].memory
    verdicts.append(judge(memory, history[-1]))
    delivered = values(verdicts)
    assert all(one != other for one, other in pairwise(delivered))
    assert delivered[-1:] == values([Verdict(memory, history[-1])]) or (
        not delivered and steps[-1][0] is None
    )


def test_a_list_that_became_empty_counts_as_empty() -> None:
    """Not only keys."""
    nodes = [NodesQuery().fetch(ScriptedSource([answer(raw, 5)])) for raw in ([], [{"Node": "n"}])]
    assert [snapshot.empty for snapshot in nodes] == [True, False]
