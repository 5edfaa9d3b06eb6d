"""The parser of the command line, and the options that every command has."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from agentd import __version__
from agentd.printable import printable

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
    """A parser whose errors quote no word that may be part of a payload, and that knows no abbreviations.

    It can take everything after `--` as a command to run, into `argv`: argparse removes the first `--` from
    each part of the command line, and so may remove one that belongs to the command.

    Attributes:
        verbs: name -> parser of its arguments; see `add_verb`.
        summary: the line of help, as in the list of commands.
        examples: command lines that the help begins with.
        exit_status: what each exit status means; see `add_exit_status`.
    """

    takes_command = False
    intermixed = False
    """Whether options may stand between the positional arguments, some of which may be left out."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 (those of argparse)
        super().__init__(*args, **options | {"allow_abbrev": False})
        self.formatter_class = _Formatter
        self.verbs: dict[str, Parser] = {}
        self.summary = ""
        self.examples: list[str] = []
        self.exit_status = ""
        self._listed: argparse._ArgumentGroup | None = None
        self._within = False

    def add_example(self, *lines: str) -> None:
        """Begin the help with these command lines."""
        self.examples += lines

    def add_exit_status(self, text: str) -> None:
        """End the help with what 0, 1 and others mean; 2 is always wrong usage or a wrong configuration."""
        self.exit_status = text

    def format_help(self) -> str:
        """The usage, the examples, what there is, and what each exit status means."""
        shown = "\n".join(f"  {line}" for line in self.examples)
        ends = f"Exit status: {self.exit_status}" if self.exit_status else ""
        described, ended = self.description, self.epilog
        self.description = "\n\n".join(filter(None, [shown, described]))
        self.epilog = "\n\n".join(filter(None, [ended, ends]))
        try:
            return super().format_help()
        finally:
            self.description, self.epilog = described, ended

    def add_verb(self, name: str, text: str) -> Parser:
        """Add a verb to a command that also works without one; returns the parser for its arguments.

        `verb` is then its name, and None without a verb. After `--` the same word is none, but an argument.
        `text` is as that of `add_command`.
        """
        self.set_defaults(verb=None)
        made = Parser(prog=f"{self.prog} {name}", description=f"{text[:1].upper()}{text[1:]}.")
        made.summary = text
        add_common(made, config=argparse.SUPPRESS, as_json=argparse.SUPPRESS)
        made.set_defaults(verb=name)
        self.verbs[name] = made
        self._listed = self._listed or self.add_argument_group("verbs, each with its own --help")
        line = f"  {name:9} {text}"
        self._listed.description = "\n".join(filter(None, [self._listed.description, line]))
        return made

    def parse_known_args(  # type: ignore[override] # argparse overloads by the type of the namespace
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse all of it, as the verb if there is one; nothing is ever left over."""
        if self._within:  # argparse parses the options first, and then the others
            return super().parse_known_args(args, namespace)
        words = sys.argv[1:] if args is None else list(args)
        at = self._find_verb(words)
        if at is not None:
            return self.verbs[words[at]].parse_known_args([*words[:at], *words[at + 1 :]], namespace)
        end = words.index("--") if self.takes_command and "--" in words else len(words)
        parse = self.parse_known_intermixed_args if self.intermixed else super().parse_known_args
        self._within = True
        try:
            found, unknown = parse(words[:end], namespace)
        finally:
            self._within = False
        if unknown:
            self._refuse(unknown)
        if self.takes_command:
            found.argv = words[end + 1 :]
            if not found.argv:
                self.error("put the command to run after --")
        return found, []

    def _find_verb(self, words: Sequence[str]) -> int | None:
        """Where the verb is: it is the first word that is neither an option nor the value of one."""
        options: dict[str, argparse.Action] = {}
        for parser in (*self.verbs.values(), self):
            options |= parser._option_string_actions  # noqa: SLF001 (of the same class)
        at = 0
        while self.verbs and at < len(words) and words[at] != "--":
            if not words[at].startswith("-"):
                return at if words[at] in self.verbs else None
            known = options.get(words[at])
            at += 1 if known is None or known.nargs == 0 else 2
        return None

    def _refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Says what is wrong with these words without quoting them: they may be secret."""
        if self.intermixed:
            self.error(
                f"{len(unknown)} of these words are too many, or options that there are not: put quotes"
                f" around a payload of several words; `{self.prog} --help` lists the options"
            )
        names = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        others = len(unknown) - len(names)
        said = [f"there is no option {', '.join(map(printable, names))}"] if names else []
        if others:
            said.append("1 word is too many" if others == 1 else f"{others} words are too many")
        self.error(f"{'; '.join(said)}; `{self.prog} --help` lists what there is")

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong with it, without the value that was given to a flag."""
        named, found, _ = message.partition(": ignored explicit argument")
        super().error(f"{named}: it takes no value" if found else message)


class Version(argparse.Action):
    """Prints the version."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and exit."""
        sys.stdout.write(f"agentd {__version__}\n")
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
    made.summary = text
    add_common(made, config=argparse.SUPPRESS, as_json=argparse.SUPPRESS)
    return made
