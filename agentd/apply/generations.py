"""The generations that lie in one directory, as a catalogue.

It owns their names and numbers, and which of them are pruned. It must not know which one is current but by
being told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from agentd.apply import candidate, disk
from agentd.apply.manifest import View
from agentd.errors import TreeError

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Generation:
    """One row of `agentd generations`.

    Attributes:
        created: unix time, in seconds.
        paths: all files of handlers.
        changes: those that differ from the generation it was built on.
    """

    number: int
    created: float
    paths: tuple[str, ...]
    changes: tuple[str, ...]
    current: bool


class Generations:
    """The catalogue of `directory`, which need not exist. It keeps nothing in memory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def numbers(self) -> list[int]:
        """The numbers of all generations, ascending; 0 is not one."""
        try:
            names = [entry.name for entry in self.directory.iterdir()]
        except OSError:
            return []
        return sorted(number for name in names if (number := candidate.number_of(name)))

    def open(self, number: int) -> View:
        """Open a generation for reading.

        Raises:
            TreeError: there is no such generation, or its manifest is damaged.
        """
        directory = self.directory / candidate.name(number)
        try:
            return View.open(directory)
        except FileNotFoundError as error:
            raise TreeError(f"there is no generation {number}; see `agentd generations`") from error
        except (OSError, ValueError) as error:
            raise TreeError(f"{directory} cannot be read: {error}; choose another generation") from error

    def find(self, number: int) -> View:
        """Open a generation, or an empty one if there is no such readable generation."""
        with suppress(TreeError):
            return self.open(number)
        return self.nothing()

    def nothing(self) -> View:
        """What is there before the first generation."""
        return View.nothing(self.directory / candidate.name(0))

    def rows(self, current: int) -> Iterator[Generation]:
        """All generations in ascending order; one that cannot be read is logged and left out."""
        for number in self.numbers():
            try:
                manifest = self.open(number).manifest
            except TreeError as error:
                _log.warning("tree.generation_unreadable", generation=number, error=str(error))
                continue
            paths = tuple(sorted(path for path, entry in manifest.files.items() if entry.owner is not None))
            yield Generation(number, manifest.created, paths, manifest.changes, number == current)

    def prune(self, keep: int, hold: Collection[int]) -> None:
        """Remove all but the newest `keep` and those held; what cannot be removed is logged."""
        for number in self.numbers()[:-keep]:
            if number not in hold:
                disk.discard(self.directory / candidate.name(number))
