"""The newest state that failed is tried again after its outcome, until it succeeds."""

from __future__ import annotations

import pytest

from agentd.errors import PermanentError, TemporaryError
from agentd.journal.history import history
from agentd.nginx.inputs import Inputs
from tests.unit.apply.stand import Prover, Scribe, Stand, event, settle, state

SITE = "key:site:"


def fail(stand: Stand, handler: Scribe, attempts: int = 3) -> None:
    """Let the state fail as often as it is tried before its outcome."""
    handler.raises["write A=1"] = [TemporaryError("the disk is full") for _ in range(attempts)]
    stand.receive(state("write A=1"))


def pass_time(stand: Stand, *workers: object, seconds: float = 60.0) -> None:
    """Let time pass in steps of a second."""
    for _ in range(int(seconds)):
        for worker in workers:
            settle(worker)  # type: ignore[arg-type]
        stand.clock.now += 1


def outcomes(stand: Stand) -> list[str | None]:
    """The outcomes of the states, in order of arrival."""
    return [row["outcome"] for row in reversed(history(stand.journal)) if row["kind"] == "key"]


def test_a_state_that_failed_is_applied_later(stand: Stand) -> None:
    """It has its outcome, and another entry for what becomes of it afterwards."""
    handler = Scribe()
    worker = stand.worker(handler)
    fail(stand, handler, attempts=9)

    pass_time(stand, worker)

    assert outcomes(stand) == ["failed", "applied"]
    assert stand.files == {"A": b"1"}


def test_the_longest_wait_limits_it(stand: Stand) -> None:
    """However often it failed, the next attempt is at most `retry.longest` away."""
    handler = Scribe()
    worker = stand.worker(handler)
    fail(stand, handler, attempts=40)
    pass_time(stand, worker, seconds=120)
    calls = len(handler.calls)

    pass_time(stand, worker, seconds=33)

    assert len(handler.calls) >= calls + 3


def test_an_event_that_failed_is_not_tried_again(stand: Stand) -> None:
    """It asks for something once; `agentd replay` is for that."""
    handler = Scribe()
    worker = stand.worker(handler)
    handler.raises["write A=1"] = [TemporaryError("no") for _ in range(3)]
    stand.receive(event("a", "write A=1"))

    pass_time(stand, worker)

    assert stand.outcomes == {"a": "failed"}


def test_a_handler_with_side_effects_is_left_alone(stand: Stand) -> None:
    """A program is not run for ever."""
    handler = Scribe()
    handler.converges = False
    worker = stand.worker(handler)
    fail(stand, handler)

    pass_time(stand, worker)

    assert len(handler.calls) == 3


def test_a_newer_state_ends_the_attempts(stand: Stand) -> None:
    """What was asked for before is no longer wanted."""
    handler = Scribe()
    worker = stand.worker(handler)
    fail(stand, handler, attempts=99)
    pass_time(stand, worker)
    stand.receive(state("write B=1", index=2))

    pass_time(stand, worker)

    assert outcomes(stand) == ["failed", "expired", "applied"]
    assert stand.files == {"B": b"1"}


def test_it_does_not_hold_up_what_comes_later(stand: Stand) -> None:
    """An event of the same handler is applied meanwhile."""
    handler = Scribe()
    worker = stand.worker(handler)
    fail(stand, handler, attempts=99)
    pass_time(stand, worker, seconds=20)
    stand.receive(event("a", "write B=1"))

    settle(worker)

    assert stand.outcomes["a"] == "applied"


def test_a_state_that_was_refused_waits_for_other_inputs(stand: Stand) -> None:
    """Only once nginx's own files have changed may the answer be another one."""
    handler = Scribe()
    worker = stand.worker(handler)
    handler.raises["write A=1"] = [PermanentError("host not found in upstream")]
    stand.receive(state("write A=1"))
    pass_time(stand, worker)
    before = list(handler.calls)
    stand.inputs = Inputs("nginx.conf was mended", 0.0)

    pass_time(stand, worker, seconds=10)

    assert before == ["write A=1"]
    assert outcomes(stand) == ["refused", "applied"]


def test_what_changed_while_it_was_being_refused_counts(stand: Stand) -> None:
    """Nobody knows whether nginx read the file before or after."""
    handler = Scribe()
    worker = stand.worker(handler)
    handler.raises["write A=1"] = [PermanentError("host not found in upstream")]
    stand.receive(state("write A=1"))
    stand.inputs = Inputs("nginx.conf was mended", stand.clock.now + 0.01)

    settle(worker)

    assert outcomes(stand) == ["refused", "applied"]


@pytest.mark.parametrize("error", [TemporaryError("no"), PermanentError("no")])
def test_a_start_tries_again_at_once(stand: Stand, error: Exception) -> None:
    """What is committed is compared with what Consul said last."""
    handler = Scribe()
    worker = stand.worker(handler)
    handler.raises["write A=1"] = [error, error, error]
    stand.receive(state("write A=1"))
    pass_time(stand, worker, seconds=5)
    stand.restart()

    settle(stand.worker(Scribe()))

    assert stand.files == {"A": b"1"}


def test_a_state_whose_reload_failed_is_tried_again(stand: Stand) -> None:
    """It was taken back; once nginx can load it, it is in force without a word from Consul."""
    prover = Prover()
    nginx = stand.worker(prover, "nginx")
    worker = stand.worker(Scribe(), notify=["nginx"], provers=["nginx"])
    stand.receive(state("write Z=0"))
    pass_time(stand, worker, nginx, seconds=3)
    stand.receive(state("write A=1", index=2))
    settle(worker)
    prover.verdicts = [PermanentError("the port is taken")]

    pass_time(stand, nginx, worker, seconds=20)

    assert outcomes(stand) == ["applied", "failed", "applied"]
    assert stand.files == {"Z": b"0", "A": b"1"}


def test_what_an_operator_took_back_is_left_alone(stand: Stand) -> None:
    """Until Consul has a newer state."""
    worker = stand.worker(Scribe(), notify=["nginx"], provers=["nginx"])
    stand.receive(state("write A=1"))
    settle(worker)
    stand.committer.prove(stand.tree.current)
    good = stand.tree.current
    stand.receive(state("write A=2", index=2))
    settle(worker)
    stand.committer.roll_back(good, "rolled back by hand", [])
    stand.clock.now += 1

    pass_time(stand, worker, seconds=20)

    assert outcomes(stand) == ["applied", "failed"]
    assert stand.files == {"A": b"1"}


def test_a_state_does_not_expire(stand: Stand) -> None:
    """`expire_after` is for what asks for something once; a state stays true."""
    handler = Scribe()
    worker = stand.worker(handler, expire_after=5.0)
    stand.receive(state("write A=1"))
    stand.clock.now += 60

    settle(worker)

    assert outcomes(stand) == ["applied"]
