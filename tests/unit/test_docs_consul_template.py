"""docs/coming-from-consul-template.md: agentd writes what consul-template and confd wrote.

What those made of the page's own blocks was recorded by tests/bench/template_examples.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from agentd.testing import HandlerHarness
from agentd.watch.changes import KINDS
from handlers.template.environment import Compiled
from handlers.template.handler import TemplateHandler
from tests.pages import ROOT, of

PAGE: Final = ROOT / "docs" / "coming-from-consul-template.md"
RECORDED: Final = Path(__file__).parents[1] / "inputs" / "consul-template"
ON: Final[list[dict[str, Any]]] = [
    {"service": "api", "passing": True},
    {"service": "api", "passing": False},
    {"service": "api", "tag": "v2", "passing": True},
    {"key": "site/motd"},
    {"keyprefix": "maps/hosts"},
    {"services": True},
    {"nodes": True},
]


@pytest.mark.parametrize(
    "at, names",
    [(0, ["api.conf"]), (1, ["api-keys.conf"]), (2, ["hosts.map", "hosts-confd.map"])],
)
def test_both_give_the_same_bytes(at: int, names: list[str]) -> None:
    """From the answers of the same Consul."""
    (entry,) = (one for one in yaml.safe_load(_yaml(at)).values() if one["use"] == "template")
    harness = HandlerHarness(TemplateHandler, entry["options"], on=entry["on"])
    answers = json.loads((RECORDED / "answers.json").read_text())
    (item,) = entry["on"]
    query = ":".join(map(str, next(iter(item.items()))))

    harness.handle(KINDS[query.partition(":")[0]](query, answers[query]))

    for name in names:
        assert list(harness.files.values()) == [(RECORDED / name).read_bytes()]


def _yaml(at: int) -> str:
    """One of the page's entries, with `on` as agentd reads it."""
    return re.sub(r"(?m)^( *)on:", r'\1"on":', of("yaml", page=PAGE)[at].text)


def expressions() -> Iterator[str]:
    """What the tables' second columns name in code, as Jinja2 expressions."""
    for row in re.findall(r"(?m)^\| .* \|$", PAGE.read_text()):
        ours = re.split(r"(?<!\\)\|", row)[2].replace("\\|", "|")
        for code in re.findall(r"`([^`]+)`", ours):
            if code.startswith("| "):
                yield f"x {code}"
            elif re.match(r'[a-z_]+\(.*\)|"', code):
                yield code


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_what_the_tables_name_is_there(expression: str) -> None:
    """Functions, filters and tests alike, as far as `agentd check` sees."""
    Compiled("page", f"{{% set x = [] %}}{{% set y = {expression} %}}", "nginx", ON)
