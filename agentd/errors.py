"""Every error that agentd raises on purpose.

    AgentdError
    ├── ConfigError            the YAML file, or what it names, is wrong: all problems at once
    ├── ConsulError
    │   ├── ConsulUnavailable  no answer, no leader, a 5xx: wait and ask again
    │   └── ConsulRefused      an answer that says no: ACL, 4xx; asking again does not help
    ├── LockError              a lock of the fleet
    │   ├── LockNotAcquired    held by others for too long, or the key serves something else
    │   └── LockLost           it was ours and is no more: what it protects is not protected
    ├── BalancerError          a load balancer did not do, or did not say, what was asked of it
    ├── TreeError              the tree cannot be read or written (disk full, permissions, deleted)
    ├── JournalError           the journal cannot be read or written
    └── HandlerError
        ├── TemporaryError     retried, after `retry_after` seconds if given
        └── PermanentError     a refusal: the change is not applied, nothing changes

Exceptions of libraries and of the system are translated where they enter (`watch/client.py`,
`apply/process.py`, `apply/sources.py`, `apply/tree.py`,
`apply/journal.py`), always with `raise ... from`. The text says what the operator can do.
"""

from __future__ import annotations


class AgentdError(Exception):
    """The root: catching it catches everything that agentd raises on purpose."""


class ConfigError(AgentdError):
    """The configuration cannot be used. `problems` holds one line a problem, each with file and line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ConsulError(AgentdError):
    """Consul did not do what was asked."""


class ConsulUnavailable(ConsulError):
    """Consul cannot answer now: connection refused, time-out, no leader, a 5xx."""


class ConsulRefused(ConsulError):
    """Consul answered no: a 4xx, or a token without the right that the request needs."""


class LockError(AgentdError):
    """A lock of the fleet is not ours."""


class LockNotAcquired(LockError):
    """The lock could not be had: others hold it, the wait was given up, or its key serves something else."""


class LockLost(LockError):
    """The lock was ours and is no more: whatever was done since may have met another holder's work."""


class BalancerError(AgentdError):
    """A load balancer did not do what was asked, or its answer cannot be understood."""


class TreeError(AgentdError):
    """The tree cannot be read or written; nothing is half-written, and the next attempt may succeed."""


class JournalError(AgentdError):
    """The journal cannot be read or written; what was being recorded is not recorded."""


class HandlerError(AgentdError):
    """What a handler says of the change in its hands."""


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


class PermanentError(HandlerError):
    """The change is refused: nothing changes, and the message stands in `agentd history`."""
