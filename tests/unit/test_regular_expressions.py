"""Every regular expression: the time that it takes grows with the text, not with its square.

While an expression is at work, no other thread of the daemon is: one on a text from outside that takes its
time is an outage. pydantic's `pattern` is not asked for; its engine is linear by itself.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import pytest

import agentd
import handlers
from tests.timing import TIMES, Growth, growth

SIZE: Final = 2048
METHODS: Final = frozenset({"match", "fullmatch", "search", "sub", "split", "findall", "finditer"})
MOST: Final = 120
"""Hostile texts for one expression."""
HOSTILE: Final = (
    *" a1-.:/\n\"'\\{[(<",
    '\\"',
    "\\'",
    "--[[\n",
    "[=[",
    "{{",
    ";\n",
    "\nhash ",
    "a_",
    "Name: a\nType: a\n",
)


class Use(NamedTuple):
    """An expression and how it is asked: "agentd.http:78 fullmatch"."""

    where: str
    pattern: re.Pattern[Any]
    method: str


def modules() -> Iterator[ModuleType]:
    """All of agentd and its handlers."""
    for package in (agentd, handlers):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


@cache
def uses() -> list[Use]:
    """Every use of an expression in the source."""
    return [use for module in modules() for use in uses_in(module)]


def uses_in(module: ModuleType) -> Iterator[Use]:
    """Those of one module: `re.METHOD(pattern, ...)` and `PATTERN.METHOD(...)`."""
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner, method = node.func.value, node.func.attr
        if not isinstance(owner, ast.Name) or method not in METHODS:
            continue
        pattern: object = getattr(module, owner.id, None)
        if owner.id == "re":
            pattern = re.compile(evaluated(node.args[0], module), flags(node))
        if isinstance(pattern, re.Pattern):
            yield Use(f"{module.__name__}:{node.lineno}", pattern, method)


def evaluated(node: ast.expr, module: ModuleType) -> str | bytes:
    """A pattern that stands in the source."""
    value = getattr(module, node.id) if isinstance(node, ast.Name) else ast.literal_eval(node)
    assert isinstance(value, str | bytes)
    return value


def flags(call: ast.Call) -> int:
    """re.MULTILINE, where it is given."""
    return sum(getattr(re, node.attr) for node in call.args[2:] if isinstance(node, ast.Attribute))


# ---------------------------------------------------------------------- hostile texts


def example(tokens: Any) -> str:  # noqa: ANN401 (the standard library's own)
    """A text that the expression takes, with each part once at least."""
    return "".join(example_of(str(kind), value) for kind, value in tokens)


def example_of(kind: str, value: Any) -> str:  # noqa: ANN401 (the standard library's own)
    """The same for one part."""
    if kind == "LITERAL":
        return chr(value)
    if kind in ("ANY", "NOT_LITERAL"):
        return "a" if value != ord("a") else "b"
    if kind == "IN":
        return member(value)
    if kind.endswith("_REPEAT"):
        return example(value[2]) * int(max(1, min(value[0], 3)))
    if kind in ("SUBPATTERN", "ATOMIC_GROUP"):
        return example(value[-1] if kind == "SUBPATTERN" else value)
    return "".join(map(example, value[1])) if kind == "BRANCH" else ""


CATEGORIES: Final = {
    "DIGIT": "1",
    "SPACE": " ",
    "WORD": "a",
    "NOT_DIGIT": "a",
    "NOT_SPACE": "a",
    "NOT_WORD": "-",
}


def member(items: Any) -> str:  # noqa: ANN401 (as above)
    """A character of a class."""
    negated = str(items[0][0]) == "NEGATE"
    if negated:
        excluded = {chr(value) for kind, value in items[1:] if str(kind) == "LITERAL"}
        return next(one for one in "a1 -" if one not in excluded)
    kind, value = str(items[0][0]), items[0][1]
    if kind in ("LITERAL", "RANGE"):
        return chr(value if kind == "LITERAL" else value[0])
    return CATEGORIES.get(str(value).removeprefix("CATEGORY_"), "a")


def pieces(pattern: re.Pattern[Any]) -> list[tuple[str, str]]:
    """What may take the expression far, and what then is repeated."""
    parser: Any = importlib.import_module("re._parser")
    asked = pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else pattern.flags
    good = example(parser.parse(pattern.pattern, asked))
    parts = [(good[:at], good[at : at + length]) for length in (1, 2, 3, 5, 9) for at in range(len(good))]
    found = list(dict.fromkeys([*parts, ("", good), *(("", one) for one in HOSTILE)]))
    return [one for one in found[:: max(1, len(found) // MOST)] if one[1]]


def texts(pattern: re.Pattern[Any], size: int) -> Iterator[Any]:
    """Texts of about a size that take the expression far, again and again, and then fail it."""
    for start, piece in pieces(pattern):
        text = start + piece * (size // len(piece)) + "\0"
        yield text.encode("latin-1", "replace") if isinstance(pattern.pattern, bytes) else text


def asking(pattern: re.Pattern[Any], method: str) -> Callable[[Any], object]:
    """The work of a use on a text."""
    if method == "sub":
        return lambda text: pattern.sub(text[:0], text)
    if method == "finditer":
        return lambda text: list(pattern.finditer(text))
    work: Callable[[Any], object] = getattr(pattern, method)
    return work


def slow(use: Use, size: int = SIZE) -> Iterator[tuple[str, Growth]]:
    """The texts for which it takes a time that grows faster than they do."""
    work = asking(use.pattern, use.method)
    for text, longer in zip(texts(use.pattern, size), texts(use.pattern, TIMES * size), strict=True):
        found = growth(work, text, longer)
        if not found.linear:
            yield repr(text[:40]), found


def test_the_uses_are_found() -> None:
    """Of both kinds."""
    assert len(uses()) > 60
    assert {use.method for use in uses()} >= {"match", "fullmatch", "search", "sub", "findall"}


@pytest.mark.parametrize("use", uses(), ids=lambda use: f"{use.where} {use.method}")
def test_every_expression_is_linear(use: Use) -> None:
    """Or there is an outage to be had for the sending of a text."""
    assert list(slow(use)) == []


@pytest.mark.parametrize("pattern", [r"\{\{(.*?)\}\}", r"\s+$"])
def test_a_slow_expression_would_be_found(pattern: str) -> None:
    """Those that the test must know."""
    use = Use("here", re.compile(pattern), "search")

    assert next(slow(use, 1024))
