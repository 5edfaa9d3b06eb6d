"""What a fuzz target is: a function of bytes, and the exceptions by which it may refuse them.

Targets must run without atheris as well: the unit tests run every input of the corpus through its target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
_INPUTS: Final = _HERE.parent / "inputs"


@dataclass(frozen=True, slots=True)
class Target:
    """One parser, or one way through several.

    Attributes:
        name: as in `scripts/fuzz NAME`, and the name of its directory in the corpus.
        run: takes the bytes; whatever it raises besides `refusals` is a finding.
        refusals: the documented exceptions.
        structured: whether the input is JSON, which is then also mutated value by value.
        inputs: names in tests/inputs that are seeds as well.
    """

    name: str
    run: Callable[[bytes], None]
    refusals: tuple[type[Exception], ...]
    structured: bool
    inputs: tuple[str, ...]

    def __call__(self, data: bytes) -> None:
        """Try one input."""
        with suppress(*self.refusals):
            self.run(data)

    @property
    def corpus(self) -> Path:
        """The directory of its seeds, and of the inputs that were findings once."""
        return _HERE / "corpus" / self.name

    def seeds(self) -> Iterator[Path]:
        """Every input that is kept."""
        if self.corpus.is_dir():
            yield from sorted(self.corpus.iterdir())
        yield from (_INPUTS / name for name in self.inputs)


TARGETS: Final[dict[str, Target]] = {}
"""By name, once `tests.fuzz.targets` is imported."""


def target(
    *refusals: type[Exception], structured: bool = False, inputs: tuple[str, ...] = ()
) -> Callable[[Callable[[bytes], None]], Target]:
    """Make a function the target of its name; see `Target` for the arguments."""

    def register(run: Callable[[bytes], None]) -> Target:
        made = Target(run.__name__, run, refusals, structured, inputs)
        TARGETS[made.name] = made
        return made

    return register
