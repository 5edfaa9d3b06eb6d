"""The clock that does not step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentd.clock import SteadyClock


class Machine:
    """A system's clock that may be set, and the time that passes anyway."""

    def __init__(self) -> None:
        self.elapsed = 50.0
        self.set_by = 1_700_000_000.0

    def wall(self) -> float:
        """Unix time, as the system has it."""
        return self.set_by + self.elapsed

    def clock(self) -> SteadyClock:
        """The clock under test."""
        return SteadyClock(self.wall, lambda: self.elapsed)


@given(st.floats(-86_000, 86_000), st.floats(0, 3600))
def test_a_step_of_the_system_clock_moves_nothing(step: float, passed: float) -> None:
    """A wait takes as long as it should, give or take a twentieth."""
    machine = Machine()
    clock = machine.clock()
    before = clock()
    machine.set_by += step
    machine.elapsed += passed

    after = clock()

    assert 0.94 * passed <= after - before + 1e-6
    assert after - before <= 1.06 * passed + 1e-6


def test_it_finds_back_to_the_system_clock() -> None:
    """An hour takes 20 hours."""
    machine = Machine()
    clock = machine.clock()
    machine.set_by += 3600
    for _ in range(21):
        machine.elapsed += 3600
        clock()

    assert clock() == machine.wall()


def test_a_clock_that_had_never_been_set_is_followed_at_once() -> None:
    """A machine that starts in 1970 has no time to find back to."""
    machine = Machine()
    machine.set_by = 0.0
    clock = machine.clock()
    machine.set_by = 1_700_000_000.0

    assert clock() == machine.wall()
