"""A pydantic field in the words of the YAML file: type, default, meaning. Reads models, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agentd.commands.output import shown
from agentd.options import parse_duration

_NAMES: Final = {type(None): "null", str: "text", bool: "true or false", int: "integer", float: "number"}
_UNITS: Final = {"d": 86400, "h": 3600, "m": 60}


def options_of(model: type[BaseModel]) -> dict[str, dict[str, str]]:
    """Field name -> {"type", "default", "description"}; "required" stands for no default."""
    return {
        name: {
            "type": type_text(info.annotation, info.metadata),
            "default": "required" if info.is_required() else _default(info),
            "description": info.description or "",
        }
        for name, info in model.model_fields.items()
    }


def type_text(annotation: Any, metadata: Sequence[object] = ()) -> str:  # noqa: ANN401 (any annotation)
    """The type, such as "duration", "list of text" or "path or null"."""
    if any(getattr(one, "func", None) is parse_duration for one in metadata):
        return "duration"
    if hasattr(annotation, "__metadata__"):
        return type_text(get_args(annotation)[0], annotation.__metadata__)
    parts = get_args(annotation)
    return _generic(get_origin(annotation), parts) if parts else _plain_type(annotation)


def _generic(origin: object, parts: Sequence[Any]) -> str:
    """A type with parameters; what is no collection is a choice."""
    if origin in (list, tuple, set, frozenset):
        return f"list of {type_text(parts[0])}"
    if origin is dict:
        return f"map of {type_text(parts[1])}"
    return " or ".join(shown(part) if origin is Literal else type_text(part) for part in parts)


def _plain_type(annotation: Any) -> str:  # noqa: ANN401 (as above)
    if isinstance(annotation, type) and issubclass(annotation, Path):
        return "path"
    return _NAMES.get(annotation) or str(getattr(annotation, "__name__", "any"))


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, float) and "duration" in type_text(info.annotation, info.metadata):
        return _duration(value)
    return shown(_plain(value))


def _duration(seconds: float) -> str:
    for unit, length in _UNITS.items():
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


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
