"""Who runs what: each trouble by an example, and the rules that hold whatever the documents say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.accounts import State
from agentd.fleet.acknowledgement import Acknowledgement, HandlerReport, Name, Tried
from agentd.fleet.disagreement import SETTLED
from agentd.fleet.newest import Newest
from agentd.fleet.past import encode
from agentd.fleet.standing import (
    TROUBLES,
    Member,
    Standing,
    progress,
    standing,
    takers,
)

NOW = 1_700_000_000.0
NEWEST = {"blocked": Newest("blocked", 20, issued=NOW - 60)}


def document(
    name: Name | None = None,
    fingerprint: str | None = None,
    since: float = NOW - 2 * SETTLED,
    **fields: Any,  # noqa: ANN401 (those of the document)
) -> Acknowledgement:
    """A node that takes `blocked` and is well, unless told otherwise."""
    made = Acknowledgement(
        agentd="1",
        node_id="id",
        boot="boot",
        written=NOW - 2 * SETTLED,
        names={"blocked": name or Name(live=20, tried=Tried(20, "applied"))},
        handlers={
            "blacklist": HandlerReport(names=("blocked",), past=encode([State("20", fingerprint, since)]))
        },
        options={"blacklist": "same"},
    )
    return replace(made, **fields)


def member(node: str = "a", **fields: Any) -> Member:  # noqa: ANN401 (those of a member)
    """A node that the catalogue has, and whose document is there."""
    return replace(Member(node, document(), node_id="id"), **fields)


def judged(*members: Member, newest: Mapping[str, Newest] = NEWEST, handler: str | None = None) -> Standing:
    """What comes of it now."""
    return standing(members, newest, NOW, handler)


@pytest.mark.parametrize(
    "given_member, expected",
    [
        (member(), []),
        (member(document=document(Name(live=20, tried=Tried(20, "unchanged")))), []),
        (member(document=document(Name(live=10, tried=Tried(10, "applied")))), ["behind"]),
        (member(document=document(Name())), ["behind"]),
        (member(document=document(Name(live=10, tried=Tried(20, "", "nginx is down")))), ["behind"]),
        (member(document=document(Name(live=10, tried=Tried(20, "refused", "no address")))), ["failed"]),
        (member(document=document(Name(live=10, tried=Tried(20, "applied")))), ["drifted"]),
        (member(document=document(Name(tried=Tried(20, "unchanged")))), ["drifted"]),
        (member(document=document(drift={"tree": "a file was altered"})), ["drifted"]),
        (member(document=document(not_served="nginx is not running")), ["not served"]),
        (member(document=document(not_served="nginx is not running"), silent="no answer"), ["silent"]),
        (member(document=document(not_served="nginx is not running", stopped=NOW - 9)), ["stopped"]),
        (member(silent="its Consul agent is down"), ["silent"]),
        (member(document=document(stopped=NOW - 9), silent="agentd does not answer"), ["stopped"]),
        (member(document=document(paused="by hand")), ["paused"]),
        (member(node_id="other"), ["name taken"]),
        (member(document=None), ["no agentd"]),
        (member(document=None, runs_as="a"), ["silent"]),
        (member(document=None, unreadable="it is not JSON"), ["unreadable"]),
        (member(document=document(Name(tried=Tried(20, "exempt", "older than its start")))), []),
        (member(document=document(Name(tried=Tried(10, "exempt", "older than its start")))), ["behind"]),
        (member(document=document(Name(live=30))), ["log lost"]),
        (member(document=document(Name(live=20, tried=Tried(30, "applied", "")))), ["log lost"]),
        (member(document=document(Name(live=20, tried=Tried(8 * 10**15, "refused", "not believed")))), []),
        (member(document=document(Name(live=20, incomplete_since=7))), ["incomplete"]),
        (member(document=document(Name(live=20, provisional=2))), ["provisional"]),
    ],
)  # fmt: skip
def test_each_trouble_is_told_by_its_name(given_member: Member, expected: list[str]) -> None:
    """One node, with one thing wrong."""
    assert [one.trouble for one in judged(given_member).differences] == expected


def test_who_runs_under_a_name_that_another_node_has_is_told() -> None:
    """Of itself it can only say so in its own status: it has no document."""
    (found,) = judged(member("a"), member("b", document=None, runs_as="a")).differences
    assert (found.trouble, found.node) == ("name taken", "b")
    assert "agentd runs there as a, as on another node" in found.text


def test_a_difference_gives_the_reason_and_the_number_in_force() -> None:
    """So that nobody has to log in to see why."""
    (found,) = judged(
        member(document=document(Name(live=10, tried=Tried(20, "refused", "line 3")))),
    ).differences
    assert (found.node, found.subject, found.text, found.live) == ("a", "blocked", "refused: line 3", 10)


def test_who_is_behind_is_told_with_what_holds_it_up() -> None:
    """A node that is stopped will not come by itself."""
    behind = Name(live=10, tried=Tried(10, "applied"))
    found = judged(
        member("a", document=document(behind, stopped=NOW)),
        member("b", document=document(behind), silent="its Consul agent is down"),
        member("c", document=document(replace(behind, waits="a is paused: db", held=True), paused="a is")),
        member("d", document=document(behind)),
        member("e", document=document(replace(behind, waits="message 20 is sealed with another key"))),
    ).differences
    assert {one.node: one.text for one in found if one.trouble == "behind"} == {
        "a": "agentd is stopped",
        "b": "its Consul agent is down",
        "c": "waits: a is paused: db",
        "d": "has not started on it",
        "e": "waits: message 20 is sealed with another key",
    }


def test_a_message_for_others_or_that_has_expired_makes_nobody_behind() -> None:
    """Nobody will ever apply it."""
    behind = member(document=document(Name(live=10)))
    for newest in (
        replace(NEWEST["blocked"], addressed=frozenset({"z"})),
        replace(NEWEST["blocked"], expires=NOW - 1),
    ):
        assert not judged(behind, newest={"blocked": newest}).differences
        assert not takers([behind], newest, NOW)


def test_a_log_that_is_gone_is_told_by_who_still_has_it() -> None:
    """All keys below `names/` were deleted."""
    assert [one.trouble for one in judged(member(), newest={}).differences] == ["log lost"]


def test_a_head_that_cannot_be_read_is_not_a_log_that_is_lost() -> None:
    """A newer agentd wrote it: which message is the newest nobody can tell who does not know its format."""
    (found,) = standing([member()], {}, NOW, unreadable={"blocked": "it has format 2"}).differences
    assert (found.trouble, found.subject, found.live) == ("unreadable", "blocked", 20)


def test_nodes_that_are_alike_and_differ_disagree() -> None:
    """The majority is taken for right; other options, gaps and no fingerprint are no like."""
    found = judged(
        member("a", document=document(fingerprint="right")),
        member("b", document=document(fingerprint="right")),
        member("c", document=document(fingerprint="wrong")),
        member("d", document=document(fingerprint="other", options={"blacklist": "other"})),
        member("e", document=document(Name(live=20, provisional=1), fingerprint="ahead")),
        member("f", document=document(fingerprint=None)),
    )
    assert [one.node for one in found.differences if one.trouble == "disagreeing"] == ["c"]


def test_of_two_that_disagree_neither_is_right() -> None:
    """Both are told."""
    found = judged(
        member("a", document=document(fingerprint="one")), member("b", document=document(fingerprint="two"))
    )
    assert sorted((one.trouble, one.node) for one in found.differences) == [
        ("disagreeing", "a"),
        ("disagreeing", "b"),
    ]


def test_who_may_be_about_to_agree_does_not_disagree_yet() -> None:
    """Timed work ends at other moments on other nodes."""
    young = document(fingerprint="two", since=NOW - SETTLED / 2)
    assert not judged(
        member("a", document=document(fingerprint="one")), member("b", document=young)
    ).differences


def test_a_clock_that_is_ahead_hides_no_disagreement() -> None:
    """A document from next year is not about to change."""
    ahead = document(fingerprint="two", written=NOW + 365 * 86400, since=NOW + 365 * 86400)
    found = judged(member("a", document=document(fingerprint="one")), member("b", document=ahead))
    assert {one.trouble for one in found.differences} == {"disagreeing"}


@pytest.mark.parametrize("fields", [{"stopped": NOW - SETTLED}, {"silent": "its Consul agent is down"}])
def test_what_a_node_has_come_to_that_is_not_heard_any_more_is_unknown(fields: dict[str, Any]) -> None:
    """It may be what the others are at by now; and that nothing is heard of it is told anyway."""
    said = document(fingerprint="two", written=NOW - SETTLED * 2, stopped=fields.pop("stopped", None))
    found = judged(member("a", document=document(fingerprint="one")), member("b", document=said, **fields))
    assert [one.trouble for one in found.differences] in (["stopped"], ["silent"])


def test_of_the_newest_message_only_those_count_whom_it_is_for() -> None:
    """Whoever joined later or is not meant will never have it, and nobody waits for that."""
    joined = document(Name(tried=Tried(20, "exempt")))
    behind = document(Name(live=10))
    members = member("a"), member("b", document=joined), member("c", document=behind), member("d")
    newest = {"blocked": replace(NEWEST["blocked"], addressed=frozenset("abc"))}
    assert judged(*members, newest=newest).confirmed == {"blocked": (1, 2)}
    assert judged(*members, newest={}).confirmed == {"blocked": (0, 4)}


def test_of_one_handler_only_its_nodes_and_names_count() -> None:
    """The name of another handler is behind, and a node without the handler is stopped."""
    both = replace(
        document(),
        names={"blocked": Name(live=20), "deploy": Name(live=1)},
        handlers={"blacklist": HandlerReport(("blocked",)), "site": HandlerReport(("deploy",))},
    )
    newest = NEWEST | {"deploy": Newest("deploy", 5)}
    members = [member("a", document=both), member("b", document=document(handlers={}, stopped=NOW))]
    assert judged(*members, newest=newest, handler="blacklist") == Standing(
        ("a",), (), {"blocked": {20: 1}}, {"blocked": (1, 1)}
    )
    assert [one.trouble for one in judged(*members, newest=newest).differences] == ["behind", "stopped"]


def test_the_worst_comes_first() -> None:
    """Whatever order the nodes have."""
    found = judged(
        member("a", document=None),
        member("b", document=document(stopped=NOW)),
        member("c", document=document(Name(live=10, tried=Tried(20, "failed")))),
    )
    assert [one.node for one in found.differences] == ["c", "b", "a"]


def test_a_later_message_confirms_an_earlier_one() -> None:
    """Of `latest` it stands for it, of `all` it came after it."""
    newest = NEWEST["blocked"]
    assert progress(member(document=document(Name(live=30))), newest).state == "confirmed"
    assert progress(member(document=document(Name(live=19))), newest).state == "waiting"


def test_who_confirms_while_nobody_serves_it_says_so() -> None:
    """Whether nginx stopped before the message came or after it."""
    state = Name(live=20, tried=Tried(20, "applied", "committed; not verified"))
    found = progress(member(document=document(state, not_served="nginx is not running")), NEWEST["blocked"])
    assert (found.state, found.reason) == ("confirmed", "nginx is not running")


def test_a_refusal_is_final_and_a_retry_is_not() -> None:
    """The first is told at once; the other is waited for."""
    newest = NEWEST["blocked"]
    refused = progress(member(document=document(Name(tried=Tried(20, "refused", "line 3")))), newest)
    assert (refused.state, refused.reason) == ("refused", "refused: line 3")
    tried = progress(member(document=document(Name(tried=Tried(20, "", "nginx is down")))), newest)
    assert (tried.state, tried.reason) == ("waiting", "still applying it: nginx is down")


def test_a_refusal_stays_one_when_later_messages_are_applied() -> None:
    """Whoever waits for the earlier message is not told that it is in force."""
    later = Name(live=30, tried=Tried(30, "applied"), failed=(Tried(20, "refused", "line 3"),))
    found = progress(member(document=document(later)), NEWEST["blocked"])
    assert (found.state, found.reason) == ("refused", "refused: line 3")


def test_a_refusal_may_have_been_pushed_out_by_later_ones() -> None:
    """A document names only the latest ones, so the message is not known to be in force."""
    many = tuple(Tried(num, "refused") for num in range(29, 21, -1))
    later = Name(live=30, tried=Tried(30, "applied"), failed=many)
    assert progress(member(document=document(later)), NEWEST["blocked"]).state == "waiting"
    fewer = replace(later, failed=many[1:])
    assert progress(member(document=document(fewer)), NEWEST["blocked"]).state == "confirmed"


def test_who_joined_later_and_does_nothing_belatedly_is_not_waited_for() -> None:
    """It would never confirm, and nothing is wrong with it."""
    joined = member(document=document(Name(tried=Tried(20, "exempt", "older than its start"))))
    assert not takers([joined], NEWEST["blocked"], NOW)
    assert takers([joined], Newest("blocked", 21), NOW)


# ---------------------------------------------------------------- whatever they say

NUMBERS = st.none() | st.integers(1, 30)
TRIED = st.none() | st.builds(
    Tried,
    st.integers(1, 30),
    st.sampled_from(["", "applied", "unchanged", "refused", "failed", "expired", "?"]),
    st.text(max_size=5),
)
NAMES = st.dictionaries(
    st.sampled_from(["blocked", "deploy", "gone"]),
    st.builds(
        Name, NUMBERS, TRIED, st.integers(0, 2), NUMBERS, st.lists(TRIED.filter(bool), max_size=2).map(tuple)
    ),
    max_size=3,
)
REPORTS = st.builds(
    HandlerReport,
    st.lists(st.sampled_from(["blocked", "deploy", "gone"]), unique=True).map(tuple),
    st.none() | st.sampled_from(["x", "y"]),
)
DOCUMENTS = st.builds(
    document,
    names=NAMES,
    handlers=st.dictionaries(st.sampled_from(["blacklist", "site"]), REPORTS, max_size=2),
    options=st.dictionaries(st.sampled_from(["blacklist", "site"]), st.sampled_from(["p", "q"])),
    stopped=st.none() | st.just(NOW),
    written=st.sampled_from([0.0, NOW - 1, NOW, NOW + 1000]),
)
MEMBERS = st.lists(
    st.builds(
        Member,
        st.sampled_from("abcdef"),
        st.none() | DOCUMENTS,
        silent=st.sampled_from(["", "down"]),
        node_id=st.sampled_from(["", "id", "other"]),
    ),
    unique_by=lambda one: one.node,
)
HEADS = st.dictionaries(st.sampled_from(["blocked", "deploy"]), st.integers(1, 30)).map(
    lambda heads: {name: Newest(name, num) for name, num in heads.items()}
)


@given(MEMBERS, HEADS, st.none() | st.sampled_from(["blacklist", "site"]), st.randoms())
def test_every_node_agrees_or_differs_whatever_the_order(
    members: list[Member], newest: dict[str, Newest], handler: str | None, random: Random
) -> None:
    """None is lost, none is in both lists, and the order in which Consul answers changes nothing."""
    found = standing(members, newest, NOW, handler)
    assert set(found.agreeing) | {one.node for one in found.differences} == set(found.nodes)
    order = [TROUBLES.index(one.trouble) for one in found.differences]
    assert order == sorted(order)
    shuffled = list(members)
    random.shuffle(shuffled)
    again = standing(shuffled, newest, NOW, handler)
    assert again.nodes == found.nodes
    assert set(again.differences) == set(found.differences)


@given(MEMBERS, HEADS)
def test_a_node_that_agrees_has_the_newest_of_every_name_in_force(
    members: list[Member], newest: dict[str, Newest]
) -> None:
    """What is folded into one line hides nothing."""
    found = standing(members, newest, NOW)
    for one in members:
        if one.node in found.agreeing:
            assert one.document is not None
            assert not one.silent
            assert one.document.stopped is None
            for name, state in one.document.names.items():
                assert state.live == (newest[name].num if name in newest else None)


@given(MEMBERS, HEADS)
def test_who_confirms_is_not_behind_and_who_refuses_has_failed(
    members: list[Member], newest: dict[str, Newest]
) -> None:
    """The table and `--wait` never contradict each other."""
    found = {(one.node, one.subject, one.trouble) for one in standing(members, newest, NOW).differences}
    for head in newest.values():
        for one in takers(members, head, NOW):
            state = progress(one, head).state
            assert ((one.node, head.name, "behind") in found) <= (state == "waiting")
            if state == "refused":
                assert found & {(one.node, head.name, "failed"), (one.node, head.name, "log lost")}


# ---------------------------------------------------------------------- an open rollout

OPEN = {
    "blocked": Newest(
        "blocked", 20, issued=NOW - 60, addressed=frozenset("a"), rollout="r1", others=Newest("blocked", 10)
    )
}


@pytest.mark.parametrize(
    "node, live, expected",
    [
        ("a", 20, []),
        ("a", 10, ["behind"]),
        ("a", 15, ["behind"]),
        ("b", 10, []),
        ("b", 15, []),
        ("b", 5, ["behind"]),
        ("b", 30, ["log lost"]),
    ],
)
def test_a_node_should_have_what_the_rollout_lets_it_have(node: str, live: int, expected: list[str]) -> None:
    """Those that are not admitted stay with what was released before, and that is right."""
    found = member(node, document=document(Name(live=live, tried=Tried(live, "applied"))))
    assert [one.trouble for one in judged(found, newest=OPEN).differences] == expected


def test_nobody_is_behind_in_a_rollout_before_which_nothing_was_released() -> None:
    """The nodes that are not admitted have nothing to take."""
    newest = {"blocked": replace(OPEN["blocked"], others=None)}
    assert not judged(member("b", document=document(Name())), newest=newest).differences


def test_admitted_nodes_and_others_do_not_disagree() -> None:
    """They have different messages, so different results are right."""
    since = NOW - 9 * SETTLED

    def at(node: str, num: int, fingerprint: str) -> Member:
        past = encode([State(str(num), fingerprint, since)])
        told = document(Name(live=num, tried=Tried(num, "applied")))
        return member(
            node, document=replace(told, handlers={"blacklist": HandlerReport(("blocked",), past=past)})
        )

    nodes = [at("a", 20, "new"), at("b", 10, "old"), at("c", 10, "old")]
    assert not judged(*nodes, newest=OPEN).differences
    (found,) = judged(*nodes, at("d", 10, "other"), newest=OPEN).differences
    assert (found.trouble, found.node) == ("disagreeing", "d")


def test_a_step_is_confirmed_by_the_nodes_that_it_admits() -> None:
    """The others are none of those that it is for."""
    admitted = member("a", document=document(Name(live=20, tried=Tried(20, "applied"))))
    other = member("b", document=document(Name(live=10, tried=Tried(10, "applied"))))
    assert judged(admitted, other, newest=OPEN).confirmed == {"blocked": (1, 1)}
    assert [one.node for one in takers([admitted, other], OPEN["blocked"], NOW)] == ["a"]
