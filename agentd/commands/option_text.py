"""Describes a field of a section as the YAML file sees it: type, default, meaning.

Reads models and dataclasses, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agentd.commands.output import shown
from agentd.section import Section
from agentd.values import parse_duration, parse_size

_NAMES: Final = {type(None): "null", str: "text", bool: "true or false", int: "integer", float: "number"}
_WRITTEN: Final[dict[object, str]] = {parse_duration: "duration", parse_size: "size"}
_DURATIONS: Final = {"d": 86400, "h": 3600, "m": 60}
_SIZES: Final = {"G": 2**30, "M": 2**20, "k": 2**10}


def fields_of(model: type) -> dict[str, FieldInfo]:
    """The fields of a model, or of a `Section`, by name."""
    if issubclass(model, BaseModel):
        return model.model_fields
    hints = get_type_hints(model, include_extras=True)
    every = fields(model)  # type: ignore[arg-type] # it is a dataclass
    return {one.name: FieldInfo.from_annotated_attribute(hints[one.name], one) for one in every}


def options_of(model: type) -> dict[str, dict[str, str]]:
    """Field name -> {"type", "default", "description"}; the default is "required" if there is none."""
    return {
        name: {
            "type": type_text(info.annotation, info.metadata),
            "default": "required" if info.is_required() else _default(info),
            "description": info.description or "",
        }
        for name, info in fields_of(model).items()
    }


def sections_of(model: type, besides: Sequence[object] = ()) -> Iterator[tuple[str, type]]:
    """The fields that are sections of their own; "lists.NAME" is the form of those in a map.

    Args:
        model: whose fields.
        besides: annotations and models that are left out.
    """
    for name, info in fields_of(model).items():
        nested = _model_in(info.annotation, besides)
        if nested is not None:
            yield (f"{name}.NAME" if get_origin(info.annotation) is dict else name), nested


def _model_in(annotation: Any, besides: Sequence[object]) -> type | None:  # noqa: ANN401 (any annotation)
    if any(annotation is one for one in besides):
        return None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel | Section):
        return annotation
    found = (_model_in(part, besides) for part in get_args(annotation))
    return next((one for one in found if one is not None), None)


def type_text(annotation: Any, metadata: Sequence[object] = ()) -> str:  # noqa: ANN401 (any annotation)
    """The type, such as "duration", "list of text" or "path or null"."""
    for one in metadata:
        if (written := _WRITTEN.get(getattr(one, "func", None))) is not None:
            return written
    if hasattr(annotation, "__metadata__"):
        return type_text(get_args(annotation)[0], annotation.__metadata__)
    parts = get_args(annotation)
    return _generic(get_origin(annotation), parts) if parts else _plain_type(annotation)


def _generic(origin: object, parts: Sequence[Any]) -> str:
    """A type with parameters: a collection or a choice."""
    if origin in (list, tuple, set, frozenset):
        return f"list of {type_text(parts[0])}"
    if origin is dict:
        return f"map of {type_text(parts[1])}"
    return " or ".join(shown(part) if origin is Literal else type_text(part) for part in parts)


def _plain_type(annotation: Any) -> str:  # noqa: ANN401 (as above)
    for cls, text in ((Path, "path"), (BaseModel, "section"), (Section, "section")):
        if isinstance(annotation, type) and issubclass(annotation, cls):
            return text
    return _NAMES.get(annotation) or str(getattr(annotation, "__name__", "any"))


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True, validated_data={})
    written = type_text(info.annotation, info.metadata)
    if isinstance(value, float) and "duration" in written:
        return _with_unit(value, _DURATIONS, "s")
    if isinstance(value, int) and "size" in written:
        return _with_unit(value, _SIZES, "")
    if isinstance(value, BaseModel | Section) and value == type(value)():
        return "{}"
    return shown(_plain(value))


def _with_unit(value: float, units: Mapping[str, int], smallest: str) -> str:
    for unit, length in units.items():
        if value and value % length == 0:
            return f"{value / length:g}{unit}"
    return f"{value:g}{smallest}"


def _plain(value: object) -> object:
    """The value in JSON's types."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else str(value)
