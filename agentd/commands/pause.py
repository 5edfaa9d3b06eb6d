"""`agentd pause`: has handlers on this node take nothing new, until `agentd resume`.

Writes the file that the daemon looks at, and waits until it keeps to it; works without a daemon as well. The
handlers' names are read from the configuration file, of which nothing else has to be right.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agentd.commands import argument_types
from agentd.commands.output import Output, moment
from agentd.commands.parser import Parser
from agentd.commands.places import Places, read_places
from agentd.errors import AgentdError, ConfigError
from agentd.handler_names import require_handler

if TYPE_CHECKING:
    from pathlib import Path

_LOOK: Final = 0.1  # seconds between two questions
_MORE: Final = (
    "A paused handler takes no event, message or state: all of that waits, in order, and of the states of a"
    " query the newest counts. Nothing that was committed is undone. Timed work (keys that expire, entries"
    " whose time is over), checks of what is in effect, and reloads that other handlers ask for go on; so a"
    " handler that only proves, such as nginx_reload, cannot be paused: pause those that notify it. A pause"
    " stops no clock: what is older than `expire_after` when the handler resumes, or over, ends as expired."
)


def add_arguments(parser: Parser) -> None:
    """Which handlers, why, and for how long."""
    parser.add_example(
        'sudo agentd pause --reason "database migration" --for 2h',
        "sudo agentd pause blacklist",
        "sudo agentd resume",
    )
    parser.add_exit_status("0 if the daemon keeps to it, or does not run; 1 if it is not known to.")
    parser.description = f"{parser.description}\n\n{_MORE}"
    parser.add_argument(
        "handlers",
        nargs="*",
        type=argument_types.word,
        metavar="HANDLER",
        help="only these handlers (default: all, also those that are configured later)",
    )
    parser.add_argument("--reason", type=argument_types.reason, metavar="R", help="why, for others")
    parser.add_argument(
        "--for",
        dest="seconds",
        type=argument_types.some_seconds,
        metavar="T",
        help="resume after this time, such as 2h (default: at `agentd resume`)",
    )
    argument_types.add_wait(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Pause them; 1 if the daemon runs and is not known to keep to it.

    Raises:
        AgentdError: there is no such handler, or it takes nothing that could be held back.
        JournalError: it cannot be written down.
    """
    from agentd.journal.pauses import EVERY, Pauses  # noqa: PLC0415 (parsing does without)

    here = read_handlers(arguments.config)
    names = here.require(arguments.handlers)
    pauses = Pauses(here.places.state)
    paused = pauses.pause(names or [EVERY], arguments.reason or "", arguments.seconds)
    shown = names or here.pausable
    late = wait_until_kept(here.places, shown, arguments.wait, paused=True)
    if output.json:
        output.document(
            {
                "paused": list(shown),
                "since": paused.since,
                "until": paused.until,
                "reason": paused.reason,
                "daemon": here.places.running,
                "late": late,
            }
        )
    until = f" until {moment(paused.until)}" if paused.until else ""
    output.line(f"Paused{until}: {', '.join(shown) or 'every handler that is configured later'}.")
    output.line(_next(here.places, names, late))
    return int(bool(late))


def _next(places: Places, names: Sequence[str], late: Sequence[str]) -> str:
    if late:
        return (
            f"The daemon does not say yet that it keeps to that, perhaps since a change is being applied:"
            f" {', '.join(late)}; see `agentd status`."
        )
    resume = " ".join(["agentd resume", *names])
    if not places.running:
        return f"The daemon is not running: it will keep to that once it starts. To go on: `{resume}`."
    return f"What arrives for them waits. To go on: `{resume}`."


class Handlers(NamedTuple):
    """The handlers of this node, as the configuration file names them.

    Attributes:
        places: where agentd keeps its things.
        pausable: those that take something from outside.
        told: by each of the others, the handlers that notify it.
    """

    places: Places
    pausable: tuple[str, ...]
    told: Mapping[str, tuple[str, ...]]

    def require(self, names: Collection[str]) -> list[str]:
        """These names, each once. Raises AgentdError if one of them cannot be paused."""
        for name in names:
            if name in self.told:
                by = ", ".join(self.told[name])
                raise AgentdError(
                    f"{name} takes nothing but notifications, which a pause never holds back: pause what"
                    f" notifies it{f' ({by})' if by else ''}, or everything with `agentd pause`"
                )
            require_handler(name, self.pausable, "this node has")
        return list(dict.fromkeys(names))


def read_handlers(config: Path) -> Handlers:
    """The handlers of this node. Raises ConfigError if the file cannot be read."""
    from agentd.config.sections import read_document  # noqa: PLC0415 (parsing does without)

    found = read_document(config).data.get("handlers")
    named = found if isinstance(found, Mapping) else {}
    entries: dict[str, Any] = {str(name): one for name, one in named.items()}
    takers = tuple(name for name, one in entries.items() if isinstance(one, Mapping) and one.get("on"))
    told = {
        name: tuple(other for other, one in entries.items() if name in _notified(one))
        for name in entries
        if name not in takers
    }
    return Handlers(read_places(config), takers, told)


def _notified(entry: Any) -> Sequence[Any]:  # noqa: ANN401 (any YAML)
    named = entry.get("notify") if isinstance(entry, Mapping) else None
    return named if isinstance(named, list) else [named]


def wait_until_kept(places: Places, names: Collection[str], seconds: float, *, paused: bool) -> list[str]:
    """Wait until the daemon, if it runs, keeps to a pause or to its end. Returns the handlers that do not."""
    from agentd.commands.status import ask_daemon  # noqa: PLC0415 (parsing does without)
    from agentd.http import ExchangeError  # noqa: PLC0415 (as above)

    deadline = time.monotonic() + seconds
    while places.running and places.status is not None:
        try:
            told = ask_daemon(places.status).get("handlers", {})
            late = [name for name in names if name in told and bool(told[name].get("paused")) != paused]
        except (ConfigError, ExchangeError, ValueError, AttributeError):
            late = list(names)
        if not late or time.monotonic() >= deadline:
            return late
        time.sleep(_LOOK)
    return []
