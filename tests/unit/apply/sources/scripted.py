"""A route that answers from a script, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from urllib3 import HTTPHeaderDict

from agentd.apply.sources.allowance import Allowance
from agentd.apply.sources.web import Answer
from agentd.source_options import SourceOptions


class _Body:
    """A body that comes in chunks and may break off."""

    def __init__(self, data: bytes, *, breaks: bool) -> None:
        self._data, self._breaks = data, breaks

    def read(self, count: int, **_: object) -> bytes:
        """The next bytes."""
        taken, self._data = self._data[:count], self._data[count:]
        if not taken and self._breaks:
            raise ConnectionResetError(104, "Connection reset by peer")
        return taken


@dataclass(frozen=True)
class Scripted:
    """One answer. `breaks`: the body ends with a broken connection."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    breaks: bool = False


@dataclass
class ScriptedRoute:
    """Answers one request after the other; an exception in the script is raised."""

    script: list[Scripted | Exception | Callable[[Mapping[str, str]], Scripted]]
    asked: list[dict[str, str]] = field(default_factory=list)

    @contextmanager
    def ask(
        self, headers: Mapping[str, str], options: SourceOptions, allowance: Allowance
    ) -> Iterator[Answer]:
        """See `Route`."""
        del options
        allowance.left()
        self.asked.append(dict(headers))
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if not isinstance(answer, Scripted):
            answer = answer(headers)
        body: Any = _Body(answer.body, breaks=answer.breaks)
        yield Answer(answer.status, HTTPHeaderDict(answer.headers), body)
