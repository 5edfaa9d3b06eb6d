"""Everything that the author of a handler imports: the base class, and by name what it works with.

A handler turns one change into staged files. It never talks to Consul, never writes where nginx reads, and
never claims what it did: the tree finds out what differs, and the worker records the outcome.

    class Motd(Handler):
        class Options(HandlerOptions):
            path: str = "motd/motd.txt"

        options: Options

        def handle(self, change: Change, context: Context) -> None:
            if isinstance(change, KeyState) and change.value is not None:
                context.files.write(self.options.path, change.value)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from agentd.background import Background
from agentd.context import (
    Completed,
    Context,
    Fetch,
    Fetched,
    Files,
    Known,
    Log,
    Run,
    Task,
    TaskContext,
    Tasks,
    Watched,
)
from agentd.digest import digest
from agentd.errors import HandlerError, PermanentError, TemporaryError, UnderWay
from agentd.limits import Limits
from agentd.options import LimitOptions, NginxOptions, Options, Size
from agentd.section import Duration
from agentd.verdict import Drift, Verdict
from agentd.watch.changes import (
    LOG_EPOCH,
    Change,
    ChecksState,
    Event,
    Instance,
    KeyPrefixState,
    KeyState,
    Message,
    NodesState,
    Notification,
    ServicesState,
    ServiceState,
    Timer,
)

__all__ = [
    "LOG_EPOCH",
    "Background",
    "Change",
    "ChecksState",
    "Completed",
    "Context",
    "Drift",
    "Duration",
    "Event",
    "Fetch",
    "Fetched",
    "Files",
    "Handler",
    "HandlerError",
    "HandlerOptions",
    "Instance",
    "KeyPrefixState",
    "KeyState",
    "Known",
    "LimitOptions",
    "Limits",
    "Log",
    "Message",
    "NginxOptions",
    "NodesState",
    "Notification",
    "PermanentError",
    "Run",
    "ServiceState",
    "ServicesState",
    "Size",
    "Task",
    "TaskContext",
    "Tasks",
    "TemporaryError",
    "Timer",
    "UnderWay",
    "Verdict",
    "Watched",
    "digest",
]


class HandlerOptions(Options):
    """The base of a handler's `options:`: frozen, and an unknown field is refused."""


