"""The options of one upstream: values only, no I/O."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from agentd.handler import Duration, HandlerOptions
from handlers.nginx_upstream.drivers.interface import UpstreamInterface
from handlers.nginx_upstream.guards import Limits
from handlers.nginx_upstream.render import Frame
from handlers.nginx_upstream.servers import Parameter, Rules, Server, parse_address

_WITHOUT_BACKUP = ("hash", "ip_hash", "random")


def _network(text: str) -> str:
    ipaddress.ip_network(text)
    return text


class UpstreamOptions(HandlerOptions):
    """The options of one entry."""

    upstream: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="Name of the upstream, of its zone, and of HAProxy's backend.",
    )
    context: Literal["http", "stream"] = Field(
        "http",
        description="Where nginx reads it: http: upstreams/NAME.conf, which agentd.conf includes;"
        " stream: upstreams/NAME.stream, for `include agentd/current/upstreams/*.stream;` in stream {}.",
    )
    driver: Literal["file", "dynamic", "haproxy"] = Field(
        "file",
        description="file: notify nginx_reload. dynamic: also sets the servers at run time, through the"
        " interface of ngx_dynamic_upstream or config/nginx/dynamic_upstream.lua; nginx_reload notifies it."
        " haproxy: sets the servers of a HAProxy backend and writes no file.",
    )
    interface: str | None = Field(
        None,
        pattern=r"^(http://[^\s]+|unix:/[^\s:]+(:/[^\s]*)?|tcp:[^\s]+:[0-9]+)$",
        description="Where a run-time driver finds it. dynamic: http://127.0.0.1:9522/upstreams or"
        " unix:/run/upstreams.sock:/upstreams. haproxy: unix:/run/haproxy/admin.sock or tcp:127.0.0.1:9999.",
    )
    interface_timeout: Duration = Field(2.0, gt=0, description="Time limit of one call to the interface.")
    sync: Duration = Field(
        2.0,
        gt=0,
        description="How often a run-time driver compares: it learns what operators took down or put up, and"
        " mends what differs.",
    )
    keep_down: Duration = Field(
        86400.0,
        description="How long a server that an operator took down is remembered once Consul has it no more.",
    )

    min_servers: int = Field(1, ge=0, description="A removal never leaves fewer servers than this.")
    max_removed: int = Field(
        50, ge=1, le=100, description="Percent of the servers that may go at once; one may always go."
    )
    grace: Duration = Field(0.0, description="How long a server is missing in Consul before it is removed.")

    max_fails: int = Field(1, ge=0, le=1000, description="nginx's parameter, where an instance sets none.")
    fail_timeout: PositiveInt = Field(10, le=3600, description="Likewise, in seconds.")
    max_conns: int = Field(0, ge=0, le=1_000_000, description="Likewise; 0 for no limit.")
    max_weight: int = Field(256, ge=1, le=65535, description="A greater weight in Consul counts as this one.")
    parameters: tuple[Parameter, ...] = Field(
        ("backup", "max_fails", "fail_timeout", "max_conns"),
        description="What instances may set by a tag, such as `backup` or `max_fails=3`, or by service meta.",
    )
    networks: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        (), description="CIDRs in which servers must lie; anywhere by default."
    )
    fallback: tuple[Annotated[str, AfterValidator(parse_address)], ...] = Field(
        (),
        description="Servers (IP:PORT) while none is known; by default one that is down, for nginx to load.",
    )

    zone_size: str = Field("1m", pattern=r"^[0-9]+[kKmM]$", description="Size of the shared memory zone.")
    method: str = Field(
        "", pattern=r"^[^;{}\n]*$", description="Balancing directive, such as least_conn or ip_hash."
    )
    keepalive: int = Field(
        0, ge=0, le=10_000, description="Idle connections that each worker keeps; 0: none."
    )
    balancer: Literal["nginx", "lua"] = Field(
        "nginx", description="lua: config/nginx/dynamic_upstream.lua balances and serves the interface."
    )
    template: Path | None = Field(
        None, description="A Jinja2 template that takes the place of the built-in text."
    )

    @model_validator(mode="after")
    def _fits(self) -> UpstreamOptions:
        if (self.driver == "file") != (self.interface is None):
            raise ValueError("`interface` belongs to the drivers dynamic and haproxy, which need it")
        if self.interface and (self.driver == "haproxy") == self.interface.startswith("http:"):
            raise ValueError(f"{self.interface} is not an interface of the driver {self.driver}")
        if self.interface and self.driver == "dynamic":
            UpstreamInterface(self.interface, self.upstream)  # only parses
        if self.context == "stream" and (self.driver != "file" or self.balancer == "lua" or self.keepalive):
            raise ValueError("a stream upstream has the driver file, nginx's balancer and no keepalive")
        if self.balancer == "lua" and self.method:
            raise ValueError("`method` is nginx's; the balancer lua has one of its own")
        return self

    @property
    def limits(self) -> Limits:
        """What the guards allow."""
        return Limits(self.min_servers, self.max_removed, self.grace)

    @property
    def frame(self) -> Frame:
        """What stands around the servers."""
        return Frame(self.upstream, self.zone_size, self.method, self.keepalive, self.balancer == "lua")

    @property
    def rules(self) -> Rules:
        """What an instance may ask for."""
        base = Server("", max_fails=self.max_fails, fail_timeout=self.fail_timeout, max_conns=self.max_conns)
        networks = tuple(ipaddress.ip_network(text) for text in self.networks)
        return Rules(base, self.parameters, self.max_weight, networks)

    @property
    def takes_backups(self) -> bool:
        """Whether the balancing method knows backup servers."""
        return self.method.split(" ")[0] not in _WITHOUT_BACKUP

    @property
    def path(self) -> str:
        """The file in the tree."""
        return f"upstreams/{self.upstream}.{'conf' if self.context == 'http' else 'stream'}"
