"""A message of the log: its fields and its encoding.

Owns format 1, which nobody signs, and what a signed message (`agentd.trust.message`) means in the log. A
`Draft` has no number yet; an `Envelope` is the immutable message as stored in Consul, and is copied verbatim
(`raw`). The readers of the log decide whether a message belongs at its key, and whether this node believes
and applies it.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from agentd.errors import BadDocument, UnknownFormat
from agentd.fleet.document import check_shape, is_text, is_time, optional, read_document, render_document
from agentd.fleet.keys import Keys, is_fleet, is_kept_name, is_number, is_sha256
from agentd.fleet.rollout import SHAPE, Admission, Role, parse_fields, write_fields
from agentd.watch.shapes import is_base64

if TYPE_CHECKING:
    from agentd.trust.claims import Claims
    from agentd.trust.keyring import Signer
    from agentd.trust.message import SignedMessage

FORMAT: Final = 1
"""The format of messages that are not signed."""
SIGNED: Final = 2
"""The format of signed messages."""
FORMATS: Final = range(1, max(FORMAT, SIGNED) + 1)
LARGEST_BODY: Final = 32 * 1024
"""Most bytes of a body inside its message; a larger body gets its own key."""
LARGEST: Final = 512 * 1024
"""Most bytes of any body: Consul's limit for a value (https://developer.hashicorp.com/consul/api-docs/kv)."""
LARGEST_ENVELOPE: Final = 64 * 1024
"""Most bytes of an encoded message."""

Kind = Literal["payload", "admit", "release", "abort", "freeze"]
"""The kind of message: a payload, a step of a rollout (all of which carry a payload as well), or a freeze."""
Via = Literal["event", "publish", "again"]
"""How a message got into the log: from an event, by `agentd publish`, or by `agentd publish --again`."""

_KINDS: Final = ("payload", "admit", "release", "abort", "freeze")
_VIAS: Final = ("event", "publish", "again")
_BASE64_OF_BODY: Final = (LARGEST_BODY + 2) // 3 * 4
_WHAT: Final = "the message"


def _is_id(value: object) -> bool:
    return value != "" and is_text(64)(value)


