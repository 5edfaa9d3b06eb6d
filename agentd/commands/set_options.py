"""The options of a configured handler as they are set, without what may be secret in them.

Whoever may run `agentd handlers` need not be allowed to read the configuration's passwords, and its output
ends up in tickets and chats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from agentd.commands.output import shown
from agentd.digest import digest
from agentd.report.redaction import is_secret, redact

_USER: Final = re.compile(r"(?<=://)[^@\s]+(?=@)")
_ASSIGNED: Final = re.compile(r"([\w-]+)=([^\s&]+)")
_FLAG: Final = re.compile(r"(--?[\w-]+) +([^\s-]\S*)")
_HEADER: Final = re.compile(r"([\w-]+): *([^'\"]+)")
_LOGIN: Final = ("u", "user", "p", "pass", "pw")
_VARIABLES: Final = "env"


def set_options(options: object) -> dict[str, str]:
    """Name -> value in one line, for each that is set; empty if `options` is no map."""
    if not isinstance(options, Mapping):
        return {}
    return {str(name): shown(_harmless(value, str(name))) for name, value in options.items()}


def _harmless(value: Any, name: str) -> Any:  # noqa: ANN401 (any YAML)
    """The value without secrets, by the name of the option, or of the variable or flag that is in it."""
    if name == _VARIABLES and isinstance(value, Mapping):
        return {str(one): _digest(str(text)) for one, text in value.items()}
    if is_secret(name) and isinstance(value, str):
        return _digest(value)
    if isinstance(value, Mapping):
        return {str(one): _harmless(item, str(one)) for one, item in value.items()}
    if isinstance(value, list):
        before = ["", *value]
        return [_harmless(item, _flag(flag, item)) for flag, item in zip(before, value, strict=False)]
    return _without(value) if isinstance(value, str) else redact(value)


def _flag(word: object, value: object) -> str:
    """The name that a word of a command line gives to the next one, such as "token" after "--token"."""
    if not (isinstance(word, str) and word.startswith("-")) or "=" in word:
        return ""
    return "password" if _is_secret(word, str(value)) else ""


def _is_secret(name: str, value: str) -> bool:
    """Whether a flag, variable or header of this name holds a secret; `-u NAME:PASSWORD` is one."""
    login = name.startswith("-") and name.lstrip("-") in _LOGIN
    return is_secret(name) or (login and (":" in value or not name.lstrip("-").startswith("u")))


def _without(text: str) -> str:
    """The text without passwords in URLs, and without `token=...`, `--token ...` and `Authorization: ...`."""
    text = _USER.sub("...", str(redact(text)))
    for pattern in (_HEADER, _ASSIGNED, _FLAG):
        text = pattern.sub(lambda found: _hidden(found) if _is_secret(found[1], found[2]) else found[0], text)
    return text


def _hidden(found: re.Match[str]) -> str:
    between = found[0][len(found[1]) : -len(found[2])]
    return f"{found[1]}{between}({_digest(found[2])})"


def _digest(text: str) -> str:
    return digest(text.encode(errors="surrogatepass"))
