"""Reads single sections of the YAML file, for commands that need no more than those.

What is wrong elsewhere in the file does not matter here. It imports no model: the caller brings its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from agentd.config.yaml_document import Document
from agentd.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import ValidationError

T = TypeVar("T")
Place: TypeAlias = tuple[str | int, ...]

_MESSAGES: Final = {
    "extra_forbidden": "unknown field",
    "unexpected_keyword_argument": "unknown field",
    "invalid_key": "unknown field",
    "path_type": "a path is needed here",
    "missing": "this field is required",
    "dict_type": "a map is needed here",
    "model_type": "a map is needed here",
    "dataclass_type": "a map is needed here",
    "tuple_type": "a list is needed here",
    "too_short": "this must not be empty",
    "string_too_short": "this must not be empty",
}


def read_document(path: Path) -> Document:
    """Read a configuration file, which must be a map.

    Raises:
        ConfigError: it cannot be read, is not YAML, or is not a map.
    """
    document = Document.read(path)
    if not isinstance(document.data, Mapping):
        raise ConfigError([f"{path}:1: the file must be a map with at least `handlers:`"])
    return document


def read_section(document: Document, name: str, kind: type[T]) -> T:
    """One section of a configuration, checked; the defaults if it is not there.

    Raises:
        ConfigError: with every problem of the section, each with file and line.
    """
    from agentd.section import plain  # noqa: PLC0415 (`read_document` does without)

    given = document.data.get(name, {})
    found = plain(kind, given)
    return _checked(document, name, kind, given) if found is None else found


def _checked(document: Document, name: str, kind: type[T], given: object) -> T:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 (slow)

    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        raise ConfigError(list(problems_of(document, (name,), error))) from error


def problems_of(document: Document, base: Place, error: ValidationError) -> Iterator[str]:
    """One line for each of pydantic's errors in what is at `base`."""
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        message = _MESSAGES.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
        yield document.problem(_untagged(base + detail["loc"]), message)


def _untagged(place: Place) -> Place:
    """Without the tag of the union that pydantic puts after the number of an item of a handler's `on:`."""
    return place[:4] + place[5:] if place[:1] == ("handlers",) and place[2:3] == ("on",) else place
