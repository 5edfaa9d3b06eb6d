"""Where this node's daemon answers a command, as the section `status:` has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agentd.values import asked_at, parse_listening

if TYPE_CHECKING:
    from agentd import http
    from agentd.options import StatusOptions


class DaemonAddress(NamedTuple):
    """Address, port, and the files of what it takes to be believed and answered.

    Attributes:
        cert_file: the certificate that the daemon shows; None: it does not use TLS.
        token_file: the token; None: it wants none.
    """

    host: str
    port: int
    cert_file: Path | None = None
    token_file: Path | None = None

    def exchange(self, path: str, *, timeout: float, max_size: int) -> http.Response:
        """Ask for a path. The token goes to nobody but who has the certificate's key.

        Raises:
            ExchangeError: no complete answer.
            ConfigError: one of the files cannot be used.
        """
        from agentd import http  # noqa: PLC0415 (most commands only read files)

        address = http.TCPAddress(asked_at(self.host), self.port)
        headers = {}
        if self.cert_file is not None:
            from agentd.report.certificate import trusting  # noqa: PLC0415 (only with TLS)

            address = address._replace(tls=trusting(self.cert_file))
        if self.token_file is not None:
            from agentd.report.access import read_token  # noqa: PLC0415 (only with a token)

            headers["Authorization"] = f"Bearer {read_token(self.token_file).decode('ascii')}"
        return http.exchange(address, path, headers=headers, timeout=timeout, max_size=max_size)


def daemon_address(options: StatusOptions) -> DaemonAddress | None:
    """As configured; None if there is none."""
    if options.address is None:
        return None
    return DaemonAddress(*parse_listening(options.address), options.cert_file, options.token_file)
