"""A source that answers from a script, and the answers to put into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from agentd.errors import ConsulUnavailable
from agentd.watch.client import Answer
from agentd.watch.transport import Parameters


def answer(raw: Any, index: int = 1, **facts: Any) -> Answer:  # noqa: ANN401 - any JSON; Answer's own fields
    """An answer as the client gives it; None stands for a 404."""
    return replace(Answer(404 if raw is None else 200, index, raw), **facts)


def event(number: int, name: str = "deploy") -> dict[str, Any]:
    """One event as the list has it; its Lamport time is its number."""
    return {"ID": f"id-{number}", "Name": name, "Payload": None, "LTime": number, "Version": 1}


@dataclass
class ScriptedSource:
    """Answers with what the script says: an answer, an error to raise, or a function that returns one.

    When the script is at its end, `exhausted` is called and Consul is gone.
    """

    script: Iterable[Answer | Exception | Callable[[], Answer]]
    rights: Callable[[str, str, str], bool | None] = lambda *_: None
    exhausted: Callable[[], None] = lambda: None
    stale: bool = True
    asked: list[tuple[str, tuple[tuple[str, str], ...], int | None]] = field(default_factory=list)
    authorizations: int = 0
    closed: int = 0

    def __post_init__(self) -> None:
        self._left = iter(self.script)

    def get(self, path: str, params: Parameters = (), index: int | None = None) -> Answer:
        """Return the next answer."""
        self.asked.append((path, tuple(params), index))
        try:
            step = next(self._left)
        except StopIteration:
            self.exhausted()
            raise ConsulUnavailable("the script is at its end") from None
        if isinstance(step, Exception):
            raise step
        return step() if callable(step) else step

    def authorized(self, resource: str, access: str, segment: str) -> bool | None:
        """Ask the test."""
        self.authorizations += 1
        return self.rights(resource, access, segment)

    def close(self) -> None:
        """Count."""
        self.closed += 1
