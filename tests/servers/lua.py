"""An nginx in which `config/nginx/dynamic_upstream.lua` balances the upstreams of its tree."""

from __future__ import annotations

from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import urllib3

from tests.servers.nginx import Nginx, loading
from tests.servers.ports import free_port

LUA = Path(__file__).parents[2] / "config" / "nginx"


class LuaNginx:
    """Gives an nginx, not yet started, the shipped snippet, and `/via/ZONE` for each upstream named."""

    def __init__(self, nginx: Nginx, *zones: str, location: str = "") -> None:
        self.nginx = nginx
        for directory in (nginx.directory, *nginx.directory.parents):  # the workers read the upstreams' files
            if directory.stat().st_mode & 0o005 == 0:
                directory.chmod(0o755)
        self.port = free_port(nginx.address)
        self.socket = nginx.directory / "upstreams" / "interface.sock"
        self.socket.parent.mkdir(mode=0o750)
        self.zones = zones
        upstreams = nginx.tree / "current" / "upstreams"
        http, commented_out, listener = (LUA / "dynamic-upstream.conf").read_text().partition("#server {")
        assert commented_out
        http += "server {" + listener.replace("\n#", "\n")  # for operators
        for shipped, here in (
            ("/etc/nginx/lua", LUA),
            ("/etc/nginx/agentd/current/upstreams", upstreams),
            ("/run/agentd/upstreams/interface.sock", self.socket),
            ("10.0.0.1:9522", f"{nginx.address}:{self.port}"),
            ("allow 10.0.0.5;", "allow 127.0.0.0/8;"),
        ):
            assert shipped in http
            http = http.replace(shipped, str(here))
        server = "".join(
            f"location = /via/{zone} {{ proxy_pass http://{zone}; proxy_connect_timeout 10s; {location} }}\n"
            for zone in zones
        )
        nginx.configure(main=loading("lua"), http=http, server=server)

    @property
    def interface(self) -> str:
        """As the handler's option wants it."""
        return f"unix:{self.socket}:/dynamic"

    def seed(self, *servers: str, zone: str = "api", keepalive: int = 0) -> None:
        """Make a generation by hand, with one upstream of these servers."""
        generations = self.nginx.tree / "generations"
        number = len(list(generations.iterdir())) if generations.exists() else 0
        made = generations / f"{number:06}"
        (made / "upstreams").mkdir(parents=True)
        (made / "agentd.conf").write_text("include agentd/current/*/*.conf;\n")
        lines = "".join(f"    server {server};\n" for server in servers)
        more = f"    keepalive {keepalive};\n" if keepalive else ""
        (made / "upstreams" / f"{zone}.conf").write_text(
            f"upstream {zone} {{\n{lines}"
            f'    balancer_by_lua_block {{ require("dynamic_upstream").balance("{zone}") }}\n{more}}}\n'
        )
        flip = self.nginx.tree / "flip"
        flip.symlink_to(f"generations/{number:06}")
        flip.replace(self.nginx.tree / "current")

    def start(self) -> LuaNginx:
        """Start nginx."""
        self.nginx.start()
        return self

    def ask(self, query: str) -> tuple[int, str]:
        """GET the interface with a query as it stands, as operators do, over TCP; status and body."""
        # Not by urllib3, which would encode what the interface does not decode.
        with closing(HTTPConnection(self.nginx.address, self.port, timeout=30)) as connection:
            connection.request("GET", f"/dynamic?{query}")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def via(self, count: int = 1, zone: str = "api") -> list[str]:
        """Who answered that many requests, one connection after the other; a status where it was not 200."""
        with urllib3.HTTPConnectionPool(
            self.nginx.address, self.nginx.port, timeout=30, retries=False
        ) as pool:
            close = {"Connection": "close"}  # a reload closes a kept one, at times under the next request
            answers = [pool.request("GET", f"/via/{zone}", headers=close) for _ in range(count)]
        return [answer.data.decode() if answer.status == 200 else str(answer.status) for answer in answers]
