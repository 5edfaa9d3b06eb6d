"""The options of one upstream: values only, no I/O."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from agentd import haproxy
from agentd.handler import Duration, HandlerOptions
from handlers.nginx_upstream.hosts import check_host, parse_host, parse_network
from handlers.nginx_upstream.instances import Parameter, Rules
from handlers.nginx_upstream.interface import UpstreamInterface
from handlers.nginx_upstream.membership import RemovalLimits
from handlers.nginx_upstream.render import Block
from handlers.nginx_upstream.server import Server, host_of, parse_address

_DEFAULT_INTERFACE = {
    "dynamic": "unix:/run/agentd/upstreams/interface.sock:/dynamic",
    "haproxy": "unix:/run/haproxy/admin.sock",
}
_HAPROXY_WEIGHT = 256  # it takes no greater one, and refuses the whole change
_WITHOUT_BACKUP = ("hash", "ip_hash", "random")


def _network(text: str) -> str:
    parse_network(text)
    return text


def _fallback(text: str) -> str:
    """The operator's own word, so it may be on loopback."""
    address = parse_address(text)
    if not parse_host(host_of(address)).is_loopback:
        check_host(host_of(address), ())
    return address


class UpstreamOptions(HandlerOptions):
    """The options of one configured handler."""

    upstream: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="Name of the upstream, of its zone, and of HAProxy's backend.",
    )
    context: Literal["http", "stream"] = Field(
        "http",
        description="Where nginx reads it. http: upstreams/NAME.conf, which agentd.conf includes;"
        " stream: upstreams/NAME.stream, for `include agentd/current/upstreams/*.stream;` in stream {}.",
    )
    driver: Literal["file", "dynamic", "haproxy"] = Field(
        "file",
        description="file: notify nginx_reload. dynamic: also sets the servers at run time, through the"
        " interface of ngx_dynamic_upstream or dynamic_upstream.lua (`agentd example nginx`); nginx_reload"
        " notifies it, and reloads for what cannot be set so. haproxy: sets the servers of a HAProxy backend"
        " and writes no file.",
    )
    interface: str | None = Field(
        None,
        pattern=r"^(http://[^\s]+|unix:/[^\s:]+(:/[^\s]*)?|tcp:[^\s]+:[0-9]+)$",
        description="Where a run-time driver connects. Unset:"
        " unix:/run/agentd/upstreams/interface.sock:/dynamic for dynamic, unix:/run/haproxy/admin.sock for"
        " haproxy. Over TCP (http://127.0.0.1:9522/dynamic, tcp:127.0.0.1:9999) every user of the machine can"
        " connect, too, so `agentd check` warns.",
    )
    interface_timeout: Duration = Field(2.0, gt=0, description="Time limit of one call to the interface.")
    sync: Duration = Field(
        2.0,
        gt=0,
        description="How often a run-time driver compares: it learns what operators took down or put back,"
        " and the weights that they set, and corrects what else differs.",
    )
    keep_down: Duration = Field(
        86400.0,
        description="How long it is remembered that an operator took a server down, or gave it a weight,"
        " after it left Consul.",
    )

    port: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$",
        description="Name of the port to use, for a service with several named ones; unset: its default"
        " port.",
    )
    min_servers: int = Field(1, ge=0, description="A removal never leaves fewer servers than this.")
    max_removed: int = Field(
        50,
        ge=1,
        le=100,
        description="Percent of the servers that may be removed at once; one may always be.",
    )
    grace: Duration = Field(
        0.0, description="How long a server must be missing from Consul before it is removed."
    )

    max_fails: int = Field(1, ge=0, le=1000, description="nginx's `max_fails`, for instances that set none.")
    fail_timeout: PositiveInt = Field(
        10, le=3600, description="nginx's `fail_timeout` in seconds, for instances that set none."
    )
    max_conns: int = Field(
        0, ge=0, le=1_000_000, description="nginx's `max_conns`, for instances that set none; 0: no limit."
    )
    max_weight: int = Field(
        256,
        ge=1,
        le=65535,
        description="Largest weight; a greater one in Consul counts as this. HAProxy takes 256 at most.",
    )
    parameters: tuple[Parameter, ...] = Field(
        ("backup", "max_fails", "fail_timeout", "max_conns"),
        description="What instances may set by a tag, such as `backup` or `max_fails=3`, or by service meta.",
    )
    networks: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        (),
        description="CIDRs that servers must be in: with this option, exactly those, so name all. Unset:"
        " anywhere but loopback, link-local, unspecified, multicast and broadcast addresses, through which"
        " whoever can register a service would reach what listens on this machine only, such as Consul's"
        " API.",
    )
    fallback: tuple[Annotated[str, AfterValidator(_fallback)], ...] = Field(
        (),
        description="Servers (IP:PORT) to use while none is known. Unset: a placeholder that answers 502.",
    )

    zone_size: str = Field("1m", pattern=r"^[0-9]+[kKmM]$", description="Size of the shared memory zone.")
    method: str = Field(
        "", pattern=r"^[^;{}\n]*$", description="Balancing directive, such as least_conn or ip_hash."
    )
    keepalive: int = Field(
        0, ge=0, le=10_000, description="Idle connections that each worker keeps; 0: none."
    )
    balancer: Literal["nginx", "lua"] = Field(
        "nginx",
        description="lua: dynamic_upstream.lua (`agentd example nginx`) balances and serves the interface.",
    )
    template: Path | None = Field(None, description="A Jinja2 template to use instead of the built-in text.")

    @model_validator(mode="after")
    def _fits(self) -> UpstreamOptions:
        if self.driver == "file" and self.interface:
            raise ValueError("`interface` is for the drivers dynamic and haproxy")
        if self.interface and self.driver == "dynamic":
            UpstreamInterface(self.interface, self.upstream)  # only parses
        if self.interface and self.driver == "haproxy":
            haproxy.parse(self.interface)
        if self.context == "stream" and (self.driver != "file" or self.balancer == "lua" or self.keepalive):
            raise ValueError("a stream upstream needs the driver file, nginx's balancer and no keepalive")
        if self.balancer == "lua" and self.method:
            raise ValueError("`method` is for nginx's balancer; the balancer lua has its own")
        return self

    @property
    def place(self) -> str | None:
        """Where the run-time driver connects; None for the driver file."""
        return self.interface or _DEFAULT_INTERFACE.get(self.driver)

    @property
    def limits(self) -> RemovalLimits:
        """What the guards allow."""
        return RemovalLimits(self.min_servers, self.max_removed, self.grace)

    @property
    def block(self) -> Block:
        """The upstream block, apart from its servers."""
        return Block(self.upstream, self.zone_size, self.method, self.keepalive, self.balancer == "lua")

    @property
    def rules(self) -> Rules:
        """What an instance may ask for."""
        base = Server("", max_fails=self.max_fails, fail_timeout=self.fail_timeout, max_conns=self.max_conns)
        networks = tuple(map(parse_network, self.networks))
        most = min(self.max_weight, _HAPROXY_WEIGHT) if self.driver == "haproxy" else self.max_weight
        return Rules(base, self.parameters, most, networks, self.port)

    @property
    def takes_backups(self) -> bool:
        """Whether the balancing method allows backup servers."""
        return self.method.split(" ")[0] not in _WITHOUT_BACKUP

    @property
    def path(self) -> str:
        """The file in the tree."""
        return f"upstreams/{self.upstream}.{'conf' if self.context == 'http' else 'stream'}"
