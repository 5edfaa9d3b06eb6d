"""One render: from templates and states to the contents of files; all of them, or an error.

Used by the program that renders; it knows neither the tree nor the journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from handlers.template.environment import Compiled, faults
from handlers.template.states import State, States
from handlers.template.templates import Template
from handlers.template.values import Json, TemplateError

__all__ = ["Template", "compiled", "mistakes", "rendered"]


def compiled(templates: Sequence[Template], on: Sequence[Mapping[str, Any]]) -> list[Compiled]:
    """Compile them.

    Raises:
        TemplateError: one has a mistake.
    """
    return [Compiled(one.name, one.text, one.escape, on) for one in templates]


def mistakes(templates: Sequence[Template], on: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """All mistakes of each template that can be found without a state."""
    return [[str(fault) for fault in faults(one.name, one.text, one.escape, on)] for one in templates]


def rendered(
    templates: Sequence[Template],
    made: Sequence[Compiled],
    on: Sequence[Mapping[str, Any]],
    answers: Sequence[tuple[bool, Json]],
    most: int,
) -> list[str]:
    """The content of each file.

    Args:
        templates: the templates.
        made: the same, compiled.
        on: the items of `on`, their defaults filled in.
        answers: of each, whether its state is here, and the state.
        most: bytes that all files may have together.

    Raises:
        TemplateError: one cannot be rendered.
    """
    states = States([State(one, *answer) for one, answer in zip(on, answers, strict=True)])
    texts, size = [], 0
    for template, one in zip(templates, made, strict=True):
        text = one.render(states.functions, discreet=template.discreet)
        try:
            size += len(text.encode())
        except UnicodeEncodeError as error:
            raise TemplateError(f"{template.name}: the result has half of a surrogate pair") from error
        if size > most:
            raise TemplateError(
                f"{template.name}: the result is larger than {most} bytes: if it should be, raise limits.size"
            )
        texts.append(text)
    return texts
