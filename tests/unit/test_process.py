"""Running a program: its time, its group, its pipes, its environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from agentd import process
from agentd.background import Background
from agentd.errors import PermanentError, TemporaryError
from agentd.handler import Completed
from agentd.process import _Pipes, quote, run
from tests.servers.waiting import wait_until

LONG = "300"


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ignores SIGTERM is killed after a tenth of a second."""
    monkeypatch.setattr(process, "GRACE", 0.1)


def lives(pid: int) -> bool:
    """Whether the process runs (a zombie that nobody has reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_returns_status_output_and_duration() -> None:
    """Standard output and error come back together, in order."""
    done = run(["sh", "-c", "echo one; echo two >&2; exit 3"], timeout=60, check=False)

    assert (done.returncode, done.output) == (3, b"one\ntwo\n")
    assert 0 < done.duration < 10


def test_standard_input_arrives_whole() -> None:
    """Input larger than a pipe is handed over to its last byte."""
    data = b"x" * 1_000_000

    assert run(["sha256sum"], stdin=data, timeout=60).output.decode().split()[0] == sha256(data).hexdigest()


def test_large_input_and_output_do_not_block_each_other() -> None:
    """A program that prints all it reads gets through more than both pipes hold."""
    done = run(["cat"], stdin=b"ab" * 500_000 + b"end", timeout=60, keep=3)

    assert done.output == b"end"


@pytest.mark.parametrize("argv", [["true"], ["sh", "-c", "exec <&-; echo deaf"]])
def test_a_program_need_not_read_its_input(argv: list[str]) -> None:
    """Input that nobody reads is no error."""
    assert run(argv, stdin=b"x" * 1_000_000, timeout=60).returncode == 0


def test_only_the_end_of_the_output_is_kept() -> None:
    """A program that prints 10 MB leaves 4 KiB."""
    done = run(["sh", "-c", "head -c 10000000 /dev/zero; echo done"], timeout=60)

    assert len(done.output) == 4096
    assert done.output.endswith(b"\0done\n")


def test_output_need_not_be_kept_at_all() -> None:
    """`keep=0` keeps nothing."""
    assert run(["echo", "x"], timeout=60, keep=0).output == b""


def test_a_failure_quotes_the_end_of_the_output() -> None:
    """The message says which program, how it ended and what it said, not its arguments."""
    with pytest.raises(TemporaryError, match=r"^sh ended with status 7: no such zone$") as raised:
        run(["sh", "-c", "echo no such zone; exit 7", "secret-argument"], timeout=60)

    assert "secret-argument" not in str(raised.value)


def test_a_signal_is_named() -> None:
    """A program that a signal ended says which."""
    with pytest.raises(TemporaryError, match="sh was ended by SIGUSR1"):
        run(["sh", "-c", "kill -USR1 $$"], timeout=60)


def test_a_signal_without_a_name_is_numbered() -> None:
    """Real-time signals have numbers only."""
    assert Completed(-40, b"", 0.0).ending == "was ended by signal 40"


def test_quoted_output_is_printable_and_short() -> None:
    """Neither an escape sequence nor a megabyte reaches a log."""
    quoted = quote(b"x" * 5000 + b"\x1b[31m\xff\n")

    assert len(quoted) < 520
    assert quoted.endswith("?[31m\\xff")
    assert quote(b" \n") == ""


def test_a_missing_program_is_temporary() -> None:
    """The operator is told what is not there."""
    with pytest.raises(TemporaryError, match="no-such-program does not exist"):
        run(["no-such-program"], timeout=60)


def test_a_file_that_cannot_be_executed_is_temporary(tmp_path: Path) -> None:
    """The system's reason is quoted."""
    file = tmp_path / "script"
    file.write_text("#!/bin/sh\n")

    with pytest.raises(TemporaryError, match="Permission denied"):
        run([str(file)], timeout=60)


def test_a_nul_byte_is_temporary() -> None:
    """What cannot be an argument does not become another exception."""
    with pytest.raises(TemporaryError, match="NUL byte"):
        run(["echo", "a\0b"], timeout=60)


def test_the_daemons_environment_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only PATH, HOME, LANG, TZ and what is given arrive."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "b1gs33cr3t")

    output = run(["env"], env={"CONSUL_INDEX": "7"}, timeout=60).output.decode()

    names = {line.partition("=")[0] for line in output.splitlines()}
    assert names <= {"PATH", "HOME", "LANG", "TZ", "CONSUL_INDEX", "LC_CTYPE"}
    assert "CONSUL_INDEX=7" in output


def test_no_descriptor_of_the_daemon_is_inherited() -> None:
    """A journal or lock that the daemon holds open is not open in the child."""
    inheritable = True
    reader, writer = os.pipe()
    os.set_inheritable(writer, inheritable)
    try:
        output = run(["ls", "/proc/self/fd"], timeout=60).output.split()
    finally:
        os.close(reader)
        os.close(writer)

    assert {int(number) for number in output} <= {0, 1, 2, 3}  # 3: the directory that ls reads


@pytest.mark.parametrize("background,session", [(None, False), ("keep", True), ("end", True)])
def test_it_leads_a_group_of_its_own(background: Background | None, session: bool) -> None:  # noqa: FBT001 (a case)
    """So that ending its group ends all of it, and nothing of ours; a session where one is searched for."""
    code = "import os; print(os.getpid() == os.getpgid(0), os.getpid() == os.getsid(0))"

    said = run([sys.executable, "-c", code], timeout=60, background=background).output.decode().split()

    assert said == ["True", str(session)]


