"""Fills in a manifest from the environment: `{{ env "NAME" "default" }}` and `{{ must_env "NAME" }}`.

Stretcher reads manifests through kayac/go-config, which runs the whole text through Go's text/template with
these two functions. They are all that is known here; any other action is refused. `$NAME` is the shell's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_ACTION: Final = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_WORD: Final = r'(?:"(?:[^"\\\n]|\\["\\nt])*"|`[^`]*`)'
_CALL: Final = re.compile(rf"\s*(env|must_env)((?:\s+{_WORD})+)\s*")
_ESCAPED: Final = re.compile(r"\\(.)")
_ESCAPES: Final = {"n": "\n", "t": "\t"}


def fill_in(text: str, environment: Mapping[str, str]) -> str:
    """Replace every action by its value.

    Args:
        text: the manifest.
        environment: the only variables that there are.

    Raises:
        ValueError: an unknown action, or a variable that must be set and is not.
    """
    filled = _ACTION.sub(lambda found: _value(found[1], environment), text)
    if "{{" in _ACTION.sub("", text):
        raise ValueError("it has {{ without }}")
    return filled


def _value(action: str, environment: Mapping[str, str]) -> str:
    call = _CALL.fullmatch(action)
    if call is None:
        raise ValueError('of templates, only {{ env "NAME" "default" }} and {{ must_env "NAME" }} are known')
    words = [_unquoted(word) for word in re.findall(_WORD, call[2])]
    if call[1] == "env":
        # go-config's own rule: the last word stands for itself, even if it is the only one.
        return next((environment[word] for word in words if environment.get(word)), words[-1])
    if len(words) != 1:
        raise ValueError("must_env takes one name")
    if words[0] not in environment:
        raise ValueError(f"the variable {words[0]!r:.100} is not set; add it to `env` in the options")
    return environment[words[0]]


def _unquoted(word: str) -> str:
    if word.startswith("`"):
        return word[1:-1]
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), word[1:-1])
