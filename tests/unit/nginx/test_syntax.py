"""How one file of nginx's configuration is read into statements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.nginx.syntax import ConfigSyntaxError, Statement, parse

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


def quoted(word: str) -> str:
    """The word as a string in double quotes."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize(
    "text, arguments",
    [
        ("a b c;", ("b", "c")),
        ("a 'b ; c' \"d { e\";", ("b ; c", "d { e")),
        ('a "say \\"x\\"" b\\ c;', ('say "x"', "b\\ c")),
        ("a ${b}c $d;", ("${b}c", "$d")),
        ("a b#c; # d e;", ("b#c",)),
        ("a b}c;", ("b}c",)),
        ("a\n\tb\r\n;", ("b",)),
    ],
)
def test_words_are_those_of_nginx(text: str, arguments: tuple[str, ...]) -> None:
    """Quotes, escapes, variables and comments."""
    assert parse(text) == [Statement("a", arguments, 1, block=False, inside=-1)]


@given(st.lists(WORDS, max_size=4))
def test_any_quoted_words_come_back(words: list[str]) -> None:
    """Whatever characters they have."""
    [found] = parse(f"a {' '.join(map(quoted, words))};")

    assert found.arguments == tuple(words)


@given(st.text(st.sampled_from("ab \n;{}\"'\\$#"), max_size=40))
def test_no_text_is_too_odd(text: str) -> None:
    """It is read, or refused with the line of the fault; either way it ends."""
    line = 1
    try:
        parse(text)
    except ConfigSyntaxError as error:
        line = error.line

    assert 1 <= line <= text.count("\n") + 1


def test_statements_know_their_block_and_line() -> None:
    """The line is where the directive begins."""
    found = parse("http {\n server {\n  listen\n 80;\n }\n}\nuser x;")

    assert [(one.name, one.line, one.inside) for one in found] == [
        ("http", 1, -1),
        ("server", 2, 0),
        ("listen", 3, 1),
        ("user", 7, -1),
    ]


@pytest.mark.parametrize(
    "lua", ["a[b[1]] = {}", 'x = "\\"}" {}', "x = '\\\\' {}", "--[==[ }]] ]==] {}", "[[}]] {}", "[=[}]=] {}"]
)
def test_strings_and_comments_of_lua_end_where_they_do(lua: str) -> None:
    """What follows the block is read."""
    assert [one.name for one in parse(f"a_by_lua_block {{ {lua} }} b;")] == ["a_by_lua_block", "b"]


@pytest.mark.parametrize("lua", ['"', "'", '"\\', "[[", "[=[ ]]", "--[[ }", '"\\"'])
def test_what_is_not_closed_in_lua_takes_the_rest(lua: str) -> None:
    """It would stop nginx as well."""
    assert [one.name for one in parse(f"a_by_lua_block {{ {lua} }} b;")] == ["a_by_lua_block"]


def test_lua_is_not_taken_for_directives() -> None:
    """Braces in its strings and comments do not count, and lines go on being counted."""
    lua = "local t = { \"}\" } --[[ }\n} ]] -- }\nngx.say([==[ } ]==], '}')\n"

    found = parse(f"a {{ content_by_lua_block {{ {lua} }} }}\nb;")

    assert [(one.name, one.line) for one in found] == [("a", 1), ("content_by_lua_block", 1), ("b", 5)]


def test_only_the_wanted_directives_are_kept() -> None:
    """Without what is in the blocks of the others."""
    text = "http { server { listen 80; root /; location / { listen 81; } } } user x;"

    found = parse(text, {"http", "server", "listen"})

    assert [(one.name, one.arguments, one.inside) for one in found] == [
        ("http", (), -1),
        ("server", (), 0),
        ("listen", ("80",), 1),
    ]


def test_what_comes_before_a_fault_is_kept() -> None:
    """So that the rest of the configuration can still be looked at."""
    with pytest.raises(ConfigSyntaxError, match='unexpected "}"') as caught:
        parse("a;\nb }\n")

    assert ([one.name for one in caught.value.statements], caught.value.line) == (["a"], 2)
