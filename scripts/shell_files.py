"""Writes the shell completions and the man pages, from the parser that agentd itself parses with.

    python scripts/shell_files.py DIRECTORY

makes DIRECTORY/completions/{bash/agentd,zsh/_agentd,fish/agentd.fish} and DIRECTORY/man/man1/. They depend on
nothing but the commands that are installed, their version, and SOURCE_DATE_EPOCH (the date of the man pages;
without it, that of the newest release in CHANGELOG.md). Whatever completes a name that only the configuration
knows is in completion.py, and what a man page says beside the help in man_page.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from completion import completions
from man_page import man_pages


def write(directory: Path) -> list[Path]:
    """Write all files below this directory, and return their paths."""
    made = {directory / "completions" / name: text for name, text in completions().items()}
    made |= {directory / "man" / "man1" / name: text for name, text in man_pages().items()}
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
    return list(made)


def main() -> int:
    """Write them."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):  # noqa: PLR2004 (one argument)
        sys.stderr.write("usage: python scripts/shell_files.py DIRECTORY\n")
        return 2
    os.environ.pop("AGENTD_CONFIG", None)  # the help names it
    os.environ["COLUMNS"] = "80"
    write(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
