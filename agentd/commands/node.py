"""This node as a command finds it: its configuration, journal and tree, whether or not the daemon runs.

Owns opening them, so that a command that only reads never makes a journal where there was none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import structlog

from agentd.apply.batch import Batch
from agentd.apply.commit import Committer
from agentd.apply.joint_states import JointStates
from agentd.commands.places import daemon_runs, opened_journal
from agentd.config.load import ConfiguredHandler, Loaded, load
from agentd.configured_tree import open_tree
from agentd.handler import Context
from agentd.journal.entry import Entry
from agentd.journal.journal import Journal
from agentd.options import NginxOptions
from agentd.report import log
from agentd.supervisor import sources
from agentd.tree.tree import Tree
from agentd.watch.changes import Change

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
        """Whether the daemon runs, so that what is queued will be handled."""
        return daemon_runs(self.loaded.config.state)

    @property
    def committer(self) -> Committer:
        """Commits from outside the daemon, unobserved; the daemon finds the notifications in the journal."""
        log.configure("warning")  # not among what the command prints
        return Committer(self.tree, self.journal, joint=self.loaded.joint)

    def submit(self, handler: str, change: Change) -> Entry:
        """Queue a change for a handler in the journal, as if it had come from Consul."""
        return self.journal.queue(handler, change)

    @contextmanager
    def ask(self, configured: ConfiguredHandler) -> Iterator[Context]:
        """A context in which a handler can answer a question here; what it stages is discarded."""
        log.configure("warning")
        batch = self.dry_batch(configured)
        with closing(batch.stage):
            yield batch.context(
                time.time(), structlog.get_logger().bind(handler=configured.name, dry_run=True)
            )

    def dry_batch(self, configured: ConfiguredHandler) -> Batch:
        """A batch for one call of a handler that is never committed."""
        store = self.journal.store(configured.name, configured.type.store_format)
        return dry_batch(self.loaded, self.tree, configured, store, self.journal)


def dry_batch(
    loaded: Loaded, tree: Tree, configured: ConfiguredHandler, store: dict[str, Any], journal: Journal | None
) -> Batch:
    """A batch for one call of a handler that is never committed; `store` is the handler's."""
    return Batch(
        handler=configured.name,
        stage=tree.stage(configured.name),
        store=store,
        nginx=loaded.config.nginx or NginxOptions(),
        generation=tree.current,
        timeout=configured.entry.timeout,
        dry_run=True,
        sources=sources(loaded.config),
        states=JointStates(configured, journal),
    )


@contextmanager
def open_node(path: Path) -> Iterator[Node]:
    """Open what the configuration at `path` names.

    Raises:
        ConfigError: the configuration cannot be used.
        AgentdError: there is no journal yet, or it cannot be opened.
    """
    loaded = load(path)
    with opened_journal(loaded.config.state) as journal:
        yield Node(loaded, journal)


def wait_for(done: Callable[[], bool], seconds: float) -> bool:
    """Look until `done`, at most `seconds` long; says whether it was."""
    deadline = time.monotonic() + seconds
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(_LOOK, left))
    return True
