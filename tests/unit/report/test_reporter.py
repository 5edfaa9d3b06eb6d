"""What is said of the engine's work, and how often."""

from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from agentd.journal.entry import Ending, Entry, Outcome
from agentd.journal.journal import SUPERSEDED, Journal
from agentd.journal.limit import Trimmed
from agentd.report.reporter import Reporter
from tests.unit.apply.stand import event

_ENTRY = Entry(1, "h", "a", event("a"), 0, 0.0, 0.0)


class Timer:
    """Monotonic seconds."""

    now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def test_a_state_that_a_newer_one_replaced_is_no_warning(tmp_path: Path) -> None:
    """In a burst that is how it should be; what else expires is lost."""
    reporter = Reporter(lambda: (), Journal(tmp_path / "journal.db"), lambda _: None)
    with capture_logs() as logs:
        reporter.ended(Ending(_ENTRY, Outcome.EXPIRED, SUPERSEDED))
        reporter.ended(Ending(_ENTRY, Outcome.EXPIRED, "too old"))

    assert [one["log_level"] for one in logs] == ["info", "warning"]


def test_a_full_journal_is_told_once_a_minute_with_all_that_was_dropped(tmp_path: Path) -> None:
    """At its limit it drops a little after each event; a line each would fill the log instead."""
    timer = Timer()
    reporter = Reporter(lambda: (), Journal(tmp_path / "journal.db"), lambda _: None, timer=timer)
    with capture_logs() as logs:
        for _ in range(121):
            reporter.trimmed(Trimmed(rows=2, size=7, most=8))
            timer.now += 1
    said = [(one["history"], one["size"], one["max_size"]) for one in logs]

    assert said == [(2, 7, 8), (120, 7, 8), (120, 7, 8)]


def test_what_waited_and_had_to_end_is_told_at_once(tmp_path: Path) -> None:
    """It is lost, unless somebody fires it again."""
    reporter = Reporter(lambda: (), Journal(tmp_path / "journal.db"), lambda _: None, timer=Timer())
    ending = Ending(_ENTRY, Outcome.EXPIRED)
    with capture_logs() as logs:
        reporter.trimmed(Trimmed(rows=2))
        reporter.trimmed(Trimmed(endings=[ending]))

    assert [one["waiting"] for one in logs] == [0, 1]
