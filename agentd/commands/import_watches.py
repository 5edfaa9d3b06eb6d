"""`agentd import-watches`: the `watches` of a Consul agent's JSON configuration as agentd's YAML."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.config.yaml_document import Document
from agentd.errors import AgentdError
from agentd.import_watches import import_watches


def add_arguments(parser: Parser) -> None:
    """The file to convert."""
    parser.add_example("agentd import-watches /etc/consul.d/watches.json > handlers.yaml")
    parser.add_exit_status(
        "0 if every watch was converted; 1 if one was not, which a comment in the output explains."
    )
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="JSON configuration of a Consul agent; - reads standard input",
    )


def execute(arguments: Namespace, output: Output) -> int:
    """Print the handlers; 1 if a watch could not be converted, which a comment in the output explains."""
    translated = import_watches(_text(arguments.file))
    lines = [line.strip() for line in translated.splitlines()]
    notes = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    if output.json:
        output.document({**Document(translated, str(arguments.file)).data, "notes": notes})
    else:
        sys.stdout.write(translated)
    return int(any("NOT imported" in note for note in notes))


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if file == Path("-") else file.read_text(encoding="utf-8")
    except OSError as error:
        raise AgentdError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AgentdError(f"{file} is not UTF-8 text") from error
