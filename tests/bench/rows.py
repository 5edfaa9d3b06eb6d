"""A figure, what it is held against, and how it is printed and judged."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure of the bench.

    Attributes:
        what: what was measured.
        ours: agentd's figure, with its unit in `unit`.
        against: what it is held against, in words.
        theirs: that one's figure in the same unit, or None where the goal is a plain number.
        figure: what is judged: the ratio ours/theirs, or `ours` itself.
        goal: the most that `figure` may be.
    """

    what: str
    unit: str
    ours: float
    against: str
    theirs: float | None
    goal: float
    note: str = ""

    @property
    def figure(self) -> float:
        """What is judged."""
        return self.ours if self.theirs is None else self.ours / self.theirs

    @property
    def met(self) -> bool:
        """Whether the goal was met."""
        return self.figure <= self.goal

    def json(self) -> dict[str, object]:
        """For the JSON file."""
        return {
            "what": self.what, "unit": self.unit, "ours": self.ours,
            "against": self.against, "theirs": self.theirs,
            "figure": self.figure, "goal": self.goal, "met": self.met, "note": self.note,
        }  # fmt: skip

    def cells(self) -> tuple[str, ...]:
        """For the table."""
        theirs = "" if self.theirs is None else f"{self.theirs:.3g} {self.unit}"
        figure = f"{self.figure:.2f}" if self.theirs is not None else f"{self.figure:.3g} {self.unit}"
        verdict = "met" if self.met else "MISSED"
        return (
            self.what,
            f"{self.ours:.3g} {self.unit}",
            self.against,
            theirs,
            figure,
            f"{self.goal:g}",
            verdict,
            self.note,
        )


HEAD = ("what", "agentd", "against", "theirs", "figure", "at most", "", "")


def spread(values: Sequence[float]) -> str:
    """Least to most, as a note beside a median."""
    return f"n={len(values)}, {min(values):.3g} to {max(values):.3g}"


def p50(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)
