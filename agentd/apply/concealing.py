"""Keeps what came sealed out of the texts of errors, which go to the journal, the log and Consul.

Handlers quote what they refuse, which is right for everything else.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from agentd.errors import AgentdError, TemporaryError

_SHORTEST: Final = 4  # characters in a row that count as quoted
_CONCEALED: Final = (
    "the handler's reason is not shown, since it quotes the payload, which came sealed: on a host with this"
    " handler, `agentd publish` tells it before it publishes anything"
)


@contextmanager
def concealed(secret: bytes | None) -> Iterator[None]:
    """Replace the text of an error that quotes the payload.

    Args:
        secret: the payload, if it came sealed; None: errors stay as they are.

    Raises:
        TemporaryError: any other exception, of which the type alone is told: a traceback may quote as well.
    """
    try:
        yield
    except AgentdError as error:
        if secret is not None and _quotes(str(error), secret):
            error.args = (_CONCEALED,)
        raise
    except Exception as error:
        if secret is None:
            raise
        raise TemporaryError(
            f"bug in the handler: {type(error).__name__}; no more is said, since the payload came sealed"
        ) from None


def _quotes(text: str, secret: bytes) -> bool:
    # Programs get the event as JSON, with the payload in base64, and may print that.
    encoded = base64.b64encode(secret).decode()
    return _share(text, secret.decode(errors="replace"), _SHORTEST) or _share(text, encoded, 2 * _SHORTEST)


def _share(text: str, payload: str, most: int) -> bool:
    """Whether the text has so many characters in a row of the payload, or all of one that is shorter."""
    size = min(most, len(payload))
    parts = {payload[at : at + size] for at in range(len(payload) - size + 1)} if size else set()
    return any(text[at : at + size] in parts for at in range(len(text) - size + 1))
