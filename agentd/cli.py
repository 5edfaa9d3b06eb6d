"""The command line: finds the command that was typed, runs it, and reports errors.

Owns parsing, dispatch and exit statuses: 0 all is well, 1 it failed, 2 wrong usage or configuration.
A command is a module (see `Command`). agentd's own are listed in `agentd/commands/__init__.py`; others come
in through the entry-point group `agentd.commands`, which is read only when the word typed is not one of
agentd's own, or when all commands are listed. Only the module of the command that was typed is imported.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

from agentd import priority
from agentd.commands import OWN
from agentd.commands.output import Output
from agentd.commands.parser import DEFAULT, Parser, Version, add_command, add_common
from agentd.errors import AgentdError, ConfigError
from agentd.handler_names import nearest
from agentd.printable import printable

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "agentd.commands"
_FAILED, _USAGE = 1, 2
_INTERRUPTED, _PIPE_CLOSED = 130, 141  # what a shell reports for SIGINT and SIGPIPE


class Command(Protocol):
    """What the module of a command defines (agentd's own have their HELP in `OWN`).

    Attributes:
        HELP: one line, in lower case and without a full stop.
    """

    HELP: str

    def add_arguments(self, parser: Parser) -> None:
        """Add the command's own arguments; `--config` and `--json` are there already."""

    def execute(self, arguments: argparse.Namespace, output: Output) -> int:
        """Run, and return the exit status. Raises AgentdError, which is printed without a traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status. `argv` is without the program's name."""
    words = sys.argv[1:] if argv is None else list(argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (open to the end)
    if priority.goes_to_journal(sys.stderr):
        sys.excepthook = priority.print_traceback
    try:
        command, arguments = parse(words)
        status = command.execute(arguments, Output(sys.stdout, as_json=arguments.json))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _print_no_more()
        return _PIPE_CLOSED
    except AgentdError as error:
        return _report(error)
    except PermissionError as error:
        return _report(AgentdError(f"{error.filename or 'a file'}: {error.strerror}"), cause=error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _print_no_more()
        return _report(AgentdError(f"{error.filename or 'the output'}: {error.strerror}"))
    return status


def _print_no_more() -> None:
    """What could not be written would fail once again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(words: Sequence[str]) -> tuple[Command, argparse.Namespace]:
    """The command that was typed, and its arguments.

    Raises:
        SystemExit: wrong usage, which has been reported; or only help or the version was asked for.
        AgentdError: the command cannot be used.
    """
    name = _typed(words)
    if name is None:
        parser = _top()[0] if "--version" in words else parser_of_all(OWN)
        if words:
            parser.parse_args(words)
        parser.print_help(sys.stderr)
        raise SystemExit(_USAGE)
    command = own_command(name) if name in OWN else _installed_command(name)
    parser, commands = _top()
    _add_arguments(command, name, add_command(commands, name, OWN.get(name) or command.HELP))
    return command, parser.parse_args(words)


def _typed(words: Sequence[str]) -> str | None:
    """The name of the command: the first word that is neither an option nor the value of `--config`."""
    rest = iter(words)
    for word in rest:
        if word == "--config":
            next(rest, None)
        elif word in ("-h", "--help", "--version"):
            return None
        elif not word.startswith("-"):
            return word
    return None


def _report(error: AgentdError, cause: BaseException | None = None) -> int:
    advice = "; run it as root (sudo agentd ...)" if _not_permitted(cause or error) else ""
    lines = (printable(line) for line in str(error).splitlines())
    text = "\n".join(f"agentd: {line}{'' if 'sudo' in line else advice}" for line in lines)
    sys.stderr.write(
        (priority.prefixed(text, "error") if priority.goes_to_journal(sys.stderr) else text) + "\n"
    )
    return _USAGE if isinstance(error, ConfigError) else _FAILED


def _not_permitted(error: BaseException) -> bool:
    return os.geteuid() != 0 and any(isinstance(one, PermissionError) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


# ---------------------------------------------------------------- the commands


def own_command(name: str) -> Command:
    """Import one of agentd's own commands."""
    return cast("Command", importlib.import_module(f"agentd.commands.{name.replace('-', '_')}"))


def installed() -> dict[str, list[EntryPoint]]:
    """The entry points of the commands that other packages bring, by name; not imported."""
    from importlib.metadata import entry_points  # noqa: PLC0415 (slow, and agentd's own commands do without)

    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        places = found.setdefault(point.name, [])
        if all(point.value != other.value for other in places):
            places.append(point)
    return found


def load_command(name: str, points: Sequence[EntryPoint]) -> Command:
    """Import the command that another package brings.

    Raises:
        AgentdError: why it cannot be used, and what to do.
    """
    values = " and ".join(point.value for point in points)
    if name in OWN:
        raise AgentdError(f"{values} cannot be the command {name!r}, which is agentd's own: rename it")
    if len(points) > 1:
        raise AgentdError(f"two packages bring a command {name!r} ({values}): uninstall one of them")
    try:
        command = points[0].load()
    except (Exception, SystemExit) as error:
        raise AgentdError(
            f"the command {name!r} ({values}) cannot be imported: {type(error).__name__}: {error};"
            " fix or uninstall its package"
        ) from error
    missing = [part for part in ("add_arguments", "execute") if not callable(getattr(command, part, None))]
    if not isinstance(getattr(command, "HELP", None), str):
        missing.insert(0, "HELP")
    if missing:
        raise AgentdError(
            f"the command {name!r} ({values}) has no {' and no '.join(missing)}: fix its package"
        )
    return cast("Command", command)


def _add_arguments(command: Command, name: str, parser: Parser) -> None:
    """Have the command add its own; raises AgentdError where another package's fails to."""
    try:
        command.add_arguments(parser)
    except Exception as error:
        if name in OWN:
            raise
        raise AgentdError(
            f"the command {name!r} cannot add its arguments: {type(error).__name__}: {error};"
            " fix or uninstall its package"
        ) from error


def _installed_command(name: str) -> Command:
    points = installed()
    if name not in points:
        _unknown(name, points)
    return load_command(name, points[name])


def _unknown(name: str, points: Iterable[str]) -> NoReturn:
    known = sorted({*OWN, *points})
    parser, _ = _top()
    parser.usage = "agentd [-h] [--version] [--config FILE] [--json] COMMAND ..."
    parser.error(f"there is no command {name!r}{nearest(name, known)}\ncommands: {', '.join(known)}")


# ---------------------------------------------------------------- what may be typed


def parser_of_all(own: Mapping[str, str], *, complete: bool = False) -> Parser:
    """The parser with every command; `complete` adds the arguments of each (for shell completion, man pages).

    A command that cannot be imported is listed with the reason.
    """
    parser, commands = _top()
    for name, text in own.items():
        made = add_command(commands, name, text)
        if complete:
            own_command(name).add_arguments(made)
    for name, points in installed().items():
        try:
            command = load_command(name, points)
        except AgentdError as error:
            if name not in own:
                add_command(commands, name, f"broken: {printable(str(error))}")
        else:
            made = add_command(commands, name, command.HELP)
            if complete:
                _add_arguments(command, name, made)
    return parser


def _top() -> tuple[Parser, argparse._SubParsersAction[Parser]]:
    given = os.environ.get("AGENTD_CONFIG")
    parser = Parser(
        "agentd",
        description="Turns Consul's events, services and keys into configuration files for nginx.",
    )
    parser.add_example("sudo agentd check", "sudo agentd status", "sudo agentd history --limit 5")
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    add_common(parser, config=Path(given) if given else DEFAULT, as_json=False)
    return parser, parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
