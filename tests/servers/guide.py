"""Follows a page word by word: runs its blocks of `console`, and compares what is printed with the page.

Owns what may differ between two runs (times, IDs, process ids, versions), and how long to wait for what a
reader would see a second later. Where the commands run is up to the caller: here, with paths moved, or on a
machine of their own. With GUIDE_WRITE=1 in the environment, the page gets what was printed instead.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.pages import Block, Command, blocks, dialogue
from tests.servers.waiting import PATIENCE

WRITE: Final = "GUIDE_WRITE"
"""The variable of the environment that has the page written anew, with what was printed."""

_LOOKING: Final = re.compile(r"agentd (status|history|check|generations|blacklist|fleet|log|tickets)\b|curl ")
"""Commands that change nothing, so that they may be run again until they show what the page shows."""
_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VARYING: Final = (
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(Z|\.\d+)?", "TIME"),
    (_ID.pattern, "ID"),
    (r"(?<![\w.])(?=[0-9a-f]*\d)[0-9a-f]{8}(?:[0-9a-f]{8})?(?!\w)", "ID"),
    (r"timer-[\d.]+", "timer"),
    (r"\b17\d{11}\b", "NUM"),
    (r"\bpid \d+", "pid N"),
    (r"(?<![\w.])\d+(\.\d+)? (ms|s|m|h|d)( \d+ (s|m|h))?\b", "SPAN"),
    (r"\b(now|in SPAN)\b", "WHEN"),
    (r"\bversion [\d.]+\w*", "version V"),
    (r"[-\w.]+@[-\w.]+", "USER"),
    (r"[ \t]+", " "),
)


def alike(shown: str, printed: str) -> bool:
    """Whether two outputs are the same but for what varies."""
    return _settled(shown) == _settled(printed)


def _settled(text: str) -> list[str]:
    for pattern, word in _VARYING:
        text = re.sub(pattern, word, text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def follow(page: Path, run: Callable[[str], str]) -> None:
    """Run every command of the page, in order.

    Args:
        page: what to follow.
        run: runs one command line; returns what it printed, as the page would show it.

    Raises:
        AssertionError: something else was printed.
    """
    reader = _Reader(run, writes=WRITE in os.environ)
    made = [(block, reader.dialogue(block)) for block in blocks(page) if block.language == "console"]
    if WRITE in os.environ:
        _write(page, made)


class _Reader:
    """Who follows a page: pastes the IDs that were printed where the page has those of its own run."""

    def __init__(self, run: Callable[[str], str], *, writes: bool) -> None:
        self._run = run
        self._writes = writes
        self._ids: dict[str, str] = {}

    def dialogue(self, block: Block) -> str:
        """Run a block; what it is with what was printed."""
        done = [(command, self._follow(block, command)) for command in dialogue(block.text)]
        return "".join(f"# {self._pasted(command.line)}\n{printed}" for command, printed in done)

    def _follow(self, block: Block, command: Command) -> str:
        looks = _LOOKING.match(command.line)
        line = self._pasted(command.line)
        if self._writes and looks:
            time.sleep(3)  # as a reader takes, at least
        printed = self._run(line)
        deadline = time.monotonic() + PATIENCE / 4
        while (
            looks and not self._writes and not alike(command.output, printed) and time.monotonic() < deadline
        ):
            time.sleep(0.2)
            printed = self._run(line)
        assert self._settles(command, printed), (
            f"{block}: {line}\n--- the page has\n{command.output}--- printed was\n{printed}"
        )
        self._ids |= dict(zip(_ID.findall(command.output), _ID.findall(printed), strict=False))
        return printed

    def _settles(self, command: Command, printed: str) -> bool:
        return self._writes or alike(command.output, printed)

    def _pasted(self, line: str) -> str:
        for shown, printed in self._ids.items():
            line = line.replace(shown, printed).replace(shown[:8], printed[:8])
        return line


def _write(page: Path, made: list[tuple[Block, str]]) -> None:
    lines = page.read_text().splitlines(keepends=True)
    for block, text in reversed(made):
        first = block.line - 1
        lines[first : first + len(block.text.splitlines())] = [text if text.endswith("\n") else f"{text}\n"]
    page.write_text("".join(lines))
