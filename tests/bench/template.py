"""One template, 1,000 instances: consul-template with a shell that reloads nginx, against agentd.

Each side has its own Consul and nginx, so that neither is woken for the other's changes. A change is an
instance with another port, which the template also writes into a map, so that a request can tell when it is
served. Without consul-template on PATH only agentd is measured; this installs it:

    go install github.com/hashicorp/consul-template@v0.41.1

If it is there, what the page's test compares with is held against it as well.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.bench import template_examples
from tests.bench.memory import resident
from tests.bench.rows import Row, p50
from tests.servers.consul import ConsulAgent
from tests.servers.fleet import Node
from tests.servers.nginx import Nginx
from tests.servers.process import ServerProcess
from tests.servers.tls import Certificate, make_certificate
from tests.servers.waiting import wait_until

INSTANCES: Final = 1000
CHANGES: Final = 30
PAUSE: Final = 1.3  # longer than agentd's interval between two reloads, which would hold one
IDLE: Final = 60.0
_P99: Final = 0.99
_TRANSACTION: Final = 64  # operations that Consul takes in one
_FIRST_PORT: Final = 20_000
_SERVER: Final = "location = /marker { return 200 $marker; }"

_OURS: Final = """\
upstream api {
{% for one in service("api") %}
    server {{ one | host_port }};
{% endfor %}
}
map $host $marker {
{% for one in service("api") | with_tag("marker") %}
    default {{ one.port }};
{% endfor %}
}
"""
_THEIRS: Final = """\
upstream api {
{{- range service "api" }}
    server {{ .Address }}:{{ .Port }};
{{- end }}
}
map $host $marker {
{{- range service "api" }}{{ if in .Tags "marker" }}
    default {{ .Port }};
{{- end }}{{ end }}
}
"""


@dataclass
class Side:
    """One way from Consul to nginx.

    Attributes:
        pid: of what renders.
        file: what it writes.
        took: seconds from a change to the file, and to a request that sees it.
    """

    consul: ConsulAgent
    nginx: Nginx
    pid: int
    file: Path
    took: list[tuple[float, float]] = field(default_factory=list)

    def column(self, at: int) -> list[float]:
        """To the file (0), or to the request (1), in milliseconds."""
        return [1e3 * one[at] for one in self.took]


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:
    """Change one instance on each side in turn; then leave both alone for a minute."""
    certificate = make_certificate(directory)
    program = shutil.which("consul-template")
    ours = _ours(stack, directory / "a", certificate)
    theirs = _theirs(stack, directory / "c", certificate, program) if program else None
    sides = [ours, theirs] if theirs else [ours]
    if theirs:
        yield _recording(stack, directory / "examples")
    for number in range(CHANGES + 2):  # the first two warm up
        for side in sides:
            _change(side, _FIRST_PORT + number)
            time.sleep(PAUSE)
    for side in sides:
        del side.took[:2]
        if _instances(side) != INSTANCES:
            raise RuntimeError(f"{_instances(side)} servers in {side.file}")
    against = "consul-template + nginx -s reload" if theirs else ""
    for at, what in enumerate(("in the file", "served")):
        for name, of in (("p50", p50), ("p99", _p99)):
            yield Row(
                f"{INSTANCES} instances, one changed -> {what}, {name} of {CHANGES}", "ms",
                of(ours.column(at)), against, of(theirs.column(at)) if theirs else None,
                1.0 if what == "served" else 2.0,
                "with nginx -t" if what == "in the file" else "with check and proof",
            )  # fmt: skip
    yield from _idle(ours, theirs)


def _recording(stack: ExitStack, directory: Path) -> Row:
    """Whether the programs still write what is recorded; 0 if they do."""
    directory.mkdir()
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    template_examples.seed(consul)
    made = template_examples.made_now(consul, directory)
    differing = [
        name for name, one in made.items() if one != (template_examples.RECORDED / name).read_bytes()
    ]
    consul.stop()
    return Row(
        "recorded examples that the programs now render otherwise", "", len(differing), "", None, 0,
        f"n={len(made)}",
    )  # fmt: skip


# ---------------------------------------------------------------- the sides


def _consul(stack: ExitStack, directory: Path) -> ConsulAgent:
    directory.mkdir(parents=True)
    consul = ConsulAgent(directory)
    stack.callback(consul.stop)
    consul.start()
    operations = [
        {"Service": {"Verb": "set", "Node": "m", "Service": _service(number)}}
        for number in range(INSTANCES - 1)
    ]
    consul.put("/v1/catalog/register", {"Node": "m", "Address": "10.0.0.1"})
    for start in range(0, len(operations), _TRANSACTION):
        consul.put("/v1/txn", operations[start : start + _TRANSACTION])
    _mark(consul, _FIRST_PORT - 1)
    return consul


def _service(number: int) -> dict[str, object]:
    address = f"10.1.{number // 250}.{number % 250 + 1}"
    return {"Service": "api", "ID": f"api-{number}", "Address": address, "Port": 80}


def _mark(consul: ConsulAgent, port: int) -> None:
    marker = {"Service": "api", "ID": "marker", "Address": "10.2.0.1", "Port": port, "Tags": ["marker"]}
    consul.put("/v1/catalog/register", {"Node": "m", "Address": "10.0.0.1", "Service": marker})


def _ours(stack: ExitStack, directory: Path, certificate: Certificate) -> Side:
    consul = _consul(stack, directory / "consul")
    handlers = {
        "api": {
            "use": "template",
            "on": [{"service": "api"}],
            "notify": ["nginx-reload"],
            "options": {"files": [{"path": "conf.d/api.conf", "text": _OURS}]},
        },
        "nginx-reload": {"use": "nginx_reload"},
    }
    node = Node(directory / "n", certificate, number=1, consul=consul, handlers=handlers)
    stack.callback(node.stop)
    node.agentd.start()
    file = node.nginx.tree / "current" / "conf.d" / "api.conf"
    wait_until(file.exists, "the first file")
    node.nginx.configure(server=_SERVER)
    node.nginx.start()
    side = Side(consul, node.nginx, node.agentd.process.pid, file)
    wait_until(lambda: _served(side) == str(_FIRST_PORT - 1), "agentd's file to be served")
    return side


def _theirs(stack: ExitStack, directory: Path, certificate: Certificate, program: str) -> Side:
    consul = _consul(stack, directory / "consul")
    (directory / "nginx").mkdir()
    nginx = Nginx(directory / "nginx", certificate)
    nginx.seed_tree()
    file = nginx.conf.parent / "api.conf"
    file.write_text("map $host $marker { default none; }\n")
    nginx.configure(http="include api.conf;", server=_SERVER)
    stack.callback(nginx.stop)
    nginx.start()
    (directory / "api.ctmpl").write_text(_THEIRS)
    script = directory / "reload.sh"
    script.write_text(
        "#!/bin/sh\n"
        f"exec {nginx.binary} -p {nginx.directory} -c {nginx.conf} -e {nginx.error_log} -s reload\n"
    )
    script.chmod(0o755)
    argv = [program, "-consul-addr", consul.url.removeprefix("http://")]
    argv += ["-template", f"{directory}/api.ctmpl:{file}:{script}"]
    process = ServerProcess(argv, directory / "consul-template.log", environment=consul.environment)
    stack.callback(process.stop)
    process.start(lambda: True)
    side = Side(consul, nginx, process.pid, file)
    wait_until(lambda: _served(side) == str(_FIRST_PORT - 1), "consul-template's file to be served")
    return side


# ---------------------------------------------------------------- one change


def _change(side: Side, port: int) -> None:
    """Give the marker another port, and take both times."""
    began = time.monotonic()
    _mark(side.consul, port)
    written = _after(began, lambda: f" {port};" in _end(side.file))
    side.took.append((written, _after(began, lambda: _served(side) == str(port))))


def _after(began: float, done: Callable[[], bool]) -> float:
    wait_until(done, "the change", pause=0.001)
    return time.monotonic() - began


def _end(file: Path) -> str:
    """The end of a file, where the map is."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - 100))
            return opened.read().decode()
    except FileNotFoundError:  # between two generations, or two files
        return ""


