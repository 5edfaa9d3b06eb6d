"""Reads words as nginx reads its configuration, one character after the other; independent of the handler.

Source: ngx_conf_read_token in nginx's src/core/ngx_conf_file.c
"""

from __future__ import annotations

from typing import Final

_SPACE: Final = " \t\r\n"
_UNESCAPED: Final = {'"': '"', "'": "'", "\\": "\\", "t": "\t", "r": "\r", "n": "\n"}


class UnreadableError(ValueError):
    """nginx would not read it."""


def words(text: str) -> list[str]:
    """The words, and ; { } as words of their own; without comments."""
    found: list[str] = []
    at, needs_space = 0, False
    while at < len(text):
        sign = text[at]
        if sign in _SPACE:
            needs_space, at = False, at + 1
        elif sign in ";{" or (sign == "}" and not needs_space):
            found.append(sign)
            needs_space, at = False, at + 1
        elif needs_space:
            raise UnreadableError(f"{sign!r} follows a quoted word")
        elif sign == "#":
            at = _end(text, at)
        elif sign in "\"'":
            word, at = _quoted(text, at)
            found.append(word)
            needs_space = True
        else:
            word, at = _plain(text, at)
            found.append(word)
    return found


def _end(text: str, at: int) -> int:
    line = text.find("\n", at)
    return len(text) if line < 0 else line


def _quoted(text: str, at: int) -> tuple[str, int]:
    quote, at, word = text[at], at + 1, ""
    while at < len(text):
        if text[at] == "\\" and at + 1 < len(text):
            word += _UNESCAPED.get(text[at + 1], text[at : at + 2])
            at += 2
        elif text[at] == quote:
            return word, at + 1
        else:
            word, at = word + text[at], at + 1
    raise UnreadableError("the quotes do not end")


def _plain(text: str, at: int) -> tuple[str, int]:
    word = ""
    while at < len(text) and text[at] not in f"{_SPACE};{{":
        if text[at] == "\\" and at + 1 < len(text):
            word += _UNESCAPED.get(text[at + 1], text[at : at + 2])
            at += 2
        elif text.startswith("${", at):
            word, at = f"{word}${{", at + 2
        else:
            word, at = word + text[at], at + 1
    return word, at
