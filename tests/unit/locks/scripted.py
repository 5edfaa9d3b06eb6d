"""A kind of lock that answers from a script, for what is built on a kind of lock."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentd.errors import AgentdError
from agentd.locks.consul_store import Behavior
from agentd.locks.kind import LockState


@dataclass
class Clock:
    """Time that passes only when told to."""

    now: float = 100.0

    def __call__(self) -> float:
        """Read it."""
        return self.now


@dataclass
class ScriptedKind:
    """Answers `attempt` and `held` with what the script says; each look takes the time it may wait.

    Attributes:
        asked: session, index and wait of each look.
    """

    clock: Clock
    script: list[LockState | AgentdError]
    behavior: Behavior = "release"
    asked: list[tuple[str, int, float]] = field(default_factory=list)

    def guard(self, session: str) -> str:
        """Some key."""
        return f"key of {session}"

    def enter(self, session: str) -> None:
        """Nothing to do."""

    def attempt(self, session: str, index: int, wait: float) -> LockState:
        """The next of the script; the last goes on for ever."""
        self.asked.append((session, index, wait))
        self.clock.now += wait if index else 0.0
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, AgentdError):
            raise answer
        return answer

    held = attempt

    def leave(self, _session: str) -> bool:
        """Nothing to do."""
        return True

    def tidy(self) -> None:
        """Nothing to do."""
