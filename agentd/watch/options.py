"""Where the Consul agent is and how to talk to it. Values only: nothing here opens a file or a socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, SecretStr, field_validator, model_validator

from agentd.options import Duration, Options

_PORTS = {"http": 8500, "https": 8501}
ANSWER_TIME = 10.0
"""Seconds that Consul gets to answer, on top of the time that a blocking query waits."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address, taken apart. `socket` is set for a unix socket, else `host` and `port` count."""

    scheme: str
    host: str = "localhost"
    port: int = 0
    socket: str | None = None

    def __str__(self) -> str:
        if self.socket:
            return f"unix://{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_address(address: str) -> Endpoint:
    """Take "127.0.0.1:8500", "http(s)://host[:port]" or "unix:///path" apart.

    Raises:
        ValueError: anything else; user names and passwords are refused, and never quoted.
    """
    wrong = "an address such as 127.0.0.1:8500, https://host:8501 or unix:///path is needed"
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        given = parts.port
    except ValueError as error:  # a port that is none, or brackets that do not match
        raise ValueError(wrong) from error
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "the address must not contain a user name or password; Consul takes a token, see token_file"
        )
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Endpoint("http", socket=parts.path)
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(wrong)
    port = _PORTS[parts.scheme] if given is None else given
    return Endpoint(parts.scheme, parts.hostname, port)


class ConsulOptions(Options):
    """The local Consul agent, and how to talk to it.

    The daemon takes nothing from the environment. A command does (`commands/to_consul.py`), and what must not
    be in a file (`token`, `verify`) comes in through `typed`.
    """

    address: str = Field(
        "127.0.0.1:8500",
        description="Address of the agent: host:port, http://host:port, https://host:port or unix:///path.",
    )
    token_file: Path | None = Field(
        None,
        description="File that contains the ACL token; read at each new connection, and again after a 403.",
    )
    ca_file: Path | None = Field(
        None, description="CA certificates (PEM) that must have signed the agent's certificate."
    )
    ca_path: Path | None = Field(
        None, description="Directory of such CA certificates, prepared by `c_rehash`."
    )
    tls_server_name: str | None = Field(
        None, min_length=1, description="Name in the agent's certificate, if it is not that in the address."
    )
    cert_file: Path | None = Field(None, description="Client certificate (PEM) to present to the agent.")
    key_file: Path | None = Field(
        None, description="Private key of `cert_file`, unless that file contains it."
    )
    datacenter: str | None = Field(None, description="Datacenter to query. Unset: the agent's own.")
    wait: Duration = Field(55.0, gt=0, le=60, description="How long one blocking query waits.")
    connect_timeout: Duration = Field(5.0, gt=0, le=20, description="Time limit for connecting to the agent.")
    stale: bool = Field(
        default=True,
        description="Let any server, not only the leader, answer queries for services, nodes and checks.",
    )

    _token: SecretStr | None = PrivateAttr(None)
    _verify: bool = PrivateAttr(default=True)
    _names: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _outwait: float = PrivateAttr(default=0.0)
    _answer_time: float = PrivateAttr(default=ANSWER_TIME)

    @field_validator("address")
    @classmethod
    def _parses(cls, address: str) -> str:
        parse_address(address)
        return address

    @model_validator(mode="after")
    def _tls_belongs_to_https(self) -> ConsulOptions:
        named = [
            name for name in ("ca_file", "ca_path", "tls_server_name", "cert_file") if getattr(self, name)
        ]
        if named and self.endpoint.scheme != "https":
            raise ValueError(f"the address must begin with https:// if you give {' and '.join(named)}")
        if self.key_file and not self.cert_file:
            raise ValueError("key_file needs cert_file")
        return self

    def typed(
        self,
        *,
        token: str | None,
        verify: bool,
        names: Mapping[str, str] | None = None,
        outwait: float = 0.0,
    ) -> ConsulOptions:
        """A copy with what only the person who runs a command may say.

        Args:
            token: the ACL token itself; it is used in place of `token_file`.
            verify: whether the agent's certificate is checked.
            names: what that person calls a field, for `name_of`.
            outwait: seconds for which a limit of Consul's is waited out before it is an error.
        """
        made = self.model_copy()
        made._token = None if token is None else SecretStr(token)  # noqa: SLF001 (of the same class)
        made._verify = verify  # noqa: SLF001 (likewise)
        made._names = dict(names or {})  # noqa: SLF001 (likewise)
        made._outwait = outwait  # noqa: SLF001 (likewise)
        return made

    def impatient(self, seconds: float) -> ConsulOptions:
        """A copy for whoever has something else to do if Consul neither connects nor answers in that time."""
        made = self.model_copy(update={"connect_timeout": min(self.connect_timeout, seconds)})
        made._answer_time = seconds  # noqa: SLF001 (of the same class)
        return made

    def name_of(self, field: str) -> str:
        """Where the value of a field came from, for messages that ask to correct it."""
        return self._names.get(field, f"consul.{field}")

    @property
    def token(self) -> str | None:
        """The ACL token, if it does not come from `token_file`."""
        return self._token.get_secret_value() if self._token else None

    @property
    def verify(self) -> bool:
        """Whether the agent's certificate is checked."""
        return self._verify

    @property
    def outwait(self) -> float:
        """Seconds for which one request waits out a limit of Consul's; 0 leaves that to the caller."""
        return self._outwait

    @property
    def endpoint(self) -> Endpoint:
        """The address, taken apart."""
        return parse_address(self.address)

    def patience(self, wait: float) -> float:
        """Seconds to wait for the answer of a query that itself waits `wait` seconds.

        Consul adds a jitter of up to wait/16
        (https://developer.hashicorp.com/consul/api-docs/features/blocking).
        """
        return wait + wait / 16 + self._answer_time
