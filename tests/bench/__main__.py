"""Runs the benches, prints the table, writes the JSON: `scripts/bench [NAME ...] [--json FILE]`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.rows import HEAD, Row

BENCHES = (
    "trace",
    "latency",
    "serving",
    "staging",
    "burst",
    "idle",
    "soak",
    "commands",
    "deploy",
    "blacklist",
    "down",
    "upstream",
    "upstream_scale",
    "upstream_load",
    "template",
    "trust",
    "tickets",
    "tickets_faults",
    "tickets_cpu",
    "tickets_scale",
    "fleet_relay",
    "fleet_table",
    "fleet_acknowledgements",
    "fleet_losses",
    "fleet_live",
    "fleet_cost",
    "fleet_down",
)
GROUPS = {
    "fleet": ("fleet_losses", "fleet_live", "fleet_cost", "fleet_down"),
    "tickets_all": ("tickets", "tickets_faults", "tickets_cpu", "tickets_scale"),
}
"""What is named together: those of a real fleet, and those of ticket keys."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them one after the other; the exit status is 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join((*BENCHES, *GROUPS))}; all by default"
    )
    parser.add_argument(
        "--json", type=Path, default=Path(".cache/bench.json"), help="where the figures are written"
    )
    parser.add_argument("--minutes", metavar="M", help="how long the soak lasts; 20 by default")
    chosen = parser.parse_args(arguments)
    if chosen.minutes:
        os.environ["SOAK_MINUTES"] = chosen.minutes  # read where the soak is imported
    names = [name.replace("-", "_") for name in chosen.names]
    chosen.names = [one for name in names for one in GROUPS.get(name, (name,))]
    unknown = set(chosen.names) - set(BENCHES)
    if unknown:
        parser.error(
            f"no bench named {', '.join(sorted(unknown))}; there are {', '.join((*BENCHES, *GROUPS))}"
        )
    found: list[Row] = []
    for name in chosen.names or BENCHES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found += _run(name)
        _write(chosen.json, found)  # each time: one that is interrupted keeps what it has
    _print(found)
    print(f"\n{_machine()}\nwritten to {chosen.json}")
    return 0 if all(row.met for row in found) else 1


def _run(name: str) -> list[Row]:
    module = importlib.import_module(f"tests.bench.{name}")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"agentd-{name}-")))
        return list(module.rows(stack, directory))


def _write(file: Path, found: Sequence[Row]) -> None:
    report = {"machine": _machine(), "rows": [row.json() for row in found]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")


def _print(found: Sequence[Row]) -> None:
    lines = [HEAD, *(row.cells() for row in found)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(HEAD))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = platform.release().split("-")[0]
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {kernel}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
