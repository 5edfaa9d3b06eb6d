"""`agentd lock`: runs a command while this process, and no other in the cluster, holds a lock.

Owns the meeting of three things that happen in any order: the lock is lost, the command ends, a signal comes.
Threads and signal handlers only put them into a queue; the main thread alone acts on them.
"""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from argparse import Namespace
from contextlib import closing
from typing import Final

from agentd.commands.guarded import GuardedCommand
from agentd.commands.inbox import Inbox, Message
from agentd.commands.narrator import Narrator
from agentd.commands.output import Output
from agentd.config import load
from agentd.errors import AgentdError, LockLost
from agentd.fleet.lock import Lock
from agentd.watch.client import ConsulClient

_FAILED: Final = 1
_NOT_FOUND: Final = 127  # as a shell says it
_BY_SIGNAL: Final = 128
_ENDING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_PASSED_ON: Final = (*_ENDING, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE: Final = 30.0  # seconds for the waiting thread to leave the contest


def execute(arguments: Namespace, output: Output) -> int:
    """Get the lock, run the command, give the lock back; return the command's exit status.

    1 if the lock was not had, or was lost and the command ended well all the same.
    """
    narrator = Narrator(sys.stderr, as_json=output.json, verbose=arguments.verbose)
    if shutil.which(arguments.argv[0]) is None:
        narrator.warn(f"{arguments.argv[0]} cannot be found, or is no program")
        return _NOT_FOUND
    with (
        closing(ConsulClient(load(arguments.config).config.consul)) as client,
        Inbox((*_PASSED_ON, signal.SIGTSTP)) as inbox,
    ):
        lock = Lock(client, arguments.prefix, limit=arguments.n, timeout=arguments.timeout)
        lock.on_lost = lambda reason: inbox.put(Message("lost", reason))
        given_up = _acquire(lock, inbox, narrator)
        return given_up or _run(lock, arguments.argv, inbox, narrator)


def _acquire(lock: Lock, inbox: Inbox, narrator: Narrator) -> int:
    """Wait for the lock; 0 if it is ours, else the exit status that tells of the signal that came instead."""

    def wait() -> None:
        try:
            lock.acquire()
        except AgentdError as error:
            inbox.put(Message("failed", error=error))
        else:
            inbox.put(Message("acquired"))

    narrator.tell("lock.waiting", prefix=lock.prefix)
    waiting = threading.Thread(target=wait, name="acquire", daemon=True)
    waiting.start()
    ending = 0
    while True:
        match inbox.get():
            case Message("signal", number=number) if number in _ENDING and not ending:
                ending = number
                lock.cancel()
            case Message("failed", error=error) if error:
                waiting.join(_PATIENCE)
                if ending:
                    return _BY_SIGNAL + ending
                raise error
            case Message("acquired"):
                narrator.tell("lock.acquired", prefix=lock.prefix, session=lock.session)
                if ending:  # the signal and the lock came together
                    lock.release()
                    return _BY_SIGNAL + ending
                return 0


def _run(lock: Lock, argv: list[str], inbox: Inbox, narrator: Narrator) -> int:
    if lock.lost:  # its message came before that of the acquisition
        _release(lock, narrator)
        return _FAILED
    environment = {
        "CONSUL_LOCK_HELD": "true",
        "AGENTD_LOCK_KEY": lock.guard,
        "AGENTD_LOCK_SESSION": lock.session,
    }
    try:
        command = GuardedCommand(argv, environment, lambda: inbox.put(Message("exited")))
    except AgentdError:
        _release(lock, narrator)
        raise
    with command:
        _supervise(command, inbox, narrator)
    narrator.tell("lock.command_ended", status=command.status)
    well = _release(lock, narrator)
    return command.status or (0 if well else _FAILED)


def _supervise(command: GuardedCommand, inbox: Inbox, narrator: Narrator) -> None:
    """Return once the command has ended, by itself or because the lock was lost."""
    while True:
        match inbox.get():
            case Message("exited"):
                return
            case Message("lost", text=reason):
                narrator.warn(f"the lock was lost: {reason}; ending the command")
                command.end()
                return
            case Message("signal", number=signal.SIGTSTP):
                narrator.warn("not suspended: the lock would be lost")
            case Message("signal", number=number):
                narrator.tell("lock.signal_passed_on", signal=signal.Signals(number).name)
                command.signal(number)


def _release(lock: Lock, narrator: Narrator) -> bool:
    """Give the lock back; False if it was not ours any more."""
    try:
        lock.release()
    except LockLost as error:
        narrator.warn(str(error))
        return False
    except AgentdError as error:
        narrator.warn(f"the lock could not be released, and ends with its TTL: {error}")
    else:
        narrator.tell("lock.released", prefix=lock.prefix)
    return True
