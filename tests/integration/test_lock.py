"""`agentd lock` against real Consul and the real `consul lock`, and the lock as a library."""

from __future__ import annotations

import base64
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentd.errors import LockLost, LockNotAcquired
from agentd.locks.lock import Lock
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from tests.integration.locking import Locksmith, lives, locksmith
from tests.servers.consul import ConsulAgent
from tests.servers.waiting import wait_until

LOCK_DELAY = 15.0  # seconds for which Consul keeps a lock from the next one, after a session's end


@pytest.fixture
def locks(consul: ConsulAgent, tmp_path: Path, key_prefix: str) -> Iterator[Locksmith]:
    """Programs that want one lock."""
    with locksmith(consul, tmp_path, key_prefix) as made:
        yield made


@pytest.fixture
def client(consul: ConsulAgent) -> Iterator[ConsulClient]:
    """A client of the agent."""
    with closing(ConsulClient(ConsulOptions(address=consul.url))) as made:
        yield made


def most_at_once(log: str) -> int:
    """How many held at the same time at most, by a log of "in" and "out"."""
    now = most = 0
    for line in log.split():
        now += 1 if line == "in" else -1
        most = max(most, now)
    assert now == 0
    return most


@pytest.mark.parametrize("limit", [1, 2])
def test_agentd_and_consul_lock_keep_each_other_out(locks: Locksmith, limit: int) -> None:
    """Three of each kind on one prefix: never more than may be, and nothing is left in the store."""
    script = "echo in >>log; sleep 0.3; echo out >>log"
    programs = [
        start(option, script=script)
        for start, option in [(locks.agentd, f"-n{limit}"), (locks.consul, f"-n={limit}")] * 3
    ]
    assert [program.finish()[0] for program in programs] == [0] * 6
    log = (locks.directory / "log").read_text()
    assert (log.count("in"), most_at_once(log)) == (6, limit)
    wait_until(lambda: not locks.keys(), "the keys to be tidied away")


@pytest.mark.parametrize("limit", [1, 2])
def test_what_consul_lock_holds_is_not_had(locks: Locksmith, limit: int) -> None:
    """Told with the holder, within the time given, with status 1."""
    holders = [locks.consul(f"-n={limit}", script=f"echo 1 >held{one}; sleep 60") for one in range(limit)]
    for one in range(limit):
        locks.wait_for(f"held{one}")
    status, error = locks.agentd(f"-n{limit}", "--timeout", "300ms", script="echo no >ran").finish()
    assert (status, "held by session" in error, "of node node1" in error) == (1, True, True)
    assert not (locks.directory / "ran").exists()
    assert all(holder.running for holder in holders)


@pytest.mark.parametrize("limit", [1, 2])
def test_what_agentd_holds_consul_lock_does_not_get(locks: Locksmith, limit: int) -> None:
    """The other direction."""
    holders = [locks.agentd(f"-n{limit}", script=f"echo 1 >held{one}; sleep 60") for one in range(limit)]
    for one in range(limit):
        locks.wait_for(f"held{one}")
    status, error = locks.consul(f"-n={limit}", "-timeout=300ms", script="echo no >ran").finish()
    assert (status, "timeout during lock acquisition" in error) == (1, True)
    assert not (locks.directory / "ran").exists()
    assert all(holder.running for holder in holders)


def test_semaphore_and_lock_on_one_prefix_are_told_apart_by_both(locks: Locksmith) -> None:
    """Neither overwrites what the other has."""
    locks.agentd("-n2", script="echo 1 >held; sleep 60")
    locks.wait_for("held")
    assert "choose another prefix" in locks.agentd(script="true").finish()[1]
    assert "use -n 2" in locks.agentd("-n3", script="true").finish()[1]
    assert "does not match lock use" in locks.consul(script="true").finish()[1]


def test_released_lock_is_had_without_delay(locks: Locksmith) -> None:
    """A waiting `consul lock` goes on at once, for no lock delay has begun."""
    first = locks.agentd(script="echo 1 >held; while [ ! -e go ]; do sleep 0.05; done")
    locks.wait_for("held")
    second = locks.consul(script="echo 1 >second")
    (locks.directory / "go").touch()
    assert first.finish()[0] == 0
    assert second.finish(LOCK_DELAY - 1)[0] == 0
    assert (locks.directory / "second").exists()


