"""Finding the nginx that serves a tree in /proc, with processes that carry nginx's names."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentd.errors import TemporaryError
from agentd.nginx import processes
from agentd.nginx.processes import Processes
from agentd.options import NginxOptions
from tests.unit.handlers.processes import pretended_nginx


def options(directory: Path) -> NginxOptions:
    """An nginx whose configuration and pid file are in the directory."""
    (directory / "nginx.conf").touch()
    return NginxOptions(
        binary=str(directory / "none"), conf=directory / "nginx.conf", pid=directory / "nginx.pid"
    )


def test_the_workers_are_told_apart(tmp_path: Path) -> None:
    """Active, draining, and a cache manager that is none of them."""
    nginx = options(tmp_path)
    with pretended_nginx(nginx.pid, active=2, draining=1) as pid:
        running = Processes(nginx).look()

    assert set(running.masters) == {pid}
    assert set(running.workers.values()) == {pid}
    assert (len(running.workers), len(running.draining)) == (2, 1)
    assert not running.upgrading


@pytest.mark.parametrize("content", [None, "", "\n", "-1", "0", "nginx", "9" * 30, "²", "1", "self"])
def test_the_pid_file_may_say_anything(tmp_path: Path, content: str | None) -> None:
    """Missing, empty or stale: the master says itself what it reads."""
    nginx = options(tmp_path)
    with pretended_nginx(nginx.pid, active=1) as pid:
        nginx.pid.unlink()
        if content is not None:
            nginx.pid.write_text(str(os.getpid()) if content == "self" else content)

        assert set(Processes(nginx).look().masters) == {pid}


def test_another_nginx_is_told_apart(tmp_path: Path) -> None:
    """Even if our pid file names it."""
    nginx = options(tmp_path)
    with pretended_nginx(nginx.pid, active=1, options="-c /somewhere/else.conf") as pid:
        running = Processes(nginx).look()

    assert (dict(running.masters), dict(running.workers)) == ({}, {})
    assert pid in {other.pid for other in running.others}


def test_a_relative_configuration_begins_at_the_prefix(tmp_path: Path) -> None:
    """As nginx takes it."""
    (tmp_path / "binary").write_text("#!/bin/sh\necho configure arguments: --prefix=/usr/share/nginx\n")
    (tmp_path / "binary").chmod(0o755)
    nginx = options(tmp_path).model_copy(update={"binary": str(tmp_path / "binary")})
    with pretended_nginx(tmp_path / "pid", options=f"-p {tmp_path} -c nginx.conf") as pid:
        assert set(Processes(nginx).look().masters) == {pid}


@pytest.mark.parametrize("built_in,counts", [("{}/nginx.conf", True), ("/other/nginx.conf", False)])
def test_without_a_word_it_reads_what_it_was_built_with(
    tmp_path: Path, built_in: str, *, counts: bool
) -> None:
    """Which the program can be asked."""
    binary = tmp_path / "binary"
    arguments = f"--prefix=/x --conf-path={built_in.format(tmp_path)}"
    binary.write_text(f"#!/bin/sh\necho configure arguments: {arguments}\n")
    binary.chmod(0o755)
    nginx = options(tmp_path).model_copy(update={"binary": str(binary)})
    with pretended_nginx(tmp_path / "pid", options="") as pid:
        assert (pid in Processes(nginx).look().masters) == counts


def test_the_pid_file_helps_where_nothing_else_tells(tmp_path: Path) -> None:
    """The program cannot be asked which configuration it was built with."""
    nginx = options(tmp_path)
    with pretended_nginx(nginx.pid, options="") as pid:
        assert set(Processes(nginx).look().masters) == {pid}
        nginx.pid.unlink()
        assert not Processes(nginx).look().masters


def test_a_worker_that_answered_ties_its_master(tmp_path: Path) -> None:
    """Whatever the title says."""
    nginx = options(tmp_path)
    with pretended_nginx(tmp_path / "pid", active=2, options="-c /other.conf") as pid:
        table = Processes(nginx)
        worker = next(each for each in _children(pid) if _title(each).startswith(b"nginx: worker"))

        assert not table.look().workers
        assert len(table.look({worker}).workers) == 2


def test_a_worker_without_a_master_counts_once_it_answered(tmp_path: Path) -> None:
    """Nothing else tells whose it is; from then on it is known."""
    nginx = options(tmp_path)
    with pretended_nginx(nginx.pid, active=2) as pid:
        workers = {each for each in _children(pid) if _title(each).startswith(b"nginx: worker")}
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        fresh, known = Processes(nginx), Processes(nginx)

        assert not fresh.look().workers
        assert dict(known.look(workers).workers) == dict.fromkeys(workers, 0)
        assert dict(known.look().workers) == dict.fromkeys(workers, 0)


def test_a_worker_without_a_master_is_suspected_until_it_is_acquitted(tmp_path: Path) -> None:
    """It may be another nginx's; each proof would wait for it otherwise."""
    nginx = options(tmp_path)
    with pretended_nginx(nginx.pid, active=1) as pid:
        worker = next(each for each in _children(pid) if _title(each).startswith(b"nginx: worker"))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        table = Processes(nginx)
        suspected = worker in table.look().suspects
        table.acquit({worker})

        assert (suspected, worker in table.look().suspects) == (True, False)
        assert worker in table.look({worker}).workers


