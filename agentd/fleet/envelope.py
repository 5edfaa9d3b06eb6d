"""A message of the log: what it says, and how it is written.

Owns the format of a message. `Draft` is one that has no number yet; `Envelope` is one as it lies, or will
lie, in Consul, immutable: whoever copies it copies `raw`. Whether a node should apply it, and whether its
name and number are those of its key, is up to those who read the log.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from agentd.errors import BadDocument, UnknownFormat
from agentd.fleet.document import check_shape, is_text, is_time, optional, read_document, render_document
from agentd.fleet.keys import Keys, is_fleet, is_kept_name, is_number, is_sha256
from agentd.watch.shapes import is_base64

FORMAT: Final = 1
FORMATS: Final = range(1, FORMAT + 1)
LARGEST_BODY: Final = 32 * 1024
"""Bytes of a body within its message; a larger one lies in a key of its own."""
LARGEST: Final = 512 * 1024
"""Bytes of any body: what Consul takes for one key (https://developer.hashicorp.com/consul/api-docs/kv)."""
LARGEST_ENVELOPE: Final = 64 * 1024
"""Bytes of a message as it is written."""

Kind = Literal["payload", "admit", "release", "abort", "freeze"]
"""What a message is: a payload for handlers; the others are about an earlier one, or about all."""
Via = Literal["event", "publish", "again"]
"""How it came into the log: a node heard an event, `agentd publish`, or `agentd publish --again`."""

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
    "body": optional(_is_body),
    "sha256": optional(is_sha256),
    "size": optional(lambda value: type(value) is int and LARGEST_BODY < value <= LARGEST),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """A message before it has a number.

    Attributes:
        body: the payload, at most `LARGEST` bytes.
        issued: unix seconds: when it was published, or its event heard.
        publisher: who and where, such as "ops@admin1"; of an event the node that heard it.
        via: how it comes into the log.
        id: the event's ID, or one of its own: the log holds each at most once.
        ltime: the event's Lamport time; 0 if there is none.
        expires: unix seconds after which it is of no use; None for never.
        node, service, tag: whom it is for, as Consul's event filters; "" for all. `node` and `service` are
            regular expressions.
        snapshot: whether it stands for all messages before it.
        kind: what it is.
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

    @property
    def sha256(self) -> str | None:
        """The name of the body's own key, if it needs one."""
        return hashlib.sha256(self.body).hexdigest() if len(self.body) > LARGEST_BODY else None

    def numbered(self, fleet: str, name: str, num: int, prev: int) -> Envelope:
        """The message with that number; `prev` is the number of the one before it, 0 if there is none.

        Raises:
            BadDocument: it is larger than a message may be, or a field of it cannot be used.
        """
        if len(self.body) > LARGEST:
            raise BadDocument(f"the payload has {len(self.body)} bytes; at most {LARGEST} can be kept")
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
                    "body": None if sha256 else base64.b64encode(self.body).decode(),
                    "sha256": sha256,
                    "size": len(self.body) if sha256 else None,
                }
            )
        )


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with its number; see `Draft` for the fields that are not here.

    Attributes:
        fleet, name, num: where it lies.
        prev: the number of the message before it, 0 if there was none: a gap shows by it.
        body: the payload; None if it lies below `bodies/`, under `sha256`.
        size: bytes of the payload, wherever it lies.
        raw: the message as it lies in Consul.
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
    raw: bytes = field(repr=False)

    @property
    def event(self) -> str | None:
        """The ID of the event that it was; None if it was published."""
        return self.id if self.via == "event" else None

    def is_over(self, now: float) -> bool:
        """Whether its time is over, at these unix seconds."""
        return self.expires is not None and self.expires <= now

    def lies_at(self, keys: Keys, key: str) -> bool:
        """Whether this is its key: a message that was copied to another one is not believed."""
        return self.fleet == keys.fleet and keys.message(self.name, self.num) == key

    def again(self, body: bytes, *, issued: float, publisher: str, expires: float | None = None) -> Draft:
        """The same once more, to be appended: it gets a number and an ID of its own.

        Args:
            body: its payload, fetched by the caller if it is not in the message.
            issued: now.
            publisher: who brings it back.
            expires: the old end is not taken over.
        """
        return Draft(
            body=body, issued=issued, publisher=publisher, via="again", expires=expires, node=self.node,
            service=self.service, tag=self.tag, snapshot=self.snapshot, kind=self.kind,
        )  # fmt: skip


def parse_envelope(raw: bytes) -> Envelope:
    """The message in these bytes; fields that this agentd does not know are left alone.

    Raises:
        UnknownFormat: a newer agentd wrote it, so that it has to wait.
        BadDocument: it is no message.
    """
    value = read_document(raw, largest=LARGEST_ENVELOPE, formats=FORMATS, what=_WHAT)
    check_shape(value, _SHAPE, _WHAT)
    if value["kind"] not in _KINDS or value["via"] not in _VIAS:
        raise UnknownFormat(f"{_WHAT} is of a kind that this agentd does not know: upgrade it")
    if value["prev"] >= value["num"]:
        raise BadDocument(f"{_WHAT} comes before the one that it follows")
    return _envelope(value, raw)


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
        raw=raw,
    )
