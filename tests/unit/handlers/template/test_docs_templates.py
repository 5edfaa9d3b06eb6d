"""The filters of docs/templates.md print what the page says, and the examples make what nginx reads."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from agentd.testing import HandlerHarness, instance, key, keyprefix, service
from handlers.template.environment import Compiled
from handlers.template.filters import FILTERS, TESTS
from handlers.template.handler import TemplateHandler
from handlers.template.states import FUNCTIONS, State, States
from tests.pages import ROOT

PAGE: Final = ROOT / "docs" / "templates.md"
EXAMPLES: Final = ROOT / "config" / "examples" / "templates"
_ROW: Final = re.compile(r"^\| (.*?) \| `(\{\{.*\}\})` \| `(.*)` \|$", re.MULTILINE)
_KEYS: Final = {"app/name": "shop", "app/db/host": "db1", "app/db/port": "5432"}


def rows() -> list[tuple[str, str, str]]:
    """Filter, example and result of each row."""
    return [
        (one[1], one[2].replace("\\|", "|"), one[3].replace("\\|", "|"))
        for one in _ROW.finditer(PAGE.read_text())
    ]


def states() -> list[State]:
    """What the page says that Consul has."""
    two = [
        instance("10.0.0.1", 8080, Tags=["v1"], Meta={"zone": "a"}),
        instance("2001:db8::1", 8080, Tags=["v2"], Meta={"zone": "b"}),
    ]
    pairs = [{"Key": name, "Value": base64.b64encode(one.encode()).decode()} for name, one in _KEYS.items()]
    return [
        State({"service": "api", "tag": None, "passing": True}, come=True, raw=service("api", two).raw),
        State({"keyprefix": "app/"}, come=True, raw=pairs),
    ]


@pytest.mark.parametrize("example, result", [row[1:] for row in rows()])
def test_an_example_prints_what_the_page_says(example: str, result: str) -> None:
    """In a file of nginx's."""
    found = states()

    assert (
        Compiled("t", example, "nginx", [one.on for one in found]).render(States(found).functions) == result
    )


def test_the_page_has_every_function_filter_and_test() -> None:
    """And no filter that is not there."""
    text = PAGE.read_text()
    listed = {name for row in rows() for name in re.findall(r"`(\w+)", row[0])}

    assert listed == FILTERS.keys() | TESTS.keys()
    assert [one for one in FUNCTIONS if f"`{one}(" not in text] == []


def example(name: str) -> HandlerHarness:
    """One handler of the example, its template read from the checkout."""
    entry: dict[str, Any] = yaml.safe_load((EXAMPLES / "agentd.yaml").read_text().replace(" on:", ' "on":'))
    found = entry["handlers"][name]
    options = found["options"]
    for file in options["files"]:
        file["text"] = (EXAMPLES / Path(file.pop("source")).name).read_text()
    return HandlerHarness(TemplateHandler, options, on=found["on"])


def test_the_example_of_an_upstream() -> None:
    """Its servers, with a backup; and a placeholder while there is none."""
    made = example("api")
    made.handle(service("api", [instance("10.0.0.1", 80), instance("10.0.0.2", 80, Tags=["backup"])]))
    full = made.files["templates/api.conf"].decode()
    made.handle(service("api", []))

    assert "    server 10.0.0.1:80 weight=1;\n    server 10.0.0.2:80 weight=1 backup;\n}" in full
    assert b"    server 127.0.0.1:1 down;\n" in made.files["templates/api.conf"]


def test_the_example_of_a_map() -> None:
    """Whatever the keys are called."""
    made = example("hosts")

    made.handle(keyprefix("maps/hosts/", {"maps/hosts/include": b"a b;\n"}), key("maps/default", None))

    assert made.files["templates/hosts.conf"].decode().splitlines()[1:] == [
        "map $host $backend_of_host {",
        '    default "api";',
        '    "\\\\include" "a b;";',
        "}",
    ]
