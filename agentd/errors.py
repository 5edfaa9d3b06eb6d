"""Every error that agentd raises on purpose.

    AgentdError
    ├── ConfigError            the YAML file, or what it names, is wrong: all problems at once
    ├── ConsulError
    │   ├── ConsulUnavailable  no answer, no leader, a 5xx: wait and ask again
    │   │   └── ConsulLimited  too many requests: it is there, and wants to be asked later
    │   └── ConsulRefused      Consul says no: ACL, 4xx; asking again does not help
    │       └── ConsulTooLarge the answer is larger than any that is read: ask for less
    ├── LockError              about a lock in Consul
    │   ├── LockNotAcquired    held by others for too long, or the key is used for something else
    │   └── LockLost           it was ours and is lost: what it protects is no longer protected
    ├── FleetError             what lies in Consul for the fleet, or was to be written there, cannot be used
    │   ├── UnknownFormat      a newer agentd wrote it: it waits until this one is upgraded
    │   ├── BadDocument        it is nothing that agentd writes
    │   │   └── Misplaced      it is a message that was copied from another key
    │   ├── Untrusted          its signature, its publisher or its place is wrong: it is not applied
    │   ├── NoFleetKey         it is sealed with a fleet key that this node lacks: it waits for the key
    │   ├── LogLost            the log is older than what was read of it: it is written back first
    │   ├── Overtaken          another message is the newest one: read it, and decide again
    │   ├── RolloutOpen        a rollout is open: nothing else is published until it is released or aborted
    │   ├── RolloutOver        the rollout that is to be ended is not open
    │   └── Contended          others wrote first, again and again: nothing more of ours was written
    ├── BadKey                 a key, or the file that it is in, cannot be used, or must not be
    ├── ExchangeError          no complete HTTP answer; its subclasses say why (`http.py`)
    ├── TreeError              the tree cannot be read or written (disk full, permissions, deleted)
    ├── TakenError             another daemon uses the tree or the state directory: this one must end
    ├── JournalError           the journal cannot be read or written
    ├── DamagedError           the journal is damaged: the next start sets it aside
    ├── FormatError            the tree, the journal or a store was written by another version of agentd
    └── HandlerError
        ├── TemporaryError     retried, after `retry_after` seconds if given
        │   └── UnderWay       what the change needs is on its way: the others go on, it is handled again then
        └── PermanentError     a refusal: the change is not applied, nothing changes

Exceptions of libraries and of the system are translated where they enter agentd (`wire.py`, `process.py`,
`watch/client.py`, `journal/database.py`, `tree/disk.py`, the modules of `sources/`), always with
`raise ... from`. The text says what the operator can do.
"""

from __future__ import annotations


class AgentdError(Exception):
    """The root: catching it catches everything that agentd raises on purpose."""

    def __str__(self) -> str:
        """Its text, with lone surrogates escaped: it may quote a payload, and must fit journal and log."""
        return super().__str__().encode(errors="backslashreplace").decode()


class ConfigError(AgentdError):
    """The configuration cannot be used. `problems` holds one line per problem, each with file and line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ConsulError(AgentdError):
    """Consul did not do what was asked."""


class ConsulUnavailable(ConsulError):
    """Consul cannot answer now: connection refused, timeout, no leader, a 5xx."""


class ConsulLimited(ConsulUnavailable):
    """Consul answers, but not now: its rate limit, or its limit of connections, is reached.

    Args:
        message: what it said.
        retry_after: seconds until it wants to be asked again; None if it did not say.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ConsulRefused(ConsulError):
    """Consul said no: a 4xx, or the token lacks the right that the request needs."""


class ConsulTooLarge(ConsulRefused):
    """The answer is larger than any that is read; whoever can ask for less may do so."""


class LockError(AgentdError):
    """The lock is not ours."""


class LockNotAcquired(LockError):
    """Not acquired: others hold the lock, the wait was cancelled, or the key is used for something else."""


class LockLost(LockError):
    """The lock was ours and is lost: anything done since then may have collided with another holder."""


class FleetError(AgentdError):
    """What lies in Consul for the fleet, or was to be written there, cannot be used."""


class UnknownFormat(FleetError):
    """A newer agentd wrote it. It is no mistake: it waits until this agentd is upgraded."""


class BadDocument(FleetError):
    """It is nothing that agentd writes: too large, not JSON, or a field is missing or wrong."""


class Misplaced(BadDocument):
    """It is a message that belongs at another key."""


class Untrusted(FleetError):
    """A message that this node does not believe, as it is configured.

    Args:
        message: what is wrong with it.
        reason: one of a few constant words, for a metric: unknown, signature, forbidden or sealed of a signed
            message; expired or replayed of one that once was valid; unsigned or clear of one that must be
            signed or sealed; malformed of what is none.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class NoFleetKey(FleetError):
    """It is sealed with a fleet key that this node does not have: it waits until the key is here."""


class LogLost(FleetError):
    """The log in Consul is gone, or older than what was read of it: it must be written back first."""


class Overtaken(FleetError):
    """The newest message of the log is not the one that the writer had read: read it, and decide again."""


class RolloutOpen(FleetError):
    """A rollout of the name is open: nothing else is published until it is released or aborted."""


class RolloutOver(FleetError):
    """The rollout is not open any more: another message has replaced it, or ended it."""


class Contended(FleetError):
    """Others wrote to the same name first, again and again; what is not in the log yet was not written."""


class BadKey(AgentdError):
    """A key cannot be used; or its file cannot be read or written, or others could read or replace it."""


class TreeError(AgentdError):
    """The tree cannot be read or written; nothing is half-written, and the next attempt may succeed."""


class TakenError(AgentdError):
    """Another daemon uses the tree or the state directory, and neither can be shared."""


class JournalError(AgentdError):
    """The journal cannot be read or written; what was being recorded is not recorded."""


class DamagedError(AgentdError):
    """The journal's file is damaged while the daemon runs: it must end, and its next start mends that."""


class FormatError(AgentdError):
    """What is on disk has a format that this agentd does not know. It is left exactly as it is.

    Args:
        what: the file, or whatever else it is.
        found: its format.
        known: the format that this version reads and writes.
        otherwise: what to do if the program that wrote it is not available.
    """

    def __init__(
        self, what: object, found: object, known: int, otherwise: str = "move it away to start from scratch"
    ) -> None:
        super().__init__(
            f"{what} has format {found!r}, but this agentd only knows format {known}; nothing was changed:"
            f" run the version of agentd that wrote it, or {otherwise}"
        )


class HandlerError(AgentdError):
    """What a handler says about the change that it is handling."""


class TemporaryError(HandlerError):
    """The change cannot be applied now and is retried.

    Args:
        message: what went wrong and what the operator can do about it.
        retry_after: seconds until the next attempt; None leaves it to the worker's backoff, and `math.inf`
            says that there must be none: the change has failed.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnderWay(TemporaryError):
    """A task that the change needs is under way (`Context.task`).

    This is no failure: the change is set aside, later ones go on, and it is handled again once the task is
    done.
    """


class PermanentError(HandlerError):
    """The change is refused: nothing changes, and the message appears in `agentd history`."""
