"""Where the Consul agent is and how it is spoken to. Values only: nothing here opens a file or a socket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

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
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("no user name or password in the address; Consul takes a token, see token_file")
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Endpoint("http", socket=parts.path)
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError("an address such as 127.0.0.1:8500, https://host:8501 or unix:///path is needed")
    port = _PORTS[parts.scheme] if parts.port is None else parts.port
    return Endpoint(parts.scheme, parts.hostname, port)


class ConsulOptions(Options):
    """The local Consul agent.

    Nothing of it is taken from the environment: CONSUL_HTTP_ADDR and CONSUL_HTTP_TOKEN do not count.
    """

    address: str = Field(
        "127.0.0.1:8500",
        description="The local agent: host:port, http://host:port, https://host:port or unix:///path.",
    )
    token_file: Path | None = Field(
        None, description="File that holds the ACL token; read at each new connection and again after a 403."
    )
    ca_file: Path | None = Field(
        None, description="CA certificates (PEM) that the agent's certificate must chain to."
    )
    cert_file: Path | None = Field(None, description="Client certificate (PEM) shown to the agent.")
    key_file: Path | None = Field(
        None, description="Private key of `cert_file`, if that file does not hold it."
    )
    datacenter: str | None = Field(None, description="Datacenter to ask for; the agent's own by default.")
    wait: Duration = Field(55.0, gt=0, le=60, description="How long one blocking query waits; at most 60s.")
    connect_timeout: Duration = Field(5.0, gt=0, le=20, description="Time limit of connecting to the agent.")
    stale: bool = Field(
        default=True, description="Let any server answer for services, nodes and checks, to spare the leader."
    )

    @field_validator("address")
    @classmethod
    def _parses(cls, address: str) -> str:
        parse_address(address)
        return address

    @model_validator(mode="after")
    def _tls_belongs_to_https(self) -> ConsulOptions:
        if (self.ca_file or self.cert_file) and self.endpoint.scheme != "https":
            raise ValueError("ca_file and cert_file need an https:// address")
        if self.key_file and not self.cert_file:
            raise ValueError("key_file needs cert_file")
        return self

    @property
    def endpoint(self) -> Endpoint:
        """The address, taken apart."""
        return parse_address(self.address)

    def patience(self, wait: float) -> float:
        """Seconds to wait for the answer of a query that itself waits `wait` seconds.

        Consul adds a jitter of up to wait/16 (https://developer.hashicorp.com/consul/api-docs/features/blocking).
        """
        return wait + wait / 16 + ANSWER_TIME
