"""A source that answers from a script, and the answers to put into it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from agentd.errors import ConsulRefused, ConsulUnavailable
from agentd.watch.client import Answer, EventClock
from agentd.watch.parsing import Parsed, parse
from agentd.watch.transport import Parameters


def answer(raw: Any, index: int = 1, **facts: Any) -> Answer:  # noqa: ANN401 - any JSON; Answer's own fields
    """An answer as the client gives it; None stands for a 404."""
    return replace(Answer(404 if raw is None else 200, index, raw), **facts)


def identity(number: int, *, rebuilt: bool = False) -> str:
    """The ID of an event; `rebuilt`: of one that a Consul without its data numbers alike."""
    return f"{number:08x}-0000-4000-8000-{int(rebuilt):012x}"


def event(number: int, name: str = "deploy") -> dict[str, Any]:
    """One event as the list has it; its Lamport time is its number."""
    return {"ID": identity(number), "Name": name, "Payload": None, "LTime": number, "Version": 1}


def pair(value: str) -> dict[str, Any]:
    """The pair of the key "k" as the KV store has it."""
    return {"Key": "k", "Value": base64.b64encode(value.encode()).decode()}


def value_of(raw: dict[str, Any]) -> str:
    """The value in such a pair."""
    return base64.b64decode(raw["Value"]).decode()


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
    waits: list[float | None] = field(default_factory=list)
    authorizations: int = 0
    closed: int = 0

    def __post_init__(self) -> None:
        self._left = iter(self.script)

    def get(
        self,
        path: str,
        params: Parameters = (),
        index: int | None = None,
        wait: float | None = None,
        *,
        read: Callable[[bytes], Parsed] = parse,  # noqa: ARG002 (the interface)
    ) -> Answer:
        """Return the next answer."""
        self.asked.append((path, tuple(params), index))
        self.waits.append(wait)
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

    def event_clock(self) -> EventClock:
        """Without the right to read the agent."""
        raise ConsulRefused("no agent:read")

    def close(self) -> None:
        """Count."""
        self.closed += 1
