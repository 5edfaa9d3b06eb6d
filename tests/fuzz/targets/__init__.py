"""The targets, by the room or handler that they try; importing this imports them all."""

from tests.fuzz.targets import (
    blacklist,
    config,
    consul,
    deploy,
    fleet,
    http,
    journal,
    nginx,
    ticket_keys,
    trust,
    upstream,
)

__all__ = [
    "blacklist", "config", "consul", "deploy", "fleet", "http", "journal", "nginx", "ticket_keys", "trust",
    "upstream",
]  # fmt: skip
