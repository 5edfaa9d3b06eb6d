"""What is rotated and how: from the configuration file's handler of ticket keys, or from the command line.

The file is read without importing any other handler.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from agentd.command import ConfigError
from handlers.tls_ticket_keys import TicketKeys
from handlers.tls_ticket_keys.rotation import Policy

_USES: Final = ("tls_ticket_keys", f"{TicketKeys.__module__}:{TicketKeys.__name__}")


class Configured(NamedTuple):
    """A configured handler of ticket keys that follows the log: its name, the event, and its options."""

    handler: str
    event: str
    options: Mapping[str, Any]


def find(data: Mapping[str, Any], name: str | None) -> Configured | None:
    """The handler whose keys are to be rotated; None if there is none.

    Args:
        data: the configuration file.
        name: of the event; None if there is only one.

    Raises:
        ConfigError: there are several.
    """
    found = {one.event: one for one in _configured(data) if name in (None, one.event)}
    if len(found) > 1:
        raise ConfigError([f"which ticket keys? Name one of the events: {', '.join(sorted(found))}"])
    return next(iter(found.values()), None)


def _configured(data: Mapping[str, Any]) -> Iterator[Configured]:
    handlers = data.get("handlers")
    for name, entry in handlers.items() if isinstance(handlers, Mapping) else ():
        if not isinstance(entry, Mapping) or entry.get("use") not in _USES:
            continue
        on, options = entry.get("on"), entry.get("options")
        for one in on if isinstance(on, list) else ():
            if isinstance(one, Mapping) and isinstance(one.get("event"), str) and one.get("keep"):
                yield Configured(str(name), one["event"], options if isinstance(options, Mapping) else {})


def make_policy(configured: Configured | None, arguments: Namespace, *, adopts: bool) -> Policy:
    """How keys are rotated.

    Raises:
        ConfigError: the handler's options are wrong.
    """
    try:
        options = TicketKeys.Options.model_validate(dict(configured.options) if configured else {})
    except ValidationError as error:
        where = configured.handler if configured else ""
        wrong = [".".join(map(str, one["loc"])) + f": {one['msg']}" for one in error.errors()]
        raise ConfigError([f"handlers.{where}.options.{one}" for one in wrong]) from error
    every = options.rotate_every if arguments.every is None else arguments.every
    return Policy(every, options.keep, options.on_dead == "proceed", adopts)
