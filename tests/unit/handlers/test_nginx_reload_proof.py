"""The rule that tells a reload that worked from one that did not, on scripted looks and a pretended clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.nginx_reload.proof import Look, Wanted, missing, wait_for_proof

BEFORE = Look(
    alive=True, new=frozenset(), left=frozenset({1}), draining=frozenset(), answer=None, emergencies=()
)
LIVE = replace(BEFORE, new=frozenset({2}), left=frozenset(), draining=frozenset({1}), answer="42")
WANTED = Wanted(42, newer=False)


class Nginx:
    """Shows the scripted looks one after the other, then the last for ever; counts and keeps the time."""

    def __init__(self, looks: Sequence[Look]) -> None:
        self.looks = list(looks)
        self.time = 100.0
        self.seen = 0

    def look(self) -> Look:
        """Show the next look."""
        self.seen += 1
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def prove(self, wanted: Wanted = WANTED, deadline: float = 10.0) -> tuple[bool, Look]:
        """Wait for the proof on the pretended clock."""
        return wait_for_proof(self.look, wanted, deadline, clock=lambda: self.time, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        """Let the pretended time pass."""
        assert seconds >= 0
        self.time += seconds


def test_new_workers_that_serve_the_generation_are_the_proof() -> None:
    """It ends at the first look that shows all three signs."""
    nginx = Nginx([BEFORE, BEFORE, LIVE])

    assert nginx.prove() == (True, LIVE)
    assert nginx.seen == 3


@pytest.mark.parametrize(
    "lacking",
    [
        replace(LIVE, new=frozenset()),
        replace(LIVE, left=frozenset({1})),
        replace(LIVE, answer="41"),
        replace(LIVE, answer="43"),
        replace(LIVE, answer=None),
        replace(LIVE, answer="HTTP/1.1 404 Not Found"),
        replace(LIVE, answer="٤٢"),
        replace(LIVE, answer=""),
    ],
)
def test_each_sign_is_needed(lacking: Look) -> None:
    """With one of the three signs missing it waits until the deadline, and no longer."""
    nginx = Nginx([lacking])

    assert nginx.prove(deadline=3.0) == (False, lacking)
    assert nginx.time == pytest.approx(103.0)


def test_a_newer_generation_proves_an_older_one() -> None:
    """A commit that flipped while nginx was reading holds the wanted changes as well."""
    newer = replace(LIVE, answer="43")

    assert Nginx([newer]).prove(Wanted(42, newer=True)) == (True, newer)


def test_an_older_generation_never_proves_a_newer_one() -> None:
    """Also where a newer one is taken."""
    older = replace(LIVE, answer="41")

    assert Nginx([older]).prove(Wanted(42, newer=True)) == (False, older)


def test_an_emergency_ends_the_wait_early() -> None:
    """Nginx said that it keeps the old configuration: the deadline need not be waited for."""
    refused = replace(BEFORE, emergencies=('unknown directive "x"',))
    nginx = Nginx([BEFORE, refused])

    assert nginx.prove() == (False, refused)
    assert nginx.time - 100.0 < 0.5


def test_a_port_that_is_taken_is_tried_again() -> None:
    """Nginx tries to bind five times: after one of these lines it may still succeed."""
    trying = replace(BEFORE, emergencies=("bind() to 127.0.0.1:80 failed (98: Address already in use)",))
    nginx = Nginx([*[trying] * 100, replace(LIVE, emergencies=trying.emergencies)])

    proved, _ = nginx.prove()

    assert proved


def test_the_end_of_the_master_ends_the_wait() -> None:
    """Nothing can come of it any more."""
    ended = replace(BEFORE, alive=False)
    nginx = Nginx([ended])

    assert nginx.prove() == (False, ended)
    assert nginx.seen == 1


@given(
    st.lists(st.sampled_from([BEFORE, LIVE, replace(LIVE, answer="41")]), min_size=1, max_size=50),
    st.floats(0.01, 30),
)
def test_it_looks_boundedly_often_and_keeps_the_deadline(looks: list[Look], deadline: float) -> None:
    """Whatever nginx shows, the wait ends by the deadline after no more looks than the pauses allow."""
    nginx = Nginx(looks)

    nginx.prove(deadline=deadline)

    assert nginx.time <= 100.0 + deadline + 1e-6
    assert nginx.seen <= deadline / 0.02 + 10


@pytest.mark.parametrize(
    "seen,words",
    [
        (replace(BEFORE, alive=False), "master process ended"),
        (BEFORE, "no new workers"),
        (replace(LIVE, left=frozenset({7, 3})), "old workers still accept connections: 3, 7"),
        (replace(LIVE, answer="41"), "the canary answers '41', not 42"),
    ],
)
def test_the_operator_is_told_what_is_missing(seen: Look, words: str) -> None:
    """The message names the first sign that is missing."""
    assert words in missing(seen, WANTED)
