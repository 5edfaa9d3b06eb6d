"""Fills in a manifest's templates: `{{ env "NAME" "default" }}`, `{{ must_env "NAME" }}`, `{{ "text" }}`.

Stretcher reads manifests through kayac/go-config, which runs the text through Go's text/template with these
two functions. Any other action is refused. `$NAME` is left to the shell.

The text comes from outside: each character is looked at once, so that the time grows with its length alone.

Source: https://pkg.go.dev/text/template
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_SPACE: Final = " \t\r\n"
_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |   (?P<name>[A-Za-z_]+)
    |   (?P<string>"(?:[^"\\\n]|\\["\\abfnrtv])*")
    |   (?P<raw>`[^`]*`)
    |   (?P<end>(?:(?<=[ \t\r\n])-)?\}\})""",
    re.VERBOSE,
)
_COMMENT: Final = re.compile(r"/\*(?:[^*]|\*(?!/))*\*/(?P<end>(?:[ \t\r\n]+-)?\}\})")
_ESCAPE: Final = re.compile(r"\\(.)")
_ESCAPES: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_KNOWN: Final = (
    'only the templates {{ env "NAME" "default" }}, {{ must_env "NAME" }} and literal text are known;'
    ' write a literal {{ as {{ "{{" }}'
)


def fill_in(text: str, environment: Mapping[str, str], longest: int) -> str:
    """Fill in the actions of a manifest.

    Args:
        text: the manifest.
        environment: the only variables that are known.
        longest: characters that may come out.

    Raises:
        ValueError: an unknown action, a variable that must be set and is not, or too many characters.
    """
    filled: list[str] = []
    at = length = 0
    trim = False
    while at < len(text):
        start = text.find("{{", at)
        plain = text[at : start if start >= 0 else len(text)]
        filled.append(plain.lstrip(_SPACE) if trim else plain)
        if start < 0:
            break
        at = start + 2
        if text[at : at + 1] == "-" and text[at + 1 : at + 2] in _SPACE and text[at + 1 : at + 2]:
            filled[-1] = filled[-1].rstrip(_SPACE)
            at += 1
        value, at = _action(text, at, environment)
        filled.append(value)
        trim = text[at - 3] == "-"
        length += len(value)
        if length > longest:
            raise ValueError(f"with its variables filled in it has more than {longest} characters")
    return "".join(filled)


def _action(text: str, at: int, environment: Mapping[str, str]) -> tuple[str, int]:
    """The value of the action that begins at `at`, and where the text goes on behind it."""
    comment = _COMMENT.match(text, at + 1 if text[at : at + 1] in _SPACE else at)
    if comment is not None:
        return "", comment.end()
    words: list[str] = []
    function = None
    apart = True
    while (token := _TOKEN.match(text, at)) is not None:
        at = token.end()
        if token.lastgroup == "end":
            return _value(function, words, environment), at
        if token.lastgroup == "space":
            apart = True
            continue
        if not apart or (token.lastgroup == "name" and (function or words)):
            break
        apart = False
        if token.lastgroup == "name":
            function = token[0]
        else:
            words.append(_unquoted(token[0]))
    if "}}" not in text[at:]:
        raise ValueError("{{ is not closed by }}")
    raise ValueError(_KNOWN)


def _value(function: str | None, words: list[str], environment: Mapping[str, str]) -> str:
    if function is None and len(words) == 1:
        return words[0]
    if function not in ("env", "must_env") or not words:
        raise ValueError(_KNOWN)
    if function == "env":
        # go-config's rule: the last word is the default, even if it is the only one.
        return next((environment[word] for word in words if environment.get(word)), words[-1])
    if len(words) != 1:
        raise ValueError("must_env takes one name")
    if words[0] not in environment:
        raise ValueError(f"the variable {words[0]!r:.100} is not set; add it to `env` in the options")
    return environment[words[0]]


def _unquoted(word: str) -> str:
    if word.startswith("`"):
        return word[1:-1].replace("\r", "")
    return _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[1]), word[1:-1])
