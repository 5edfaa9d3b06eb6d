"""The example of a HAProxy's ticket keys is a configuration that agentd accepts."""

from __future__ import annotations

from pathlib import Path

from agentd.config.load import load
from handlers.tls_ticket_keys import TicketKeys

EXAMPLE = Path(__file__).parents[4] / "config" / "examples" / "haproxy-tickets.yaml"


def test_the_example_is_valid() -> None:
    """The whole file, and the handler's options."""
    config = load(EXAMPLE).config
    options = TicketKeys.Options.model_validate(config.handlers["ticket-keys"].options)

    assert config.nginx is None
    assert options.haproxy is not None
