"""docs/troubleshooting.md quotes what agentd says: every message is in the code."""

from __future__ import annotations

import re
from functools import cache

import pytest

from tests.pages import ROOT, prose

PAGE = ROOT / "docs" / "troubleshooting.md"
EVENT = re.compile(r"[a-z_]+\.[a-z_.]+")


@cache
def code() -> str:
    """The program's code, without what separates the parts of a string."""
    files = (*(ROOT / "agentd").rglob("*.py"), *(ROOT / "handlers").rglob("*.py"))
    text = "\n".join(file.read_text() for file in sorted(files))
    return re.sub(r"""["']\s*\n\s*f?["']""", "", text).replace("{{}}", "{}")


def quoted() -> list[str]:
    """What stands in the first column of the tables."""
    rows = re.findall(r"(?m)^\| (`.*?) \| ", prose(PAGE))
    return [text for row in rows for text in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("message", quoted())
def test_it_is_what_agentd_says(message: str) -> None:
    """Each part between what differs stands in the code as it is quoted."""
    parts = [part.strip(" :;,()") for part in message.split("…")]

    assert [part for part in parts if part and part not in code()] == []


def test_all_tables_are_read() -> None:
    """Otherwise the test above would be empty."""
    assert len(quoted()) > 70
    assert sum(1 for one in quoted() if EVENT.fullmatch(one)) > 15