@pytest.mark.parametrize("script,status", [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_exit_status_is_the_commands(locks: Locksmith, script: str, status: int) -> None:
    """As a shell tells it."""
    assert locks.agentd(script=script).finish() == (status, "")


def test_command_learns_of_its_lock(locks: Locksmith) -> None:
    """As from `consul lock`, and the session for fences of its own."""
    program = locks.agentd(
        script='echo "$CONSUL_LOCK_HELD $AGENTD_LOCK_KEY $AGENTD_LOCK_SESSION" >told; sleep 60'
    )
    assert locks.wait_for("told") == f"true {locks.prefix}/.lock {locks.holder()}"
    program.send(signal.SIGTERM)
    program.finish()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_is_passed_on_and_the_lock_released(
    locks: Locksmith, consul: ConsulAgent, number: signal.Signals
) -> None:
    """The command ends as it likes; its status goes out; the lock is free at once."""
    program = locks.agentd(
        "--verbose", script="trap 'exit 9' TERM INT HUP; echo 1 >held; while :; do sleep 0.05; done"
    )
    locks.wait_for("held")
    session = locks.holder()
    program.send(number)
    status, error = program.finish()
    assert (status, f"lock.signal_passed_on signal={number.name}" in error) == (9, True)
    assert locks.keys() == []
    assert consul.get(f"/v1/session/info/{session}") == []


def test_terminals_stop_signal_does_not_suspend_the_holder(locks: Locksmith) -> None:
    """It would lose the lock with the command still running."""
    program = locks.agentd(script="echo 1 >held; while [ ! -e go ]; do sleep 0.05; done")
    locks.wait_for("held")
    program.send(signal.SIGTSTP)
    (locks.directory / "go").touch()
    status, error = program.finish()
    assert (status, "not suspending" in error) == (0, True)


@pytest.mark.parametrize("limit", [1, 2])
def test_signal_ends_the_wait(locks: Locksmith, limit: int) -> None:
    """128 and its number; the command never runs; no session is left waiting."""
    for one in range(limit):
        locks.agentd(f"-n{limit}", script=f"echo 1 >held{one}; sleep 60")
    for one in range(limit):
        locks.wait_for(f"held{one}")
    program = locks.agentd(f"-n{limit}", script="echo no >ran")
    wait_until(lambda: locks.contenders() == limit + 1, "the contender's session")
    program.send(signal.SIGTERM)
    assert program.finish()[0] == 143
    assert not (locks.directory / "ran").exists()
    assert locks.contenders() == limit


@pytest.mark.parametrize("end", ["destroy the session", "delete the key"])
def test_lost_lock_ends_the_command_and_all_its_children(
    locks: Locksmith, consul: ConsulAgent, end: str
) -> None:
    """Within a moment, and the operator learns why."""
    program = locks.agentd(script="sleep 60 & echo $! >child; wait")
    child = int(locks.wait_for("child"))
    if end == "destroy the session":
        consul.put(f"/v1/session/destroy/{locks.holder()}")
    else:
        consul.kv_delete(f"{locks.prefix}/.lock")
    status, error = program.finish(LOCK_DELAY - 1)
    assert (status, "the lock was lost: its key was released, deleted" in error) == (143, True)
    wait_until(lambda: not lives(child), "the command's child to end")


def test_loss_is_no_success_even_if_the_command_takes_it_for_one(
    locks: Locksmith, consul: ConsulAgent
) -> None:
    """It caught SIGTERM and ended with 0; the status is 1."""
    program = locks.agentd(script="trap 'exit 0' TERM; echo 1 >held; while :; do sleep 0.05; done")
    locks.wait_for("held")
    consul.kv_delete(f"{locks.prefix}/.lock")
    assert program.finish()[0] == 1


def test_command_that_ignores_sigterm_is_killed(locks: Locksmith, consul: ConsulAgent) -> None:
    """After five seconds, well before the lock delay of fifteen is over."""
    program = locks.agentd(script="trap '' TERM; echo 1 >held; while :; do sleep 1; done")
    locks.wait_for("held")
    consul.kv_delete(f"{locks.prefix}/.lock")
    assert program.finish(LOCK_DELAY - 1)[0] == 137


@pytest.mark.parametrize("limit", [1, 2])
def test_fence_lets_a_holder_write_and_stops_a_former_one(
    consul: ConsulAgent, client: ConsulClient, key_prefix: str, limit: int
) -> None:
    """The write and the check are one transaction in Consul."""
    lock, key = Lock(client, key_prefix, limit=limit), key_prefix + "data"
    lock.acquire()
    (done,) = lock.fence([{"Verb": "set", "Key": key, "Value": b"\xff1"}])
    consul.put(f"/v1/session/destroy/{lock.session}")
    with pytest.raises(LockLost):
        lock.fence([{"Verb": "set", "Key": key, "Value": b"2"}])
    with pytest.raises(LockLost):
        lock.release()
    assert (done["Key"], consul.kv_get(key)) == (key, b"\xff1")


def test_fence_reads_too(consul: ConsulAgent, client: ConsulClient, key_prefix: str) -> None:
    """Read and write in one go; a failed condition is no loss of the lock."""
    consul.kv_put(key_prefix + "data", b"x")
    with Lock(client, key_prefix) as lock:
        (read,) = lock.fence([{"Verb": "get", "Key": key_prefix + "data"}])
        assert lock.held
    assert base64.b64decode(read["Value"]) == b"x"


def test_library_and_command_share_the_lock(locks: Locksmith, client: ConsulClient) -> None:
    """A handler is kept out by an operator."""
    locks.agentd(script="echo 1 >held; sleep 60")
    locks.wait_for("held")
    with pytest.raises(LockNotAcquired, match=locks.holder()):
        Lock(client, locks.prefix, timeout=0.2).acquire()
