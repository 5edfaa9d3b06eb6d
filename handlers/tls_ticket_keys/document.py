"""The document of a coordinated ring: which session ticket keys every node of the fleet has, in which phase.

Owns the format, and how strictly it is read: what two readers could understand differently is refused. It is
the payload of a signed and sealed message. The keys are secrets: no refusal quotes a byte of the payload, and
they are not in the `repr`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn, TypeAlias

from agentd.errors import PermanentError
from handlers.tls_ticket_keys.payload import NAME_SIZE, fault

Phase: TypeAlias = Literal["idle", "staged", "promoted"]

VERSION: Final = 1
LARGEST: Final = 32 * 1024
"""Bytes of a document: what a message can carry within itself."""
MOST_KEYS: Final = 101
"""How many keys a ring may have, besides the next one."""
PHASES: Final = ("idle", "staged", "promoted")
MARGIN: Final = 900
"""Seconds by which the clocks of nodes, and of those who rotate, may differ."""

_LAST_TIME: Final = 10**11  # unix seconds: a year of four digits
_LAST_LTIME: Final = 2**64 - 1
_LONGEST: Final = 253  # characters of a node's name or an event's ID


def key_digest(secret: bytes) -> str:
    """By what a key may be named wherever its secret must not be: 16 hex digits of its SHA-256."""
    return hashlib.sha256(secret).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Document:
    """One step of the fleet's rotation. Times are whole unix seconds, by the clock of whoever made the step.

    Attributes:
        phase: "staged": every node is to decrypt with `next`; "promoted": every node is to encrypt with the
            ring's first key; "idle": that is confirmed.
        ring: the secrets, the encrypting one first, the others from the newest to the oldest. Empty only in
            the first document of all: nodes go on encrypting with what they have.
        next: the secret that only decrypts yet, while the phase is "staged".
        since: when this phase began.
        promoted: when the ring's first key was promoted.
        demoted: digest of a key -> when it stopped encrypting, once that is confirmed.
        bell: Lamport time and ID of the event for which this rotation was begun, or that was seen last.
        revoked: when the keys before this ring were revoked.
        without: nodes that were not waited for in this rotation.

    Raises:
        ValueError: the fields contradict each other. The message quotes none of them.
    """

    phase: Phase
    ring: tuple[bytes, ...] = field(repr=False)
    next: bytes | None = field(repr=False, default=None)
    since: int = field(kw_only=True)
    promoted: int | None = None
    demoted: Mapping[str, int] = field(default_factory=dict, hash=False)
    bell: tuple[int, str] | None = None
    revoked: int | None = None
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for holds, otherwise in _rules(self):
            if not holds:
                raise ValueError(otherwise)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All secrets, in the order in which nginx is to have them but for an empty ring."""
        return self.ring if self.next is None else (*self.ring, self.next)

    def render(self) -> bytes:
        """As it is published.

        Raises:
            ValueError: it is too large.
        """
        optional: dict[str, object] = {
            "next": None if self.next is None else _encode(self.next),
            "promoted": self.promoted,
            "demoted": dict(self.demoted) or None,
            "bell": None if self.bell is None else list(self.bell),
            "revoked": self.revoked,
            "without": list(self.without) or None,
        }
        fields: dict[str, object] = {
            "v": VERSION,
            "phase": self.phase,
            "ring": [_encode(secret) for secret in self.ring],
            "since": self.since,
        }
        fields |= {name: value for name, value in optional.items() if value is not None}
        made = json.dumps(fields, separators=(",", ":")).encode("ascii")
        if len(made) > LARGEST:
            raise ValueError(f"the document is {len(made)} bytes long; at most {LARGEST} are possible")
        return made

    @classmethod
    def parse(cls, payload: bytes) -> Document:
        """Read what `render` wrote.

        Raises:
            PermanentError: it is anything else.
        """
        try:
            return _parsed(payload)
        except ValueError as error:
            # Not `from error`: what JSON and base64 raise holds the payload.
            raise PermanentError(f"the document of the ticket keys is refused: {error}") from None