def test_a_worker_known_before_its_master_was_killed_still_counts(tmp_path: Path) -> None:
    """It may be the one that does not answer."""
    nginx = options(tmp_path)
    with pretended_nginx(nginx.pid, active=1) as pid:
        table = Processes(nginx)
        before = set(table.look().workers)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

        running = table.look()

    assert (dict(running.masters), dict(running.workers)) == ({}, dict.fromkeys(before, 0))


def test_a_master_that_another_program_runs_under_cannot_reload(tmp_path: Path) -> None:
    """That is a binary upgrade, whose new master is still reading its configuration."""
    nginx = options(tmp_path)
    title = f"nginx: master process nginx -c {nginx.conf}"
    script = f'(exec -a "/usr/sbin/nginx -c x" sleep 60) & echo $!; exec -a "{title}" sleep 60'
    with subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True) as master:
        assert master.stdout is not None
        child = int(master.stdout.readline())
        try:
            _until_named(master.pid)
            assert Processes(nginx).look().upgrading == {master.pid: child}
        finally:
            os.kill(child, signal.SIGKILL)
            master.kill()


def test_a_process_in_a_pid_namespace_of_its_own_is_another(tmp_path: Path) -> None:
    """As in a container, even if it says that it reads the same file."""
    nginx = options(tmp_path)
    title = f"nginx: master process nginx -c {nginx.conf}"
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs unshare(1), and root")
    argv = [unshare, "--pid", "--fork", "--kill-child", "bash", "-c", f'exec -a "{title}" sleep 60']
    with subprocess.Popen(argv) as process:
        try:
            _until_named(process.pid, child=True)
            running = Processes(nginx).look()
        finally:
            process.kill()

    assert not running.masters
    assert title in {other.title for other in running.others}


def test_stopped_processes_are_told(tmp_path: Path) -> None:
    """By SIGSTOP; they answer nothing and follow no signal."""
    nginx = options(tmp_path)
    with pretended_nginx(nginx.pid, active=1) as pid:
        os.kill(pid, signal.SIGSTOP)
        table = Processes(nginx)
        while not (stopped := table.look().stopped):
            time.sleep(0.002)
        os.kill(pid, signal.SIGCONT)

    assert stopped == {pid}


@pytest.mark.parametrize("name", [b") \xff 1", b") S 1 1 1"])
def test_a_process_with_an_odd_name_is_what_it_is(tmp_path: Path, name: bytes) -> None:
    """Any user can name a process like the end of a name, and give it a title like nginx's."""
    nginx = options(tmp_path)
    script = f"import ctypes, time; ctypes.CDLL(None).prctl(15, {name!r}); print(flush=True); time.sleep(60)"
    argv = ["nginx: worker process", "-c", script]
    with subprocess.Popen(argv, executable=sys.executable, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            running = Processes(nginx).look([process.pid])
            found = processes._process(process.pid)
        finally:
            process.kill()

    assert found is not None
    assert found.parent == os.getpid()
    assert process.pid in running.workers


def test_a_process_that_becomes_nginx_by_exec_is_found(tmp_path: Path) -> None:
    """After ten seconds at the latest, at once if the look is to be afresh."""
    nginx, now = options(tmp_path), 0.0
    table = Processes(nginx, clock=lambda: now)
    script = f'read -r; exec -a "nginx: master process nginx -c {nginx.conf}" sleep 60'
    with subprocess.Popen(["bash", "-c", script], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        before = table.look()
        process.stdin.close()
        _until_named(process.pid)
        soon = table.look()
        now += 10
        later = table.look()
        process.kill()

    assert [bool(each.masters) for each in (before, soon, later)] == [False, False, True]


def test_a_pid_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Not knowing is not the same as not running."""
    with pytest.raises(TemporaryError, match="cannot read nginx's pid file"):
        Processes(NginxOptions(pid=tmp_path)).look()


def test_a_process_that_is_no_master_is_never_signalled() -> None:
    """A pid may have been taken over since the look; here by this very process."""
    with pytest.raises(TemporaryError, match="ended just before"):
        processes.reload(os.getpid())


def test_a_master_that_may_not_be_signalled_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says which right is missing."""

    def refuse(*_args: object) -> None:
        raise PermissionError

    with pretended_nginx(tmp_path / "pid") as pid:
        monkeypatch.setattr(signal, "pidfd_send_signal", refuse)

        with pytest.raises(TemporaryError, match="CAP_KILL"):
            processes.reload(pid)


def _until_named(pid: int, *, child: bool = False) -> None:
    while not any(_title(each).startswith(b"nginx:") for each in (_children(pid) if child else [pid])):
        time.sleep(0.002)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _title(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
