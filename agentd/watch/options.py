"""Where the Consul agent is and how to talk to it. Values only: nothing here opens a file or a socket."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from agentd.section import After, Duration, Section, option

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
    if not parts.hostname.isascii():
        raise ValueError(f"{wrong}; the name of a host is ASCII")
    port = _PORTS[parts.scheme] if given is None else given
    return Endpoint(parts.scheme, parts.hostname, port)


def _address(address: str) -> str:
    parse_address(address)
    return address


@dataclass(frozen=True, slots=True, repr=False)
class _Typed:
    """What is never in the file; see `ConsulOptions.typed` and `impatient`. Not shown: the token is in it."""

    token: str | None = None
    verify: bool = True
    names: Mapping[str, str] = field(default_factory=dict)
    outwait: float = 0.0
    answer_time: float = ANSWER_TIME


@dataclass(frozen=True, kw_only=True)
class ConsulOptions(Section):
    """The local Consul agent, and how to talk to it.

    The daemon takes nothing from the environment. A command does (`commands/to_consul.py`), and what must not
    be in a file (the token itself, `verify`) comes in through `typed`.
    """

    _typed: ClassVar[_Typed] = _Typed()  # a copy may have its own

    address: Annotated[str, After(_address)] = option(
        "127.0.0.1:8500",
        description="Address of the agent: host:port, http://host:port, https://host:port or unix:///path.",
    )
    token_file: Path | None = option(
        None,
        description="File that contains the ACL token; read at each new connection, and again after a 403.",
    )
    ca_file: Path | None = option(
        None, description="CA certificates (PEM) that must have signed the agent's certificate."
    )
    ca_path: Path | None = option(
        None, description="Directory of such CA certificates, prepared by `c_rehash`."
    )
    tls_server_name: str | None = option(
        None, min_length=1, description="Name in the agent's certificate, if it is not that in the address."
    )
    cert_file: Path | None = option(None, description="Client certificate (PEM) to present to the agent.")
    key_file: Path | None = option(
        None, description="Private key of `cert_file`, unless that file contains it."
    )
    datacenter: str | None = option(None, description="Datacenter to query. Unset: the agent's own.")
    wait: Duration = option(55.0, gt=0, le=60, description="How long one blocking query waits.")
    connect_timeout: Duration = option(
        5.0, gt=0, le=20, description="Time limit for connecting to the agent."
    )
    stale: bool = option(
        default=True,
        description="Let any server, not only the leader, answer queries for services, nodes and checks.",
    )

    def __post_init__(self) -> None:
        named = [
            name for name in ("ca_file", "ca_path", "tls_server_name", "cert_file") if getattr(self, name)
        ]
        if named and self.endpoint.scheme != "https":
            raise ValueError(f"the address must begin with https:// if you give {' and '.join(named)}")
        if self.key_file and not self.cert_file:
            raise ValueError("key_file needs cert_file")

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
        return self._copied(_typed=_Typed(token, verify, dict(names or {}), outwait))

    def impatient(self, seconds: float) -> ConsulOptions:
        """A copy for whoever has something else to do if Consul neither connects nor answers in that time."""
        typed = replace(self._typed, answer_time=seconds)
        return self._copied(connect_timeout=min(self.connect_timeout, seconds), _typed=typed)

    def at(self, datacenter: str | None) -> ConsulOptions:
        """A copy that asks this datacenter; None: the agent's own."""
        return self._copied(datacenter=datacenter)

    def _copied(self, **values: Any) -> ConsulOptions:  # noqa: ANN401 (of any field)
        made = copy(self)
        vars(made).update(values)
        return made

    def name_of(self, name: str) -> str:
        """Where the value of a field came from, for messages that ask to correct it."""
        return self._typed.names.get(name, f"consul.{name}")

    @property
    def token(self) -> str | None:
        """The ACL token, if it does not come from `token_file`."""
        return self._typed.token

    @property
    def verify(self) -> bool:
        """Whether the agent's certificate is checked."""
        return self._typed.verify

    @property
    def outwait(self) -> float:
        """Seconds for which one request waits out a limit of Consul's; 0 leaves that to the caller."""
        return self._typed.outwait

    @property
    def endpoint(self) -> Endpoint:
        """The address, taken apart."""
        return parse_address(self.address)

    def patience(self, wait: float) -> float:
        """Seconds to wait for the answer of a query that itself waits `wait` seconds.

        Consul adds a jitter of up to wait/16
        (https://developer.hashicorp.com/consul/api-docs/features/blocking).
        """
        return wait + wait / 16 + self._typed.answer_time
