"""Kills a process that is not one: after so many steps, an exception that nothing catches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Kill(BaseException):
    """The process ends here."""


class Fused:
    """What may be killed before and after each of its steps.

    Attributes:
        fuse: the steps until then; 0: it lives on.
    """

    fuse = 0

    def fused(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A step before or after which the process may end."""

        def run(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 (any step's)
            self.burn()
            result = step(*arguments, **named)
            self.burn()
            return result

        return run

    def burn(self) -> None:
        """One step nearer to the kill, if there is to be one."""
        if self.fuse:
            self.fuse -= 1
            if not self.fuse:
                raise Kill
