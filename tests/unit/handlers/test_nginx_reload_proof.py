"""The rule that tells a generation that is live from one that is not: scripted observations, a fake clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.nginx_reload.proof import Observation, Result, Wanted, missing, wait_for_proof

MASTER = frozenset({10})
BEFORE = Observation(MASTER, workers={1: 10, 2: 10}, answers={1: "41", 2: "41"})
STARTED = replace(BEFORE, workers={1: 10, 2: 10, 3: 10}, answers={1: "41", 2: "41", 3: "42"})
LIVE = replace(BEFORE, workers={3: 10, 4: 10}, answers={3: "42", 4: "42"}, draining=frozenset({1, 2}))
WANTED = Wanted(42, newer=False)
EMERGENCY = ('unknown directive "x"',)


class Nginx:
    """Returns the scripted observations one after the other, then the last one forever; keeps the time."""

    def __init__(self, observations: Sequence[Observation]) -> None:
        self.observations = list(observations)
        self.time = 100.0
        self.seen = 0

    def observe(self) -> Observation:
        """Return the next observation."""
        self.seen += 1
        return self.observations.pop(0) if len(self.observations) > 1 else self.observations[0]

    def prove(
        self,
        wanted: Wanted = WANTED,
        deadline: float = 10.0,
        **options: Any,  # noqa: ANN401 (its own options)
    ) -> tuple[Result, Observation]:
        """Wait for the proof on the pretended clock."""
        return wait_for_proof(
            self.observe,
            wanted,
            deadline,
            **{"before": BEFORE.workers, **options},
            clock=lambda: self.time,
            sleep=self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        """Let the pretended time pass."""
        assert seconds >= 0
        self.time += seconds


def test_it_is_live_once_every_worker_that_accepts_has_answered_with_it() -> None:
    """It ends at the first observation that shows this; draining workers do not count."""
    nginx = Nginx([BEFORE, STARTED, LIVE])

    assert nginx.prove() == (Result.LIVE, LIVE)
    assert nginx.seen == 3


@pytest.mark.parametrize(
    "lacking",
    [
        replace(LIVE, workers={}, answers={}),
        replace(LIVE, workers={1: 10, **LIVE.workers}),
        replace(LIVE, answers={3: "42"}),
        replace(LIVE, stranger="42"),
        replace(LIVE, suspects=frozenset({7})),
        *(replace(LIVE, answers={3: "42", 4: other}) for other in ("41", "43", "status 404", "٤٢", "")),
    ],
)
def test_each_worker_is_needed(lacking: Observation) -> None:
    """One that is missing, silent, or serves something else, and a process that nobody knows."""
    result, seen = Nginx([lacking]).prove(deadline=3.0)

    assert (result is not Result.LIVE, seen) == (True, lacking)


def test_a_newer_generation_proves_an_older_one() -> None:
    """A commit that flipped while nginx was reading holds the wanted changes as well."""
    newer = replace(LIVE, answers={3: "43", 4: "42"})

    assert Nginx([newer]).prove(Wanted(42, newer=True)) == (Result.LIVE, newer)


def test_an_older_generation_never_proves_a_newer_one() -> None:
    """Also where a newer one is taken."""
    older = replace(LIVE, answers={3: "41", 4: "42"})

    assert Nginx([older]).prove(Wanted(42, newer=True)) == (Result.LATE, older)


def test_workers_from_before_a_rollback_are_no_proof_of_it() -> None:
    """The reload of what was given up may still be under way, and bring it back."""
    again = replace(BEFORE, answers={1: "42", 2: "42"})
    wanted = replace(WANTED, instead_of=frozenset(BEFORE.workers))

    assert Nginx([again]).prove(wanted)[0] is Result.LATE
    assert Nginx([again, LIVE]).prove(wanted)[0] is Result.LIVE


def test_an_emergency_ends_the_wait_early() -> None:
    """Nginx said that it keeps the old configuration: the deadline need not be waited for."""
    refused = replace(BEFORE, emergencies=EMERGENCY)
    nginx = Nginx([BEFORE, refused])

    assert nginx.prove() == (Result.REFUSED, refused)
    assert nginx.time - 100.0 < 0.5


def test_a_port_that_is_taken_is_tried_again() -> None:
    """Nginx tries to bind five times: after one of these lines it may still succeed."""
    trying = replace(BEFORE, emergencies=("bind() to 127.0.0.1:80 failed (98: Address already in use)",))
    nginx = Nginx([*[trying] * 100, replace(LIVE, emergencies=trying.emergencies)])

    assert nginx.prove()[0] is Result.LIVE


def test_the_end_of_all_processes_ends_the_wait() -> None:
    """Nothing can come of it any more."""
    nginx = Nginx([Observation()])

    assert nginx.prove() == (Result.ENDED, Observation())
    assert nginx.seen == 1


@pytest.mark.parametrize(
    "stuck",
    [
        replace(LIVE, workers={1: 10, **LIVE.workers}),
        replace(LIVE, answers={3: "42"}),
        replace(LIVE, workers={1: 0, **LIVE.workers}, answers={1: "41", **LIVE.answers}),
        replace(
            LIVE,
            masters=frozenset({9, 10}),
            workers={1: 9, **LIVE.workers},
            answers={1: "41", **LIVE.answers},
            upgrading={9: 10},
        ),
        replace(BEFORE, stopped=MASTER),
        replace(BEFORE, masters=frozenset(), workers={1: 0, 2: 0}),
        replace(LIVE, stranger="41"),
        replace(LIVE, answers={}, deaf="there is no such socket"),
        Observation(MASTER, stopped=MASTER),
    ],
)
def test_what_cannot_follow_is_not_waited_for_long(stuck: Observation) -> None:
    """It does not answer, or has no master that can reload: no commit is possible meanwhile."""
    nginx = Nginx([stuck])

    assert nginx.prove(patience=1.5) == (Result.PARTLY, stuck)
    assert 101.4 < nginx.time < 101.6


@pytest.mark.parametrize("waiting", [BEFORE, STARTED, replace(BEFORE, answers={})])
def test_what_may_still_follow_is_waited_for(waiting: Observation) -> None:
    """Old workers whose master is busy reloading, whether or not they answer."""
    nginx = Nginx([waiting])

    assert nginx.prove(deadline=3.0) == (Result.LATE, waiting)
    assert nginx.time == pytest.approx(103.0)


def test_patience_begins_anew_when_something_moves() -> None:
    """A worker that answered after a while, and then another one that does not."""
    silent = replace(LIVE, answers={3: "42"})
    nginx = Nginx([*[silent] * 30, STARTED, *[silent] * 30, LIVE])

    assert nginx.prove(patience=0.7)[0] is Result.LIVE


@given(
    st.lists(
        st.sampled_from([BEFORE, STARTED, LIVE, replace(LIVE, answers={}), Observation(MASTER)]),
        min_size=1,
        max_size=50,
    ),
    st.floats(0.01, 30),
)
def test_it_looks_boundedly_often_and_keeps_the_deadline(
    observations: list[Observation], deadline: float
) -> None:
    """Whatever nginx shows, the wait ends by the deadline, after no more looks than the pauses allow."""
    nginx = Nginx(observations)
    given_looks = len(observations)

    nginx.prove(deadline=deadline)

    assert nginx.time <= 100.0 + deadline + 1e-6
    assert nginx.seen <= given_looks + deadline / 0.02 + 60


@pytest.mark.parametrize(
    "seen,words",
    [
        (Observation(MASTER), "no worker accepts connections"),
        (BEFORE, "none of 2 workers serves it; pids 1, 2 serve generation 41"),
        (replace(LIVE, answers={3: "42"}), "live on 1 of 2 workers; pid 4 does not answer; end a worker"),
        (
            replace(LIVE, answers={3: "42"}, stopped=frozenset({4})),
            "pid 4 does not answer (stopped by a signal): continue with `kill -CONT 4`",
        ),
        (
            replace(BEFORE, masters=frozenset(), workers={1: 0, 2: 0}),
            "41 without a master: end them with `kill -QUIT 1 2; rm -f /c`, then start nginx",
        ),
        (
            replace(BEFORE, upgrading={10: 11}),
            "master 10 is being upgraded: finish that with `kill -QUIT 10`, or take it back with `kill -QUIT",
        ),
        (replace(BEFORE, stopped=MASTER), "master 10 is stopped: continue it with `kill -CONT 10`"),
        (
            replace(LIVE, workers={3: 10, 4: 10, 5: 20, 6: 20}),
            "live on 2 of 4 workers; of master 20 no worker answers on /c, but those of 10 do: give each",
        ),
        (replace(LIVE, stranger="7"), "without a master?) answers '7'"),
    ],
)
def test_the_operator_is_told_what_is_missing(seen: Observation, words: str) -> None:
    """The message names the processes, what each serves, and what to do."""
    assert words in missing(seen, WANTED, Path("/c"))
