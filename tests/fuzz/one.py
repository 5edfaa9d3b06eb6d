"""One target under atheris, until its time is over or it finds something.

A process of its own: libFuzzer ends it. Its arguments are the target's name and libFuzzer's own.
"""

from __future__ import annotations

import importlib
import resource
import sys

import atheris

from tests.fuzz.json_mutation import mutate

_MEMORY = 3 << 30  # bytes of address space; a bomb is then a MemoryError with a traceback
_STRUCTURED = 4  # of so many mutations of JSON, one is left to libFuzzer


def main() -> None:
    """Instrument agentd, and fuzz."""
    with atheris.instrument_imports(include=["agentd", "handlers", "email", "tarfile"]):
        importlib.import_module("tests.fuzz.targets")
    chosen = importlib.import_module("tests.fuzz.target").TARGETS[sys.argv[1]]

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        made = mutate(data, seed) if seed % _STRUCTURED else data
        return made if made != data and len(made) <= most else bytes(atheris.Mutate(data, most))

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    mutator = {"custom_mutator": mutated} if chosen.structured else {}
    atheris.Setup([sys.argv[0], *sys.argv[2:]], chosen, **mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
