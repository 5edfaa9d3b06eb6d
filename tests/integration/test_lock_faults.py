"""Locks when something dies: the holder, its session, Consul. The slow ones wait for Consul's own clocks."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentd.locks.lock import Lock
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from tests.integration.locking import Locksmith, Program, lives, locksmith
from tests.servers.consul import ConsulAgent
from tests.servers.waiting import wait_until


@pytest.fixture
def locks(consul: ConsulAgent, tmp_path: Path, key_prefix: str) -> Iterator[Locksmith]:
    """Programs that want one lock of the agent that all tests share."""
    with locksmith(consul, tmp_path, key_prefix) as made:
        yield made


@pytest.fixture
def private(new_consul: Callable[..., ConsulAgent], tmp_path: Path) -> Iterator[Locksmith]:
    """Programs that want one lock of an agent that the test may stop."""
    with locksmith(new_consul(), tmp_path, "p") as made:
        yield made


def test_killed_holder_takes_its_command_along_and_the_next_waits_for_the_lock_delay(
    locks: Locksmith, consul: ConsulAgent
) -> None:
    """The children are gone at once; Consul bars the key for 15 s after the session's end."""
    first = locks.agentd(script="sleep 600 & echo $! >child; wait")
    child = int(locks.wait_for("child"))
    second = locks.agentd(script="echo 1 >second")
    first.send(signal.SIGKILL)
    wait_until(lambda: not lives(child), "the command's end")
    ended = time.monotonic()
    consul.put(f"/v1/session/destroy/{locks.holder()}")  # as the TTL would, 30 s later
    assert second.finish()[0] == 0
    assert time.monotonic() - ended > 13


def test_session_that_is_not_renewed_ends_and_its_place_is_free(consul: ConsulAgent, key_prefix: str) -> None:
    """By Consul's own clock: a TTL of 10 s ends near 20 s; a semaphore's place knows no lock delay."""
    options = ConsulOptions(address=consul.url)
    with closing(ConsulClient(options)) as dead, closing(ConsulClient(options)) as living:
        holders = [Lock(dead, key_prefix, limit=2, ttl=10) for _ in range(2)]
        for holder in holders:
            holder.acquire()
            assert holder._session is not None
            holder._session.abandon()
        began = time.monotonic()
        with Lock(living, key_prefix, limit=2, timeout=120, ttl=10):
            assert time.monotonic() - began > 9
        for holder in holders:
            assert holder._monitor is not None
            holder._monitor.end()


def brief_outage(locks: Locksmith) -> bool:
    """Restart Consul; whether it was back before a holder could have given its lock up, half a TTL later."""
    began = time.monotonic()
    locks.agent.stop()
    locks.agent.start()
    return time.monotonic() - began < 7


def holding(locks: Locksmith, number: int) -> tuple[Program, str]:
    """A program that holds the lock until it may go, and its session."""
    program = locks.agentd(script=f"echo 1 >held{number}; while [ ! -e go ]; do sleep 0.05; done")
    locks.wait_for(f"held{number}")
    return program, locks.holder()


def test_lock_outlives_a_restart_of_consul(private: Locksmith) -> None:
    """The session lies with the servers; an outage shorter than the TTL is ridden out."""
    program, session = holding(private, 0)
    for number in range(1, 10):
        if brief_outage(private):
            break
        program.close()  # the machine is too busy just now
        private.agent.put(f"/v1/session/destroy/{session}")
        program, session = holding(private, number)
    assert private.holder() == session
    (private.directory / "go").touch()
    assert program.finish() == (0, "")
    assert private.keys() == []


def test_wait_outlives_a_restart_of_consul(private: Locksmith) -> None:
    """The contender is woken by the release after it."""
    first = private.agentd(script="echo 1 >held; while [ ! -e go ]; do sleep 0.05; done")
    private.wait_for("held")
    second = private.agentd(script="echo 1 >second")
    wait_until(lambda: private.contenders() == 2, "the second's session")
    brief = brief_outage(private)
    (private.directory / "go").touch()
    assert first.finish()[0] == 0 or not brief
    assert second.finish()[0] == 0


def test_outage_longer_than_the_ttl_ends_the_command(private: Locksmith) -> None:
    """Nobody can know who has the lock by then."""
    program = private.agentd(script="sleep 600 & echo $! >child; wait")
    child = int(private.wait_for("child"))
    began = time.monotonic()
    private.agent.stop()
    wait_until(lambda: not lives(child), "the command's end")
    assert time.monotonic() - began > 7
    status, error = program.finish()
    assert (status, "could not be" in error) == (143, True)


def test_consul_that_hangs_ends_the_command_too(private: Locksmith) -> None:
    """Connections stay open and nothing answers; the holder still ends in time, and exits."""
    program = private.agentd(script="sleep 600 & echo $! >child; wait")
    child = int(private.wait_for("child"))
    began = time.monotonic()
    private.agent.freeze()
    try:
        wait_until(lambda: not lives(child), "the command's end")
        assert time.monotonic() - began > 7
        assert program.finish()[0] == 143
    finally:
        private.agent.thaw()


def test_holder_that_slept_through_its_session_learns_of_it(locks: Locksmith, consul: ConsulAgent) -> None:
    """Stopped, robbed, continued: the command is ended at once."""
    program = locks.agentd(script="sleep 600 & echo $! >child; wait")
    child = int(locks.wait_for("child"))
    program.send(signal.SIGSTOP)
    consul.put(f"/v1/session/destroy/{locks.holder()}")
    assert lives(child)
    program.send(signal.SIGCONT)
    assert program.finish()[0] == 143
    wait_until(lambda: not lives(child), "the command's child to end")


def test_threads_of_a_lock_end_with_it(consul: ConsulAgent, key_prefix: str) -> None:
    """A handler may lock thousands of times."""
    with closing(ConsulClient(ConsulOptions(address=consul.url))) as client:
        before = threading.active_count()
        for _ in range(10):
            with Lock(client, key_prefix):
                pass
        wait_until(lambda: threading.active_count() == before, "the threads' end")
