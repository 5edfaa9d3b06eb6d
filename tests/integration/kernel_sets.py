"""Loads the kernel's sets or verifies them, with whatever rights this process has.

    python -m tests.integration.kernel_sets FILE OUTPUT

FILE is the output's file. Prints what was raised, then each drift of a verdict, a line each.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

from agentd.handler import HandlerError
from agentd.process import run
from agentd.testing import HandlerHarness, notification
from handlers.ip_blacklist.loader import BlacklistLoader
from handlers.ip_blacklist.outputs import FILES, Output


def loader(files: dict[Output, bytes], **options: Any) -> HandlerHarness:  # noqa: ANN401 (as in YAML)
    """A loader of these outputs that runs its programs."""
    foreign = {FILES[output]: data for output, data in files.items()}
    settings = {"load": list(files)} | options
    return HandlerHarness(BlacklistLoader, settings, foreign=foreign, run=partial(run, timeout=60.0))


def main(file: str, output: Output) -> None:
    """Load, then verify."""
    made = loader({output: Path(file).read_bytes()})
    try:
        made.handle(notification(2, "blacklist"))
    except HandlerError as error:
        sys.stdout.write(f"{error}\n")
    for drift in made.verify().drift:
        sys.stdout.write(f"{drift.reason}\n")


if __name__ == "__main__":
    main(sys.argv[1], cast("Output", sys.argv[2]))
