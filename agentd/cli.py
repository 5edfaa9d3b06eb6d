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

from agentd.commands.output import Output, printable
from agentd.errors import AgentdError, ConfigError

DEFAULT: Final = "/etc/agentd/agentd.yaml"
_FAILED, _USAGE = 1, 2
_LONGEST = 60.0  # seconds for a load balancer to answer
_INTERRUPTED, _PIPE_CLOSED = 130, 141  # as a shell tells of SIGINT and SIGPIPE


class Parser(argparse.ArgumentParser):
    """A parser that can take what follows `--` as a command to run, into `argv`.

    argparse takes the first `--` out of each part of the line, and so one that is the command's own as well.
    """

    takes_command = False

    def parse_known_args(  # type: ignore[override] # argparse overloads by the type of the namespace
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse what stands before `--`; what follows it is the command."""
        if not self.takes_command or args is None:
            return super().parse_known_args(args, namespace)
        end = list(args).index("--") if "--" in args else len(args)
        found, unknown = super().parse_known_args(args[:end], namespace)
        found.argv = list(args[end + 1 :])
        if not found.argv:
            self.error("a command is needed after --")
        return found, unknown


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


class _Version(argparse.Action):
    """Prints the installed version; looking it up takes longer than to parse a command line."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415 (only --version needs it)

        sys.stdout.write(f"agentd {version('agentd')}\n")
        parser.exit()


def _parser() -> Parser:
    given = os.environ.get("AGENTD_CONFIG") or DEFAULT
    parser = Parser(
        "agentd", description="Turns Consul's events, services and keys into files that nginx serves."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    _add_common(parser, config=Path(given), as_json=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, add) in _COMMANDS.items():
        own = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        # May stand before or after the command; given nowhere after it, the one before it counts.
        _add_common(own, config=argparse.SUPPRESS, as_json=argparse.SUPPRESS)
        add(own)
    return parser


def _add_common(parser: Parser, *, config: object, as_json: object) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=config,
        metavar="FILE",
        help=f"configuration ($AGENTD_CONFIG, else {DEFAULT})",
    )
    parser.add_argument("--json", action="store_true", default=as_json, help="print one JSON document")


def _none(_: Parser) -> None:
    """Add nothing: the command has no arguments of its own."""


def _fire(parser: Parser) -> None:
    parser.add_argument("name", type=_word, metavar="NAME", help="name of the event")
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
        "id", nargs="?", type=_word, metavar="ID", help="all about the changes whose ID begins like this"
    )
    parser.add_argument("--handler", type=_word, metavar="H", help="only what came for this handler")
    parser.add_argument("--limit", type=_count, default=30, metavar="N", help="at most so many (%(default)s)")


def _rollback(parser: Parser) -> None:
    parser.add_argument(
        "generation",
        nargs="?",
        type=_count,
        metavar="N",
        help="the generation to go back to (the one before the current)",
    )
    _add_wait(parser)


def _replay(parser: Parser) -> None:
    parser.add_argument("id", type=_word, metavar="ID", help="ID of the change, or its beginning")
    parser.add_argument("--handler", type=_word, metavar="H", help="only to this handler")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="run the handler here, show what would change, and keep nothing of it",
    )
    _add_wait(parser)


def _add_wait(parser: Parser) -> None:
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=15.0,
        metavar="T",
        help="wait so long for the daemon, such as 30s or 0 (15s)",
    )


