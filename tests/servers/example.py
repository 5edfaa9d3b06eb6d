"""An example of config/examples, moved from a real machine's paths and ports into a directory of its own."""

from __future__ import annotations

import shutil
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import urllib3
import yaml

from tests.servers.agentd import AgentdProcess
from tests.servers.consul import ConsulAgent
from tests.servers.nginx import temporary_paths
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess

ROOT = Path(__file__).parents[2]


class Example:
    """One example, not yet started.

    Args:
        directory: empty and its own; keep its path short, it holds a unix socket.
        name: of the example.
        consul: the agent that it watches.
        listen: where its nginx listens, as the example has it.
        dns: the port of Consul's DNS, if the example asks it.
    """

    def __init__(
        self, directory: Path, name: str, consul: ConsulAgent, *, listen: str = "127.0.0.1:8080", dns: int = 0
    ) -> None:
        self.directory = directory
        self.source = ROOT / "config" / "examples" / name
        self.port, self.interface = free_port(), free_port()
        self.conf = directory / "conf"
        self._status = ("127.0.0.1", free_port())
        directory.parent.chmod(0o755)
        for made in (directory, self.conf, directory / "log"):
            made.mkdir(exist_ok=True)
            made.chmod(0o755)  # the workers are another user
        (directory / "upstreams").mkdir(mode=0o750)
        self._moved = {
            "/etc/nginx/agentd": f"{self.conf}/agentd",
            "/etc/nginx/lua": f"{self.conf}/lua",
            "/etc/agentd/": f"{self.conf}/",
            "/run/nginx.pid": f"{directory}/nginx.pid",
            "/var/log/nginx": f"{directory}/log",
            "127.0.0.1:9522": f"127.0.0.1:{self.interface}",
            "/run/agentd/upstreams": f"{directory}/upstreams",
            "127.0.0.1:8600": f"127.0.0.1:{dns}",
            listen: f"127.0.0.1:{self.port}",
            "      upstream: ": "      networks: [127.0.0.0/8]\n      upstream: ",  # where tests have servers
        }
        self._move(consul)
        argv = [shutil.which("nginx") or "nginx", "-c", str(self.conf / "nginx.conf")]
        self.nginx = ServerProcess(argv, directory / "nginx.out")

    def _move(self, consul: ConsulAgent) -> None:
        shared = ROOT / "config" / "nginx"
        for file in (*self.source.iterdir(), shared / "dynamic-upstream.conf"):
            (self.conf / file.name).write_text(self._here(file.read_text()))
        (self.conf / "lua").mkdir()
        for file in (*shared.glob("*.lua"), *self.source.glob("*.lua")):
            shutil.copy(file, self.conf / "lua")
        main = (self.conf / "nginx.conf").read_text()
        main = "daemon off;\n" + main.replace("http {\n", f"http {{\n{temporary_paths(self.directory)}\n", 1)
        (self.conf / "nginx.conf").write_text(main.replace("worker_processes auto", "worker_processes 1"))
        self.configuration = self.conf / "agentd.yaml"
        if not self.configuration.exists():
            return
        values: dict[str, Any] = {}  # what the example leaves to the defaults
        values["consul"] = {"address": f"{consul.address}:{consul.ports['http']}"}
        values["nginx"] = {
            "conf": str(self.conf / "nginx.conf"),
            "pid": f"{self.directory}/nginx.pid",
            "error_log": f"{self.directory}/log/error.log",
            "canary": f"{self.directory}/canary.sock",
        }
        values["tree"] = {"path": f"{self.conf}/agentd"}
        values["drain"] = "1s"  # a reload that is owed need not be waited for at the end of a test
        values["state"] = f"{self.directory}/state"
        values["status"] = {"address": f"{self._status[0]}:{self._status[1]}"}
        self.configuration.write_text(self.configuration.read_text() + yaml.safe_dump(values))
        self.agentd = AgentdProcess(self.configuration, self.directory / "agentd.log", self._status)

    def _here(self, text: str) -> str:
        for there, here in self._moved.items():
            text = text.replace(there, here)
        return text

    def start(self, stack: ExitStack) -> Example:
        """Start agentd, if it takes part, and then nginx; `stack` stops them."""
        stack.callback(self.nginx.stop, signal.SIGTERM)
        if self.configuration.exists():
            stack.callback(self.agentd.stop)  # first, or it would wait for an nginx that has gone
            self.agentd.start()
        self.nginx.start(self._accepts)
        return self

    def _accepts(self) -> bool:
        socket.create_connection(("127.0.0.1", self.port), timeout=30).close()
        return True

    def get(self, path: str = "/") -> str:
        """The body of an answer, or its status if that was not 200; a connection of its own."""
        headers = {"Connection": "close"}
        with urllib3.HTTPConnectionPool("127.0.0.1", self.port, timeout=30, retries=False) as pool:
            try:
                answer = pool.request("GET", path, headers=headers)
            except urllib3.exceptions.HTTPError as error:
                raise ConnectionError(f"no answer: {error}") from error
        return answer.data.decode() if answer.status == 200 else str(answer.status)
