"""Payloads by reference: fetched to a private file, limited, verified, and only then handed over.

Whoever fires an event chooses the reference, so nothing is opened or asked before the fence (`sources.allow`)
has let it pass. Nothing here reads what it fetched, or ever tells a query, a header or a byte of it.
"""

from __future__ import annotations

from agentd.apply.sources.fetcher import Fetcher, ReadKey, Sources
from agentd.apply.sources.room import Room

__all__ = ["Fetcher", "ReadKey", "Room", "Sources"]
