"""`agentd log`: lists the messages that the fleet keeps, newest first; the verb is in `log_forget.py`.

Never shows a payload, only its size and digest. Anybody may have written what is in Consul: an unreadable
message gets a row that says so, and hides nothing else. Signatures are verified as `trust:` on this host
says; that takes no secret key, since nothing is opened.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agentd.commands import argument_types
from agentd.commands.output import Output, one_line, shortened, span, universal
from agentd.commands.parser import Parser
from agentd.commands.target import described
from agentd.commands.to_fleet import add_fleet_arguments, fleet
from agentd.errors import AgentdError, FleetError, Untrusted
from agentd.fleet.keys import unheard_of

if TYPE_CHECKING:
    from agentd.commands.to_fleet import ReachedFleet
    from agentd.fleet.envelope import Envelope
    from agentd.fleet.head import Head
    from agentd.fleet.keys import Keys
    from agentd.fleet.reader import Reader
    from agentd.trust.keyring import Keyring

_COLUMNS: Final = (
    "NUMBER", "ISSUED (UTC)", "NAME", "KIND", "SIGNED BY", "PUBLISHER", "VIA", "EVENT", "PAYLOAD", "EXPIRES",
    "FOR",
)  # fmt: skip
_USUAL: Final = {"SIGNED BY": "nobody", "EXPIRES": "never", "FOR": "all"}
_SHORT_ID: Final = 8
_SHORT_KID: Final = 15  # characters of it in the table
_MOST_NOTED: Final = 5  # heads that cannot be read, and are named
_PURPOSE: Final = "reading the fleet's log"


def add_arguments(parser: Parser) -> None:
    """Add the options and the verb."""
    parser.add_example("agentd log", "agentd log ip-blacklist --limit 100", "agentd log forget ip-blacklist")
    parser.usage = "%(prog)s [options] [NAME | VERB ...]"
    parser.add_argument(
        "name",
        nargs="?",
        type=argument_types.word,
        metavar="NAME",
        help="show only this name; write `-- NAME` if it is called like a verb",
    )
    parser.add_argument(
        "--limit",
        type=argument_types.count,
        default=30,
        metavar="N",
        help="show at most N (default %(default)s)",
    )
    forget = parser.add_verb("forget", "delete the messages of a name for good: no node writes them back")
    forget.add_example(
        "agentd log forget ip-blacklist", "agentd log forget ip-blacklist --before 1790000000000 --yes"
    )
    forget.add_argument("name", type=argument_types.word, metavar="NAME", help="name of the event")
    forget.add_argument(
        "--before",
        type=argument_types.message_number,
        metavar="NUM",
        help="only messages older than this one (default: all)",
    )
    forget.add_argument("--yes", action="store_true", help="delete them (default: only count them)")
    for one in (forget, parser):
        add_fleet_arguments(one)


def execute(arguments: Namespace, output: Output) -> int:
    """Print the newest messages, or run the verb. Returns 1 if there seems to be no such fleet.

    Raises:
        AgentdError: nothing is kept under that name, or the head of the only name asked for cannot be read.
        ConsulRefused: the token may not read the log, or not write it.
    """
    if arguments.verb == "forget":
        from agentd.commands.log_forget import forget  # noqa: PLC0415 (parsing does without)

        return forget(arguments, output)
    with fleet(arguments) as reached:
        return _show(reached, arguments.name, arguments.limit, output)


# ---------------------------------------------------------------- the messages


class _Signed(NamedTuple):
    """Who signed a message.

    Attributes:
        kid: the ID of the key, by the message's own account.
        publisher: whose key that is; None if it is not verified.
        why: why it is not; "" if it is.
    """

    kid: str
    publisher: str | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    """One message, or in `wrong` why it cannot be read; in `signer` who signed it."""

    name: str
    num: int
    message: Envelope | None = None
    wrong: str = ""
    signer: _Signed | None = None


def _show(reached: ReachedFleet, name: str | None, limit: int, output: Output) -> int:
    from agentd.fleet.keys import Keys  # noqa: PLC0415 (parsing does without)
    from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)
    from agentd.fleet.reader import Reader  # noqa: PLC0415 (as above)
    from agentd.fleet.rights import demand, explained  # noqa: PLC0415 (as above)

    if name is not None:
        check_name(name)
    reader = Reader(ConsulKV(reached.client), Keys(reached.name))
    keys = reader.keys
    needed = [keys.names, keys.every_message] if name is None else [keys.head(name), keys.messages(name)]
    with explained(reached.client, "read", needed, _PURPOSE):
        heads, wrong = _heads(reader, name)
        wanted = sorted(
            ((num, one) for one, head in heads.items() for num in _numbers(reader, one, head, limit)),
            reverse=True,
        )[:limit]
        rows = _rows(reader, wanted, keyring_of(reached))
    if not any(row.message for row in rows):  # or the token may not see it
        demand(reached.client, "read", needed, _PURPOSE)
    if name is not None and not heads:
        raise AgentdError(
            f"{name}: {wrong[name]}"
            if name in wrong
            else f"the fleet {reached.name!r} keeps nothing under {name!r}: see `agentd log`"
        )
    known, note = (True, "") if heads or wrong else _is_known(reached, keys)
    if output.json:
        output.document(_document(reached.name, heads, wrong, rows) | {"notes": [note] if note else []})
    else:
        if note:
            output.line(f"! {note}", "yellow")
        _print(rows, heads, wrong, output, named=name is not None)
    return int(not known)


def _is_known(reached: ReachedFleet, keys: Keys) -> tuple[bool, str]:
    """Whether anybody acknowledges in a fleet that keeps nothing, as far as can be seen; and what to say."""
    from agentd.fleet.census import Census  # noqa: PLC0415 (as above)
    from agentd.fleet.rights import missing_rules  # noqa: PLC0415 (as above)

    if rules := missing_rules(reached.client, "read", [keys.nodes]):
        return True, f"cannot tell whether there is such a fleet: add to the token's policy: {rules[0]}"
    if Census(reached.client, keys).documents().indexes:
        return True, ""
    return False, unheard_of(reached.name)


def check_name(name: str) -> None:
    """Raises AgentdError if no log can have that name."""
    from agentd.fleet.keys import is_kept_name  # noqa: PLC0415 (as above)

    if not is_kept_name(name):
        raise AgentdError(f"{name!r} cannot be kept: see `agentd log`")


def _heads(reader: Reader, name: str | None) -> tuple[dict[str, Head], dict[str, str]]:
    """The heads of that name, or of all names, and why others cannot be read."""
    from agentd.fleet.head import Head  # noqa: PLC0415 (as above)

    found: Mapping[str, Head | FleetError | None]
    if name is None:
        found = reader.heads()
    else:
        try:
            found = {name: reader.head(name)}
        except FleetError as error:
            found = {name: error}
    heads = {one: head for one, head in found.items() if isinstance(head, Head)}
    return heads, {one: str(error) for one, error in found.items() if isinstance(error, FleetError)}


def _numbers(reader: Reader, name: str, head: Head, limit: int) -> Iterable[int]:
    """The numbers of the newest messages of a name, at most `limit`; the head lists some of them."""
    listed: Sequence[int] | None = head.above(0)
    if listed is None and len(head.recent) < limit:
        listed = reader.numbers(name, above=head.floor, upto=head.newest)
    return (head.recent if listed is None else listed)[-limit:]


def _rows(reader: Reader, wanted: Sequence[tuple[int, str]], keyring: Keyring | None) -> list[_Row]:
    """The messages in the wanted order, with one request for each name."""
    found: dict[tuple[int, str], _Row] = {}
    for name in {name for _, name in wanted}:
        reading = reader.read(name, [num for num, one in wanted if one == name])
        rows = [
            *(_Row(name, one.num, one, signer=signer_of(one, keyring)) for one in reading.messages),
            *(_Row(name, num, wrong=str(error)) for num, error in reading.troubles.items()),
            *(_Row(name, num, wrong="its head lists it, but it is missing") for num in reading.missing),
        ]
        found |= {(row.num, name): row for row in rows}
    return [found[one] for one in wanted]


def keyring_of(reached: ReachedFleet) -> Keyring | None:
    """Whose signatures are accepted, as this host is configured; None if it is not."""
    options = reached.trust()
    if options is None:
        return None
    from agentd.trust.configured import make_keyring  # noqa: PLC0415 (as above)

    return make_keyring(options, ())


def signer_of(message: Envelope, keyring: Keyring | None) -> _Signed | None:
    """Who signed a message; None if nobody did."""
    if message.signed is None:
        return None
    kid = message.signed.kid
    if keyring is None:
        return _Signed(kid, None, "there is no section `trust:` here to verify it with")
    try:
        return _Signed(kid, keyring.verify(message.signed).publisher)
    except Untrusted as error:
        return _Signed(kid, None, str(error))


# ---------------------------------------------------------------- for a person


def _print(
    rows: list[_Row], heads: Mapping[str, Head], unreadable: Mapping[str, str], output: Output, *, named: bool
) -> None:
    now = time.time()
    short = output.width is not None
    columns, cells = _telling([_cells(row, now, short=short) for row in rows])
    prose = [name for name in ("PUBLISHER", "FOR") if name in columns]
    output.table(columns, cells, empty="Nothing is kept yet.", prose=prose)
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.wrong:
            output.line(f"{row.name} {row.num}: {row.wrong}", "red")
        if row.signer and row.signer.why:
            reasons.setdefault(row.signer.why, []).append(f"{row.name} {row.num}")
    for why, which in reasons.items():
        more = f" and {len(which) - _MOST_NOTED} more" if len(which) > _MOST_NOTED else ""
        output.line(f"not verified: {', '.join(which[:_MOST_NOTED])}{more}: {why}", "yellow")
    for name, why in sorted(unreadable.items())[:_MOST_NOTED]:
        output.line(f"{name}: {why}", "red")
    if len(unreadable) > _MOST_NOTED:
        output.line(f"{len(unreadable) - _MOST_NOTED} more heads cannot be read: --json names them", "red")
    for name, head in sorted(heads.items()):
        _remark(name, head, output)
        if named:
            output.line(f"{name}: keeps {head.keep}; {head.count} kept, {len(rows)} shown", "dim")


def _remark(name: str, head: Head, output: Output) -> None:
    """Print what is special about the log of a name."""
    if head.cut > head.snapshot:
        output.line(
            f"{name}: messages up to {head.cut} were dropped, some while still in force: nodes that never"
            f" got them are incomplete until `agentd publish {name} --snapshot`",
            "yellow",
        )
    if head.released is not None:
        others = f"take message {head.released}" if head.released else "take nothing"
        output.line(
            f"{name}: a rollout is open, and nodes that it does not admit {others}: see `agentd rollout"
            f" status {name}`",
            "yellow",
        )


def _telling(cells: list[list[object]]) -> tuple[list[str], list[list[object]]]:
    """The columns that say something unusual about some row; the others would only make lines longer."""
    shown = [
        at
        for at, column in enumerate(_COLUMNS)
        if any(row[at] not in (None, "", _USUAL.get(column)) for row in cells)
    ]
    return [_COLUMNS[at] for at in shown], [[row[at] for at in shown] for row in cells]


def _cells(row: _Row, now: float, *, short: bool) -> list[object]:
    one = row.message
    if one is None:
        return [row.num, None, row.name, "cannot be read", *[None] * (len(_COLUMNS) - 4)]
    return [
        row.num,
        universal(one.issued),
        row.name,
        "snapshot" if one.snapshot else one.kind,
        _signed_by(row.signer, short=short),
        one_line(one.publisher),
        one.via,
        (one.event or "")[: _SHORT_ID if short else None],
        payload_of(one),
        _expiry(one, now),
        one_line(described(one) or "all"),
    ]


def _signed_by(signer: _Signed | None, *, short: bool) -> str:
    if signer is None:
        return "nobody"
    return signer.publisher or f"{shortened(signer.kid, _SHORT_KID) if short else signer.kid} ?"


def _expiry(message: Envelope, now: float) -> str:
    if message.expires is None:
        return "never"
    return "expired" if message.is_over(now) else f"in {span(message.expires - now)}"


def payload_of(message: Envelope) -> str:
    """Its size, and the beginning of its SHA-256 unless it is sealed."""
    from agentd.digest import digest  # noqa: PLC0415 (as above)

    if message.is_sealed:
        return f"sealed, {message.size} bytes"
    if message.body is not None:
        return digest(message.body)
    return f"{message.size} bytes sha256:{(message.sha256 or '')[:8]}"


# ---------------------------------------------------------------- for a program


def _document(
    fleet_name: str, heads: Mapping[str, Head], unreadable: Mapping[str, str], rows: list[_Row]
) -> dict[str, Any]:
    now = time.time()
    names = [
        {
            "name": name, "keep": head.keep, "newest": head.newest, "oldest": head.oldest,
            "count": head.count, "floor": head.floor, "cut": head.cut, "snapshot": head.snapshot,
            "released": head.released,
        }
        for name, head in sorted(heads.items())
    ]  # fmt: skip
    wrong = [{"name": name, "error": why} for name, why in sorted(unreadable.items())]
    return {"fleet": fleet_name, "names": names + wrong, "messages": [_fields(row, now) for row in rows]}


def _fields(row: _Row, now: float) -> dict[str, Any]:
    one = row.message
    if one is None:
        return {"name": row.name, "num": row.num, "error": row.wrong}
    return {
        "name": row.name,
        "num": row.num,
        "issued": one.issued,
        "kind": one.kind,
        "snapshot": one.snapshot,
        "publisher": one.publisher,
        "signed": row.signer
        and {
            "key": row.signer.kid,
            "publisher": row.signer.publisher,
            "unverified": row.signer.why or None,
        },
        "sealed": one.is_sealed,
        "via": one.via,
        "event": one.event,
        "payload": payload_of(one),
        "bytes": one.size,
        "expires": one.expires,
        "expired": one.is_over(now),
        "node": one.node,
        "service": one.service,
        "tag": one.tag,
        "rollout": one.rollout or None,
        "admits": asdict(one.admission) if one.admission else None,
        "restores": one.restores or None,
    }
