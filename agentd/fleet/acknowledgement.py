"""The acknowledgement: what a node has in force, what it tried, and what became of that.

Plain values; `acknowledgement_codec` turns them into the document in Consul and back. Nothing here judges
what a document says. Times are unix seconds; numbers are those of messages in the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

FORMAT: Final = 2
"""The format of the document that this agentd writes; with 2, its node understands signed messages."""
EXEMPT: Final = "exempt"
"""The outcome of a message that is too old for a handler with `Handler.runs_once`."""
ENDED_BADLY: Final = ("refused", "failed", "expired")
"""The outcomes of messages that failed and will not be tried again."""
MOST_FAILED: Final = 8
"""Most failed messages of a name to report, beside the newest."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A message that a node has attempted.

    Attributes:
        num: its number.
        outcome: applied, unchanged, refused, failed or expired; "exempt" if it is too old for a handler with
            `Handler.runs_once`; "" while there is none.
        reason: the reason for the outcome, or for its absence; may be "".
    """

    num: int
    outcome: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Name:
    """How far a node has come with one name of the log; if several handlers take it, the slowest counts.

    Attributes:
        live: the number in force, as proved; None if none is.
        tried: the newest attempted message; None if none was attempted.
        provisional: the number of events that are applied but not in the log yet.
        incomplete_since: the number after which messages are missing for good; None if none are.
        failed: the latest failed messages other than `tried`, newest first; at most `MOST_FAILED`.
        waits: why the node does not go on with the log; "" if it does.
        held: whether that is because somebody paused its handler, or froze the fleet.
    """

    live: int | None = None
    tried: Tried | None = None
    provisional: int = 0
    incomplete_since: int | None = None
    failed: tuple[Tried, ...] = ()
    waits: str = ""
    held: bool = False

    def tried_as(self, num: int) -> Tried | None:
        """What became of this message; None if the node does not say."""
        return next((one for one in (self.tried, *self.failed) if one and one.num == num), None)


@dataclass(frozen=True, slots=True)
class HandlerReport:
    """One configured handler on a node.

    Attributes:
        names: the names of the log that it takes, sorted.
        fingerprint: a summary of what should be equal on all nodes with the same options; None if there is
            nothing to compare.
        outcome: the outcome of the last change that ended; "" if none did.
        at: when that ended; None if none did.
        drift: the drift outside the tree, in a sentence; "" if none is known.
        report: what else the handler reports; see `Handler.report`.
        past: its latest states, by which nodes are compared; see `agentd.fleet.past`.
    """

    names: tuple[str, ...] = ()
    fingerprint: str | None = None
    outcome: str = ""
    at: float | None = None
    drift: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)
    past: str = ""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What one node acknowledges.

    Attributes:
        agentd: its version of agentd.
        node_id: the ID of its Consul agent, which distinguishes two nodes of the same name.
        boot: the ID of the machine's current boot.
        written: when the document was written, by the node's clock.
        instance: the ID of the running daemon, which distinguishes two daemons at the same Consul agent.
        datacenter: the node's datacenter, if it is not the fleet's home; otherwise "".
        generation: the current generation; 0 before the first.
        names: the names of the log that the node takes.
        handlers: its configured handlers.
        options: handler -> digest of its options; only handlers with equal digests are compared.
        drift: "tree" -> what is wrong there, in a sentence.
        not_served: why nobody serves the current generation, such as that nginx is not running; "" if
            somebody does, or need not.
        stopped: when agentd was shut down cleanly (nginx may still serve); None if it was not.
        paused: which handlers take nothing new since when, and why; "" if all do.
        format: the format of the document.
        unread: the parts of a document in a newer format that could not be read.
    """

    agentd: str
    node_id: str
    boot: str
    written: float
    generation: int = 0
    names: Mapping[str, Name] = field(default_factory=dict)
    handlers: Mapping[str, HandlerReport] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    drift: Mapping[str, str] = field(default_factory=dict)
    not_served: str = ""
    stopped: float | None = None
    paused: str = ""
    instance: str = ""
    datacenter: str = ""
    format: int = FORMAT
    unread: tuple[str, ...] = ()

    def reported(self, key: str) -> dict[str, Any]:
        """By handler, what it reports under this key."""
        return {name: one.report[key] for name, one in self.handlers.items() if key in one.report}

    def same_as(self, other: Acknowledgement | None) -> bool:
        """Whether it says the same, apart from the time at which it was written."""
        return other is not None and replace(self, written=other.written) == other
