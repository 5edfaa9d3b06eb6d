"""The parser of the command line, and the options that every command has."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

DEFAULT: Final = "/etc/agentd/agentd.yaml"


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


class Version(argparse.Action):
    """Prints the installed version; looking it up takes longer than to parse a command line."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and exit."""
        from importlib.metadata import version  # noqa: PLC0415 (only --version needs it)

        sys.stdout.write(f"agentd {version('agentd')}\n")
        parser.exit()


def add_common(parser: Parser, *, config: object, as_json: object) -> None:
    """Add the options of all commands, with these defaults."""
    parser.add_argument(
        "--config",
        type=Path,
        default=config,
        metavar="FILE",
        help=f"configuration ($AGENTD_CONFIG, else {DEFAULT})",
    )
    parser.add_argument("--json", action="store_true", default=as_json, help="print one JSON document")
