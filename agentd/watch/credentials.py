"""The ACL token: read from its file, or given by the person who runs a command; never shown."""

from __future__ import annotations

from typing import Final

from agentd.errors import ConsulRefused
from agentd.watch.options import ConsulOptions

_LONGEST: Final = 4096


class Credentials:
    """The token of one client. Its text leaves this object only in `headers`."""

    def __init__(self, options: ConsulOptions) -> None:
        token = options.token
        self._file = None if token else options.token_file
        self._name = options.name_of("token_file")
        self._given = token or ""
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
            given = self._given.encode(errors="surrogateescape")  # as it is in the environment
            return _checked(given, self._name) if given else ""
        try:
            with self._file.open("rb") as file:
                token = file.read(_LONGEST + 1)
        except OSError as error:
            raise ConsulRefused(f"{self._name}: {self._file} cannot be read: {error.strerror}") from error
        return _checked(token, f"{self._name}: {self._file}")


def _checked(raw: bytes, name: str) -> str:
    """Anything but printable ASCII could end the header early and add another."""
    token = raw.strip()
    if not token or len(token) > _LONGEST or not all(33 <= byte <= 126 for byte in token):  # noqa: PLR2004 ("!" to "~")
        raise ConsulRefused(f"{name} must hold one token and nothing else")
    return token.decode("ascii")
