"""Fuzzes the parsers of everything that comes from outside: `scripts/fuzz [TARGET] [SECONDS]`.

Without a target all of them, one after another, which share the time: 600 seconds unless another is given. An
exception that is not one of the target's documented ones, an input that takes longer than 10 seconds and one
that takes more than 1 GB are findings; each is saved to a file, and told with the command that repeats it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import tests.fuzz.targets  # noqa: F401 (registers them)
from tests.fuzz.target import TARGETS, Target

_SECONDS: Final = 600
_LIMITS: Final = ("-timeout=10", "-rss_limit_mb=1024", "-max_len=20000", "-len_control=20")
_START: Final = 60  # seconds that a process may take beside its fuzzing
_FOUND: Final = Path(".cache/fuzz/found")
_CORPUS: Final = Path(".cache/fuzz/corpus")
_HEAD: Final = ("target", "executions", "a second", "new inputs", "findings")


class Result(NamedTuple):
    """What became of one target."""

    executions: int
    seconds: float
    new: int
    findings: list[Path]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, and print a table; the exit status is 1 if anything was found."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help=f"one of {', '.join(sorted(TARGETS))}")
    parser.add_argument(
        "seconds",
        nargs="?",
        type=float,
        default=_SECONDS,
        metavar="SECONDS",
        help="in all (600)",
    )
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="run this one input through the target")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and re.fullmatch(r"[0-9]+", given[0]):  # all targets, for so many seconds
        given = ["all", *given]
    chosen = parser.parse_args(given)
    if chosen.target not in {None, "all", *TARGETS}:
        parser.error(f"there is no target {chosen.target}; there are {', '.join(sorted(TARGETS))}")
    if chosen.repeat:
        if chosen.target not in TARGETS or not chosen.repeat.is_file():
            parser.error("give a target and a file: scripts/fuzz TARGET --repeat FILE")
        TARGETS[chosen.target](chosen.repeat.read_bytes())
        return 0
    names = sorted(TARGETS) if chosen.target in (None, "all") else [chosen.target]
    results = {name: _fuzz(TARGETS[name], chosen.seconds / len(names)) for name in names}
    _print(results)
    return int(any(result.findings for result in results.values()))


def _fuzz(target: Target, seconds: float) -> Result:
    """Run libFuzzer, which ends at its first finding."""
    print(f"{target.name} ...", file=sys.stderr, flush=True)
    corpus, found = _CORPUS / target.name, _FOUND / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    known, began = set(found.iterdir()), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="agentd-fuzz-") as directory:
        said = _run(target, corpus, found, seconds, Path(directory))
    findings = sorted(set(found.iterdir()) - known)
    for file in findings:
        print(f"FOUND: {file}; to repeat it: scripts/fuzz {target.name} --repeat {file}", file=sys.stderr)
    if findings or said.returncode:
        print(_cause(said.stdout), file=sys.stderr, flush=True)
    if said.returncode and not findings:
        findings = [found]  # it ended in a way that left no input
    return Result(
        _figure(said.stdout, r"number_of_executed_units: +(\d+)") or _figure(said.stdout, r"#(\d+)\t"),
        time.monotonic() - began,
        _figure(said.stdout, r"new_units_added: +(\d+)"),
        findings,
    )


def _run(
    target: Target, corpus: Path, found: Path, seconds: float, scratch: Path
) -> subprocess.CompletedProcess[str]:
    seeds = scratch / "seeds"
    seeds.mkdir()
    for number, file in enumerate(target.seeds()):
        (seeds / f"{number}-{file.name}").write_bytes(file.read_bytes())
    (scratch / "tmp").mkdir()  # whatever the target leaves behind when libFuzzer ends it
    argv = [
        sys.executable, "-m", "tests.fuzz.one", target.name, *_LIMITS,
        f"-max_total_time={max(1, round(seconds))}", f"-artifact_prefix={found}/", "-print_final_stats=1",
        str(corpus), str(seeds),
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(scratch / "tmp")}
    return subprocess.run(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        timeout=seconds + _START, check=False,
    )  # fmt: skip


def _figure(said: str, pattern: str) -> int:
    found = re.findall(pattern, said)
    return int(found[-1]) if found else 0


def _cause(said: str) -> str:
    """The traceback, or else the end of what libFuzzer said."""
    _, found, rest = said.partition("=== Uncaught Python exception: ===\n")
    return rest.partition("\n==")[0] if found else said[-2000:]


def _print(results: dict[str, Result]) -> None:
    lines = [_HEAD]
    for name, result in results.items():
        rate = f"{result.executions / result.seconds:.0f}"
        lines.append((name, f"{result.executions}", rate, f"{result.new}", f"{len(result.findings)}"))
    widths = [max(len(line[at]) for line in lines) for at in range(len(_HEAD))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(f"{sum(result.executions for result in results.values())} executions in all")


if __name__ == "__main__":
    sys.exit(main())
