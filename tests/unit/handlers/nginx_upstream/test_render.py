"""The upstream's text: the built-in one, and the operator's template."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.handler import PermanentError
from handlers.nginx_upstream.render import PLACEHOLDER, Block, built_in, from_template, usable
from handlers.nginx_upstream.server import Server

ONE, TWO, SPARE = Server("10.0.0.1:80"), Server("10.0.0.2:80", weight=5), Server("10.0.0.3:80", backup=True)


def test_the_built_in_text() -> None:
    """What stands before and after the servers stands where nginx wants it."""
    block = Block("api", zone_size="64k", method="least_conn", keepalive=16)

    assert built_in(block, [ONE, TWO, SPARE]).decode() == (
        "# Written by agentd.\n"
        "upstream api {\n"
        "    zone api 64k;\n"
        "    least_conn;\n"
        "    server 10.0.0.1:80;\n"
        "    server 10.0.0.2:80 weight=5;\n"
        "    server 10.0.0.3:80 backup;\n"
        "    keepalive 16;\n"
        "}\n"
    )


def test_lua_balances_without_a_zone() -> None:
    """Its state lies in a dictionary of its own."""
    assert built_in(Block("api", lua=True, keepalive=4), [ONE]).decode().splitlines()[2:] == [
        "    server 10.0.0.1:80;",
        '    balancer_by_lua_block { require("dynamic_upstream").balance("api") }',
        "    keepalive 4;",
        "}",
    ]


def test_an_upstream_is_never_empty() -> None:
    """Nginx would refuse to start: the fallback takes the place, or a server that is down."""
    assert usable([], [ONE]) == [ONE]
    assert usable([], []) == [PLACEHOLDER]
    assert PLACEHOLDER.text() == "127.0.0.1:1 down"


def test_backups_alone_are_ordinary() -> None:
    """Nginx refuses an upstream of backups alone."""
    assert usable([SPARE], []) == [Server("10.0.0.3:80")]


def test_backups_are_left_out_where_the_method_knows_none() -> None:
    """With ip_hash, nginx refuses the word."""
    assert usable([ONE, SPARE], [], backups=False) == [ONE]


# ---------------------------------------------------------------- the template


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """Where the template lies."""
    return tmp_path / "upstream.j2"


def test_a_template_takes_the_place(template: Path) -> None:
    """It is given the block and the servers."""
    template.write_text(
        "upstream {{ upstream.name }} {\n"
        "{% for s in servers %}  server {{ s.text() }}; # {{ s.weight }}\n{% endfor %}"
        "}\n"
    )

    assert from_template(template, Block("api"), [ONE, TWO]).decode() == (
        "upstream api {\n  server 10.0.0.1:80; # 1\n  server 10.0.0.2:80 weight=5; # 5\n}\n"
    )


@pytest.mark.parametrize(
    "text, reason",
    [
        ("{{ nonsense }}", "UndefinedError"),
        ("{{ servers[0].colour }}", "UndefinedError"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ servers.clear() }}", "SecurityError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% include '/etc/passwd' %}", "TypeError"),
    ],
)
def test_a_template_that_fails_is_refused_with_the_reason(template: Path, text: str, reason: str) -> None:
    """Undefined names and ways out of the sandbox are errors, never empty text."""
    template.write_text(text)

    with pytest.raises(PermanentError, match=reason):
        from_template(template, Block("api"), [ONE])


def test_a_template_that_is_not_there_is_refused(template: Path) -> None:
    """With its path."""
    with pytest.raises(PermanentError, match=r"upstream\.j2"):
        from_template(template, Block("api"), [ONE])


def test_without_jinja_a_template_says_what_to_install(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an extra."""
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)

    with pytest.raises(PermanentError, match=r"config/requirements/template\.txt"):
        from_template(template, Block("api"), [ONE])
