"""The parser of the command line, and the options that every command has."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

DEFAULT: Final = Path("/etc/agentd/agentd.yaml")


class _Formatter(argparse.HelpFormatter):
    """Wraps all text but examples, which are indented."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(
            part if part.startswith("  ") else super(_Formatter, self)._fill_text(part, width, indent)
            for part in paragraphs
        )


class Parser(argparse.ArgumentParser):
    """A parser that can take everything after `--` as a command to run, into `argv`.

    argparse removes the first `--` from each part of the command line, and so may remove one that belongs to
    the command.
    """

    takes_command = False
    intermixed = False
    """Whether options may stand between the positional arguments, some of which may be left out."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 (those of argparse)
        super().__init__(*args, **options)
        self.formatter_class = _Formatter

    def add_example(self, *lines: str) -> None:
        """Begin the help with these command lines."""
        shown = "\n".join(f"  {line}" for line in lines)
        self.description = f"{shown}\n\n{self.description or ''}"

    def parse_known_args(  # type: ignore[override] # argparse overloads by the type of the namespace
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse what comes before `--`; what follows is the command."""
        if self.intermixed:
            self.intermixed = False  # it calls this, once for the options and once for the others
            try:
                found, unknown = self.parse_known_intermixed_args(args, namespace)
            finally:
                self.intermixed = True
            if unknown:  # not shown: parts of a payload, which may be secret
                self.error(
                    f"{len(unknown)} of these words are too many, or options that there are not: put quotes"
                    f" around a payload of several words; `{self.prog} --help` lists the options"
                )
            return found, unknown
        if not self.takes_command or args is None:
            return super().parse_known_args(args, namespace)
        end = list(args).index("--") if "--" in args else len(args)
        found, unknown = super().parse_known_args(args[:end], namespace)
        found.argv = list(args[end + 1 :])
        if not found.argv:
            self.error("put the command to run after --")
        return found, unknown


class Version(argparse.Action):
    """Prints the installed version, which is looked up only here: that takes longer than all the parsing."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and exit."""
        from importlib.metadata import version  # noqa: PLC0415 (only --version needs it)

        sys.stdout.write(f"agentd {version('agentd')}\n")
        parser.exit()


def config_is_given(arguments: argparse.Namespace) -> bool:
    """Whether somebody named a configuration file, which must then exist."""
    return arguments.config is not DEFAULT


def add_common(parser: Parser, *, config: object, as_json: object) -> None:
    """Add the options of all commands, with these defaults."""
    parser.add_argument(
        "--config",
        type=Path,
        default=config,
        metavar="FILE",
        help=f"configuration file (default $AGENTD_CONFIG, else {DEFAULT})",
    )
    parser.add_argument("--json", action="store_true", default=as_json, help="print JSON instead of text")


def add_command(commands: argparse._SubParsersAction[Parser], name: str, text: str) -> Parser:
    """Add a command, or a verb of one; `text` is its line of help. Returns the parser for its arguments.

    `--config` and `--json` may come before or after it; if not given after it, those before it count.
    """
    plain = text.replace("%", "%%")  # argparse formats it; another package's may say anything
    made = commands.add_parser(name, help=plain, description=f"{text[:1].upper()}{text[1:]}.")
    add_common(made, config=argparse.SUPPRESS, as_json=argparse.SUPPRESS)
    return made
