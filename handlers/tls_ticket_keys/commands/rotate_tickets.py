"""`agentd rotate-tickets`: rotates the ticket keys of a fleet, each step once all nodes confirm the last one.

Run by a person, who waits for the end, or by a timer with `--due`. Owns what is printed, and the exit status.
Keys appear only as digests.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final, TextIO

from agentd.command import (
    AgentdError,
    Output,
    Parser,
    add_fleet_arguments,
    kept_name,
    moment,
    printable,
    some_seconds,
    span,
    word,
)

if TYPE_CHECKING:
    from agentd.command import CoordinatedName, ReachedFleet
    from handlers.tls_ticket_keys.commands.coordinator import Result
    from handlers.tls_ticket_keys.commands.policy import Configured
    from handlers.tls_ticket_keys.rotation import Seen, Step, Wait

HELP: Final = "rotate the fleet's TLS session ticket keys without losing a session"
_PURPOSE: Final = "rotating ticket keys"
_TIMEOUT: Final = 60.0
_UNCONFIRMED, _OVERDUE = 1, 3
_SHOWN: Final = 5  # nodes that are named on a line
_QUIET: Final = 2.0  # seconds for which a wait is nothing worth a line


def add_arguments(parser: Parser) -> None:
    """Add the options for what is rotated, and how."""
    parser.add_example(
        "agentd rotate-tickets",
        "agentd rotate-tickets --without lb7",
        "agentd rotate-tickets --due",
    )
    parser.add_exit_status(
        "0 if all nodes confirmed, or nothing was due; 1 if not all did within --timeout (the"
        " next run goes on, so with --due it is 0 then), and on every error; 3 if a rotation has waited for"
        " more than an hour."
    )
    parser.add_argument(
        "name",
        nargs="?",
        type=kept_name,
        metavar="NAME",
        help="name of the keys' event (default: that of the handler `tls_ticket_keys` in the configuration)",
    )
    parser.add_argument(
        "--revoke",
        action="store_true",
        help="replace all keys at once, because one leaked: sessions that are open now cannot be resumed",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        type=word,
        metavar="NODE",
        help="do not wait for this node in this rotation; may be repeated",
    )
    parser.add_argument(
        "--due",
        action="store_true",
        help="do only what is due: by age, by an event without a payload, or left over; nothing on a host"
        " without the key of a publisher who may send the name",
    )
    parser.add_argument(
        "--every",
        type=some_seconds,
        metavar="T",
        help="with --due, how old the encrypting key may be (default: the handler's `rotate_every`)",
    )
    parser.add_argument(
        "--timeout",
        type=some_seconds,
        default=_TIMEOUT,
        metavar="T",
        help=f"give up waiting after this time (default {_TIMEOUT:g}s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what comes next, and do nothing")
    add_fleet_arguments(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Rotate, and print what came of it.

    Raises:
        ConfigError: the configuration is invalid, or does not say which keys.
        AgentdError: it cannot be decided what comes next; the text says why.
        ConsulUnavailable: there was no answer; the next run goes on from whatever was published.
    """
    from agentd.command import fleet  # noqa: PLC0415 (parsing does without)

    with fleet(arguments) as reached:
        return _rotate(reached, arguments, output)


def _rotate(reached: ReachedFleet, arguments: Namespace, output: Output) -> int:
    from agentd.command import CoordinatedName  # noqa: PLC0415 (as above)
    from handlers.tls_ticket_keys.commands.coordinator import Asked, Coordinator  # noqa: PLC0415 (as above)
    from handlers.tls_ticket_keys.commands.policy import find, make_policy  # noqa: PLC0415 (as above)

    configured = find(reached.document.data, arguments.name) if reached.document and reached.options else None
    event = _event(configured, arguments)
    if event is None:
        return _idle("no handler here takes ticket keys from the fleet's log: name their event", output)
    name = CoordinatedName(reached, event, _PURPOSE, arguments.timeout)
    if arguments.due and not name.may_publish:
        return _idle(f"no key of a publisher who may send {event} is here: other hosts rotate", output)
    name.require()
    policy = make_policy(configured, arguments, adopts=name.accepts_events)
    asked = Asked(arguments.due, arguments.revoke, frozenset(arguments.without), arguments.dry_run)
    began = time.monotonic()
    teller = _Teller(sys.stderr, event, quiet=output.json)
    result = Coordinator(name, policy, asked, teller.tell).run()
    status = _status(result, dry=arguments.dry_run)
    if output.json:
        output.document(_told(name, result, time.monotonic() - began, status))
    else:
        _print(event, result, time.monotonic() - began, output, adopts=policy.adopts)
    return status


def _event(configured: Configured | None, arguments: Namespace) -> str | None:
    """The name to rotate; None if there is none, and a timer asks. Raises AgentdError if a person does."""
    name: str | None = arguments.name or (configured.event if configured else None)
    if name is None and not arguments.due:
        raise AgentdError(
            "the configuration has no handler `tls_ticket_keys` with `keep: latest` beside its event: name"
            " the event, as in `agentd rotate-tickets NAME`"
        )
    return name


