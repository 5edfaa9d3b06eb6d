"""Where agentd keeps its things on this node, for commands that only read.

They need three sections of the configuration, and start fast: where those are written plainly, no model is
imported to read them. What else is in the file, and whether its handlers can be imported, does not matter.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agentd.commands.daemon_address import DaemonAddress, daemon_address
from agentd.config.sections import read_document
from agentd.errors import AgentdError
from agentd.values import KEEP, STATE, STATUS, TREE, is_loopback, parse_listening

if TYPE_CHECKING:
    from agentd.config.yaml_document import Document
    from agentd.journal.journal import Journal

SECTIONS: Final = frozenset(
    [
        "consul",
        "nginx",
        "tree",
        "state",
        "journal",
        "sources",
        "status",
        "fleet",
        "trust",
        "log",
        "drain",
        "drift",
        "handlers",
        "handlers_path",
        "trust",
    ]
)
"""Every section there is: another name is a mistake, perhaps in the name of one that is needed."""
_READ: Final = ("tree", "state", "status")


class Places(NamedTuple):
    """What `read_places` finds.

    Attributes:
        state: directory of the journal.
        tree: directory of the generations.
        status: where the daemon answers; None if it does not.
        handlers: names of the configured handlers.
    """

    state: Path
    tree: Path
    status: DaemonAddress | None
    handlers: tuple[str, ...]

    @property
    def running(self) -> bool:
        """Whether a daemon runs on this state directory."""
        return daemon_runs(self.state)


def daemon_runs(state: Path) -> bool:
    """Whether a daemon runs on this state directory."""
    try:
        lock = os.open(state / "agentd.lock", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def open_journal(state: Path) -> Journal | None:
    """The journal, or None if there is none: reading makes none. Raises PermissionError, JournalError."""
    from agentd.journal.journal import Journal  # noqa: PLC0415 (not every command needs it)

    file = state / "journal.db"
    return Journal(file) if file.exists() else None


@contextmanager
def opened_journal(state: Path) -> Iterator[Journal]:
    """The journal, closed at the end.

    Raises:
        AgentdError: there is none yet, or it cannot be opened.
    """
    journal = open_journal(state)
    if journal is None:
        raise AgentdError(f"no journal in {state}: agentd has not run here yet; start it first")
    with closing(journal):
        yield journal


def read_places(path: Path) -> Places:
    """Read them from the configuration.

    Raises:
        ConfigError: a section that is needed is wrong.
    """
    document = read_document(path)
    found = document.data.get("handlers")
    handlers = tuple(map(str, found)) if isinstance(found, Mapping) else ()
    return _plain(document.data, handlers) or _checked(document, handlers)


def _plain(data: Mapping[str, Any], handlers: tuple[str, ...]) -> Places | None:
    """Without the models; None if it takes them to say what is meant, or what is wrong."""
    tree, state, status = data.get("tree", {}), data.get("state", STATE), data.get("status", {})
    if not (data.keys() <= SECTIONS and isinstance(tree, dict) and isinstance(status, dict)):
        return None
    path, address = tree.get("path", TREE), status.get("address", STATUS)
    if tree.keys() - {"path", "keep"} or status.keys() - {"address"}:
        return None
    keep = tree.get("keep", KEEP[0])
    if type(keep) is not int or not KEEP[0] <= keep <= KEEP[1]:
        return None
    if not all(isinstance(one, str) and one.startswith("/") for one in (state, path)):
        return None
    try:
        listening = None if address is None else DaemonAddress(*parse_listening(address))
    except (ValueError, AttributeError):
        return None
    plain = listening is None or is_loopback(listening.host)
    return Places(Path(state), Path(path), listening, handlers) if plain else None


def _checked(document: Document, handlers: tuple[str, ...]) -> Places:
    """By the models, which raise ConfigError."""
    from agentd.config.load import load_sections  # noqa: PLC0415 (slow)

    sections = load_sections(document, _READ)
    return Places(sections.state, sections.tree.path, daemon_address(sections.status), handlers)
