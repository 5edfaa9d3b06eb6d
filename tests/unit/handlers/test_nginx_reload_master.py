"""Finding nginx's master and its workers in /proc, with processes that carry their names."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from agentd.handler import TemporaryError
from handlers.nginx_reload.master import Workers, running_master
from tests.unit.handlers.processes import pretended_nginx


def test_the_workers_are_told_apart(tmp_path: Path) -> None:
    """Active, draining, and a cache manager that is none of them."""
    pid_file = tmp_path / "pid"
    with pretended_nginx(pid_file, active=2, draining=1) as pid, running_master(pid_file) as master:
        assert master is not None
        workers = master.workers()

        assert (master.pid, len(workers.active), len(workers.draining)) == (pid, 2, 1)
        assert len(workers.children) == 4


@pytest.mark.parametrize("content", ["", "\n", "-1", "0", "nginx", "9" * 30, "²"])
def test_a_pid_file_without_a_process_is_no_master(tmp_path: Path, content: str) -> None:
    """`nginx -t` may leave an empty one."""
    (tmp_path / "pid").write_text(content)

    with running_master(tmp_path / "pid") as master:
        assert master is None


def test_no_pid_file_is_no_master(tmp_path: Path) -> None:
    """Nginx removes it when it stops."""
    with running_master(tmp_path / "pid") as master:
        assert master is None


def test_a_pid_taken_over_by_another_program_is_no_master(tmp_path: Path) -> None:
    """The pid file of a killed nginx may name anything: this very process, here."""
    (tmp_path / "pid").write_text(str(os.getpid()))

    with running_master(tmp_path / "pid") as master:
        assert master is None


def test_a_pid_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Not knowing is not the same as not running."""
    with pytest.raises(TemporaryError, match="cannot read nginx's pid file"), running_master(tmp_path):
        pass


def test_a_master_that_ended_has_no_workers_and_cannot_be_reloaded(tmp_path: Path) -> None:
    """Also between finding it and using it."""
    pid_file = tmp_path / "pid"
    with pretended_nginx(pid_file, active=1) as pid, running_master(pid_file) as master:
        assert master is not None
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

        assert not master.alive
        assert master.workers() == Workers(frozenset(), frozenset(), frozenset())
        with pytest.raises(TemporaryError, match="ended just before"):
            master.reload()


def test_a_master_that_may_not_be_signalled_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says which right is missing."""

    def refuse(*_args: object) -> None:
        raise PermissionError

    pid_file = tmp_path / "pid"
    with pretended_nginx(pid_file) as _, running_master(pid_file) as master:
        assert master is not None
        monkeypatch.setattr(signal, "pidfd_send_signal", refuse)

        with pytest.raises(TemporaryError, match="CAP_KILL"):
            master.reload()
