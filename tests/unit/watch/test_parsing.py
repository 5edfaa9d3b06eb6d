"""Answers of Consul as JSON: an item that cannot be read costs only itself, and no more than it weighs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.watch import parsing
from agentd.watch.parsing import NOT_AN_OBJECT, NOT_JSON, TOO_DEEP, TOO_LARGE, parse

_GOOD = b'{"ID": "a", "Tags": ["x", "{[\\"\\\\"]}'
_SCALARS = st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]))
_JSON = st.recursive(
    _SCALARS, lambda one: st.lists(one, max_size=4) | st.dictionaries(st.text(max_size=3), one, max_size=4)
)
_OBJECTS = st.lists(st.dictionaries(st.text(max_size=3), _JSON, min_size=1, max_size=4), max_size=4)
_MEASURE = """
import re, sys
from agentd.watch import parsing
from agentd.watch.parsing import parse
parsing.HEAVIEST = 2**25
body = eval(sys.argv[1])
before = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
try:
    print(len(parse(body).value), end=" ")
except ValueError:
    print("refused", end=" ")
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) - before)
"""


@given(_OBJECTS | st.dictionaries(st.text(max_size=3), _JSON, max_size=4))
def test_what_is_sound_is_read_as_it_is(value: Any) -> None:  # noqa: ANN401 - any JSON
    """At once or item by item: the same value, and nothing is left out."""
    body = json.dumps(value, ensure_ascii=False, indent=1).encode()

    assert parse(body) == parsing.Parsed(value)
    assert parsing.by_item(body) == parsing.Parsed(value)


@pytest.mark.parametrize(
    "item,reason",
    [
        (b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", TOO_DEEP),
        (b'{"a": ' + b"[0,{}," * 40 + b"0" + b"]" * 40 + b"}", TOO_DEEP),
        (b'{"a": [' + b"[]," * 700_000 + b"[]]}", TOO_LARGE),
        (b'{"a": [' + b"0," * 700_000 + b"0]}", TOO_LARGE),
        (b'{"a": NaN}', NOT_JSON),
        (b'{"a": -Infinity}', NOT_JSON),
        (b'{"a": 1e999}', NOT_JSON),
        (b'{"a": ' + b"9" * 5_000 + b"}", NOT_JSON),
        (b'{"a": 1, "a": 2}', NOT_JSON),
        (b'{"a": "\xff"}', NOT_JSON),
        (b'{"a": "\\ud800"}', NOT_JSON),
        (b'{"a": "\n"}', NOT_JSON),
        (b'{"a": }', NOT_JSON),
        (b"{}", ""),
        (b'["ID"]', NOT_AN_OBJECT),
    ],
    ids=range(15),
)
def test_an_item_that_cannot_be_read_is_left_out(item: bytes, reason: str) -> None:
    """The ones before and behind it are read."""
    parsed = parsing.by_item(b"[" + b",".join([_GOOD, item, _GOOD]) + b"]")

    assert [one for one in parsed.value if one] == [json.loads(_GOOD)] * 2
    assert [one.reason for one in parsed.odd] == [reason or NOT_AN_OBJECT]


@pytest.mark.parametrize(
    "odd",
    [b"NaN", b'"\xff"', b"1e999", b"nonsense", b'"x",' * 700_000 + b"0", b"[],null,[[]],7"],
    ids=["nan", "bytes", "infinite", "nonsense", "many", "mixed"],
)
def test_plain_values_cost_no_object_beside_them(odd: bytes) -> None:
    """They are told as one, wherever they stand."""
    parsed = parse(b"[" + b",".join([odd, _GOOD, odd, _GOOD, odd]) + b"]")

    assert [one for one in parsed.value if isinstance(one, dict)] == [json.loads(_GOOD)] * 2
    assert [one.reason for one in parsed.odd] in ([NOT_AN_OBJECT], [])


@pytest.mark.parametrize("between", [b"{}", b"[]", b'{"b": [1]}', b'1, "c": {}', b'1, "c": [], "d": {}'])
@pytest.mark.parametrize("name", [b'"a"', b'"\\u0061"'])
def test_a_repeated_name_is_odd_whatever_stands_between(between: bytes, name: bytes) -> None:
    """The first one counts."""
    first = b'{"a": ' + between
    found = parse(first + b", " + name + b": 1}")
    assert found.value == json.loads(first + b"}")
    assert [one.reason for one in found.odd] == [NOT_JSON]


@pytest.mark.parametrize("levels,found", [(31, 3), (32, 2), (5_000, 2)])
@pytest.mark.parametrize("text", [b'"]"', b'"}"', b'"[", "{]]"', b'""', b'"\\"]"', b'"\\\\", "]"'])
def test_brackets_in_texts_hide_no_depth(text: bytes, levels: int, found: int) -> None:
    """Nor do quotes between texts: where all is parsed in one go as well, only structure counts."""
    deep = b'{"a": ' + b"[" * (levels - 1) + text + (b", " + text + b"]") * (levels - 1) + b"}"
    parsed = parse(b"[" + b", ".join([_GOOD, deep, _GOOD]) + b"]")

    assert len(parsed.value) == found
    assert [one.reason for one in parsed.odd] == [TOO_DEEP] * (3 - found)


def test_the_same_item_is_known_again_and_another_is_not() -> None:
    """So that it is counted once, however often Consul lists it."""
    first, again, other = (
        parse(b"[" + item + b"]").odd[0].id
        for item in (b'{"a": NaN}', b'{"c": 1}, {"a": NaN} ', b'{"b": NaN}')
    )

    assert first == again != other


@pytest.mark.parametrize("body", [b"", b"[", b"[{}", b"[]]", b'{"a"', b"nonsense", b"[] []", b'["'])
def test_what_has_no_end_is_no_answer(body: bytes) -> None:
    """It was cut off, or is not JSON at all."""
    with pytest.raises(ValueError, match=r"no end|follows its end|neither a list"):
        parse(body)


@pytest.mark.parametrize(
    "body,found",
    [
        ('b\'[{"a":1},\' + b"[]," * 1_000_000 + b\'{"a":1}]\'', "2"),
        ('b\'[{"a":1},{"a":[\' + b"[]," * 1_000_000 + b\'[]]},{"a":1}]\'', "2"),
        ("b'[' + b'{\"\":0},' * 200_000 + b'{\"\":0}]'", "refused"),
    ],
    ids=["items", "in-one-item", "small-objects"],
)
def test_what_would_weigh_too_much_is_not_parsed(body: str, found: str) -> None:
    """3 MB of `[]` would take 60 MB."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, body], capture_output=True, text=True, check=True, timeout=120
    )
    items, grown = done.stdout.split()

    assert items == found
    assert int(grown) < (50_000 if found == "refused" else 15_000)
