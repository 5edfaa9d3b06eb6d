"""`down` on 50 load balancers, some of them real nginx with Lua, against a serial curl loop."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import yaml

from handlers.nginx_upstream.commands.balancers import Balancer, Balancers, Update
from handlers.nginx_upstream.interface import Desired, UpstreamInterface
from tests.bench.rows import Row, p50, spread
from tests.servers.consul import ConsulAgent
from tests.servers.lua import LuaNginx
from tests.servers.nginx import Nginx
from tests.servers.ports import free_port
from tests.servers.tls import make_certificate

BALANCERS, REAL, TIMES = 50, 12, 7
ZONE, SERVER = "app", "10.0.0.1:80"
_LOOP = 'for where in "$@"; do curl -sf --max-time 3 "$where&server=%s&%s=" >/dev/null || exit 1; done'


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Take one server down and put it up again, each side in turn."""
    places = [*_real(stack, directory), *_simulated(stack, BALANCERS - REAL)]
    interfaces = {
        Balancer("lb", host, port): UpstreamInterface(f"http://{host}:{port}/dynamic", ZONE)
        for host, port in places
    }
    command = _command(stack, directory, places)
    urls = [f"http://{host}:{port}/dynamic?upstream={ZONE}" for host, port in places]
    took: dict[str, list[float]] = {"ours": [], "command": [], "theirs": []}
    for _ in range(TIMES):
        took["ours"].append(_timed(lambda: _change(interfaces, down=True)))
        _change(interfaces, down=False)
        took["command"].append(_timed(lambda: command("down")))
        command("up")
        took["theirs"].append(_timed(lambda: _curl(urls, "down")))
        _curl(urls, "up")
    theirs = p50(took["theirs"]) * 1e3
    yield Row(
        f"down on {BALANCERS} load balancers ({REAL} nginx), looked at and verified, p50 of {TIMES}", "ms",
        p50(took["ours"]) * 1e3, "serial curl loop", theirs, 0.2,
        spread([1e3 * x for x in took["ours"]]),
    )  # fmt: skip
    yield Row(
        "the same as a whole command: Python's start, configuration, Consul", "ms",
        p50(took["command"]) * 1e3, "serial curl loop of known addresses", theirs, 0.6,
        "no network between them: curl's start is all that the loop costs",
    )  # fmt: skip


def _real(stack: ExitStack, directory: Path) -> list[tuple[str, int]]:
    certificate = make_certificate(directory)
    found = []
    for number in range(1, REAL + 1):
        own = directory / f"x{number}"
        own.mkdir()
        lua = LuaNginx(Nginx(own, certificate, address=f"127.0.1.{number}"), ZONE)
        lua.seed(*(f"10.0.0.{at}:80" for at in range(1, 5)), zone=ZONE)
        stack.callback(lua.nginx.stop)
        lua.start()
        found.append((lua.nginx.address, lua.port))
    return found


def _simulated(stack: ExitStack, count: int) -> list[tuple[str, int]]:
    places = [(address, free_port(address)) for address in (f"127.0.2.{at}" for at in range(1, count + 1))]
    argv = [
        sys.executable,
        "-m",
        "tests.servers.dynamic_upstream",
        *(f"{host}:{port}" for host, port in places),
    ]
    process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE))
    stack.callback(process.kill)
    if process.stdout is None or process.stdout.readline() != b"ready\n":
        raise RuntimeError("the simulated load balancers did not start")
    return places


def _command(stack: ExitStack, directory: Path, places: list[tuple[str, int]]) -> Callable[[str], None]:
    """`agentd upstream`, with the load balancers in a real Consul."""
    (directory / "consul").mkdir()
    consul = ConsulAgent(directory / "consul")
    stack.callback(consul.stop)
    consul.start()
    for at, (host, port) in enumerate(places):
        service = {"Name": "lb", "ID": f"lb{at}", "Address": host, "Port": port}
        consul.put("/v1/agent/service/register", service)
    file = directory / "agentd.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "consul": {"address": f"{consul.address}:{consul.ports['http']}"},
                "handlers": {"a": {"use": "command", "options": {"argv": ["true"]}}},
            }
        )
    )
    agentd = str(Path(sys.executable).with_name("agentd"))

    def run(action: str) -> None:
        where = ["--upstream", ZONE, "--on", "lb", "--networks", "127.0.0.0/8", "--config", str(file)]
        argv = [agentd, "upstream", action, SERVER, *where]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=60)

    return run


def _change(interfaces: dict[Balancer, UpstreamInterface], *, down: bool) -> None:
    results = Balancers(interfaces).change(Update(SERVER, Desired(down=down), min_servers=1))
    if any(result.outcome != "changed" for result in results):
        raise RuntimeError(f"not changed everywhere: {results}")


def _curl(urls: list[str], state: str) -> None:
    subprocess.run(["bash", "-c", _LOOP % (SERVER, state), "loop", *urls], check=True, timeout=60)


def _timed(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
