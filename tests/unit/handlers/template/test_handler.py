"""The handler `template` renders all files from the newest states, or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import ValidationError

from agentd.handler import PermanentError
from agentd.testing import HandlerHarness, instance, key, keyprefix, service
from handlers.template.handler import TemplateHandler

UPSTREAM: Final = """\
upstream api {
{% for one in service("api") %}
    server {{ one | host_port }} weight={{ one.weight }};
{% else %}
    server 127.0.0.1:1 down;
{% endfor %}
}
"""


def harness(text: str, *on: Mapping[str, Any], **file: Any) -> HandlerHarness:  # noqa: ANN401 (options)
    """A handler of one file, `out`."""
    options = {"files": [{"text": text, "path": "out"} | file]}
    return HandlerHarness(TemplateHandler, options, on=on)


def test_instances_become_an_upstream() -> None:
    """A template goes through the instances of a service."""
    made = harness(UPSTREAM, {"service": "api"})

    made.handle(service("api", [instance("10.0.0.2", 80), instance("10.0.0.1", 80)]))

    assert made.files["out"].decode().splitlines()[1:3] == [
        "    server 10.0.0.1:80 weight=1;",
        "    server 10.0.0.2:80 weight=1;",
    ]


def test_several_states_make_one_file() -> None:
    """Each state is asked for under its name, whichever of them changed."""
    made = harness(
        '{{ key("a") }} {{ keyprefix("p") | map(attribute="value") | join }}',
        {"key": "a"},
        {"keyprefix": "p/"},
    )

    made.handle(key("a", b"1"), keyprefix("p/", {"p/x": b"2", "p/y": b"3"}))
    made.handle(key("a", b"4"))

    assert made.files["out"] == b"4 23"


def test_an_error_names_the_template_and_the_line() -> None:
    """A refused value leaves the file as it is, and the reason says where it is printed."""
    made = harness('a\n{{ key("a") }}\n', {"key": "a"})
    made.handle(key("a", b"fine"))

    with pytest.raises(PermanentError, match="text of out, line 2: a value of 4 characters has ';'"):
        made.handle(key("a", b"a; b"))

    assert made.files["out"] == b"a\nfine\n"


def test_a_file_that_is_not_configured_any_more_is_removed() -> None:
    """What the options do not name leaves the tree."""
    made = harness("x", {"key": "a"})
    made.handle(key("a", b""))

    made.restart({"files": [{"text": "x", "path": "other"}]})
    made.handle(key("a", b"1"))

    assert made.files == {"other": b"x"}


def test_a_secret_gets_the_mode_of_one() -> None:
    """`secret: true` alone makes the file readable for its owner only."""
    made = harness('{{ key("a") }}', {"key": "a"}, secret=True, escape="none")

    made.handle(key("a", b"-----BEGIN; {"))

    assert made.modes["out"] == 0o600


def test_preflight_finds_what_the_first_change_would(tmp_path: Path) -> None:
    """A template that is missing, and a call that `on` does not answer, are found beforehand."""
    options = {
        "files": [
            {"source": str(tmp_path / "missing.j2"), "path": "a"},
            {"text": '\n{{ key("b") }}', "path": "b"},
        ]
    }
    made = HandlerHarness(TemplateHandler, options, on=[{"key": "a"}])

    found = {one.part: one.reason for one in made.preflight()}

    assert found["files.0.source"].endswith("missing.j2 cannot be read: No such file or directory")
    assert "line 2" in found["files.1.text"]
    assert "add {key: b} to `on`" in found["files.1.text"]


@pytest.mark.parametrize(
    "file",
    [
        {"path": "a"},
        {"path": "a", "text": "x", "source": "/x"},
        {"path": "a", "source": "relative.j2"},
        {"path": "a", "text": "x", "mode": "0644", "secret": True},
    ],
)
def test_options_that_cannot_be_meant_are_refused(file: Mapping[str, Any]) -> None:
    """One source for each file, by its whole path; and a secret that nobody else may read."""
    with pytest.raises(ValidationError):
        HandlerHarness(TemplateHandler, {"files": [file]})
