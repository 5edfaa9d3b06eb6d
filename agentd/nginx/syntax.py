"""The syntax of nginx's configuration: one file's text as a list of statements.

Owns what a word, a string, a comment, a block and a Lua block are; it knows no directive's meaning and
follows no include. Written after nginx's own reader, `ngx_conf_read_token`; Lua blocks after that of
lua-nginx-module.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(
    r"""
    (?: \s+ | \#[^\n]* )*+
    (?:
        (?P<mark> [;{}] )
        | "(?P<double> (?: [^"\\] | \\. )* )"
        | '(?P<single> (?: [^'\\] | \\. )* )'
        | (?P<word> (?: \$\{ | \\. | [^\s;{\\"'] ) (?: \$\{ | \\. | [^\s;{\\] )*+ )
        | (?P<end> \Z )
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\([\"'\\trn])")
_ESCAPED: Final = {"t": "\t", "r": "\r", "n": "\n"}
_LEFT_OUT: Final = -2  # instead of a block's place
_DEEPEST: Final = 100
_LUA_BLOCK: Final = "_by_lua_block"
_LUA: Final = re.compile(
    r"""
    --\[(=*)\[ (?: .*? \]\1\] | .* ) | --[^\n]*        # comments; one that is not closed takes the rest
    | \[(=*)\[ (?: .*? \]\2\] | .* )                   # long strings
    | "(?: [^"\\] | \\. )* (?: " | \\?\Z ) | '(?: [^'\\] | \\. )* (?: ' | \\?\Z )
    | (?P<mark> [{}] )
    """,
    re.VERBOSE | re.DOTALL,
)


class Statement(NamedTuple):
    """One directive of a file.

    Attributes:
        line: where it begins.
        block: whether it opens a block.
        inside: the place in the list of the statement whose block it is in; -1 at the top of the file.
    """

    name: str
    arguments: tuple[str, ...]
    line: int
    block: bool
    inside: int


class ConfigSyntaxError(ValueError):
    """What nginx would not read either. `line` is where; `statements` is what came before."""

    def __init__(self, text: str, line: int, statements: list[Statement]) -> None:
        super().__init__(text)
        self.line = line
        self.statements = statements


def parse(text: str, names: Collection[str] | None = None) -> list[Statement]:
    """Read one file.

    Args:
        text: its content.
        names: the directives that are wanted; the others, with everything in their blocks, are left out.
            None: all of them.

    Raises:
        ConfigSyntaxError: an unbalanced brace, or an unfinished directive or string.
    """
    reading = _Reading(text, names)
    place = 0
    while (match := _TOKEN.match(text, place)) is not None:
        place, kind = match.end(), match.lastgroup
        if kind == "end":
            reading.end()
            return reading.found
        if kind != "mark":
            reading.word(match, kind or "")
        elif match[0][-1] == "}":
            reading.close(match)
        elif reading.directive(match, block=match[0][-1] == "{"):
            place = _end_of_lua(text, place)
    raise reading.error("unexpected end of file in a string", len(text))


class _Reading:
    """What has been read of a file so far."""

    def __init__(self, text: str, names: Collection[str] | None) -> None:
        self.found: list[Statement] = []
        self._text = text
        self._names = names
        self._blocks: list[int] = []  # the places in `found` of those that are open
        self._words: list[str] = []
        self._began = 0
        self._line, self._counted = 1, 0

    def word(self, match: re.Match[str], kind: str) -> None:
        """Go on with a directive, or begin one."""
        if not self._words:
            self._began = match.start(kind)
        word = match[kind]
        self._words.append(_ESCAPE.sub(_unescaped, word) if "\\" in word else word)

    def directive(self, match: re.Match[str], *, block: bool) -> bool:
        """End a directive, or begin its block; whether what follows is Lua."""
        words, self._words = self._words, []
        inside = self._blocks[-1] if self._blocks else -1
        wanted = bool(words) and inside != _LEFT_OUT and (self._names is None or words[0] in self._names)
        if wanted:
            self._line += self._text.count("\n", self._counted, self._began)
            self._counted = self._began
            self.found.append(Statement(words[0], tuple(words[1:]), self._line, block, inside))
        if not block or (words and words[0].endswith(_LUA_BLOCK)):
            return block
        self._blocks.append(len(self.found) - 1 if wanted else _LEFT_OUT)
        if len(self._blocks) > _DEEPEST:
            raise self.error("nested too deeply; the rest was not read", match.end())
        return False

    def close(self, match: re.Match[str]) -> None:
        """End a block."""
        if self._words or not self._blocks:
            raise self.error('unexpected "}"', match.end())
        self._blocks.pop()

    def end(self) -> None:
        """There is no more."""
        if self._words or self._blocks:
            expected = '";" or "}"' if self._words else '"}"'
            raise self.error(f"unexpected end of file, expecting {expected}", len(self._text))

    def error(self, text: str, place: int) -> ConfigSyntaxError:
        """A fault at this place; the end of the file is on its last line."""
        line = self._text.rstrip("\n").count("\n", 0, place) + 1
        return ConfigSyntaxError(text, line, self.found)


def _unescaped(match: re.Match[str]) -> str:
    return _ESCAPED.get(match[1], match[1])


def _end_of_lua(text: str, place: int) -> int:
    """Where the Lua code ends: after its closing brace, or at the end of the text."""
    depth = 1
    for match in _LUA.finditer(text, place):
        depth += {"{": 1, "}": -1}.get(match["mark"] or "", 0)
        if not depth:
            return match.end()
    return len(text)