def _served(side: Side) -> str:
    """What a request sees; a bare client, so that asking costs next to nothing."""
    with socket.create_connection((side.nginx.address, side.nginx.port), timeout=5) as connection:
        connection.sendall(b"GET /marker HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")[2].decode()


def _instances(side: Side) -> int:
    return side.file.read_text().count("    server ")


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[round(_P99 * (len(values) - 1))]


# ---------------------------------------------------------------- at rest


def _idle(ours: Side, theirs: Side | None) -> Iterator[Row]:
    """Memory and processor time of both, over the same minute."""
    sides = [ours, theirs] if theirs else [ours]
    time.sleep(5)
    before, began = [_cpu(side.pid) for side in sides], time.monotonic()
    time.sleep(IDLE)
    seconds = time.monotonic() - began
    used = [100 * (_cpu(side.pid) - one) / seconds for side, one in zip(sides, before, strict=True)]
    memory = [resident(side.pid) / 1e6 for side in sides]
    against = "consul-template" if theirs else ""
    yield Row("... idle: resident memory", "MB", memory[0], against, memory[1] if theirs else None, 2.0)
    yield Row(
        "... idle: processor", "% of a core", used[0], "", None, 0.5,
        f"consul-template {used[1]:.2g}" if theirs else "",
    )  # fmt: skip


def _cpu(pid: int) -> float:
    """Processor seconds, user and system, so far."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")
