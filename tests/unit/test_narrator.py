"""What a running command tells on standard error."""

from __future__ import annotations

import io
import json

from agentd.commands.narrator import Narrator


def test_steps_are_told_only_if_asked_for() -> None:
    """Warnings always."""
    stream = io.StringIO()
    narrator = Narrator(stream, as_json=False, verbose=False)
    narrator.tell("lock.acquired", prefix="p")
    narrator.warn("lost")
    assert stream.getvalue() == "agentd: lost\n"


def test_steps_are_lines_for_a_person() -> None:
    """Name and fields; control characters are escaped."""
    stream = io.StringIO()
    Narrator(stream, as_json=False, verbose=True).tell("lock.acquired", prefix="p\x1b", n=1)
    assert stream.getvalue() == "agentd: lock.acquired prefix=p\\x1b n=1\n"


def test_each_line_is_one_json_object_for_a_program() -> None:
    """Steps and warnings alike."""
    stream = io.StringIO()
    narrator = Narrator(stream, as_json=True, verbose=False)
    narrator.tell("lock.acquired", prefix="p")
    narrator.warn("lost")
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"event": "lock.acquired", "prefix": "p"},
        {"event": "warning", "text": "lost"},
    ]


class Broken(io.StringIO):
    """A pipe that nobody reads from."""

    def write(self, _: str) -> int:
        """Fail as such a pipe does."""
        raise BrokenPipeError


def test_nobody_listening_is_no_error() -> None:
    """The lock must be given back all the same."""
    narrator = Narrator(Broken(), as_json=False, verbose=False)
    narrator.warn("lost")
