"""Judges who runs what: what is wrong with each node, and how far one message has come.

Owns the judgement, and the order in which troubles are listed. Pure: it talks to no server, reads no clock,
and knows nothing of presentation. `now` is the viewer's time; times in documents come from the nodes' clocks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from agentd.fleet.acknowledgement import (
    ENDED_BADLY,
    EXEMPT,
    MOST_FAILED,
    Acknowledgement,
    HandlerReport,
    Name,
)
from agentd.fleet.disagreement import SETTLED, Lived, disagreeing
from agentd.fleet.newest import Newest
from agentd.fleet.past import undated

Trouble = Literal[
    "not served",
    "failed",
    "behind",
    "drifted",
    "disagreeing",
    "silent",
    "stopped",
    "paused",
    "name taken",
    "unreadable",
    "log lost",
    "incomplete",
    "provisional",
    "no agentd",
]
TROUBLES: Final[tuple[Trouble, ...]] = Trouble.__args__  # type: ignore[attr-defined] # of a Literal
"""All troubles, worst first."""
_DONE: Final = ("applied", "unchanged")
_MUTE: Final = "agentd runs there but does not acknowledge"
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Member:
    """One node, according to its own document and the catalogue.

    Attributes:
        node: its name.
        document: what it acknowledges; None if it has no document, or an unreadable one.
        unreadable: why its document cannot be read; "" if it can be, or there is none.
        catalogued: whether it is in the catalogue.
        node_id: the ID of its Consul agent, according to the catalogue; "" if unknown.
        silent: why it seems to be silent; "" if it does not.
        runs_as: the node name under which a healthy daemon is registered there, if the node itself has no
            document; otherwise "".
        gone: for how many days it has been missing from the catalogue; None if it is there, or if unknown.
    """

    node: str
    document: Acknowledgement | None = None
    unreadable: str = ""
    catalogued: bool = True
    node_id: str = ""
    silent: str = ""
    runs_as: str = ""
    gone: int | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is wrong with a node.

    Attributes:
        trouble: what kind of trouble.
        node: the node's name.
        subject: the name of the log, or the handler; "" for the node as a whole.
        text: why, without details of the single node, so that equal ones can be folded; may be "".
        live: the number in force, if the subject is a name.
        gone: for how many days the node has been missing from the catalogue, as far as is known.
    """

    trouble: Trouble
    node: str
    subject: str = ""
    text: str = ""
    live: int | None = None
    gone: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one node has come with one message.

    Attributes:
        node: the node's name.
        state: "confirmed", "refused" (for good), or "waiting".
        reason: why it is not confirmed; or what else to know, such as that nginx is not running. May be "".
        held: whether it waits until somebody resumes its handler or thaws the fleet.
        lost: whether it has taken it, and does not have it in force any more, or not yet.
    """

    node: str
    state: Literal["confirmed", "refused", "waiting"]
    reason: str = ""
    held: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """The result of a comparison.

    Attributes:
        nodes: the nodes that were compared, sorted; for one handler, only those that have it.
        differences: worst first, then by subject and node.
        live: name -> number (None for none) -> how many nodes have it in force.
        confirmed: name -> how many of the nodes that its newest message is for have it in force, and how many
            there are.
    """

    nodes: tuple[str, ...]
    differences: tuple[Difference, ...]
    live: Mapping[str, Mapping[int | None, int]] = field(default_factory=dict)
    confirmed: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def agreeing(self) -> tuple[str, ...]:
        """The nodes without any difference."""
        differing = {one.node for one in self.differences}
        return tuple(node for node in self.nodes if node not in differing)


@dataclass(frozen=True, slots=True)
class _Log:
    """The state of the log; see `standing`."""

    newest: Mapping[str, Newest]
    unreadable: Mapping[str, str]
    now: float


def standing(
    members: Iterable[Member],
    newest: Mapping[str, Newest],
    now: float,
    handler: str | None = None,
    unreadable: Mapping[str, str] = _NONE,
) -> Standing:
    """Compare the nodes with each other and with the log.

    Args:
        members: each node once. Their documents must have been read before `newest`.
        newest: the newest message of each name; names without messages are missing.
        now: unix time.
        handler: compare only this configured handler, on the nodes that have it.
        unreadable: name -> why its head cannot be read, so that its newest message is unknown.
    """
    members = list(members)
    counted = [one for one in members if _counts(one, handler)]
    taken = {one.node for one in members if one.document is not None}
    log = _Log(newest, unreadable, now)
    found = [difference for one in counted for difference in _of_node(one, log, handler, taken)]
    found += _disagreeing(counted, now, handler)
    live: dict[str, Counter[int | None]] = defaultdict(Counter)
    asked: dict[str, list[bool | None]] = defaultdict(list)
    for one in counted:
        for name, state in _names(one, handler).items():
            live[name][state.live] += 1
            asked[name].append(_confirms(one.node, state, newest.get(name)))
    return Standing(
        nodes=tuple(sorted(one.node for one in counted)),
        differences=tuple(sorted(found, key=_order)),
        live=dict(live),
        confirmed={name: (each.count(True), len(each) - each.count(None)) for name, each in asked.items()},
    )


def _confirms(node: str, state: Name, newest: Newest | None) -> bool | None:
    """Whether the node has the newest message in force; None if the message is not for it."""
    if newest is None:
        return False
    if _is_exempt(state, newest.num) or (newest.addressed is not None and node not in newest.addressed):
        return None
    return state.live is not None and state.live >= newest.num


def _order(one: Difference) -> tuple[int, str, str, str]:
    return TROUBLES.index(one.trouble), one.subject, one.text, one.node


def _counts(member: Member, handler: str | None) -> bool:
    if handler is None or member.document is None:
        return True  # a node without a document may lack the handler, or all of agentd
    return handler in member.document.handlers


def _handlers(member: Member, handler: str | None) -> Mapping[str, HandlerReport]:
    found = {} if member.document is None else member.document.handlers
    return found if handler is None else {name: one for name, one in found.items() if name == handler}


def _names(member: Member, handler: str | None) -> Mapping[str, Name]:
    if member.document is None:
        return {}
    if handler is None:
        return member.document.names
    taken = member.document.handlers[handler].names
    return {name: one for name, one in member.document.names.items() if name in taken}


# ---------------------------------------------------------------- one node


def _of_node(member: Member, log: _Log, handler: str | None, taken: Collection[str]) -> Iterator[Difference]:
    document = member.document
    if member.unreadable:
        yield Difference("unreadable", member.node, "", member.unreadable)
    elif document is None:
        yield _without_document(member, taken)
    if document is None:
        return
    if member.gone:  # its acknowledgement is history
        yield Difference("silent", member.node, "", member.silent, gone=member.gone)
        return
    yield from _as_a_whole(member, document)
    for name, one in _handlers(member, handler).items():
        if one.drift:
            yield Difference("drifted", member.node, name, one.drift)
    for name, state in _names(member, handler).items():
        yield from _of_name(member, name, state, log)


def _without_document(member: Member, taken: Collection[str]) -> Difference:
    if not member.runs_as:
        return Difference("no agentd", member.node, "", "no document, and no healthy service agentd")
    if member.runs_as in taken:
        text = f"agentd runs there as {member.runs_as}, as on another node: set a different fleet.node"
        return Difference("name taken", member.node, "", text)
    return Difference("silent", member.node, "", f"{_MUTE}; run `agentd status` there to see why")


def _as_a_whole(member: Member, document: Acknowledgement) -> Iterator[Difference]:
    node = member.node
    if document.stopped is not None:
        yield Difference("stopped", node, "", "agentd was stopped; nginx may still serve")
    elif member.silent:
        yield Difference("silent", node, "", member.silent)
    elif document.not_served:
        yield Difference("not served", node, "", document.not_served)
    if document.paused:
        yield Difference("paused", node, "", document.paused)
    if member.node_id and document.node_id and member.node_id != document.node_id:
        text = "another Consul agent acknowledges for it: two nodes share the name, or the agent was rebuilt"
        yield Difference("name taken", node, "", text)
    for place, text in document.drift.items():
        yield Difference("drifted", node, place, text)


def _of_name(member: Member, name: str, state: Name, log: _Log) -> Iterator[Difference]:
    node, newest = member.node, log.newest.get(name)
    if state.incomplete_since is not None:
        text = "what it missed is no longer in the log; publish a snapshot (`agentd publish --snapshot`)"
        yield Difference("incomplete", node, name, text, state.live)
    if state.provisional:
        yield Difference("provisional", node, name, "applied events that are not in the log yet", state.live)
    if name in log.unreadable and newest is None:
        text = f"its newest message is unknown: {log.unreadable[name]}"
        yield Difference("unreadable", node, name, text, state.live)
        return
    # What was refused may have been forged, with any number, and nobody holds it.
    tried = state.tried.num if state.tried and state.tried.outcome not in ENDED_BADLY else 0
    seen = max(state.live or 0, tried)
    if seen > (newest.num if newest else 0):
        text = "it holds a newer message than the log in Consul; a relay will write it back"
        yield Difference("log lost", node, name, text, state.live)
        return
    due = newest.due(node) if newest else None
    if due is not None and due.concerns(node, log.now) and not _is_exempt(state, due.num):
        found = progress(member, due)
        trouble = _trouble(state, due.num, found)
        if trouble:
            yield Difference(trouble, node, name, found.reason, state.live)


def _trouble(state: Name, num: int, found: Progress) -> Trouble | None:
    if found.state == "confirmed":
        return None
    if found.state == "refused":
        return "failed"
    tried = state.tried
    return "drifted" if tried and tried.num >= num and tried.outcome in _DONE else "behind"


def progress(member: Member, newest: Newest) -> Progress:
    """How far a node has come with this message, or with a later one of the same name."""
    document = member.document
    if document is None or newest.name not in document.names:
        mute = _MUTE if member.runs_as else "does not take that name"
        return Progress(member.node, "waiting", member.unreadable or member.silent or mute)
    state = document.names[newest.name]
    found = state.tried_as(newest.num)
    if found and found.outcome in ENDED_BADLY:
        return Progress(member.node, "refused", _because(found.outcome, found.reason))
    if found is None and len(state.failed) == MOST_FAILED and newest.num < state.failed[-1].num:
        return Progress(member.node, "waiting", "so many later messages failed that it does not say")
    if state.live is not None and state.live >= newest.num:
        reason = document.not_served or (found.reason if found else "")
        return Progress(member.node, "confirmed", reason)
    why, lost = _why_waiting(member, document, state, newest.num), bool(found and found.outcome in _DONE)
    return Progress(member.node, "waiting", why, state.held, lost)


def _why_waiting(member: Member, document: Acknowledgement, state: Name, num: int) -> str:
    if document.stopped is not None:
        return "agentd is stopped"
    if member.silent:
        return member.silent
    tried = state.tried
    if tried is None or tried.num < num:
        return _because("waits", state.waits) if state.waits else "has not started on it"
    if tried.outcome in _DONE:
        return _because("was applied, but is not in force", tried.reason)
    return _because(tried.outcome or "still applying it", tried.reason)


def _because(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what


def takers(members: Iterable[Member], newest: Newest, now: float) -> list[Member]:
    """The nodes that have to confirm a message: they take its name, and it is for them.

    As nobody knows which names a daemon takes that does not acknowledge, or not legibly, it counts.
    """
    return [one for one in members if newest.concerns(one.node, now) and _may_take(one, newest)]


def _may_take(member: Member, newest: Newest) -> bool:
    if member.document is None:
        return bool(member.unreadable or member.runs_as)
    state = member.document.names.get(newest.name)
    return state is not None and not _is_exempt(state, newest.num)


def _is_exempt(state: Name, num: int) -> bool:
    """Whether the message is too old for the node, which joined later and runs nothing belatedly."""
    return bool(state.tried and state.tried.outcome == EXEMPT and state.tried.num >= num)


# ---------------------------------------------------------------- one against the other


def _disagreeing(members: Sequence[Member], now: float, handler: str | None) -> Iterator[Difference]:
    """Find nodes whose results differ from those of nodes with the same options and the same messages."""
    alike: dict[tuple[str, str], list[Lived]] = defaultdict(list)
    for one in members:
        document = one.document
        if document is None or one.gone:
            continue
        until = now if document.stopped is None and not one.silent else document.written
        for name, report in _handlers(one, handler).items():
            if any(_is_unlike(document.names.get(taken, Name())) for taken in report.names):
                continue
            # A document from the future comes from a wrong clock, so its times mean nothing.
            past = report.past if document.written < now + SETTLED else undated(report.past)
            alike[name, document.options.get(name, "")].append(Lived(one.node, past, until))
    for (name, _), those in alike.items():
        for node, text in disagreeing(those):
            yield Difference("disagreeing", node, name, text)


def _is_unlike(state: Name) -> bool:
    """Whether the node is known to lack messages, or to have applied others, which is listed anyway."""
    return bool(state.provisional) or state.incomplete_since is not None
