"""The value types of the YAML file: the frozen base model, `Duration`, and what agentd must know of nginx.

Validators here only look at values; nothing does I/O.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

_LAST_PORT: Final = 65535
_NUMBER: Final = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION: Final = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit in ("d", "h", "m(?!s)", "s", "ms")))
_SECONDS: Final = (86400.0, 3600.0, 60.0, 1.0, 0.001)
_LONGEST: Final = 100 * 365 * 86400.0


def parse_duration(value: object) -> float:
    """Turn "55s", "1h30m", "250ms" or a plain number of seconds into seconds.

    Units stand in the order d, h, m, s, ms, each at most once.

    Raises:
        ValueError: not a duration, negative, or longer than a hundred years.
    """
    seconds = _seconds(value)
    if seconds is None or not 0 <= seconds <= _LONGEST:  # nor a number that is none
        raise ValueError("a duration such as 55s, 1h30m or 250ms is needed")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) <= _LONGEST else None
    if not isinstance(value, str) or not value.isascii() or not value:
        return None
    if found := _DURATION.fullmatch(value):
        return sum(float(number) * unit for number, unit in zip(found.groups("0"), _SECONDS, strict=True))
    return float(value) if value.isdigit() else None


Duration = Annotated[float, BeforeValidator(parse_duration)]
"""Seconds, written as "55s" or "1h30m"."""


class Options(BaseModel):
    """The frozen base of every section: an unknown field is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NginxOptions(Options):
    """The nginx on this node, as agentd checks, signals and asks it."""

    binary: str = Field("nginx", description="The nginx program; found in PATH if it has no slash.")
    conf: Path = Field(
        Path("/etc/nginx/nginx.conf"),
        description="The main configuration file; the tree lies in its directory.",
    )
    pid: Path = Field(
        Path("/run/nginx.pid"), description="The file in which nginx keeps the pid of its master."
    )
    error_log: Path = Field(
        Path("/var/log/nginx/error.log"),
        description="Where [emerg] lines are read from after a failed reload.",
    )
    canary: Path = Field(
        Path("/run/agentd/nginx.sock"),
        description="Unix socket on which nginx answers the generation being served; nginx creates it.",
    )
    timeout: Duration = Field(30.0, description="Time limit of one `nginx -t`.")


def parse_loopback(address: str) -> tuple[str, int]:
    """Split "127.0.0.1:9521", "[::1]:9521" or "localhost:9521" into address and port (0: any free one).

    Raises:
        ValueError: not an address and a port, or not on loopback.
    """
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = "127.0.0.1" if host == "localhost" else host[1:-1] if bracketed else host
    try:
        loopback = ipaddress.ip_address(name).is_loopback and (":" in name) == bracketed
    except ValueError:
        raise ValueError("an address and a port are needed, such as 127.0.0.1:9521") from None
    if not loopback:
        raise ValueError(
            "only a loopback address (127.0.0.0/8 or [::1]) is accepted: nobody is asked who they are"
        )
    if not (port.isascii() and port.isdigit() and int(port) <= _LAST_PORT):
        raise ValueError("a port from 0 to 65535 is needed, as in 127.0.0.1:9521")
    return name, int(port)


class StatusOptions(Options):
    """The HTTP endpoints /healthz, /readyz, /metrics and /status of this node."""

    address: str | None = Field(
        "127.0.0.1:9521", description="Loopback address and port of the HTTP endpoints; null for none."
    )

    @field_validator("address")
    @classmethod
    def _loopback(cls, address: str | None) -> str | None:
        if address is not None:
            parse_loopback(address)
        return address
