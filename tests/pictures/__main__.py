"""scripts/pictures: makes docs/pictures/ anew."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PLACE: Final = Path(__file__).parents[2] / "docs" / "pictures"
KINDS: Final = ("terminal", "page")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the pictures of the kinds that are named; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/pictures", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"one of {', '.join(KINDS)}; default: all")
    kinds = parser.parse_args(arguments).kinds or KINDS
    PLACE.mkdir(exist_ok=True)
    for kind in kinds:
        module = f"tests.pictures.{kind}"
        if importlib.util.find_spec(module) is None:
            print(f"there are no pictures of {kind}", file=sys.stderr)
            return 2
        for file in importlib.import_module(module).take(PLACE):
            print(f"{file.relative_to(PLACE.parents[1])}: {file.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
