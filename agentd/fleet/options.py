"""The section `fleet:` of the YAML file.

Values only: nothing here asks Consul, and nothing else of the room is imported, since every start reads it.
"""

from __future__ import annotations

from pydantic import Field, field_validator

from agentd.options import Options
from agentd.values import parse_fleet_name


class FleetOptions(Options):
    """The fleet that this node belongs to. Unset or null: events are hints, and Consul is only read."""

    name: str = Field(
        description="Name of the fleet: it tells staging from production on one Consul. Its keys are below"
        " `agentd/NAME/` in Consul's KV store."
    )
    node: str | None = Field(
        None,
        description="Name under which this node acknowledges, unique in the fleet. Unset: the node name of"
        " the Consul agent.",
    )
    datacenter: str | None = Field(
        None,
        description="The datacenter whose KV store has the log, the same for all nodes of a fleet. Unset: the"
        " agent's own.",
    )
    relay: bool = Field(
        True,  # noqa: FBT003 (pydantic's default)
        description="Whether this node writes the events that it hears, and that are kept, to the log.",
    )
    service: bool = Field(
        True,  # noqa: FBT003 (likewise)
        description="Whether the service `agentd` is registered with the Consul agent, with a health check.",
    )

    @field_validator("name", "node")
    @classmethod
    def _key(cls, name: str | None) -> str | None:
        return None if name is None else parse_fleet_name(name)