def _idle(text: str, output: Output) -> int:
    if output.json:
        output.document({"did": [], "reason": text})
    output.line(text)
    return 0


def _status(result: Result, *, dry: bool) -> int:
    from handlers.tls_ticket_keys.rotation import Publish, Rest  # noqa: PLC0415 (as above)

    if isinstance(result.last, Rest):
        return 0
    if isinstance(result.last, Publish):
        return 0 if dry or result.due else _UNCONFIRMED
    if result.overdue:
        return _OVERDUE
    may_wait = result.last.lasting or result.seen.document is not None  # else nothing tells since when
    return 0 if result.due and may_wait else _UNCONFIRMED


def _told(name: CoordinatedName, result: Result, took: float, status: int) -> dict[str, Any]:
    from handlers.tls_ticket_keys.commands.coordinator import summary  # noqa: PLC0415 (as above)
    from handlers.tls_ticket_keys.rotation import Publish, Rest, Wait  # noqa: PLC0415 (as above)

    last = result.last
    return {
        "fleet": name.fleet,
        "name": name.name,
        "num": result.seen.num,
        **summary(result.seen.document),
        "did": [{"num": num, "does": does} for num, does in result.did],
        "step": last.does if isinstance(last, Publish) else None,
        "due": last.until if isinstance(last, Rest) else None,
        "reason": last.reason if isinstance(last, Wait) else None,
        "blocked_since": last.since if isinstance(last, Wait) else None,
        "waiting": [
            {"node": one.name, "reason": one.waits} for one in (last.nodes if isinstance(last, Wait) else ())
        ],
        "nodes": len(result.seen.nodes),
        "seconds": round(took, 3),
        "status": status,
    }


def _print(event: str, result: Result, took: float, output: Output, *, adopts: bool) -> None:
    from handlers.tls_ticket_keys.rotation import Publish, Wait  # noqa: PLC0415 (as above)

    last, document = result.last, result.seen.document
    if isinstance(last, Publish):
        output.line(f"{event}: the next step is to {last.does}")
    elif isinstance(last, Wait):
        output.line(
            f"{event}: {last.reason}{_since(last, result.seen)}", "red" if result.overdue else "yellow"
        )
        if last.nodes:
            output.table(
                ("NODE", "WHY"), [(one.name, one.waits or "has not confirmed it") for one in last.nodes]
            )
            output.line(_ADVICE)
    elif result.did:
        left_out = f", without {', '.join(document.without)}" if document and document.without else ""
        rotated = "confirm" in (does for _, does in result.did)
        text = "rotated" if rotated else "; ".join(does for _, does in result.did)
        passed = set(document.without if document else ())
        where = sum(one.name not in passed for one in result.seen.nodes)
        nodes = "1 node" if where == 1 else f"{where} nodes"
        output.line(f"{event}: {text} on {nodes}{left_out} after {span(took)}", "green")
    else:
        due = f", the next rotation is due at {moment(last.until)}" if last.until else ""
        events = ": keys come with events (`trust.accept_events`), and no new one was heard" if adopts else ""
        output.line(f"{event}: nothing to do{due}{events}")


_ADVICE: Final = (
    "Waiting loses no session: the next run goes on. Start agentd there, or `agentd resume` what is paused;"
    " or take a node that is gone out with `consul force-leave NODE` and `agentd fleet forget NODE`; or leave"
    " one out of this rotation with --without NODE."
)


def _since(wait: Wait, seen: Seen) -> str:
    if wait.since is None or seen.now - wait.since < 1:  # it is only just wanted
        return ""
    return f", for {span(seen.now - wait.since)} now"


class _Teller:
    """Shows on standard error what is published, and who is waited for."""

    def __init__(self, stream: TextIO, event: str, *, quiet: bool) -> None:
        self._stream = stream
        self._event = event
        self._quiet = quiet
        self._since = time.monotonic()
        self._said = ""

    def tell(self, seen: Seen, last: Step, num: int | None) -> None:
        """Say what is new in a step: of a wait, who is waited for, once it has become a long one."""
        from handlers.tls_ticket_keys.rotation import Publish, Wait  # noqa: PLC0415 (as above)

        if isinstance(last, Publish):
            self._since = time.monotonic()
            self._say(f"{num}: {last.does}, {len(seen.nodes)} nodes")
        elif isinstance(last, Wait) and not last.lasting and time.monotonic() - self._since >= _QUIET:
            shown = ", ".join(f"{one.name} ({one.waits})" for one in last.nodes[:_SHOWN])
            more = f" and {len(last.nodes) - _SHOWN} more" if len(last.nodes) > _SHOWN else ""
            self._say(f"waits for {shown}{more}" if last.nodes else last.reason)

    def _say(self, text: str) -> None:
        if text != self._said and not self._quiet:
            self._stream.write(f"agentd: {printable(f'{self._event} {text}')}\n")
            self._stream.flush()
        self._said = text
