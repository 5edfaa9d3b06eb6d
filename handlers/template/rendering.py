"""One render: from templates and states to the contents of files; all of them, or an error.

Used by the program that renders; it knows neither the tree nor the journal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.template.environment import Compiled, Escape
from handlers.template.states import State, States
from handlers.template.values import TemplateError


@dataclass(frozen=True)
class Template:
    """One template.

    Attributes:
        name: as messages say it.
        text: the template itself.
        escape: what is done with values.
        discreet: whether messages must not quote what may be secret.
    """

    name: str
    text: str
    escape: Escape = "nginx"
    discreet: bool = False


def compiled(templates: Sequence[Template], on: Sequence[Mapping[str, Any]]) -> list[Compiled]:
    """Compile them.

    Raises:
        TemplateError: one has a mistake.
    """
    return [Compiled(one.name, one.text, one.escape, on) for one in templates]


def rendered(
    templates: Sequence[Template],
    made: Sequence[Compiled],
    on: Sequence[Mapping[str, Any]],
    bodies: Sequence[str | None],
    most: int,
) -> list[str]:
    """The content of each file.

    Args:
        templates: the templates.
        made: the same, compiled.
        on: the items of `on`, their defaults filled in.
        bodies: the state of each, as JSON; None for one that is not here.
        most: bytes that all of them may have together.

    Raises:
        TemplateError: one cannot be rendered.
    """
    states = States(
        [
            State(one, body is not None, json.loads(body or "null"))
            for one, body in zip(on, bodies, strict=True)
        ]
    )
    texts, size = [], 0
    for template, one in zip(templates, made, strict=True):
        text = one.render(states.functions, discreet=template.discreet)
        try:
            size += len(text.encode())
        except UnicodeEncodeError as error:
            raise TemplateError(
                f"{template.name}: the result has half a surrogate pair, which is no text"
            ) from error
        if size > most:
            raise TemplateError(
                f"{template.name}: the result is larger than {most} bytes: if it should be, raise limits.size"
            )
        texts.append(text)
    return texts
