"""What stands in Consul below a fleet's prefix, which other nodes, or anybody, may have written."""

from __future__ import annotations

from agentd.fleet.acknowledgement import DocumentError, parse, render
from agentd.printable import printable
from tests.fuzz.target import target


@target(DocumentError, structured=True)
def fleet_acknowledgement(data: bytes) -> None:
    """The acknowledgement of a node: what can be read can be written, and is then read as the same."""
    document = parse(data)
    assert printable(document.agentd) == document.agentd
    again = parse(render(document))
    assert (again.names, again.options) == (document.names, document.options)
