"""The section `trust:` of the YAML file.

Values only: no file is read here. Every start imports this, so whatever parses the values is imported where
there are some.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from agentd.options import Options
from agentd.trust.pattern import FREEZE, fits, overlap, parse_pattern
from agentd.values import parse_fleet_name


def _as_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _public_key(text: str) -> str:
    from agentd.trust.keys import parse_public_key  # noqa: PLC0415 (as said)

    return parse_public_key(text).text


def _place(text: str) -> str:
    from agentd.trust.key_files import parse_place  # noqa: PLC0415 (as said)

    return parse_place(text)


_Key = Annotated[str, AfterValidator(_public_key)]
_Pattern = Annotated[str, AfterValidator(parse_pattern)]
KeyPlace = Annotated[str, AfterValidator(_place)]
"""Where a secret key is: an absolute path, or `credential:NAME`."""


class PublisherOptions(Options):
    """One publisher: the keys with which it signs, and the names that it may send messages of."""

    key: Annotated[tuple[_Key, ...], BeforeValidator(_as_list)] = Field(
        min_length=1,
        description="Its public key, as `agentd keys show` prints it: k4.public.… A list of two while it is"
        " being replaced.",
    )
    may: Annotated[tuple[_Pattern, ...], BeforeValidator(_as_list)] = Field(
        min_length=1,
        description="Names of the messages that it may send: a name, a beginning such as deploy-*, or a list"
        " of them; * for all.",
    )

    def may_send(self, name: str) -> bool:
        """Whether it may send messages of that name."""
        return any(fits(name, pattern) for pattern in self.may)


class TrustOptions(Options):
    """Who may send messages, and what is encrypted. Unset or null: whoever may write to the log; nothing."""

    publishers: dict[str, PublisherOptions] = Field({}, description="Who signs messages, by name.")
    require: Literal["signed"] | None = Field(
        None,
        description="signed: messages that no publisher signed are refused, and so are events with a payload."
        " Unset: they are taken as well, while the fleet changes over.",
    )
    seal: Annotated[tuple[_Pattern, ...], BeforeValidator(_as_list)] = Field(
        (),
        description="Names whose payloads are encrypted for the fleet, written as in `may`. Their messages"
        " must be signed, whatever `require` says. What is secret, such as session ticket keys, is kept only"
        " under one of these names.",
    )
    accept_events: Annotated[tuple[_Pattern, ...], BeforeValidator(_as_list)] = Field(
        (),
        description="Names of which events with a payload are still applied as they are heard, although their"
        " messages must be signed: while some nodes know no other way yet. Whoever may fire such an event is"
        " believed.",
    )
    fleet_keys: tuple[KeyPlace, ...] = Field(
        (),
        description="Files with the keys of the fleet, or credential:NAME for a systemd credential. The first"
        " one encrypts, all of them decrypt: two or more while one is being replaced.",
    )
    signing_key: KeyPlace | None = Field(
        None,
        description="File with the secret key of a publisher, or credential:NAME, with which `agentd publish`"
        " on this host signs. Unset: it does not sign.",
    )

    @field_validator("publishers")
    @classmethod
    def _publishers(cls, publishers: dict[str, PublisherOptions]) -> dict[str, PublisherOptions]:
        for name in publishers:
            parse_fleet_name(name)
        keys = Counter(key for one in publishers.values() for key in one.key)
        if keys and max(keys.values()) > 1:
            raise ValueError("two publishers have the same key, or one has it twice: each needs its own")
        return publishers

    @field_validator("fleet_keys")
    @classmethod
    def _fleet_keys(cls, places: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(places)) < len(places):
            raise ValueError("the same file is there twice")
        return places

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.require or self.seal) and not self.publishers:
            raise ValueError("nobody could send anything: add the publishers, each with `key` and `may`")
        if self.seal and not self.fleet_keys:
            raise ValueError("`seal` needs `fleet_keys` (`agentd keys generate fleet`)")
        for pattern in self.seal:
            if not any(overlap(pattern, other) for one in self.publishers.values() for other in one.may):
                raise ValueError(f"`seal` has {pattern!r}, and no publisher may send such a message")
        return self

    def seals(self, name: str) -> bool:
        """Whether the payloads of this name are to be encrypted."""
        return name != FREEZE and any(fits(name, pattern) for pattern in self.seal)

    def accepts_events(self, name: str) -> bool:
        """Whether events of this name bring payloads, whoever fired them."""
        return any(fits(name, pattern) for pattern in self.accept_events)

    def must_be_signed(self, name: str) -> bool:
        """Whether messages of this name are refused if no publisher signed them."""
        return self.require is not None or any(fits(name, pattern) for pattern in self.seal)