def _is_body(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _BASE64_OF_BODY and is_base64(value)


_text: Final = optional(is_text(512))
_SHAPE: Final = {
    "fleet": lambda value: isinstance(value, str) and is_fleet(value),
    "name": lambda value: isinstance(value, str) and is_kept_name(value),
    "num": is_number,
    "prev": lambda value: value == 0 or is_number(value),
    "kind": is_text(64),
    "via": is_text(64),
    "id": _is_id,
    "issued": is_time,
    "expires": optional(is_time),
    "publisher": is_text(512),
    "ltime": optional(lambda value: type(value) is int and 0 <= value < 1 << 64),
    "node": _text,
    "service": _text,
    "tag": _text,
    "snapshot": optional(lambda value: value is True),
    "late": optional(is_time),
    "body": optional(_is_body),
    "sha256": optional(is_sha256),
    "size": optional(lambda value: type(value) is int and LARGEST_BODY < value <= LARGEST),
    **SHAPE,
}


@dataclass(frozen=True, slots=True)
class Draft:
    """A message before it has a number.

    Attributes:
        body: the payload, at most `LARGEST` bytes.
        issued: unix seconds at which it was published, or its event was heard.
        publisher: who published it and where, such as "ops@admin1"; for an event, the node that heard it.
        via: how the message gets into the log.
        id: the event's ID, or a new UUID; the log holds each ID at most once.
        ltime: the event's Lamport time; 0 if it is not an event.
        expires: unix seconds after which the message is no longer valid; None for never.
        node, service, tag: filters, as for Consul's events; "" for all. Regular expressions.
        snapshot: whether it replaces all messages before it.
        kind: the kind of message.
        sealed: whether its payload is encrypted for the fleet; then it has at most `LARGEST_BODY` bytes.
        rollout: the ID of the rollout that it opens, widens, ends or aborts; "" if it belongs to none.
        admission: whom it admits, if it is an `admit`; otherwise None.
        restores: the number of the message whose payload it brings back, if it is an `abort`; otherwise 0.
    """

    body: bytes = field(repr=False)
    issued: float
    publisher: str
    via: Via = "publish"
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    ltime: int = 0
    expires: float | None = None
    node: str = ""
    service: str = ""
    tag: str = ""
    snapshot: bool = False
    kind: Kind = "payload"
    sealed: bool = False
    rollout: str = ""
    admission: Admission | None = None
    restores: int = 0

    @property
    def sha256(self) -> str | None:
        """The name of the body's own key; None if the body fits in the message."""
        return hashlib.sha256(self.body).hexdigest() if len(self.body) > LARGEST_BODY else None

    def numbered(
        self,
        fleet: str,
        name: str,
        num: int,
        prev: int,
        late: float = 0.0,
        *,
        signer: Signer | None = None,
    ) -> Envelope:
        """Number the message, and sign it for this place.

        Args:
            fleet: the fleet's name.
            name: of the log.
            num: its number.
            prev: the number of the message before it, 0 if it is the first.
            late: see `Envelope`.
            signer: signs and seals; None for a message of a relay, or of a publisher without a key.

        Raises:
            BadDocument: the message is too large, or has an unusable field.
            NoFleetKey: it is to be sealed, and the signer has no fleet key.
        """
        if len(self.body) > LARGEST:
            raise BadDocument(f"the payload has {len(self.body)} bytes; at most {LARGEST} can be kept")
        if signer is None and self.sealed:
            raise BadDocument("a payload is sealed by the publisher who signs it: set `trust.signing_key`")
        if signer is not None:
            return self._signed(fleet, name, num, prev, signer)
        sha256 = self.sha256
        return parse_envelope(
            render_document(
                {
                    "format": FORMAT,
                    "fleet": fleet,
                    "name": name,
                    "num": num,
                    "prev": prev,
                    "kind": self.kind,
                    "via": self.via,
                    "id": self.id,
                    "issued": self.issued,
                    "expires": self.expires,
                    "publisher": self.publisher,
                    "ltime": self.ltime or None,
                    "node": self.node or None,
                    "service": self.service or None,
                    "tag": self.tag or None,
                    "snapshot": self.snapshot or None,
                    "late": round(late, 3) or None,
                    "body": None if sha256 else base64.b64encode(self.body).decode(),
                    "sha256": sha256,
                    "size": len(self.body) if sha256 else None,
                    **write_fields(self.rollout, self.admission, self.restores),
                }
            )
        )

    def _signed(self, fleet: str, name: str, num: int, prev: int, signer: Signer) -> Envelope:
        from agentd.trust.message import Place  # noqa: PLC0415 (only where messages are signed)

        if self.sealed and self.sha256:
            raise BadDocument(
                f"the payload has {len(self.body)} bytes; at most {LARGEST_BODY} can be sealed: publish a"
                " reference to it"
            )
        body = None if self.sha256 else self.body
        return parse_envelope(
            signer.write(Place(fleet, name, num, prev), self._claims(), body, sealed=self.sealed)
        )

    def _claims(self) -> Claims:
        """What is signed beside the payload."""
        found: dict[str, str | int | None] = {
            "kind": self.kind,
            "via": self.via,
            "id": self.id,
            "issued": round(self.issued * 1000),
            "publisher": self.publisher,
            "expires": None if self.expires is None else round(self.expires * 1000),
            "node": self.node or None,
            "service": self.service or None,
            "tag": self.tag or None,
            "snapshot": self.snapshot or None,
            "sha256": self.sha256,
            "size": len(self.body) if self.sha256 else None,
            **write_fields(self.rollout, self.admission, self.restores),
        }
        return {name: one for name, one in found.items() if one is not None}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with its number. `Draft` describes the fields that are not listed here.

    Attributes:
        fleet, name, num: its place in Consul.
        prev: the number of the message before it, 0 if there was none; it reveals gaps.
        body: the payload; None if it is sealed, or stored separately, below `bodies/` under `sha256`.
        size: bytes of the payload, wherever it is stored.
        late: seconds from `issued` until it was written, by the clock of its writer; 0 if under a minute.
        raw: the message exactly as stored in Consul.
        signed: the message as its signer can be verified; None for format 1, which has no signature. Until it
            is verified (`Gate.admit`), nothing in a message is more than a claim.
        signed_by: the publisher who signed it, as this node's configuration names it; "" if not verified.
    """

    fleet: str
    name: str
    num: int
    prev: int
    kind: Kind
    via: Via
    id: str
    issued: float
    expires: float | None
    publisher: str
    ltime: int
    node: str
    service: str
    tag: str
    snapshot: bool
    body: bytes | None = field(repr=False)
    sha256: str | None
    size: int
    late: float
    raw: bytes = field(repr=False)
    rollout: str = ""
    admission: Admission | None = None
    restores: int = 0
    signed: SignedMessage | None = field(default=None, repr=False)
    signed_by: str = field(default="", compare=False)

    @property
    def is_sealed(self) -> bool:
        """Whether its payload is encrypted for the fleet."""
        return self.signed is not None and self.signed.fleet_kid is not None

    @property
    def first(self) -> int:
        """The number under which it was published first: another one if it was signed again."""
        return int(self.signed.claims.get("first", self.num)) if self.signed else self.num

    @property
    def is_signed_again(self) -> bool:
        """Whether it is an earlier message with another key: nothing new, whenever a node first sees it."""
        return self.first != self.num

    @property
    def role(self) -> Role:
        """Whom it is for, as far as the message alone tells."""
        if self.kind == "admit":
            return "admit"
        return "some" if self.node or self.service or self.tag else "all"

    @property
    def event(self) -> str | None:
        """The ID of the event behind it; None if it was published."""
        return self.id if self.via == "event" else None

    def is_over(self, now: float) -> bool:
        """Whether it has expired at `now`, in unix seconds."""
        return self.expires is not None and self.expires <= now

    def lies_at(self, keys: Keys, key: str) -> bool:
        """Whether it belongs at this key: a message copied to another key does not count."""
        return self.fleet == keys.fleet and keys.message(self.name, self.num) == key

    def again(self, body: bytes, *, issued: float, publisher: str, expires: float | None = None) -> Draft:
        """Draft the same message again, for all that its filters match; it gets a new number and ID.

        Args:
            body: its payload, which the caller fetches if it is stored separately.
            issued: the current unix time.
            publisher: who publishes it again.
            expires: the new expiry; the old one does not carry over.
        """
        return Draft(
            body=body, issued=issued, publisher=publisher, via="again", expires=expires, node=self.node,
            service=self.service, tag=self.tag, snapshot=self.snapshot, sealed=self.is_sealed,
            kind="payload" if self.rollout else self.kind,
        )  # fmt: skip


def parse_envelope(raw: bytes) -> Envelope:
    """Parse a message, but verify no signature. Unknown fields of format 1 are ignored.

    Raises:
        UnknownFormat: a newer agentd wrote it, so it has to wait.
        BadDocument: it is not a valid message.
    """
    value = read_document(raw, largest=LARGEST_ENVELOPE, formats=FORMATS, what=_WHAT)
    if value["format"] == SIGNED:
        from agentd.trust.message import parse_message  # noqa: PLC0415 (only where messages are signed)

        signed = parse_message(raw)
        return _with_rollout(_of_signed(signed, raw), signed.claims)
    check_shape(value, _SHAPE, _WHAT)
    if value["prev"] >= value["num"]:
        raise BadDocument(f"{_WHAT} has a number below that of its predecessor")
    return _with_rollout(_envelope(value, raw), value)


def _with_rollout(message: Envelope, value: Mapping[str, Any]) -> Envelope:
    if message.kind not in _KINDS or message.via not in _VIAS:
        raise UnknownFormat(f"{_WHAT} is of a kind that this agentd does not know: upgrade agentd")
    rollout, admission, restores = parse_fields(value)
    return replace(message, rollout=rollout, admission=admission, restores=restores) if rollout else message


def _of_signed(message: SignedMessage, raw: bytes) -> Envelope:
    from agentd.trust.seal import OVERHEAD  # noqa: PLC0415 (as above)

    claims: Mapping[str, Any] = message.claims
    body = message.bytes_of("body") if "body" in claims else None
    if "sealed" in claims:
        size = len(message.bytes_of("sealed")) - OVERHEAD
    else:
        size = claims["size"] if body is None else len(body)
    return Envelope(
        *message.place,
        kind=cast("Kind", claims["kind"]),
        via=cast("Via", claims["via"]),
        id=claims["id"],
        issued=claims["issued"] / 1000,
        expires=claims["expires"] / 1000 if "expires" in claims else None,
        publisher=claims["publisher"],
        ltime=0,
        node=claims.get("node", ""),
        service=claims.get("service", ""),
        tag=claims.get("tag", ""),
        snapshot="snapshot" in claims,
        body=body,
        sha256=claims.get("sha256"),
        size=size,
        late=0.0,
        raw=raw,
        signed=message,
    )


def _envelope(value: Mapping[str, Any], raw: bytes) -> Envelope:
    text, sha256 = value.get("body"), value.get("sha256")
    if (text is None) == (sha256 is None) or (sha256 is None) != (value.get("size") is None):
        raise BadDocument(f"{_WHAT} has no body, or more than one")
    body = None if text is None else base64.b64decode(text)
    if body is not None and (len(body) > LARGEST_BODY or base64.b64encode(body).decode() != text):
        raise BadDocument(f"{_WHAT} has no usable body")
    return Envelope(
        fleet=value["fleet"],
        name=value["name"],
        num=value["num"],
        prev=value["prev"],
        kind=cast("Kind", value["kind"]),
        via=cast("Via", value["via"]),
        id=value["id"],
        issued=float(value["issued"]),
        expires=None if value.get("expires") is None else float(value["expires"]),
        publisher=value["publisher"],
        ltime=value.get("ltime") or 0,
        node=value.get("node") or "",
        service=value.get("service") or "",
        tag=value.get("tag") or "",
        snapshot=bool(value.get("snapshot")),
        body=body,
        sha256=sha256,
        size=value["size"] if body is None else len(body),
        late=float(value.get("late") or 0.0),
        raw=raw,
    )