def test_time_out_ends_the_program() -> None:
    """Its last words are quoted."""
    with pytest.raises(TemporaryError, match=r"^sh timed out after 2 s and was ended: hello$"):
        run(["sh", "-c", f"echo hello; exec sleep {LONG}"], timeout=2.0)


def test_time_out_kills_what_ignores_sigterm_with_all_its_children() -> None:
    """SIGKILL follows to the whole group."""
    with pytest.raises(TemporaryError) as raised:
        run(["sh", "-c", f"trap '' TERM; sleep {LONG} & echo $$ $!; wait; sleep {LONG}"], timeout=2.0)

    pids = [int(word) for word in str(raised.value).split()[-2:]]
    assert [pid for pid in pids if lives(pid)] == []


def test_a_program_may_clean_up_at_sigterm() -> None:
    """What it says between SIGTERM and its end is still heard."""
    with pytest.raises(TemporaryError, match="cleaned"):
        run(["sh", "-c", f"trap 'echo cleaned; exit' TERM; sleep {LONG} & wait"], timeout=2.0)


def test_a_child_left_behind_does_not_prolong_the_run() -> None:
    """A background child that holds the pipe open is ended when its parent has ended."""
    done = run(["sh", "-c", f"sleep {LONG} & echo $!"], timeout=60)

    assert done.duration < 30
    assert not lives(int(done.output))


def test_a_child_left_behind_that_ignores_sigterm_is_killed() -> None:
    """SIGKILL follows to those that remain after the leader's exit."""
    done = run(["sh", "-c", f"(trap '' TERM; sleep {LONG}; sleep {LONG}) & echo $!"], timeout=60)

    assert done.duration < 30
    assert not lives(int(done.output))


def test_a_child_left_behind_that_prints_without_end_is_not_read_for_ever() -> None:
    """What is taken after the leader's exit is bounded."""
    done = run(["sh", "-c", "yes & sleep 0.05"], timeout=60)

    assert done.returncode == 0
    assert done.duration < 30


def test_the_stop_event_ends_it() -> None:
    """A daemon that stops does not wait for a handler's process."""
    stop = threading.Event()
    timer = threading.Timer(0.05, stop.set)
    timer.start()

    with pytest.raises(TemporaryError, match="because agentd is stopping"):
        run(["sleep", LONG], timeout=60, stop=stop)
    timer.join()


def test_nothing_is_started_once_it_is_set(tmp_path: Path) -> None:
    """A program that is quick would otherwise do its work, and not be believed."""
    stop = threading.Event()
    stop.set()

    with pytest.raises(TemporaryError, match="not started because agentd is stopping"):
        run(["touch", str(tmp_path / "started")], timeout=60, stop=stop)

    assert not (tmp_path / "started").exists()


def test_an_unset_stop_event_changes_nothing() -> None:
    """The program runs to its end."""
    assert run(["echo", "done"], timeout=60, stop=threading.Event()).output == b"done\n"


def test_a_program_gets_all_its_input_though_agentd_is_killed(tmp_path: Path) -> None:
    """Else it would take the first part, or nothing, for the whole."""
    begun, go, got = (tmp_path / name for name in ("begun", "go", "got"))
    shell = f"touch {begun}; until [ -e {go} ]; do sleep 0.01; done; cat > {got}.part; mv {got}.part {got}"
    code = f"from agentd.process import run; run(['sh', '-c', {shell!r}], stdin=b'x' * 1_000_000, timeout=60)"
    with subprocess.Popen([sys.executable, "-c", code]) as agentd:
        wait_until(begun.exists, "the program to run")
        agentd.kill()
    go.touch()

    wait_until(got.exists, "the program to end")
    assert got.read_bytes() == b"x" * 1_000_000


def test_an_interrupt_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a command line leaves nothing running."""
    started: list[subprocess.Popen[bytes]] = []
    start, pump = process._start, _Pipes.pump

    def noted(
        argv: Sequence[str], env: dict[str, str], stdin: bytes, *, session: bool
    ) -> subprocess.Popen[bytes]:
        started.append(start(argv, env, stdin, session=session))
        return started[-1]

    def interrupted(pipes: _Pipes, deadline: float, stop: threading.Event | None = None) -> str:
        monkeypatch.setattr(_Pipes, "pump", pump)
        raise KeyboardInterrupt(pipes, deadline, stop)

    monkeypatch.setattr(process, "_start", noted)
    monkeypatch.setattr(_Pipes, "pump", interrupted)

    with pytest.raises(KeyboardInterrupt):
        run(["sleep", LONG], timeout=60)

    assert started[0].returncode == -signal.SIGTERM


def test_a_group_that_changed_its_user_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that is not permitted is no error: the group counts as out of reach."""

    def refuse(group: int, number: int) -> None:
        raise PermissionError(group, number)

    monkeypatch.setattr(os, "killpg", refuse)

    assert process._signal_group(4711, signal.SIGTERM)
    assert not process._signal_group(4711, 0)


def test_nothing_stays_open() -> None:
    """Twenty runs later as many descriptors are open as before."""
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(20):
        run(["true"], timeout=60)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_program_that_prints_more_than_it_may_is_ended() -> None:
    """It is not read on to its time limit, and is not worth another attempt."""
    with pytest.raises(PermanentError, match="sh printed more than 100000 bytes"):
        run(["sh", "-c", "yes; true"], timeout=60, most=100_000)


def test_a_program_may_print_as_much_as_it_may() -> None:
    """The last byte allowed is still allowed."""
    assert run(["head", "-c", "100000", "/dev/zero"], timeout=60, most=100_000, keep=1).output == b"\0"
