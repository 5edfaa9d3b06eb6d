"""When nginx_reload reloads, and when it has nothing to do; real reloads are in the integration tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentd.handler import NginxOptions, PermanentError, TemporaryError
from agentd.testing import HandlerHarness, event, notification
from handlers.nginx_reload import NginxReload
from tests.unit.handlers.processes import pretended_nginx


def harness(directory: Path, **options: Any) -> HandlerHarness:  # noqa: ANN401 (the handler's own options)
    """A harness whose nginx would live in the directory."""
    nginx = NginxOptions(
        conf=directory / "nginx.conf",
        pid=directory / "pid",
        error_log=directory / "error.log",
        canary=directory / "canary.sock",
    )
    return HandlerHarness(NginxReload, options, nginx=nginx)


def fail_one_reload(directory: Path, made: HandlerHarness) -> None:
    """Signal a process that ends at SIGHUP: the attempt fails, but it was a reload."""
    with pretended_nginx(directory / "pid"), pytest.raises(TemporaryError):
        made.handle(notification(1, "keys"))


def test_the_first_reload_is_not_held(tmp_path: Path) -> None:
    """Nothing to wait for."""
    assert harness(tmp_path).hold() == 0


def test_a_second_reload_is_held_for_the_rest_of_the_interval(tmp_path: Path) -> None:
    """What comes meanwhile joins it."""
    made = harness(tmp_path, interval="2s")
    fail_one_reload(tmp_path, made)
    made.now += 0.5

    assert made.hold() == pytest.approx(1.5)


def test_after_the_interval_nothing_is_held(tmp_path: Path) -> None:
    """The interval counts from the last signal."""
    made = harness(tmp_path, interval="2s")
    fail_one_reload(tmp_path, made)
    made.now += 2

    assert made.hold() == 0


def test_a_clock_that_was_set_back_holds_nothing(tmp_path: Path) -> None:
    """Else a reload would be owed for as long as the clock was ahead."""
    made = harness(tmp_path, interval="2s")
    fail_one_reload(tmp_path, made)
    made.now -= 3600

    assert made.hold() == 0


def test_many_draining_workers_hold_a_reload(tmp_path: Path) -> None:
    """It looks again in half a second."""
    made = harness(tmp_path, max_draining=1)
    with pretended_nginx(tmp_path / "pid", draining=2):
        assert made.hold() == 0.5

    assert [line.event for line in made.log] == ["nginx.draining"]


def test_few_draining_workers_hold_nothing(tmp_path: Path) -> None:
    """The limit itself is allowed."""
    made = harness(tmp_path, max_draining=2)
    with pretended_nginx(tmp_path / "pid", active=3, draining=2):
        assert made.hold() == 0


def test_draining_workers_hold_a_reload_no_longer_than_the_limit(tmp_path: Path) -> None:
    """Old workers with connections for days must not keep changes from being served; that is told once."""
    made = harness(tmp_path, max_draining=0, drain_limit="1.2s")
    with pretended_nginx(tmp_path / "pid", draining=1):
        held = []
        for _ in range(4):
            held.append(made.hold())
            made.now += held[-1]

    assert held == pytest.approx([0.5, 0.5, 0.2, 0], abs=1e-5)
    assert [line.event for line in made.log] == ["nginx.draining"]


def test_a_pid_file_that_cannot_be_read_holds_nothing(tmp_path: Path) -> None:
    """The attempt meets the same error and can tell it."""
    (tmp_path / "pid").mkdir()

    assert harness(tmp_path).hold() == 0


def test_without_nginx_there_is_nothing_to_do(tmp_path: Path) -> None:
    """It reads the current generation when it starts."""
    made = harness(tmp_path)

    made.handle(notification(1, "keys"))

    assert "nginx.not_running" in [line.event for line in made.log]


def test_a_dry_run_signals_nobody(tmp_path: Path) -> None:
    """The process that would end at SIGHUP goes on."""
    made = harness(tmp_path)
    made.dry_run = True
    with pretended_nginx(tmp_path / "pid") as pid:
        made.handle(notification(1, "keys"))

        assert Path(f"/proc/{pid}/cmdline").read_bytes()


def test_only_notifications_are_taken(tmp_path: Path) -> None:
    """An event under `on` is a mistake in the configuration, and the message says which."""
    with pytest.raises(PermanentError, match="under `on`"):
        harness(tmp_path).handle(event("deploy"))


def test_a_master_that_ends_instead_is_tried_again(tmp_path: Path) -> None:
    """That is no verdict on the change: someone stopped nginx."""
    made = harness(tmp_path)
    with pretended_nginx(tmp_path / "pid"), pytest.raises(TemporaryError, match="its processes ended"):
        made.handle(notification(1, "keys"))


def test_it_proves_what_it_does() -> None:
    """The worker holds back outcomes until the proof."""
    assert NginxReload.proves


def test_timed_work_is_only_looking_for_a_late_master(tmp_path: Path) -> None:
    """Without a missed notification a look costs nothing and finds nothing."""
    made = harness(tmp_path)

    made.due()

    assert made.next_due == made.now + 5
    assert made.log == []
