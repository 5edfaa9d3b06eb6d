"""A service in Consul, its instances, and a node whose nginx balances them at `/via/api`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from typing import Any

import urllib3

from agentd.http import UnixAddress, exchange
from tests.servers.backend import Backend
from tests.servers.consul import ConsulAgent
from tests.servers.dynamic_upstream import FakeBalancer, FakeBalancers, read_by
from tests.servers.fleet import BLACKLIST_EVENT, Node
from tests.servers.lua import LuaNginx
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until

NewNode = Callable[..., Node]
UPSTREAM = "upstreams/api.conf"


class Site:
    """One service, whose instances are the backends; one node; an upstream `api`.

    Args:
        new_node: makes the node, not yet started; called with `handlers`.
        consul: where the service is registered.
        driver: of nginx_upstream; with "dynamic" nginx balances with Lua, and with "module" it only reads the
            file: a stand-in has the interface, and forgets at every reload, as the module does.
        options: more of nginx_upstream's.
    """

    def __init__(
        self,
        new_node: NewNode,
        consul: ConsulAgent,
        *,
        driver: str = "file",
        **options: Any,  # noqa: ANN401 - the handler's own options
    ) -> None:
        self.service = f"api-{free_port()}"
        self.consul = consul
        self.backends: list[Backend] = []
        self.node = new_node(consul=consul, handlers=self.handlers(driver, options))
        self.lua: LuaNginx | None = None
        self.module = FakeBalancer((self.node.nginx.address, 0), {}, loads=read_by(self.node.nginx, "api"))
        self._stack = ExitStack()
        self._blocked = 0
        if driver == "module":
            self._stack.enter_context(FakeBalancers([self.module]))
            host, port = self.module.address
            given = {
                "interface": f"http://{host}:{port}/dynamic",
                "interface_timeout": "20s",  # after a time-out it is not asked again
                "sync": "200ms",
            } | options
            self.node.configure(self.handlers("dynamic", given))
        if driver == "dynamic":
            self.lua = LuaNginx(self.node.nginx, "api")
            given = {"balancer": "lua", "interface": self.lua.interface, "sync": "200ms"} | options
            self.node.configure(self.handlers(driver, given))
        if driver != "dynamic":
            self.node.nginx.configure(server="location = /via/api { proxy_pass http://api; }")

    @property
    def override(self) -> str:
        """The name of the event that overrides the guards."""
        return f"override-{self.service}"

    @property
    def blacklist(self) -> str:
        """The name of an event whose handler reloads nginx, whatever the driver."""
        return f"{BLACKLIST_EVENT}-{self.service}"

    def handlers(self, driver: str, options: dict[str, Any]) -> dict[str, Any]:
        """The `handlers:` section: an upstream, and a blacklist for its reloads."""
        file = driver == "file"
        upstream = {
            "use": "nginx_upstream",
            "on": [{"service": self.service}, {"event": self.override}],
            "notify": ["nginx-reload"] if file else [],
            "options": {"upstream": "api", "driver": driver, "networks": ["127.0.0.0/8", "::1/128"]}
            | options,
        }
        return {
            "upstream-api": upstream,
            "blacklist": {
                "use": "ip_blacklist",
                "on": [{"event": self.blacklist}],
                "notify": ["nginx-reload"],
            },
            "nginx-reload": {
                "use": "nginx_reload",
                "notify": [] if file else ["upstream-api"],
                "options": {"interval": "100ms"},
            },
        }

    # ------------------------------------------------------------------ the service

    def backend(self) -> Backend:
        """Start one more, not registered."""
        backend = Backend().start()
        self.backends.append(backend)
        return backend

    def register(self, backend: Backend, *, status: str = "passing", **service: Any) -> None:  # noqa: ANN401 - Consul's own fields
        """Make the backend an instance of the service; `service` adds fields such as `Tags` or `Weights`."""
        check = {"TTL": "1h", "Status": status}
        base = {
            "Name": self.service,
            "ID": self.identity(backend),
            "Address": backend.host,
            "Port": backend.port,
        }
        self.consul.put("/v1/agent/service/register", base | {"Check": check} | service)

    def identity(self, backend: Backend) -> str:
        """The instance's ID in Consul."""
        return f"{self.service}-{backend.port}"

    def set_status(self, backend: Backend, status: str) -> None:
        """Set its check."""
        self.consul.set_status(self.identity(backend), status)

    def deregister(self, backend: Backend) -> None:
        """Take it out of the service; it goes on answering."""
        self.consul.deregister(self.identity(backend))

    # ------------------------------------------------------------------ the node

    def start(self, instances: int = 2) -> Site:
        """Start agentd and nginx, with so many instances that are served."""
        made = [self.backend() for _ in range(instances)]
        for backend in made:
            self.register(backend)
        self.node.start()
        self.await_serving(*made)
        wait_until(self.at_rest, "the reloads after the start to be over", pause=0.05)
        return self

    def at_rest(self) -> bool:
        """Whether no reload is to come: one worker is left, and serves what is current."""
        answer = exchange(UnixAddress(str(self.node.nginx.canary)), "/generation", timeout=30.0)
        served = int(answer.body.split()[0])
        pending = json.loads(self.node.agentd.get("/status")[1])["reload_pending"]
        return served == self.node.generation and not pending and len(self.node.nginx.workers()) == 1

    def via(self, count: int) -> Counter[str]:
        """Who answered that many requests, each on a connection of its own; a status where it was not 200.

        A kept connection is closed by a reload, at times just as the next request is on its way.
        """
        with urllib3.HTTPConnectionPool(
            self.node.nginx.address, self.node.nginx.port, timeout=30, retries=False
        ) as pool:
            close = {"Connection": "close"}
            answers = [pool.request("GET", "/via/api", headers=close) for _ in range(count)]
        return Counter(one.data.decode() if one.status == 200 else str(one.status) for one in answers)

    def serves(self, *backends: Backend) -> bool:
        """Whether these, and no others, answer."""
        return set(self.via(4 * max(1, len(backends)))) == {str(backend.port) for backend in backends}

    def await_serving(self, *backends: Backend) -> None:
        """Wait until these, and no others, answer."""
        ports = [backend.port for backend in backends]
        try:
            wait_until(lambda: self.serves(*backends), f"{ports} to serve", pause=0.05)
        except TimeoutError as error:
            listed = self.consul.get(f"/v1/health/service/{self.service}")
            statuses = {
                one["Service"]["Port"]: [check["Status"] for check in one["Checks"]] for one in listed
            }
            tail = "\n".join(self.node.agentd.log_lines()[-30:])
            raise TimeoutError(f"{error}; Consul lists {statuses}; the daemon's log ends:\n{tail}") from None

    def reload(self) -> None:
        """Have another handler's change reload nginx, and wait for the proof."""
        self._blocked += 1  # one that is blocked already would reload nothing
        self.node.outcome(self.node.fire(self.blacklist, f"192.0.2.{self._blocked}".encode()))

    def file(self) -> str:
        """The rendered upstream."""
        return self.node.read(UPSTREAM).decode()

    def gauge(self, name: str) -> float:
        """A metric of the upstream's handler."""
        lines = self.node.agentd.get("/metrics")[1].splitlines()
        start = f'agentd_handler_upstream_{name}{{handler="upstream-api"}} '
        return next((float(line.removeprefix(start)) for line in lines if line.startswith(start)), -1.0)

    def await_gauge(self, name: str, value: float) -> None:
        """Wait until the metric has this value."""
        wait_until(lambda: self.gauge(name) == value, f"upstream_{name} to be {value:g}", pause=0.05)

    def ask(self, query: str) -> tuple[int, str]:
        """GET the interface, as operators do; status and body."""
        if self.lua is not None:
            return self.lua.ask(query)
        with closing(HTTPConnection(*self.module.address, timeout=10)) as connection:
            connection.request("GET", f"/dynamic?{query}", headers={"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def listed(self) -> dict[str, str]:
        """What the interface lists: server -> its parameters."""
        lines = self.ask("upstream=api&verbose=")[1].splitlines()
        return dict(line.removeprefix("server ").rstrip(";").split(" ", 1) for line in lines)

    def close(self) -> None:
        """Stop the backends; the node is its maker's."""
        if self.node.agentd.process.running:  # it may be asking the stand-in just now
            self.node.agentd.stop()
        self._stack.close()
        for backend in self.backends:
            backend.stop()
            self.consul.put(f"/v1/agent/service/deregister/{self.identity(backend)}")
