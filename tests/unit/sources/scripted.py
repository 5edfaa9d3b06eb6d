"""A request that is answered from a script, and remembers what it was sent with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from agentd.deadline import Deadline
from agentd.http import Body, Headers, IncompleteError, _Head
from agentd.sources.options import SourceOptions


class _Bytes:
    """What a connection brings: bytes, and an end that may be a broken one."""

    def __init__(self, data: bytes, *, breaks: bool) -> None:
        self._data, self._breaks = data, breaks

    def read(self, count: int) -> bytes:
        """The next bytes."""
        taken, self._data = self._data[:count], self._data[count:]
        if not taken and self._breaks:
            raise IncompleteError("the connection was reset")
        return taken


@dataclass(frozen=True)
class Scripted:
    """One answer. `breaks`: the body ends with a broken connection."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    breaks: bool = False

    def answer(self) -> Body:
        """As `agentd.http` would return it."""
        headers = Headers(self.headers)
        length = int(headers["content-length"]) if "content-length" in headers else None
        wire: Any = _Bytes(self.body, breaks=self.breaks)
        return Body(_Head(self.status, headers, length, chunked=False, keep=False), wire, None)


@dataclass
class ScriptedRequest:
    """Answers one request after the other; an exception in the script is raised."""

    script: list[Scripted | Exception | Callable[[Mapping[str, str]], Scripted]]
    asked: list[dict[str, str]] = field(default_factory=list)

    @contextmanager
    def send(self, headers: Mapping[str, str], options: SourceOptions, deadline: Deadline) -> Iterator[Body]:
        """See `Request`."""
        del options
        deadline.left()
        self.asked.append(dict(headers))
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        yield (answer if isinstance(answer, Scripted) else answer(headers)).answer()
