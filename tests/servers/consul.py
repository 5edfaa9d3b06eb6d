"""A real Consul agent: alone, in a fleet on 127.0.0.x, with or without ACLs, restartable on its own ports."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3

from tests.servers.newer_consul import NewerConsul, Points
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess
from tests.servers.waiting import wait_until


class ConsulAgent:
    """One Consul agent with its own directory and ports.

    Args:
        directory: empty and the agent's own; holds its configuration, data and log.
        node: the node's name.
        address: where it binds, e.g. 127.0.0.2.
        join: an agent already running; without one this agent is a server and leads by itself.
        server: whether an agent that joins is a server too (a client otherwise).
        acl: default policy deny; `token` becomes a management token at the first start.
        dns: the port of its DNS server; none by default.
        wan: the port by which it knows servers of other datacenters; none by default.
        extra: more of the agent's own configuration, merged over ours at the top level.
        newer: the points in which it behaves as a newer release; None: as it is, unless the run of all tests
            is to be on a newer one (`scripts/test --consul=newer`).

    What it is asked and told by its own methods goes to the agent itself.
    """

    def __init__(  # noqa: PLR0913 - these are the choices a test has; each has a default
        self,
        directory: Path,
        *,
        node: str = "node1",
        address: str = "127.0.0.1",
        join: ConsulAgent | None = None,
        server: bool = False,
        acl: bool = False,
        dns: int | None = None,
        wan: int | None = None,
        extra: Mapping[str, Any] | None = None,
        newer: Points | None = None,
    ) -> None:
        self.directory = directory
        self.node = node
        self.address = address
        self.acl = acl
        self.token: str | None = join.token if join else None
        names = ("http", "serf_lan", "server")
        self.ports = {name: free_port(address) for name in names}
        self.ports |= {} if dns is None else {"dns": dns}
        self.ports |= {} if wan is None else {"serf_wan": wan}
        self._direct = self.ports["http"]
        self.proxy: NewerConsul | None = None
        if newer is None and os.environ.get("AGENTD_CONSUL") == "newer":
            newer = Points()
        if newer is not None:
            self._direct = free_port(address)
            self.proxy = NewerConsul((address, self.ports["http"]), (address, self._direct), newer)
        self._http = self._connections()
        configuration = directory / "consul.json"
        configuration.write_text(json.dumps(self._configuration(join, server=server) | dict(extra or {})))
        (directory / "consul.d").mkdir(exist_ok=True)  # for what a test adds later
        argv = [shutil.which("consul") or "consul", "agent", f"-config-file={configuration}"]
        argv.append(f"-config-dir={directory}/consul.d")
        # Variables of the person who runs the tests must not reach the agent.
        unset = dict.fromkeys(("CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_NAMESPACE"))
        self.process = ServerProcess(argv, directory / "consul.log", environment=unset)

    def _connections(self) -> urllib3.HTTPConnectionPool:
        timeout = urllib3.Timeout(30)
        return urllib3.HTTPConnectionPool(
            self.address, self._direct, maxsize=4, block=False, retries=False, timeout=timeout
        )

    def _configuration(self, join: ConsulAgent | None, *, server: bool) -> dict[str, Any]:
        off = dict.fromkeys(("dns", "https", "grpc", "serf_wan"), -1)
        configuration: dict[str, Any] = {
            "node_name": self.node,
            "data_dir": str(self.directory / "data"),
            "bind_addr": self.address,
            "client_addr": self.address,
            "ports": off | self.ports | {"http": self._direct},
            "server": server or join is None,
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            "leave_on_terminate": False,
            "skip_leave_on_interrupt": True,
            "enable_script_checks": False,
        }
        if join is None:
            configuration["bootstrap_expect"] = 1
        else:
            configuration["retry_join"] = [f"{join.address}:{join.ports['serf_lan']}"]
            configuration["retry_interval"] = "1s"
        if self.acl:
            configuration["acl"] = {
                "enabled": True,
                "default_policy": "deny",
                "enable_token_persistence": True,
            }
        return configuration

    # ------------------------------------------------------------------ life

    @property
    def url(self) -> str:
        """The HTTP address, as `http://127.0.0.1:20001`."""
        return f"http://{self.address}:{self.ports['http']}"

    @property
    def environment(self) -> dict[str, str]:
        """What the `consul` command needs in its environment to talk to this agent."""
        token = {"CONSUL_HTTP_TOKEN": self.token} if self.token else {}
        return {"CONSUL_HTTP_ADDR": self.url} | token

    def start(self) -> ConsulAgent:
        """Start (again: same ports, data kept) and wait until it knows a leader and is in the catalog."""
        self.process.start(self._has_leader)
        if self.acl and self.token is None:
            self._bootstrap_acl()
        wait_until(self._is_registered, f"{self.node} to be in the catalog")
        if self.proxy:
            self.proxy.management = self.token or ""
            self.proxy.start()
        return self

    def _has_leader(self) -> bool:
        try:
            return bool(self.get("/v1/status/leader"))
        except ConsulAnswerError:  # a client that has not joined yet: "No known Consul servers"
            return False

    def _is_registered(self) -> bool:
        try:
            return any(check["CheckID"] == "serfHealth" for check in self.get(f"/v1/health/node/{self.node}"))
        except ConsulAnswerError:  # just after an election: "No cluster leader", or ACLs not yet loaded
            return False

    def _bootstrap_acl(self) -> None:
        def bootstrap() -> str:
            try:
                return str(self.request("PUT", "/v1/acl/bootstrap")["SecretID"])
            except ConsulAnswerError:  # the ACL system starts a moment after the leader
                return ""

        self.token = wait_until(bootstrap, "the ACL system")
        self.put("/v1/agent/token/agent", {"Token": self.token})

    def stop(self) -> None:
        """Stop without leaving the fleet: to the others it failed, as when a machine is rebooted."""
        if self.proxy:
            self.proxy.stop()
        self.process.stop()
        self._http.close()
        self._http = self._connections()  # a closed one refuses to serve the next start

    def kill(self) -> None:
        """Kill with SIGKILL."""
        self.process.kill()
        if self.proxy:
            self.proxy.stop()

    def freeze(self) -> None:
        """Stop answering, with every connection left open, until `thaw`; returns once no thread runs."""
        self.process.send(signal.SIGSTOP)
        wait_until(self._is_frozen, "the agent to stop", pause=0.001)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self.process.send(signal.SIGCONT)

    def _is_frozen(self) -> bool:
        stats = [file.read_text() for file in Path(f"/proc/{self.process.pid}/task").glob("*/stat")]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    # ------------------------------------------------------------------ HTTP

    def request(self, method: str, path: str, body: bytes | None = None, *, token: str | None = None) -> Any:  # noqa: ANN401 - whatever JSON Consul answers
        """Send one request with the management token (or `token`) and return the parsed JSON answer.

        `path` may have a query string.

        Raises:
            ConsulAnswerError: the status was not 200.
            OSError: the agent does not answer.
        """
        secret = self.token if token is None else token
        headers = {"X-Consul-Token": secret} if secret else {}
        try:
            answer = self._http.request(method, path, body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"{self.node}: {error}") from error
        if answer.status != 200:
            raise ConsulAnswerError(answer.status, answer.data.decode(errors="replace").strip())
        return json.loads(answer.data) if answer.data else None

    def get(self, path: str) -> Any:  # noqa: ANN401 - whatever JSON Consul answers
        """GET and return the parsed JSON answer."""
        return self.request("GET", path)

    def put(self, path: str, body: Any = None) -> Any:  # noqa: ANN401 - any JSON in, any JSON out
        """PUT a JSON body and return the parsed JSON answer."""
        return self.request("PUT", path, None if body is None else json.dumps(body).encode())

    # ------------------------------------------------------------------ what tests do with an agent

    def fire(self, name: str, payload: bytes = b"") -> str:
        """Fire an event as `consul event` does and return its ID."""
        return str(self.request("PUT", f"/v1/event/fire/{name}", payload)["ID"])

    def events(self) -> list[dict[str, Any]]:
        """Return the agent's event buffer, oldest first, as Consul lists it."""
        return list(self.get("/v1/event/list"))

    def kv_put(self, key: str, value: bytes) -> None:
        """Write one key."""
        self.request("PUT", f"/v1/kv/{key}", value)

    def kv_get(self, key: str) -> bytes | None:
        """Return one key's value, or None if there is no such key."""
        try:
            found = self.get(f"/v1/kv/{key}")
        except ConsulAnswerError as error:
            if error.status == 404:
                return None
            raise
        return base64.b64decode(found[0]["Value"] or "")

    def kv_delete(self, key: str, *, recurse: bool = False) -> None:
        """Delete one key, or all that begin with it."""
        self.request("DELETE", f"/v1/kv/{key}" + ("?recurse" if recurse else ""))

    def register(self, name: str, port: int, *, identity: str | None = None, status: str = "passing") -> None:
        """Register a service instance with a TTL check in the given status; the catalog knows it then."""
        check = {"TTL": "1h", "Status": status}
        self.put(
            "/v1/agent/service/register",
            {"Name": name, "ID": identity or name, "Port": port, "Address": self.address, "Check": check},
        )
        self._await_check(identity or name)

    def set_status(self, identity: str, status: str) -> None:
        """Set the TTL check of a service instance: passing, warning or critical; the catalog knows it."""
        self.put(f"/v1/agent/check/update/service:{identity}", {"Status": status})
        self._await_check(identity, status)

    def _await_check(self, identity: str, status: str = "") -> None:
        """Wait for what the agent tells the servers by and by: the check of an instance, in any status."""

        def known() -> bool:
            checks = self.get(f"/v1/health/node/{self.node}")
            found = [one["Status"] for one in checks if one["CheckID"] == f"service:{identity}"]
            return status in found if status else bool(found)

        wait_until(known, f"the catalog to know {identity} {status}")

    def deregister(self, identity: str) -> None:
        """Take a service instance out; the servers are told by and by."""
        self.put(f"/v1/agent/service/deregister/{identity}")

    def make_token(self, rules: str) -> str:
        """Make a policy from `rules` (Consul's HCL) and return the secret of a token that has only it."""
        policy = self.put("/v1/acl/policy", {"Name": f"test-{free_port()}", "Rules": rules})
        return str(self.put("/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})["SecretID"])


class ConsulAnswerError(RuntimeError):
    """Consul answered with a status other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
