"""The examples of docs/coming-from-consul-template.md, given to consul-template and confd themselves.

Owns the recording in tests/inputs/consul-template: what Consul answered, and what both programs made of it.
tests/unit/test_docs_consul_template.py holds agentd against it, without the programs; `template.py` holds the
programs against it. `python -m tests.bench.template_examples` records anew.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agentd.watch.client import ConsulClient
from agentd.watch.options import ConsulOptions
from agentd.watch.queries import KeyPrefixQuery, ServiceQuery
from agentd.watch.query import Query
from tests.pages import ROOT, of
from tests.servers.consul import ConsulAgent
from tests.servers.waiting import wait_until

PAGE: Final = ROOT / "docs" / "coming-from-consul-template.md"
RECORDED: Final = ROOT / "tests" / "inputs" / "consul-template"
QUERIES: Final[tuple[Query, ...]] = (
    ServiceQuery("api"),
    KeyPrefixQuery("upstreams/api"),
    KeyPrefixQuery("maps/hosts"),
)
_RELOAD: Final = "nginx -t && systemctl reload nginx"
_KEYS: Final = {
    "upstreams/api/b": "10.0.0.2:8080",
    "upstreams/api/a": "10.0.0.10:8080",
    "upstreams/api/deeper/c": "10.0.0.3:8080",
    "maps/hosts/www.example.org": "web",
    "maps/hosts/*.example.net": "api",
    "maps/hosts/api.example.org": "api",
    "maps/hosts/old/example.org": "web",
    "maps/hosts-elsewhere/a.example.org": "web",
}
_INSTANCES: Final = (("10.0.0.2", 8080, 1), ("10.0.0.10", 8081, 5))
"""Address, port and weight; the critical one beside them is not to be seen."""


def seed(consul: ConsulAgent) -> None:
    """Fill Consul with what the examples read."""
    for key, value in _KEYS.items():
        consul.kv_put(key, value.encode())
    for at, (address, port, weight) in enumerate(_INSTANCES):
        _register(consul, at, address, port, weight, "passing")
    _register(consul, 2, "10.0.0.3", 8080, 1, "critical")
    path = "/v1/health/service/api?passing=1"
    wait_until(lambda: len(consul.get(path)) == len(_INSTANCES), "the instances to be known")


def _register(consul: ConsulAgent, at: int, address: str, port: int, weight: int, status: str) -> None:
    consul.put(
        "/v1/agent/service/register",
        {
            "ID": f"api-{at}",
            "Name": "api",
            "Address": address,
            "Port": port,
            "Tags": ["v2"] if at else ["v1"],
            "Weights": {"Passing": weight, "Warning": 1},
            "Check": {"CheckID": f"api-{at}", "Name": "alive", "TTL": "3600s", "Status": status},
        },
    )


def answers(consul: ConsulAgent) -> dict[str, Any]:
    """What Consul says of each query, without what differs each time."""
    client = ConsulClient(ConsulOptions(address=consul.url))
    try:
        return {str(query): query.fetch(client).changes[0].raw for query in QUERIES}
    finally:
        client.close()


def by_consul_template(program: str, consul: ConsulAgent, directory: Path) -> dict[str, bytes]:
    """What consul-template makes of each of its blocks, by the file's name."""
    made = {}
    for block in of("consul-template", page=PAGE):
        target = Path(block.text.partition("destination")[2].split('"')[1])
        file = directory / target.name
        text = block.text.replace(str(target), str(file)).replace(
            "nginx -t && systemctl reload nginx", "true"
        )
        configuration = directory / "ct.hcl"
        configuration.write_text(f'consul {{ address = "{consul.url.removeprefix("http://")}" }}\n{text}')
        _run([program, "-once", "-config", str(configuration)])
        made[target.name] = file.read_bytes()
    return made


def by_confd(program: str, consul: ConsulAgent, directory: Path) -> dict[str, bytes]:
    """What confd makes of each of its templates, by the file's name."""
    made = {}
    for number, block in enumerate(of("confd", page=PAGE)):
        name = ("api-keys.conf", "hosts-confd.map")[number]
        home, file = directory / f"confd-{number}", directory / name
        for part in ("conf.d", "templates"):
            (home / part).mkdir(parents=True)
        (home / "templates" / "t.tmpl").write_text(block.text)
        keys = '["/upstreams/api", "/maps/hosts"]'
        (home / "conf.d" / "t.toml").write_text(
            f'[template]\nsrc = "t.tmpl"\ndest = "{file}"\nkeys = {keys}\n'
        )
        address = consul.url.removeprefix("http://")
        _run([program, "-onetime", "-backend", "consul", "-node", address, "-confdir", str(home)])
        made[name] = file.read_bytes()
    return made


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with status {done.returncode}: {done.stderr}")


def made_now(consul: ConsulAgent, directory: Path) -> Mapping[str, bytes]:
    """What the programs that are installed here make of the examples."""
    made: dict[str, bytes] = {}
    if program := shutil.which("consul-template"):
        made |= by_consul_template(program, consul, directory)
    if program := shutil.which("confd"):
        made |= by_confd(program, consul, directory)
    return made


def main() -> int:
    """Record; both programs must be there."""
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        consul = ConsulAgent(directory)
        try:
            consul.start()
            seed(consul)
            RECORDED.mkdir(exist_ok=True)
            (RECORDED / "answers.json").write_text(json.dumps(answers(consul), indent=1) + "\n")
            for name, content in made_now(consul, directory).items():
                (RECORDED / name).write_bytes(content)
        finally:
            consul.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
