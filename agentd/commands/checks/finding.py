"""One line of `agentd check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one subject.

    Attributes:
        level: "warn" is worth a look; with "FAIL" agentd cannot do its work.
        advice: what the operator can do about it; empty if all is well.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""