def _handlers(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", type=_word, metavar="NAME", help="this one in detail")


def _lock(parser: Parser) -> None:
    parser.takes_command = True
    parser.usage = (
        "%(prog)s [-h] [--config FILE] [--json] PREFIX [-n N] [--timeout T] [--verbose] -- COMMAND ..."
    )
    parser.add_argument(
        "prefix", type=_prefix, metavar="PREFIX", help="where in Consul's KV store; PREFIX/.lock is the key"
    )
    parser.add_argument(
        "-n", type=_count, default=1, metavar="N", help="how many may hold it at once (%(default)s)"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="T",
        help="wait for the lock so long, such as 30s; 0 does not wait (for ever)",
    )
    parser.add_argument("--verbose", action="store_true", help="tell of each step on standard error")


def _nodes(parser: Parser) -> None:
    parser.add_argument("service", type=_word, metavar="SERVICE", help="name of the service")
    parser.add_argument("--tag", type=_word, metavar="T", help="only instances with this tag")
    parser.add_argument("--passing", action="store_true", help="only instances whose checks all pass")
    parser.add_argument("--plain", action="store_true", help="one address a line on a terminal as well")


def _upstream(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in _UPSTREAM.items():
        own = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        _add_common(own, config=argparse.SUPPRESS, as_json=argparse.SUPPRESS)
        if name != "list":
            own.add_argument(
                "server", type=_server, metavar="SERVER", help="IP address and port, 10.0.0.1:80"
            )
            own.add_argument(
                "--keep-going", action="store_true", help="change those that can be, and undo nothing"
            )
        if name == "weight":
            own.add_argument("weight", type=_count, metavar="N", help="from 1 on")
        if name == "down":
            _add_least(own)
        _add_balancers(own)


def _add_balancers(parser: Parser) -> None:
    parser.add_argument(
        "--upstream", type=_upstream_name, required=True, metavar="NAME", help="zone of the upstream in nginx"
    )
    parser.add_argument(
        "--on", type=_word, required=True, metavar="SERVICE", help="service of the load balancers in Consul"
    )
    parser.add_argument(
        "--path", type=_path, default="/dynamic", metavar="P", help="of their interface (%(default)s)"
    )
    parser.add_argument(
        "--timeout", type=_patience, default=3.0, metavar="T", help="of each request to one of them (3s)"
    )
    parser.add_argument("--passing", action="store_true", help="leave out those whose checks do not all pass")


def _add_least(parser: Parser) -> None:
    parser.add_argument(
        "--min-servers",
        type=_number,
        default=1,
        metavar="N",
        help="servers that must be left up on each load balancer (%(default)s)",
    )


def _rolling(parser: Parser) -> None:
    parser.takes_command = True
    parser.usage = (
        "%(prog)s [-h] --upstream NAME --on SERVICE --servers SERVICE [--batch N|N%%] [--max-failures K]"
        " [...] -- COMMAND {address}"
    )
    parser.epilog = "In the command {address}, {port} and {host} (the node's name) are the server's."
    _add_balancers(parser)
    _add_least(parser)
    parser.add_argument(
        "--servers", type=_word, required=True, metavar="SERVICE", help="service of the servers in Consul"
    )
    parser.add_argument(
        "--batch", type=_batch, default="1", metavar="N|N%", help="so many servers at a time (1)"
    )
    parser.add_argument(
        "--max-failures", type=_number, default=0, metavar="K", help="go on after so many failures (0)"
    )
    parser.add_argument(
        "--command-timeout", type=_seconds, default=3600.0, metavar="T", help="of the command (1h)"
    )
    parser.add_argument(
        "--wait", type=_seconds, default=300.0, metavar="T", help="for Consul to say that it passes (5m)"
    )
    parser.add_argument(
        "--settle", type=_seconds, default=0.0, metavar="T", help="so long it must have passed (0s)"
    )
    parser.add_argument(
        "--lock", type=_prefix, metavar="PREFIX", help="lock and record in KV (agentd/rolling/NAME)"
    )
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on with one that did not end")
    earlier.add_argument("--restart", action="store_true", help="begin anew after one that did not end")


def _blacklist(parser: Parser) -> None:
    parser.add_argument("--handler", type=_word, metavar="H", help="this one, if several are configured")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_changes(verbs)
    for verb in verbs.choices.values():
        _add_wait(verb)
    verbs.add_parser("list", help="show entries, lists and feeds")
    why = verbs.add_parser("why", help="say whether an address is blocked, and by what")
    why.add_argument("address", type=_word, metavar="ADDRESS", help="an address or CIDR")
    for verb in verbs.choices.values():
        _add_common(verb, config=argparse.SUPPRESS, as_json=argparse.SUPPRESS)


def _add_changes(verbs: argparse._SubParsersAction[Parser]) -> None:
    add = verbs.add_parser("add", help="block an address or CIDR")
    add.add_argument("cidr", type=_word, metavar="CIDR")
    add.add_argument("ttl", type=_word, nargs="?", metavar="TTL", help="such as 10m; else for good")
    add.add_argument("--reason", type=_word, metavar="TEXT", help="why, for those who ask later")
    remove = verbs.add_parser("remove", help="let an address or CIDR through, whatever blocked it")
    remove.add_argument("cidr", type=_word, metavar="CIDR")
    load = verbs.add_parser("load", help="replace a list by what its reference leads to")
    load.usage = "%(prog)s [-h] [--force] [--wait T] [LIST] [REFERENCE [sha256:HEX]]"
    load.add_argument("source", type=_word, nargs="+", metavar="WORD", help="list, reference, or both")
    load.add_argument("--force", action="store_true", help="override the guards, this once")
    clear = verbs.add_parser("clear", help="empty a list; `entries` are those that were added")
    clear.add_argument("name", type=_word, metavar="LIST")


def _import_watches(parser: Parser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="JSON configuration of a Consul agent; - is standard input"
    )


_UPSTREAM: Final = {
    "list": "list the servers",
    "down": "take a server out of use",
    "up": "put a server back into use",
    "weight": "change a server's share of the requests",
}
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
    "nodes": ("list the addresses of a service's instances", _nodes),
    "upstream": ("list or change the servers of an upstream on all load balancers at once", _upstream),
    "rolling": ("deploy to one server after the other, each out of use meanwhile", _rolling),
    "lock": ("run a command while holding a lock of the cluster, as `consul lock` does", _lock),
    "import-watches": ("turn the watches of a Consul agent into handlers, as YAML", _import_watches),
}


def _word(text: str) -> str:
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError("it must not be empty or hold control characters")
    return text


def _prefix(text: str) -> str:
    from agentd.fleet.lock import check_prefix  # noqa: PLC0415 (brings the client, which the command needs anyway)

    try:
        return check_prefix(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _server(text: str) -> str:
    from agentd.fleet.dynamic_upstream import check_server  # noqa: PLC0415 (only two commands need it)

    return _checked(check_server, text)


def _batch(text: str) -> object:
    from agentd.fleet.rolling import parse_batch  # noqa: PLC0415 (likewise)

    try:
        return parse_batch(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _upstream_name(text: str) -> str:
    from agentd.fleet.dynamic_upstream import check_upstream  # noqa: PLC0415 (likewise)

    return _checked(check_upstream, text)


def _path(text: str) -> str:
    from agentd.fleet.dynamic_upstream import check_path  # noqa: PLC0415 (likewise)

    return _checked(check_path, text)


def _checked(check: Callable[[str], str], text: str) -> str:
    try:
        return check(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _patience(text: str) -> float:
    seconds = _seconds(text)
    if not 0 < seconds <= _LONGEST:
        raise argparse.ArgumentTypeError("more than nothing and at most a minute is needed, such as 3s")
    return seconds


def _number(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):  # noqa: PLR2004 (what fits SQLite)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _seconds(text: str) -> float:
    from agentd.options import parse_duration  # noqa: PLC0415 (brings pydantic, which most commands need anyway)

    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
