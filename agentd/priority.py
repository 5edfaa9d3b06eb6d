"""How lines tell the systemd journal how serious they are: "<4>" before a warning, as sd-daemon(3) has it.

Only where standard error is the journal's own socket: elsewhere it would be seen as text. Quick to import.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Literal, TextIO

Name = Literal["debug", "info", "warning", "error", "critical"]
_NUMBERS: Final[dict[Name, int]] = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def goes_to_journal(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd connected this stream to the journal: $JOURNAL_STREAM has its device and inode.

    Programs that agentd runs inherit the variable, and so does what is redirected to a file or a pipe.
    """
    told = environ.get("JOURNAL_STREAM")
    if not told:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # it is closed, or no file at all
        return False
    return told == f"{found.st_dev}:{found.st_ino}"


def prefixed(text: str, name: Name) -> str:
    """The text with the priority before each of its lines: the journal takes each for an entry of its own."""
    mark = f"<{_NUMBERS[name]}>"
    return "\n".join(mark + line for line in text.split("\n"))


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In place of `sys.excepthook`: what agentd did not expect, as an error."""
    import traceback  # noqa: PLC0415 (as good as never needed)

    text = "".join(traceback.format_exception(kind, error, trace)).rstrip("\n")
    sys.stderr.write(prefixed(text, "error") + "\n")
