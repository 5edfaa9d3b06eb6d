"""Value types of the YAML file: the frozen base model, durations, sizes, paths, and the facts about nginx.

Validators here only look at values; nothing does I/O.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from agentd.limits import Limits
from agentd.section import Duration
from agentd.values import STATUS, absolute, parse_loopback, parse_size

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
    """The HTTP endpoints of this node: /healthz, /readyz, /metrics and /status."""

    address: str | None = Field(
        STATUS, description="Loopback address and port to listen on; null: no endpoints."
    )

    strict: bool = Field(
        False,  # noqa: FBT003 (pydantic's default)
        description="Whether /readyz answers 503 as well while a handler is behind: a state that failed, a"
        " change that is not live, drift. Otherwise it answers 200 and names them, since what is wrong"
        " everywhere would make every load balancer unready at once.",
    )

    @field_validator("address")
    @classmethod
    def _loopback(cls, address: str | None) -> str | None:
        if address is not None:
            parse_loopback(address)
        return address