class Handler:
    """The base of every handler. One object serves one entry of the YAML map, from one thread at a time.

    Attributes:
        proves: True for a handler that, when notified, proves that the new generation is live. A change whose
            commit notified such a handler ends as applied once the proof succeeds; if it raises
            PermanentError, the tree is flipped back and the change ends as failed. The handlers in its own
            `notify` are notified after each successful proof.
        converges: whether the newest state that failed is tried again, after its outcome, until it succeeds.
            False for a handler whose every attempt has side effects.
        side_effects: True for a handler whose calls do what staging cannot undo, such as running a program of
            the operator's. Each of its changes is then recorded before the next is begun, and none is begun
            while that could not be recorded; after a kill only the one that was begun is handled again.
        runs_once: True for a handler whose events are orders to do something once, at about that time, and
            do not describe a state. It never gets a message of the fleet's log whose event it already
            handled provisionally, nor one that is older than its own first start.
        urgent: whether its events are applied even while the fleet is frozen (see `fleet.urgent`).
        secret_payload: whether its payloads are secret, so that the fleet's log keeps its events only if they
            are sealed (see `trust.seal`).
        joint: whether each attempt is made from the newest states of all queries together (`Context.states`),
            and not from its change alone. Then nothing is handled until each query has a state; that
            something was never there counts as one; and a state that was refused is tried again once
            another was applied. Such a handler takes no events, and no notifications unless it proves.
        store_format: the format of `context.store`. Increase it whenever the previous version of the handler
            could no longer use the store; agentd refuses to run a handler on a store of another format.
    """

    Options: ClassVar[type[HandlerOptions]] = HandlerOptions
    proves: ClassVar[bool] = False
    converges: bool = True
    side_effects: ClassVar[bool] = False
    runs_once: ClassVar[bool] = False
    urgent: ClassVar[bool] = False
    secret_payload: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    store_format: ClassVar[int] = 1

    def __init__(self, options: HandlerOptions) -> None:
        self.options = options

    @property
    def payload_life(self) -> float | None:
        """Seconds for which payloads are kept after their change has ended; None: `journal.replayable`."""
        return None

    @property
    def inputs(self) -> str:
        """A digest of what it reads beside its options, such as files that they name.

        Asked at every start and reload: if it has changed, the newest states are handled again.
        """
        return ""

    def initial(self, context: Context) -> None:
        """Stage what nginx needs before any change has arrived. Called at every start."""

    def handle(self, change: Change, context: Context) -> str | None:
        """Stage files, run processes, or raise TemporaryError or PermanentError.

        Any other exception is a bug in the handler: it is logged with its traceback, and the change is
        retried like a failed one.

        Returns:
            None. A handler that proves may return a sentence for the operator that says why there was nothing
            to prove: what waited for the proof then ends as applied, and its outcome quotes the sentence.
        """
        raise NotImplementedError

    def render(self, context: Context) -> None:
        """Stage the files that are generated from everything that the handled changes staged and stored.

        Called once before each commit of changes, after the last `handle`: work that takes as long for one
        change as for a thousand belongs here. A change counts as applied if its `handle` staged or stored
        something; in a commit of a single change, what is staged here counts as well.

        May raise what `handle` may. If it does after several changes, they are all handled again, with a call
        of this method after each, so that only the change at fault is refused or retried.
        """

    def due(self, now: float, context: Context) -> float | None:  # noqa: ARG002 (for subclasses)
        """Do the timed work that is due at `now` (unix seconds).

        Called at the start, after every commit of this handler, at the time that it last returned, and just
        before a handler that proves and that notifies this one makes nginx reload, so that what the reload
        would lose can be committed.

        Returns:
            The unix time of the next timed work, or None if there is none.

        Raises:
            PermanentError: it could not be done; the history shows why. `due` is called again at once, and
                must then return when to be called next.
        """
        return None

    @property
    def verify_every(self) -> float:
        """Seconds between two calls of `verify` while nothing changes."""
        return 60.0

    def verify(self, context: Context) -> Verdict:  # noqa: ARG002 (for subclasses)
        """Check whether what this handler committed is in effect outside the tree, and mend what can be.

        Called at the start, once what the handler committed is live (its files proved, if a handler that it
        notifies proves them), and every `verify_every` seconds; more often while there is drift.
        A committed change, of this handler or of one that notifies it, ends as applied only after a verdict
        without drift, but does not hold up later ones. Staged files are dropped. In a dry run (`agentd
        check`), or without `context.mend`, nothing may be mended.

        Raises:
            TemporaryError: it cannot be checked now, which counts as drift with this reason.
        """
        return Verdict()

    def fingerprint(self, context: Context) -> str | None:  # noqa: ARG002 (for subclasses)
        """Summarise what is in force in a few characters, so that the nodes of a fleet can be compared.

        Called only in a fleet, at the start and after each commit or other work of this handler (changes,
        timed work, rollbacks). Two nodes with the same options that applied the same messages must return the
        same: leave out what differs between nodes, such as addresses, times, and lists fetched at different
        moments. Everybody in the fleet can see it: never include a secret, or anything from which one could
        be guessed. Staged files are dropped. If it raises, the error is reported and this node not compared.

        Returns:
            At most 128 characters, such as the beginning of a SHA-256; None if there is nothing to compare.
        """
        return None

    def report(self, context: Context) -> Mapping[str, Any]:  # noqa: ARG002 (as above)
        """Return what else the fleet should know about this node; called together with `fingerprint`.

        Returns:
            Small JSON values, at most 2 KiB in all, such as {"ring": [{"key": digest, "since": unix time}]},
            never a secret. Handlers of one kind use the same keys.
        """
        return {}

    def preflight(self, context: Context) -> Sequence[Drift]:  # noqa: ARG002 (for subclasses)
        """Return what would go wrong at the first change; called by `agentd check`, in a dry run.

        Check only what a validator of the options cannot know, such as whether a reference may be fetched.

        Returns:
            The problems; `part` is the option, such as "lists.drop.reference", so that its line is quoted.
        """
        return ()

    def hold(self, now: float, context: Context) -> float:  # noqa: ARG002 (for subclasses)
        """Seconds to hold back what is waiting, so that later changes can join it; 0 to go ahead."""
        return 0.0

    def superseded(self, waiting: Sequence[Event], context: Context) -> Mapping[str, str]:  # noqa: ARG002 (as above)
        """Return which waiting events are superseded by another one; they end as expired.

        Called whenever the waiting events have changed, before any of them is handled; `waiting` includes
        those that wait for a task. Replays are left out: whoever replays an event wants it handled. A message
        whose event was already given provisionally has "#2" (or "#3" ...) at the end of its ID here, though
        not in `handle`.

        Returns:
            The ID of each superseded event -> the ID of the event that supersedes it.
        """
        return {}
