"""`agentd lock`: runs a command while this process, and no other in the cluster, holds a lock.

Brings together three things that may happen in any order: the lock is lost, the command ends, a signal
arrives. Threads and signal handlers only put them into a queue; the main thread alone acts on them.
"""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from argparse import Namespace
from typing import Final

from agentd.commands import argument_types
from agentd.commands.child import Child
from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.commands.progress import Steps
from agentd.commands.signals import BY_SIGNAL, ENDING, Message, Signals
from agentd.commands.to_consul import add_consul_arguments, consul
from agentd.errors import AgentdError, LockLost
from agentd.locks.lock import Lock

_FAILED: Final = 1
_NOT_FOUND: Final = 127  # as a shell reports it
_PASSED_ON: Final = (*ENDING, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE: Final = 30.0  # seconds for the waiting thread to give up on the lock


def add_arguments(parser: Parser) -> None:
    """The lock, and after `--` the command."""
    parser.add_example(
        "agentd lock deploy/web -- ./deploy.sh", "agentd lock batch -n 3 --timeout 30s -- ./job"
    )
    parser.add_exit_status(
        "that of the command; 1 if the lock was not acquired, or was lost although the command succeeded."
    )
    parser.takes_command = True
    parser.usage = "%(prog)s [options] PREFIX -- COMMAND ..."
    parser.add_argument(
        "prefix",
        type=argument_types.prefix,
        metavar="PREFIX",
        help="path in Consul's KV store; the key is PREFIX/.lock",
    )
    parser.add_argument(
        "-n",
        type=argument_types.count,
        default=1,
        metavar="N",
        help="how many may hold the lock at once (default %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=argument_types.seconds,
        metavar="T",
        help="give up after T, such as 30s; 0 = try once (default: wait indefinitely)",
    )
    parser.add_argument("--verbose", action="store_true", help="report each step on standard error")
    add_consul_arguments(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Acquire the lock, run the command, release the lock; return the command's exit status.

    1 if the lock was not acquired, or was lost although the command itself succeeded.
    """
    steps = Steps(sys.stderr, as_json=output.json, verbose=arguments.verbose)
    if shutil.which(arguments.argv[0]) is None:
        steps.warn(f"{arguments.argv[0]} cannot be found, or is not executable")
        return _NOT_FOUND
    with (
        consul(arguments) as client,
        Signals((*_PASSED_ON, signal.SIGTSTP)) as messages,
    ):
        lock = Lock(client, arguments.prefix, limit=arguments.n, timeout=arguments.timeout)
        lock.on_lost = lambda reason: messages.put(Message("lost", reason))
        gave_up = _acquire(lock, messages, steps)
        return gave_up or _run(lock, arguments.argv, messages, steps)


def _acquire(lock: Lock, messages: Signals, steps: Steps) -> int:
    """Wait for the lock; 0 if it is ours, else the exit status for the signal that arrived first."""

    def wait() -> None:
        try:
            lock.acquire()
        except AgentdError as error:
            messages.put(Message("failed", error=error))
        else:
            messages.put(Message("acquired"))

    steps.tell("lock.waiting", prefix=lock.prefix)
    waiting = threading.Thread(target=wait, name="acquire", daemon=True)
    waiting.start()
    ending = 0
    while True:
        match messages.get():
            case Message("signal", number=number) if number in ENDING and not ending:
                ending = number
                lock.cancel()
            case Message("failed", error=error) if error:
                waiting.join(_PATIENCE)
                if ending:
                    return BY_SIGNAL + ending
                raise error
            case Message("acquired"):
                steps.tell("lock.acquired", prefix=lock.prefix, session=lock.session)
                if ending:  # the signal and the lock arrived together
                    lock.release()
                    return BY_SIGNAL + ending
                return 0


def _run(lock: Lock, argv: list[str], messages: Signals, steps: Steps) -> int:
    if lock.lost:  # that message overtook the one of the acquisition
        _release(lock, steps)
        return _FAILED
    environment = {
        "CONSUL_LOCK_HELD": "true",
        "AGENTD_LOCK_KEY": lock.guard,
        "AGENTD_LOCK_SESSION": lock.session,
    }
    try:
        command = Child(argv, environment, lambda: messages.put(Message("exited")))
    except AgentdError:
        _release(lock, steps)
        raise
    with command:
        _supervise(command, messages, steps)
    steps.tell("lock.command_ended", status=command.status)
    released = _release(lock, steps)
    return command.status or (0 if released else _FAILED)


def _supervise(command: Child, messages: Signals, steps: Steps) -> None:
    """Return once the command has ended, on its own or because the lock was lost."""
    while True:
        match messages.get():
            case Message("exited"):
                return
            case Message("lost", text=reason):
                steps.warn(f"the lock was lost: {reason}; ending the command")
                command.end()
                return
            case Message("signal", number=signal.SIGTSTP):
                steps.warn("not suspending: the lock would be lost")
            case Message("signal", number=number):
                steps.tell("lock.signal_passed_on", signal=signal.Signals(number).name)
                command.signal(number)


def _release(lock: Lock, steps: Steps) -> bool:
    """Release the lock; False if it was no longer ours."""
    try:
        lock.release()
    except LockLost as error:
        steps.warn(str(error))
        return False
    except AgentdError as error:
        steps.warn(f"the lock could not be released, and is free once its TTL expires: {error}")
    else:
        steps.tell("lock.released", prefix=lock.prefix)
    return True
