"""The newest message of a name, as far as nodes are judged by it: which of them should have it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest message of a name.

    Attributes:
        name: the name of the log.
        num: its number.
        issued: unix time by the publisher's clock; None if the message itself could not be read.
        expires: unix time; None for never.
        publisher: who published it.
        source: how: "event", "publish", ...
        addressed: the nodes that it is for; None for all.
        rollout: the ID of the open rollout to which it belongs; "" if there is none.
        others: what all other nodes should have while a rollout is open; None if that is nothing.
    """

    name: str
    num: int
    issued: float | None = None
    expires: float | None = None
    publisher: str = ""
    source: str = ""
    addressed: frozenset[str] | None = None
    rollout: str = ""
    others: Newest | None = None

    def due(self, node: str) -> Newest | None:
        """The newest message that is for the node; None if it is not known."""
        return self if self.addressed is None or node in self.addressed else self.others

    def concerns(self, node: str, now: float) -> bool:
        """Whether the node should have it: it is for that node and has not expired."""
        return (self.addressed is None or node in self.addressed) and (
            self.expires is None or now < self.expires
        )
