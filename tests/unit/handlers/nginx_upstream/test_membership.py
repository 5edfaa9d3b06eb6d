"""Which servers may leave, and which are held."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.nginx_upstream.membership import RemovalLimits, Verdict, judge

TEN = [f"10.0.0.{n}:80" for n in range(1, 11)]


def test_nothing_missing_is_nothing_to_judge() -> None:
    """New servers need no permission."""
    assert judge(TEN[:3], TEN, {}, 100.0, RemovalLimits()) == Verdict()


def test_a_server_that_is_gone_goes() -> None:
    """At once, without a grace."""
    assert judge(TEN, TEN[1:], {}, 100.0, RemovalLimits()) == Verdict()


def test_an_empty_service_is_held() -> None:
    """The last good servers stay."""
    verdict = judge(TEN, [], {}, 100.0, RemovalLimits())

    assert verdict.guard == "empty"
    assert list(verdict.missing) == TEN
    assert verdict.due is None


def test_min_servers_holds_all_that_are_missing() -> None:
    """Nobody can tell which of them would still serve."""
    verdict = judge(TEN[:3], TEN[:1], {}, 100.0, RemovalLimits(min_servers=2))

    assert verdict.guard == "min_servers"
    assert "min_servers is 2" in verdict.reason
    assert list(verdict.missing) == TEN[1:3]


@pytest.mark.parametrize("gone, guard", [(5, ""), (6, "share")])
def test_the_largest_share_that_goes_at_once(gone: int, guard: str) -> None:
    """Half may, more may not."""
    assert judge(TEN, TEN[gone:], {}, 100.0, RemovalLimits(max_removed=50)).guard == guard


def test_one_server_may_always_go() -> None:
    """Of two servers one is half, whatever the share is."""
    assert judge(TEN[:2], TEN[:1], {}, 100.0, RemovalLimits(max_removed=10)).guard == ""


def test_new_servers_do_not_make_up_for_a_share() -> None:
    """A service that is replaced as a whole at once is as suspicious as one that vanishes."""
    assert judge(TEN[:5], TEN[5:], {}, 100.0, RemovalLimits()).guard == "share"


def test_the_operator_may_let_an_upstream_run_empty() -> None:
    """With both guards off."""
    assert judge(TEN, [], {}, 100.0, RemovalLimits(min_servers=0, max_removed=100)) == Verdict()


def test_a_removal_waits_for_the_grace() -> None:
    """And says until when."""
    first = judge(TEN[:3], TEN[1:3], {}, 100.0, RemovalLimits(grace=30))
    later = judge(TEN[:3], TEN[2:3], first.missing, 110.0, RemovalLimits(grace=30, max_removed=100))

    assert first == Verdict({TEN[0]: 100.0}, due=130.0)
    assert later.missing == {TEN[0]: 100.0, TEN[1]: 110.0}
    assert later.due == 130.0
    assert judge(
        TEN[:3], TEN[2:3], later.missing, 130.0, RemovalLimits(grace=30, max_removed=100)
    ).missing == {TEN[1]: 110.0}


def test_a_clock_that_was_set_back_does_not_prolong_the_grace() -> None:
    """While agentd was down: the grace begins again at most."""
    verdict = judge(TEN[:3], TEN[1:3], {TEN[0]: 4000.0}, 100.0, RemovalLimits(grace=30))

    assert verdict == Verdict({TEN[0]: 100.0}, due=130.0)


def test_who_comes_back_within_the_grace_never_left() -> None:
    """Its next absence begins anew."""
    first = judge(TEN[:3], TEN[1:3], {}, 100.0, RemovalLimits(grace=30))

    assert judge(TEN[:3], TEN[:3], first.missing, 120.0, RemovalLimits(grace=30)) == Verdict()


def test_absences_within_the_grace_count_together() -> None:
    """Servers that go one by one, faster than the grace, are one removal."""
    missing: dict[str, float] = {}
    for n in range(1, 7):
        missing = dict(judge(TEN, TEN[n:], missing, 100.0 + n, RemovalLimits(grace=60)).missing)

    assert judge(TEN, TEN[6:], missing, 200.0, RemovalLimits(grace=60)).guard == "share"


@given(
    current=st.sets(st.sampled_from(TEN)),
    wanted=st.sets(st.sampled_from(TEN)),
    limits=st.builds(
        RemovalLimits,
        min_servers=st.integers(0, 5),
        max_removed=st.integers(1, 100),
        grace=st.sampled_from([0.0, 30.0]),
    ),
    since=st.dictionaries(st.sampled_from(TEN), st.floats(0, 100)),
)
def test_no_removal_breaks_a_limit(
    current: set[str], wanted: set[str], limits: RemovalLimits, since: dict[str, float]
) -> None:
    """Whatever is asked for."""
    verdict = judge(current, wanted, since, 100.0, limits)
    stay = wanted | set(verdict.missing)
    removed = current - stay

    assert set(verdict.missing) <= current - wanted
    assert len(removed) <= max(1, len(current) * limits.max_removed // 100)
    assert not removed or len(stay) >= limits.min_servers
    assert all(since.get(address, 100.0) + limits.grace <= 100.0 for address in removed)
    assert (verdict.due is None) == (not verdict.missing or verdict.guard != "")
