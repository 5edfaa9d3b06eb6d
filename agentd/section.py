"""Sections of the YAML file that commands read too, usually without pydantic.

Importing pydantic and building its models takes longer than all else that `agentd fleet` does. So such a
section is a frozen dataclass: pydantic checks it with the rest of the file, while a command takes what is
plainly written, by the same declarations. What is not plain is left to pydantic, which alone reports errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, get_args, get_origin, get_type_hints

from agentd.values import parse_duration

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

T = TypeVar("T")

_DESCRIPTION: Final = "description"


@dataclass(frozen=True, slots=True)
class Before:
    """In `Annotated`: `func` makes the value, before its type and limits are checked."""

    func: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """As pydantic's BeforeValidator, which is imported only here."""
        from pydantic import BeforeValidator  # noqa: PLC0415 (slow)

        return BeforeValidator(self.func).__get_pydantic_core_schema__(source, handler)


@dataclass(frozen=True, slots=True)
class After:
    """In `Annotated`: `func` returns the value, or raises ValueError."""

    func: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """As pydantic's AfterValidator, which is imported only here."""
        from pydantic import AfterValidator  # noqa: PLC0415 (slow)

        return AfterValidator(self.func).__get_pydantic_core_schema__(source, handler)


Duration = Annotated[float, Before(parse_duration)]
"""Seconds, written as "55s" or "1h30m"."""


class Section:
    """The base of every such dataclass: an unknown field is an error, never ignored."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 (pydantic reads it, nobody writes it)


def option(default: Any = MISSING, *, description: str, **limits: float) -> Any:  # noqa: ANN401 (as `field`)
    """A field of a section; without a default it is required.

    Args:
        default: the value if the file does not set it.
        description: for the reference page.
        limits: as pydantic's `Field` takes them: gt, ge, lt, le, min_length.
    """
    return field(default=default, metadata={_DESCRIPTION: description, **limits})


def plain(kind: type[T], given: object) -> T | None:
    """A section without pydantic; None if it takes pydantic to say what is meant, or what is wrong.

    Args:
        kind: its class; only of a `Section` there is anything plain.
        given: the value in the file.
    """
    if not (issubclass(kind, Section) and isinstance(given, dict)):
        return None
    hints = get_type_hints(kind, include_extras=True)
    limited = {one.name for one in fields(kind) if one.metadata.keys() - {_DESCRIPTION}}  # type: ignore[arg-type] # it is a dataclass
    if given.keys() & limited:
        return None
    try:
        return kind(**{name: _taken(hints[name], value) for name, value in given.items()})
    except (LookupError, TypeError, ValueError):  # unknown, missing, wrong, or just not plain
        return None


def _taken(hint: Any, value: object) -> Any:  # noqa: ANN401 (of any type)
    """The value of a field. Raises ValueError if it is not plain."""
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        value = _taken(inner, value)
        for mark in marks:
            value = mark.func(value)
        return value
    kinds = get_args(hint) or (hint,)
    if isinstance(value, bool | None) and type(value) in kinds:
        return value
    if isinstance(value, str) and value.isascii():  # other text may not be UTF-8
        if str in kinds:
            return value
        if Path in kinds:
            return Path(value)
    raise ValueError("not plain")
