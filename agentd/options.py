"""Value types of the YAML file: the frozen base model, durations, sizes, paths, and the facts about nginx.

Validators here only look at values; nothing does I/O.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from agentd.limits import Limits
from agentd.section import Duration
from agentd.values import STATUS, absolute, is_loopback, parse_listening, parse_size

Size = Annotated[int, BeforeValidator(parse_size)]
"""Bytes, written as "512k", "100M" or "2G"."""

AbsolutePath = Annotated[Path, AfterValidator(absolute)]
"""A path that does not depend on the working directory."""


class Options(BaseModel):
    """The frozen base of every section: an unknown field is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class LimitOptions(Options):
    """What a program may use. Whatever it starts inherits that, a service too, for as long as it lives."""

    memory: Size | None = Field(
        None, ge=2**24, description="Address space of each of its processes. Unset: no limit."
    )
    cpu: Duration | None = Field(
        None,
        ge=1,
        description="Processor time of each of its processes, after which it is ended. Unset: no limit.",
    )

    @property
    def limits(self) -> Limits | None:
        """As `Context.run` takes them; None for no limit."""
        if self.memory is None and self.cpu is None:
            return None
        return Limits(memory=self.memory, cpu=None if self.cpu is None else math.ceil(self.cpu))


class NginxOptions(Options):
    """The nginx on this node: which program is checked and signalled, and how agentd sees what it serves."""

    binary: str = Field(
        "nginx", description="The nginx program; looked up in PATH unless it contains a slash."
    )
    conf: Path = Field(
        Path("/etc/nginx/nginx.conf"),
        description="nginx's main configuration file; the tree must be in or below its directory.",
    )
    pid: Path = Field(
        Path("/run/nginx.pid"), description="The file to which nginx writes the process ID of its master."
    )
    error_log: Path = Field(
        Path("/var/log/nginx/error.log"),
        description="nginx's error log; after a failed reload its [emerg] lines are quoted.",
    )
    canary: Path = Field(
        Path("/run/agentd/nginx.sock"),
        description="Unix socket, created by nginx, on which each worker answers with the number of"
        " the generation that it serves, and its pid.",
    )
    timeout: Duration = Field(30.0, description="Time limit of one `nginx -t`.")


class StatusOptions(Options):
    """The HTTP endpoints of this node: /healthz, /readyz, /metrics, /status, and the pages / and /fleet."""

    address: str | None = Field(
        STATUS,
        description="Address and port to listen on; null: no endpoints. Another address than one of loopback"
        " needs `cert_file` and `token_file`.",
    )
    cert_file: AbsolutePath | None = Field(
        None,
        description="Certificate (PEM) to serve by HTTPS, followed by those that lead to its authority. Read"
        " again when it has changed.",
    )
    key_file: AbsolutePath | None = Field(
        None, description="Private key of `cert_file`, unless that file contains it."
    )
    token_file: AbsolutePath | None = Field(
        None,
        description="File that contains the token, of 16 characters or more, which all but /healthz then"
        " need: `Authorization: Bearer TOKEN`, or in a browser any user name and the token as the password."
        " Read again when it has changed.",
    )
    strict: bool = Field(
        False,  # noqa: FBT003 (pydantic's default)
        description="Whether /readyz answers 503 as well while a handler is behind: a state that failed, a"
        " change that is not live, drift. Otherwise it answers 200 and names them, since what is wrong"
        " everywhere would make every load balancer unready at once.",
    )

    @field_validator("address")
    @classmethod
    def _parsed(cls, address: str | None) -> str | None:
        if address is not None:
            parse_listening(address)
        return address

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.key_file and not self.cert_file:
            raise ValueError("key_file needs cert_file")
        exposed = self.address is not None and not is_loopback(parse_listening(self.address)[0])
        if exposed and not (self.cert_file and self.token_file):
            raise ValueError(
                f"address: {self.address} is not a loopback address (127.0.0.0/8 or [::1]), so it needs"
                " cert_file and token_file"
            )
        return self
