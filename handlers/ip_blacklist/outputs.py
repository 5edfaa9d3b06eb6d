"""What is written besides nginx's `geo` files, for those who want it elsewhere: options only, so far."""

from __future__ import annotations

from agentd.handler import HandlerOptions


class OutputOptions(HandlerOptions):
    """Further outputs; each is off unless it is named."""
