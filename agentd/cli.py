"""The command line: what may be typed, which command it is, and how an error is told.

Owns parsing, dispatch and exit statuses: 0 all is well, 1 the thing failed, 2 wrong usage or configuration.
What a command imports is imported only when it runs, so that each starts as fast as it can.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from agentd import fleet_arguments, words
from agentd.commands.output import Output, printable
from agentd.errors import AgentdError, ConfigError
from agentd.parser import DEFAULT, Parser, Version, add_common

_FAILED, _USAGE = 1, 2
_INTERRUPTED, _PIPE_CLOSED = 130, 141  # as a shell tells of SIGINT and SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status. `argv` is without the program's name."""
    arguments = _parser().parse_args(argv)
    try:
        status = _execute(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Nobody reads any more; Python would complain about that once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except AgentdError as error:
        return _tell(error)
    except PermissionError as error:
        return _tell(AgentdError(f"{error.filename or 'a file'}: {error.strerror}"), cause=error)
    return status


def _execute(arguments: argparse.Namespace) -> int:
    module = importlib.import_module(f"agentd.commands.{arguments.command.replace('-', '_')}")
    execute: Callable[[argparse.Namespace, Output], int] = module.execute
    return execute(arguments, Output(sys.stdout, as_json=arguments.json))


def _tell(error: AgentdError, cause: BaseException | None = None) -> int:
    advice = "; run it as root (sudo agentd ...)" if _not_permitted(cause or error) else ""
    for line in str(error).splitlines():
        sys.stderr.write(f"agentd: {printable(line)}{advice}\n")
    return _USAGE if isinstance(error, ConfigError) else _FAILED


def _not_permitted(error: BaseException) -> bool:
    return os.geteuid() != 0 and any(isinstance(one, PermissionError) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


# ---------------------------------------------------------------- what may be typed


def _parser() -> Parser:
    given = os.environ.get("AGENTD_CONFIG") or DEFAULT
    parser = Parser(
        "agentd", description="Turns Consul's events, services and keys into files that nginx serves."
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    add_common(parser, config=Path(given), as_json=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, add) in _COMMANDS.items():
        own = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        # May stand before or after the command; given nowhere after it, the one before it counts.
        add_common(own, config=argparse.SUPPRESS, as_json=argparse.SUPPRESS)
        add(own)
    return parser


def _none(_: Parser) -> None:
    """Add nothing: the command has no arguments of its own."""


def _fire(parser: Parser) -> None:
    parser.add_argument("name", type=words.word, metavar="NAME", help="name of the event")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "payload",
        nargs="?",
        metavar="PAYLOAD",
        help="what to send; - is standard input. Others see it in the process list: use --file for secrets",
    )
    what.add_argument(
        "--file", type=Path, metavar="F", help="read the payload from a file; - is standard input"
    )


def _history(parser: Parser) -> None:
    parser.add_argument(
        "id", nargs="?", type=words.word, metavar="ID", help="all about the changes whose ID begins like this"
    )
    parser.add_argument("--handler", type=words.word, metavar="H", help="only what came for this handler")
    parser.add_argument(
        "--limit", type=words.count, default=30, metavar="N", help="at most so many (%(default)s)"
    )


def _rollback(parser: Parser) -> None:
    parser.add_argument(
        "generation",
        nargs="?",
        type=words.count,
        metavar="N",
        help="the generation to go back to (the one before the current)",
    )
    _add_wait(parser)


def _replay(parser: Parser) -> None:
    parser.add_argument("id", type=words.word, metavar="ID", help="ID of the change, or its beginning")
    parser.add_argument("--handler", type=words.word, metavar="H", help="only to this handler")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="run the handler here, show what would change, and keep nothing of it",
    )
    _add_wait(parser)


def _add_wait(parser: Parser) -> None:
    parser.add_argument(
        "--wait",
        type=words.seconds,
        default=15.0,
        metavar="T",
        help="wait so long for the daemon, such as 30s or 0 (15s)",
    )


def _handlers(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", type=words.word, metavar="NAME", help="this one in detail")


def _blacklist(parser: Parser) -> None:
    parser.add_argument("--handler", type=words.word, metavar="H", help="this one, if several are configured")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_changes(verbs)
    for verb in verbs.choices.values():
        _add_wait(verb)
    verbs.add_parser("list", help="show entries, lists and feeds")
    why = verbs.add_parser("why", help="say whether an address is blocked, and by what")
    why.add_argument("address", type=words.word, metavar="ADDRESS", help="an address or CIDR")
    for verb in verbs.choices.values():
        add_common(verb, config=argparse.SUPPRESS, as_json=argparse.SUPPRESS)


def _add_changes(verbs: argparse._SubParsersAction[Parser]) -> None:
    add = verbs.add_parser("add", help="block an address or CIDR")
    add.add_argument("cidr", type=words.word, metavar="CIDR")
    add.add_argument("ttl", type=words.word, nargs="?", metavar="TTL", help="such as 10m; else for good")
    add.add_argument("--reason", type=words.word, metavar="TEXT", help="why, for those who ask later")
    remove = verbs.add_parser("remove", help="let an address or CIDR through, whatever blocked it")
    remove.add_argument("cidr", type=words.word, metavar="CIDR")
    load = verbs.add_parser("load", help="replace a list by what its reference leads to")
    load.usage = "%(prog)s [-h] [--force] [--wait T] [LIST] [REFERENCE [sha256:HEX]]"
    load.add_argument("source", type=words.word, nargs="+", metavar="WORD", help="list, reference, or both")
    load.add_argument("--force", action="store_true", help="override the guards, this once")
    clear = verbs.add_parser("clear", help="empty a list; `entries` are those that were added")
    clear.add_argument("name", type=words.word, metavar="LIST")


def _import_watches(parser: Parser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="JSON configuration of a Consul agent; - is standard input"
    )


_COMMANDS: Final[dict[str, tuple[str, Callable[[Parser], None]]]] = {
    "run": ("run the daemon", _none),
    "check": ("check the configuration, Consul, its ACLs, nginx and the directories", _none),
    "status": ("show how the daemon is", _none),
    "history": ("show what came, what became of it, and why", _history),
    "generations": ("list the generations of the tree", _none),
    "rollback": ("make an earlier generation current again, and have nginx load it", _rollback),
    "replay": ("hand a change to its handler once more", _replay),
    "fire": ("fire a user event", _fire),
    "handlers": ("list the installed handlers and their options", _handlers),
    "blacklist": ("show what is blocked and why, or change it on this node", _blacklist),
    "nodes": ("list the addresses of a service's instances", fleet_arguments.add_nodes),
    "upstream": (
        "list or change the servers of an upstream on all load balancers at once",
        fleet_arguments.add_upstream,
    ),
    "rolling": (
        "deploy to one server after the other, each out of use meanwhile",
        fleet_arguments.add_rolling,
    ),
    "lock": (
        "run a command while holding a lock of the cluster, as `consul lock` does",
        fleet_arguments.add_lock,
    ),
    "import-watches": ("turn the watches of a Consul agent into handlers, as YAML", _import_watches),
}
