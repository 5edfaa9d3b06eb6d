"""The items of `on:`: each says which changes a handler takes, and knows the query that yields them.

Values only: nothing here asks Consul.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from agentd.options import Options
from agentd.trust.pattern import FREEZE
from agentd.watch.queries import (
    ChecksQuery,
    EventQuery,
    KeyPrefixQuery,
    KeyQuery,
    NodesQuery,
    ServiceQuery,
    ServicesQuery,
)
from agentd.watch.query import Query


class _On(Options):
    """One item of `on:`."""

    def query(self) -> Query:
        """The query that yields the changes."""
        raise NotImplementedError


class OnEvent(_On):
    """User events, as fired by `agentd fire` or `consul event`."""

    event: str = Field(min_length=1, description='Name of the event; "*" for all events.')
    keep: Literal["latest", "all"] | None = Field(
        None,
        description="Keep events of this name in the fleet's log, so that they also reach nodes that did not"
        " hear them; needs `fleet:`. latest: a node that was away gets only the newest one. all: it gets all"
        " that have not expired, in one order. Unset: an event is only a hint, which gossip may lose.",
    )

    @field_validator("event")
    @classmethod
    def _event(cls, event: str) -> str:
        if event == FREEZE:
            raise ValueError("this name is reserved: `agentd freeze` and `agentd thaw` publish under it")
        return event

    def query(self) -> Query:
        """All events share one poll, sorted out by name here."""
        return EventQuery()


class OnKey(_On):
    """One key of Consul's KV store."""

    key: str = Field(min_length=1, pattern="^[^/]", description="Path of the key.")

    def query(self) -> Query:
        """A query of its own for each key."""
        return KeyQuery(self.key)


class OnKeyPrefix(_On):
    """All keys below a prefix, together."""

    keyprefix: str = Field(pattern="^([^/]|$)", description="Prefix of the keys, such as site/config/.")

    def query(self) -> Query:
        """A query of its own for each prefix."""
        return KeyPrefixQuery(self.keyprefix)


class OnService(_On):
    """The instances of a service, all of them at every change."""

    service: str = Field(min_length=1, description="Name of the service.")
    tag: str | None = Field(None, description="Only instances with this tag.")
    passing: bool = Field(default=True, description="Only instances whose checks all pass.")
    near: str | None = Field(
        None,
        description="Sort the instances by round-trip time from this node of the catalogue; `_agent` is the"
        " local one.",
    )
    filter: str | None = Field(None, description="A Consul filter expression.")

    def query(self) -> Query:
        """Equal queries share a poll."""
        return ServiceQuery(
            self.service, tag=self.tag, passing=self.passing, near=self.near, filter=self.filter
        )


class OnServices(_On):
    """The catalogue's services and their tags."""

    services: Literal[True] = Field(description="Always true.")

    def query(self) -> Query:
        """One query for all."""
        return ServicesQuery()


class OnNodes(_On):
    """The catalogue's nodes."""

    nodes: Literal[True] = Field(description="Always true.")

    def query(self) -> Query:
        """One query for all."""
        return NodesQuery()


class WhichChecks(Options):
    """The checks of one service, or those in one state."""

    service: str | None = Field(None, description="Only checks of this service.")
    state: Literal["any", "passing", "warning", "critical"] | None = Field(
        None, description="Only checks in this state."
    )

    @model_validator(mode="after")
    def _one(self) -> WhichChecks:
        if self.service and self.state:
            raise ValueError("give `service` or `state`, not both")
        return self


class OnChecks(_On):
    """Health checks."""

    checks: WhichChecks = Field(description="`service` or `state`; all checks if both are unset.")

    def query(self) -> Query:
        """A query of its own for each choice."""
        return ChecksQuery(service=self.checks.service, state=self.checks.state)


KINDS: Final = ("event", "keyprefix", "key", "services", "service", "nodes", "checks")


def _kind_of(value: Any) -> str | None:  # noqa: ANN401 (whatever is in the file)
    if isinstance(value, _On):
        return next(kind for kind in KINDS if kind in type(value).model_fields)
    if isinstance(value, Mapping):
        return next((kind for kind in KINDS if kind in value), None)
    return None


On = Annotated[
    Annotated[OnEvent, Tag("event")]
    | Annotated[OnKey, Tag("key")]
    | Annotated[OnKeyPrefix, Tag("keyprefix")]
    | Annotated[OnService, Tag("service")]
    | Annotated[OnServices, Tag("services")]
    | Annotated[OnNodes, Tag("nodes")]
    | Annotated[OnChecks, Tag("checks")],
    Discriminator(
        _kind_of,
        custom_error_type="on",
        custom_error_message=f"an item of `on` needs one of the keys {', '.join(sorted(KINDS))}",
    ),
]
