"""This node as a command finds it: its configuration, journal and tree, whether or not the daemon runs.

Owns opening them, so that a command that only reads never makes a journal where there was none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agentd.agent import open_tree, running
from agentd.apply.commit import Committer
from agentd.apply.journal import Journal
from agentd.apply.outcome import Ending
from agentd.config import Loaded, load
from agentd.errors import AgentdError

_LOOK: Final = 0.1  # seconds between two looks at what the daemon wrote


class Node:
    """What `open_node` yields.

    Attributes:
        journal: open; closed when the command ends.
    """

    def __init__(self, loaded: Loaded, journal: Journal) -> None:
        self.loaded = loaded
        self.journal = journal
        self.tree = open_tree(loaded.config)

    @property
    def running(self) -> bool:
        """Whether the daemon runs, so that what is owed will be taken."""
        return running(self.loaded.config.state)

    @property
    def committer(self) -> Committer:
        """Commits from outside the daemon; it finds what they owe in the journal."""
        return Committer(self.tree, self.journal, report=_unreported)


def _unreported(_ending: Ending) -> None:
    """The command prints what became of it; the daemon counts its own."""


@contextmanager
def open_node(path: Path) -> Iterator[Node]:
    """Open what the configuration at `path` names.

    Raises:
        ConfigError: the configuration cannot be used.
        AgentdError: there is no journal yet, or it cannot be opened.
    """
    loaded = load(path)
    journal = open_journal(loaded)
    if journal is None:
        raise AgentdError(f"no journal in {loaded.config.state}: agentd has not run here yet; start it first")
    try:
        yield Node(loaded, journal)
    finally:
        journal.close()


def open_journal(loaded: Loaded) -> Journal | None:
    """The journal, or None if there is none. Raises PermissionError, JournalError."""
    file = loaded.config.state / "journal.db"
    return Journal(file) if file.exists() else None


def wait_for(done: Callable[[], bool], seconds: float) -> bool:
    """Look until `done`, at most `seconds` long; says whether it was."""
    deadline = time.monotonic() + seconds
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(_LOOK, left))
    return True
