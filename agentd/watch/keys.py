"""Reads one key once, for who needs its value now and not its changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from agentd.watch.changes import KeyState
from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from agentd.watch.queries import KeyQuery


def key_reader(options: ConsulOptions) -> Callable[[str], bytes | None]:
    """Return what reads a key, over a connection of its own each time.

    It returns the value, or None if there is no such key, and raises ConsulUnavailable or ConsulRefused.
    """

    def read(path: str) -> bytes | None:
        with closing(ConsulClient(options)) as client:
            (state,) = KeyQuery(path).fetch(client).changes
        return state.value if isinstance(state, KeyState) else None

    return read
