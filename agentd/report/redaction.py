"""The last line of defence: a secret is shown only as its length and a short digest.

Owns the rules for which fields are secret. Callers should not log secrets in the first place; this catches
those that do, by the field's name, for bytes always, and in any text by the beginning of a secret key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from agentd.digest import digest

# A field is secret if one of these words is in its name, ...
_SECRET_WORDS: Final = {
    *("authorization", "cookie", "credential", "credentials", "passphrase", "passwd", "password"),
    *("payload", "payloads", "secret", "secrets", "token", "tokens"),
}
# ... or if its name ends in one of these: `ticket_key` is one, `key_file` and `key_count` are not.
_SECRET_LAST: Final = {
    "body",
    "content",
    "contents",
    "data",
    "key",
    "keys",
    "raw",
    "stdin",
    "value",
    "values",
}
# Metadata about a secret is not secret: `token_file`, `payload_bytes`.
_ABOUT: Final = {"age", "bytes", "count", "digest", "file", "length", "path", "seconds", "sha", "size"}
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # digits part words: `payload_sha256` is about
_DIGEST: Final = re.compile(r"[0-9]+ bytes sha256:[0-9a-f]{8}")

_KEY: Final = re.compile(r"(?:k4\.secret|agentd1\.fleet)\.[A-Za-z0-9_-]+")  # see `agentd.trust.keys`

_LONGEST: Final = 8192  # characters of one string
_MOST: Final = 256  # items of one collection
_DEEPEST: Final = 6  # collections within collections


def is_secret(name: str) -> bool:
    """Whether a field of this name (snake_case, kebab-case or camelCase) holds a secret."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _ABOUT:
        return False
    return words[-1] in _SECRET_LAST or not _SECRET_WORDS.isdisjoint(words)


def redact(value: Any, name: str = "", depth: int = 0) -> Any:  # noqa: ANN401 (any value, to JSON's types)
    """Turn `value`, of the field `name`, into what may be shown: JSON types only, and bounded in size.

    Numbers and booleans are shown even in a secret field; a digest is not digested again.
    """
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, float) or math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return digest(bytes(value))
    if is_secret(name):
        text = value if isinstance(value, str) else repr(value)
        return text if _DIGEST.fullmatch(text) else digest(text.encode(errors="surrogatepass"))
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _collection(value, depth + 1)
    return _shortened(str(value))


def _collection(value: Any, depth: int) -> Any:  # noqa: ANN401 (as above)
    if depth > _DEEPEST:
        return f"({len(value)} items)"
    if isinstance(value, Mapping):
        pairs = list(value.items())[:_MOST]
        return {_name(key): redact(item, _name(key), depth) for key, item in pairs}
    return [redact(item, "", depth) for item in list(value)[:_MOST]]


def _name(key: object) -> str:
    return digest(key) if isinstance(key, bytes) else _shortened(str(key))


def _shortened(text: str) -> str:
    """Without secret keys; keep both ends: the last line of a traceback says what happened."""
    text = _KEY.sub(lambda found: digest(found[0].encode()), text)
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]} ... ({len(text)} characters) ... {text[-half:]}"
