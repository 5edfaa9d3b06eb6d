"""What a command sends: typed, from a file, or from standard input.

Never reads more than it needs to know that it is too much, and never shows any of it.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from agentd.commands.parser import Parser
from agentd.errors import AgentdError, ConfigError


def add_payload_arguments(parser: Parser) -> None:
    """Add the payload and `--file`, of which one may be given."""
    parser.intermixed = True
    parser.add_argument(
        "payload",
        nargs="?",
        metavar="PAYLOAD",
        help="what to send; - reads standard input. Anyone can see it in the process list: for"
        " secrets, use - or --file",
    )
    parser.add_argument(
        "--file", type=Path, metavar="FILE", help="read the payload from a file; - reads standard input"
    )


def read_payload(arguments: Namespace, largest: int) -> bytes:
    """What to send, empty if nothing was given; of one that is too large, `largest` + 1 bytes.

    Raises:
        ConfigError: two were given.
        AgentdError: the file cannot be read.
    """
    text: str | None = arguments.payload
    file: Path | None = arguments.file
    if text is not None and file is not None:
        raise ConfigError(["give either a payload or --file, not both"])
    if text == "-" or file == Path("-"):
        return sys.stdin.buffer.read(largest + 1)
    if file is None:
        return (text or "").encode(errors="surrogateescape")
    try:
        with file.open("rb") as opened:
            return opened.read(largest + 1)
    except OSError as error:
        raise AgentdError(f"{file} cannot be read: {error.strerror}") from error
