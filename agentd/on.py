"""The items of `on:`: each says which changes a handler takes, and knows the query that yields them.

Values only: nothing here asks Consul.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from agentd.options import Options
from agentd.watch.queries import (
    ChecksQuery,
    EventQuery,
    KeyPrefixQuery,
    KeyQuery,
    NodesQuery,
    Query,
    ServiceQuery,
    ServicesQuery,
)


class _On(Options):
    """One item of `on:`."""

    def query(self) -> Query:
        """The query that yields the changes."""
        raise NotImplementedError


class OnEvent(_On):
    """User events by name."""

    event: str = Field(min_length=1, description='Name of the user event; "*" takes every event.')

    def query(self) -> Query:
        """All events share one poll, sorted out by name here."""
        return EventQuery()


class OnKey(_On):
    """One key."""

    key: str = Field(min_length=1, pattern="^[^/]", description="Path of a key in Consul's KV store.")

    def query(self) -> Query:
        """A query of its own for each key."""
        return KeyQuery(self.key)


class OnKeyPrefix(_On):
    """All keys below a prefix."""

    keyprefix: str = Field(pattern="^([^/]|$)", description="Prefix of keys in Consul's KV store.")

    def query(self) -> Query:
        """A query of its own for each prefix."""
        return KeyPrefixQuery(self.keyprefix)


class OnService(_On):
    """The instances of a service."""

    service: str = Field(min_length=1, description="Name of a service.")
    tag: str | None = Field(None, description="Only instances with this tag.")
    passing: bool = Field(default=True, description="Only instances all of whose checks pass.")
    near: str | None = Field(None, description="Sort by round trip from this node; `_agent` means this one.")
    filter: str | None = Field(None, description="A filter expression of Consul's.")

    def query(self) -> Query:
        """Equal queries share a poll."""
        return ServiceQuery(
            self.service, tag=self.tag, passing=self.passing, near=self.near, filter=self.filter
        )


class OnServices(_On):
    """The list of services."""

    services: Literal[True] = Field(description="The catalogue's services.")

    def query(self) -> Query:
        """One query for all."""
        return ServicesQuery()


class OnNodes(_On):
    """The list of nodes."""

    nodes: Literal[True] = Field(description="The catalogue's nodes.")

    def query(self) -> Query:
        """One query for all."""
        return NodesQuery()


class WhichChecks(Options):
    """Which checks: those of one service, or those in one state."""

    service: str | None = Field(None, description="Checks of this service.")
    state: Literal["any", "passing", "warning", "critical"] | None = Field(
        None, description="Checks in this state."
    )

    @model_validator(mode="after")
    def _one(self) -> WhichChecks:
        if self.service and self.state:
            raise ValueError("give `service` or `state`, not both")
        return self


class OnChecks(_On):
    """Health checks."""

    checks: WhichChecks = Field(description="The checks of a service, or all in a state (`any` by default).")

    def query(self) -> Query:
        """A query of its own for each choice."""
        return ChecksQuery(service=self.checks.service, state=self.checks.state)


KINDS: Final = ("event", "keyprefix", "key", "services", "service", "nodes", "checks")


def _kind_of(value: Any) -> str | None:  # noqa: ANN401 (whatever stands in the file)
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
