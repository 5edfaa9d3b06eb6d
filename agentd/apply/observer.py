"""What commits and workers have to tell whoever counts; the agent passes its metrics in."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Counts. All durations are seconds; any thread may call."""

    def committed(self, seconds: float) -> None:
        """A commit became current; `seconds` from its stage to its flip, the check included."""

    def handled(self, handler: str, seconds: float) -> None:
        """One call of a handler returned or raised."""

    def retry(self, handler: str) -> None:
        """A change will be tried again."""

    def reloaded(self, result: str, seconds: float) -> None:
        """A proof was asked for: "proved" or "failed"."""

    def reloads_merged(self, count: int) -> None:
        """So many notifications needed no reload of their own."""

    def rolled_back(self) -> None:
        """A generation was taken back."""


class Blind:
    """Counts nothing: for a command line, and for tests."""

    def committed(self, seconds: float) -> None:
        """Ignored."""

    def handled(self, handler: str, seconds: float) -> None:
        """Ignored."""

    def retry(self, handler: str) -> None:
        """Ignored."""

    def reloaded(self, result: str, seconds: float) -> None:
        """Ignored."""

    def reloads_merged(self, count: int) -> None:
        """Ignored."""

    def rolled_back(self) -> None:
        """Ignored."""
