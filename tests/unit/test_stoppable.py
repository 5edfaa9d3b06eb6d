"""Work that a signal stops between two steps."""

from __future__ import annotations

import os
import signal
from threading import Event

import pytest

from agentd.commands.stoppable import run_stoppable
from agentd.errors import AgentdError


def _interrupted(status: int, stop: Event) -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.wait(10)
    return status


@pytest.mark.parametrize("status,expected", [(1, 128 + signal.SIGTERM), (0, 0)])
def test_signal_sets_the_event_and_the_status(status: int, expected: int) -> None:
    """Unless the work ended well all the same."""
    assert run_stoppable(lambda stop: _interrupted(status, stop)) == expected


def test_status_of_the_work_is_returned() -> None:
    """Where no signal came."""
    assert run_stoppable(lambda _: 7) == 7


def test_what_the_work_raises_is_raised() -> None:
    """In the main thread, which tells it."""

    def fail(_: Event) -> int:
        raise AgentdError("no")

    with pytest.raises(AgentdError, match="no"):
        run_stoppable(fail)


def test_handlers_of_signals_are_as_before() -> None:
    """Once the work has ended."""
    before = signal.getsignal(signal.SIGINT)
    run_stoppable(lambda _: 0)
    assert signal.getsignal(signal.SIGINT) is before
