"""YAML with lines: the right booleans, no key twice, and a line for every value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agentd.config import yaml_document
from agentd.config.yaml_document import Document
from agentd.errors import ConfigError

LOADERS = list(yaml_document._LOADERS)

LAUGHS = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"a{level + 1}: &a{level + 1} [{', '.join([f'*a{level}'] * 10)}]\n" for level in range(9)
)
"""Ten lines that stand for ten billion values."""


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is run with PyYAML as it is installed, and as it is where libyaml is missing."""
    if request.param == "python":
        monkeypatch.setattr(yaml_document, "_LOADERS", yaml_document._LOADERS[-1:])


@pytest.mark.parametrize(
    "text,value",
    [
        ("on: [a]", {"on": ["a"]}),
        ("off: 1", {"off": 1}),
        ("a: yes", {"a": "yes"}),
        ("a: no", {"a": "no"}),
        ("a: true", {"a": True}),
        ("a: false", {"a": False}),
        ("a: True", {"a": "True"}),
        ("y: n", {"y": "n"}),
    ],
)
def test_only_true_and_false_are_booleans(text: str, value: dict[str, Any]) -> None:
    """`on:` is a key, as in YAML 1.2."""
    assert Document(text, "f").data == value


@pytest.mark.parametrize(
    "text,problem",
    [
        ("a: 1\nb: 2\na: 3\n", "f:3: 'a' is given twice"),
        ("m:\n  a: 1\n  a: 1\n", "f:3: 'a' is given twice"),
        ("a: [1\n", "f:2: expected ',' or ']', but got '<stream end>'"),
        ("a: b: c\n", "f:1: mapping values are not allowed here"),
        ("? [a]\n: 1\n", "f:1: a key must be a plain name"),
        ("a: !!python/object:os.system {}\n", "f:1: could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "f:2: but found another document"),
        ("a: \x00", "f: unacceptable character"),
        (r'a: [1, "/run\0token"]', "f:1: text must not contain NUL or surrogates"),
        (r'"a\0": 1', "f:1: text must not contain NUL or surrogates"),
        ('b: 1\na: "\\ud800"', "f:2: text must not contain NUL or surrogates"),
        ("a: 2024-99-99", "f: month must be in 1..12"),
        ("[" * 200_000, "f:1: more than 100 levels"),
        ("- " * 10_000, "f:1: more than 100 levels"),
        ("{a: " * 10_000 + "}" * 10_000, "f:1: more than 100 levels"),
        ("\n".join(" " * level + "a:" for level in range(1000)), "f:100: more than 100 levels"),
        ("a: &a\n  b: [*a]\n", "f:1: an alias to a value that contains it"),
        ("a: *b\n", "f:1: found undefined alias"),
        ("a: &x {p: 1}\nb: {<<: *x, <<: *x}\n", "f:2: '<<' is given twice"),
        ("a: {<<: 1}\n", "f:1: expected a mapping or list of mappings for merging"),
        (LAUGHS, "f:6: more than 1,000,000 values, aliases included"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line(text: str, problem: str) -> None:
    """In one line."""
    with pytest.raises(ConfigError) as caught:
        Document(text, "f")

    assert caught.value.problems[0].startswith(problem)
    assert len(caught.value.problems) == 1


def test_the_deepest_part_that_exists_has_the_line() -> None:
    """A field that is missing is told at the map that lacks it."""
    document = Document("a:\n  - x: 1\n  - y: 2\nb: 3\n", "f")

    lines = {
        path: document.line(path)
        for path in [(), ("a",), ("a", 1), ("a", 1, "y"), ("a", 1, "z"), ("a", 9), ("b",), ("c",), ("b", "x")]
    }

    assert list(lines.values()) == [1, 1, 3, 3, 3, 1, 4, 1, 4]


def test_a_problem_names_file_line_and_place() -> None:
    """As every line of a ConfigError."""
    document = Document("a:\n  - x: 1\n", "f.yaml")

    assert document.problem(("a", 0, "x"), "is odd") == "f.yaml:2: a.0.x: is odd"
    assert document.problem((), "is odd") == "f.yaml:1: is odd"


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    """Not as a traceback."""
    (tmp_path / "f.yaml").write_bytes(b"a: \xff\xfe\n")

    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        Document.read(tmp_path / "f.yaml")


_names = st.text("abcdefgh", min_size=1, max_size=4)
_values = st.recursive(
    st.integers() | st.booleans() | _names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_names, _values, min_size=1, max_size=5))
def test_block_style_round_trips_and_each_key_is_found_on_its_line(data: dict[str, Any]) -> None:
    """Whatever PyYAML writes of plain data."""
    text = yaml.safe_dump(data, default_flow_style=False, sort_keys=False)

    document = Document(text, "f")

    assert document.data == data
    for key in data:
        assert text.splitlines()[document.line((key,)) - 1].lstrip("? '").startswith(key)


@given(st.text(max_size=200))
def test_any_text_is_a_document_or_a_config_error(text: str) -> None:
    """Nothing else comes out."""
    try:
        Document(text, "f")
    except ConfigError as error:
        assert error.problems  # noqa: PT017 (either way is right)


def outcome(text: str, loaders: list[Any]) -> object:
    """What a text is to some loaders: its data and the line of each key, or the problems."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_document, "_LOADERS", loaders)
        try:
            document = Document(text, "f")
        except ConfigError as error:
            return error.problems
        keys = document.data if isinstance(document.data, dict) else {}
        return document.data, [document.line((str(key),)) for key in keys]


def test_libyaml_is_what_reads() -> None:
    """Where PyYAML has it, as in every package of it."""
    assert [loader.__name__ for loader in LOADERS] == ["_LibyamlLoader", "_PythonLoader"]


@given(st.text("ab:-[]{}&*<>|?#'\" \n%@,.01~", max_size=60))
def test_both_parsers_say_the_same(text: str) -> None:
    """The same values, lines and errors; libyaml alone takes a few things that the other refuses."""
    ours, pythons = outcome(text, LOADERS), outcome(text, LOADERS[-1:])

    assert repr(ours) == repr(pythons) or (isinstance(pythons, list) and isinstance(ours, tuple))


def test_merged_keys_are_found_where_they_are_written() -> None:
    """A key that came by `<<` has the line of the map it came from; one's own value wins."""
    document = Document("x: &x\n  a: 1\n  b: 2\ny:\n  <<: *x\n  b: 3\n", "f")

    assert document.data["y"] == {"a": 1, "b": 3}
    assert (document.line(("y", "a")), document.line(("x", "b"))) == (2, 3)


def test_a_map_merged_before_its_own_turn_has_no_key_twice() -> None:
    """`b` overrides a key of `a`, and is merged by a map that is nearer to the top."""
    text = "p: {q: {a: &a {k: 1}, b: &b {<<: *a, k: 2}}}\nc: {<<: *b}\n"

    assert Document(text, "f").data["c"] == {"k": 2}


def test_aliases_that_repeat_little_are_fine() -> None:
    """The same list in two places."""
    assert Document("a: &a [1, 2]\nb: *a\n", "f").data == {"a": [1, 2], "b": [1, 2]}
