"""What one template is, for those who render it and those who have it rendered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Escape = Literal["nginx", "none"]


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