def _rules(document: Document) -> Iterable[tuple[bool, str]]:
    """What must hold, and what to say if it does not; the later ones may rest on those before."""
    ring, keys, phase = document.ring, document.keys, document.phase
    yield phase in PHASES, "its phase is unknown"
    yield len(ring) <= MOST_KEYS, f"it has {len(ring)} keys; at most {MOST_KEYS} are possible"
    yield (document.next is not None) == (phase == "staged"), "it has `next` if and only if it is staged"
    yield bool(ring) or phase == "staged", "its ring is empty, though it is not staged"
    yield bool(ring) or document.promoted is None, "its ring is empty, though a key was promoted"
    yield len(set(keys)) == len(keys), "it has a key twice"
    yield len({key[:NAME_SIZE] for key in keys}) == len(keys), "two of its keys have the same name"
    old = {key_digest(secret) for secret in ring[1:]}
    yield old.issuperset(document.demoted), "it has a time for a key that is not an old one of its ring"
    yield len(set(document.without)) == len(document.without), "it leaves out a node twice"


# ---------------------------------------------------------------- reading


def _parsed(payload: bytes) -> Document:
    if len(payload) > LARGEST:
        raise ValueError(f"it is {len(payload)} bytes long; at most {LARGEST} are possible")
    read = _fields(payload)
    version = read.pop("v", None)
    if type(version) is not int or version != VERSION:
        raise ValueError(f"only version {VERSION} is understood here: update agentd on this node")
    if missing := sorted(_REQUIRED - read.keys()):
        raise ValueError(f"it has no {missing[0]!r}")
    if not _READERS.keys() >= read.keys():
        raise ValueError("it has an unknown field")
    return Document(**{name: _field(name, value) for name, value in read.items()})


def _fields(payload: bytes) -> dict[str, Any]:
    try:
        read = _DECODER.decode(payload.decode("ascii"))
    except json.JSONDecodeError:
        raise ValueError("it is not JSON") from None
    except (UnicodeDecodeError, RecursionError):
        raise ValueError("it is not JSON in ASCII") from None
    if not isinstance(read, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 (of JSON)
    return read


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("it has a field twice")
    return dict(pairs)


def _not_whole(_: str) -> NoReturn:
    raise ValueError("it has a number that is not whole")


def _whole(text: str) -> int:
    if len(text) > len(str(_LAST_LTIME)):
        raise ValueError("it has a number that is too large")
    return int(text)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_distinct, parse_float=_not_whole, parse_constant=_not_whole, parse_int=_whole
)


def _field(name: str, value: object) -> Any:  # noqa: ANN401 (as the field has it)
    try:
        return _READERS[name](value)
    except (TypeError, binascii.Error):
        raise ValueError(f"{name!r} is not what it should be") from None


def _phase(value: object) -> Phase:
    if value not in PHASES:
        raise TypeError
    return value


def _number(value: object, last: int = _LAST_TIME) -> int:
    if type(value) is not int or not 0 <= value <= last:
        raise TypeError
    return value


def _text(value: object) -> str:
    if not (
        isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isascii() and value.isprintable()
    ):
        raise TypeError
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _bell(value: object) -> tuple[int, str]:
    pair = _list(value)
    if len(pair) != 2:  # noqa: PLR2004 (a pair)
        raise TypeError
    return _number(pair[0], _LAST_LTIME), _text(pair[1])


def _demoted(value: object) -> Mapping[str, int]:
    if not isinstance(value, dict):
        raise TypeError
    return {name: _number(at) for name, at in value.items()}


def _secret(value: object) -> bytes:
    secret = base64.b64decode(_text(value), validate=True)
    if _encode(secret) != value:  # the decoder tolerates stray bits below the padding, and more
        raise TypeError
    if wrong := fault(secret):
        raise ValueError(wrong)
    return secret


def _encode(secret: bytes) -> str:
    return base64.b64encode(secret).decode("ascii")


_READERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "phase": _phase,
    "ring": lambda value: tuple(_secret(one) for one in _list(value)),
    "next": _secret,
    "since": _number,
    "promoted": _number,
    "demoted": _demoted,
    "bell": _bell,
    "revoked": _number,
    "without": lambda value: tuple(_text(one) for one in _list(value)),
}
_REQUIRED: Final = frozenset({"phase", "ring", "since"})
