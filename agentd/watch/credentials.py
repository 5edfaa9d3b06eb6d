"""The ACL token: read from its file, never from the environment, never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agentd.errors import ConsulRefused

_LONGEST: Final = 4096


class Credentials:
    """The token of one client. Its text leaves this object only in `headers`."""

    def __init__(self, token_file: Path | None) -> None:
        self._file = token_file
        self._token = self._read()

    def __repr__(self) -> str:
        return f"Credentials({self._file})"

    @property
    def headers(self) -> dict[str, str]:
        """The header that carries the token; without a token Consul takes the request as anonymous."""
        return {"X-Consul-Token": self._token} if self._token else {}

    def renew(self) -> bool:
        """Read the file again, and say whether it holds another token now."""
        before, self._token = self._token, self._read()
        return self._token != before

    def hide(self, text: str) -> str:
        """Take the token out of a text that is to be shown."""
        return text.replace(self._token, "(token)") if self._token else text

    def _read(self) -> str:
        if self._file is None:
            return ""
        try:
            with self._file.open("rb") as file:
                token = file.read(_LONGEST + 1).strip()
        except OSError as error:
            raise ConsulRefused(f"token_file {self._file} cannot be read: {error.strerror}") from error
        # Anything but printable ASCII could end the header early and add another.
        if not token or len(token) > _LONGEST or not all(33 <= byte <= 126 for byte in token):  # noqa: PLR2004 ("!" to "~")
            raise ConsulRefused(f"token_file {self._file} must hold one token and nothing else")
        return token.decode("ascii")
