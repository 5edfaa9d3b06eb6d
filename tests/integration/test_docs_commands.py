"""The configuration and the commands that pages show, tried on one real node, in each page's order.

What a command prints, the tests of that command compare; where a page says what comes of it, that is looked
at. tests/unit/test_docs_blocks.py names the test of every page, and the commands that none can run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.bench.template_examples import RECORDED
from tests.pages import ROOT, Block, of
from tests.servers.equipment import require
from tests.servers.fleet import Node, main_job, start_fleet
from tests.servers.lua import LuaNginx
from tests.servers.nginx import Nginx
from tests.servers.reader import Reader, commands
from tests.servers.tls import Certificate
from tests.servers.waiting import wait_until
from tests.unit.handlers.deploy.deploying import contents, file, pack

WHOLE: Final = ("blacklists", "operating", "fleet", "troubleshooting")
"""Pages whose commands are run one after the other, on a fleet of one."""
ELSEWHERE: Final = (
    "agentd history --follow",  # runs until Ctrl-C
    "agentd leave",  # once the daemon has stopped
    "agentd fleet remove --fleet production --yes",  # likewise
    "systemctl ", "apt-get ", "install ", "ip", "for ",
)  # fmt: skip
"""Commands that other tests run, and those of other programs."""
STATUS: Final = {
    "agentd check": (0, 1),  # not as root, say
    "agentd fleet remove": (1,),  # a node runs, and it says so
    "agentd status": (0, 1),
}
"""Exit statuses other than 0."""
DECISION: Final = {"id": 1, "scope": "Ip", "type": "ban", "value": "203.0.113.50", "duration": "4h"}


def shown(page: str, language: str, *words: str) -> list[Block]:
    """The blocks of a page that have all these words."""
    every = of(language, page=ROOT / "docs" / f"{page}.md")
    found = [one for one in every if all(word in one.text for word in words)]
    assert found, f"{page}.md: {words}"
    return found


@pytest.fixture(scope="module")
def node(certificate: Certificate) -> Iterator[Node]:
    """The node on which all of them are tried."""
    with ExitStack() as stack:
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="agentd-", ignore_cleanup_errors=True)
        )
        (made,) = start_fleet(stack, Path(directory), certificate, 1, main_job(interval="50ms"))
        made.agentd.await_listening()
        yield made


@pytest.fixture
def reader(node: Node, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Reader:
    """Who reads one page."""
    return Reader(node, monkeypatch, capfd)


def test_the_commands_of_the_pages(reader: Reader) -> None:
    """Each ends as expected; one that changes something has done so before the next is run."""
    require("openssl")
    node = reader.node
    (reader.here / "drop.txt").write_text("192.0.2.1\n")
    (reader.here / "everything.txt").write_text("replace\nadd 198.51.100.8\n")
    for name in ("deploy.sh", "reboot.sh"):
        reader.program(reader.here / name)
    handlers = main_job(promote_after="0s", interval="50ms", kept=True)
    handlers["blacklist"]["options"] = {"lists": {"drop": {"reference": f"file:{reader.here}/drop.txt"}}}
    sources = {"allow": [f"file:{reader.here}/"]}
    reader.configure(more={"fleet": {"name": "production"}, "sources": sources, "handlers": handlers})
    reader.moved["rollback 41"] = f"rollback {node.generation}"
    node.outcome(node.fire("ip-blacklist", b"add 198.51.100.9"))
    blocks = [one for page in WHOLE for one in shown(page, "sh")] + shown("tickets", "sh", "openssl rand")
    wrong = []
    for line in commands(*blocks):
        if line.startswith(ELSEWHERE):
            continue
        reader.moved["3f9c21a4"] = _replayable(node)
        status, said = reader.run(line)
        expected = next((one for begins, one in STATUS.items() if line.startswith(begins)), (0,))
        if status not in expected:
            wrong.append(f"{line}: {status}: {said[-300:]}")
        if "agentd fire" in line:
            wait_until(lambda: all(one["outcome"] for one in node.history()), "the outcomes")
    assert wrong == []


def _replayable(node: Node) -> str:
    """The beginning of the ID of a change that the blacklist had."""
    return str(next(one["id"] for one in node.history("blacklist") if one["outcome"] == "applied"))[:13]


@pytest.mark.parametrize("page", ["deploy", "coming-from"])
def test_a_deploy(reader: Reader, page: str) -> None:
    """What the event names is in place of what was there."""
    require("rsync")
    reader.moved["https://deploy.example.com/"] = f"file:{reader.here}/shelf/"
    reader.moved["/srv/www"] = f"{reader.here}/www"
    for name in ("shelf", "www"):
        (reader.here / name).mkdir(exist_ok=True)
    archive = pack(reader.here / "shelf" / "app.tar.gz", file("page", page.encode()))
    manifest = reader.here / "shelf" / "app.yml"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    manifest.write_text(f"src: file:{archive}\nchecksum: {digest}\ndest: {reader.here}/www/app\n")
    reader.moved["sha256:HEX"] = f"sha256:{hashlib.sha256(manifest.read_bytes()).hexdigest()}"
    reader.configure(*shown(page, "yaml", "use: deploy"))
    before = len(reader.node.history("deploy"))

    reader.follow(*shown(page, "sh", "consul event -name=deploy"))

    wait_until(lambda: len(reader.node.history("deploy")) > before, "the event")
    assert reader.outcome("deploy") == "applied"
    assert contents(reader.here / "www" / "app") == {"page": page.encode()}


def test_decisions_of_crowdsec(reader: Reader) -> None:
    """The timer's lines write what the list reads, and it says which list blocks the address."""
    reader.moved["/var/lib/crowdsec"] = f"{reader.here}/crowdsec"
    (reader.here / "crowdsec").mkdir()
    (reader.here / "decisions").write_text(json.dumps([{"decisions": [DECISION]}]))

    reader.follow(*shown("coming-from", "sh", "cscli"))
    reader.configure(*shown("coming-from", "yaml", "crowdsec:"))

    why = f"agentd blacklist why {DECISION['value']}"
    wait_until(lambda: "is blocked" in (said := reader.run(why)[1]) and "crowdsec" in said, "the decision")


def test_jobs_of_cron(reader: Reader) -> None:
    """One under a lock, and one that every node has to do."""
    reader.moved["/usr/local/bin"] = f"{reader.here}/local"
    for name in ("report", "renew"):
        reader.program(reader.here / "local" / name, f"touch {reader.here}/{name}.done")
    reader.configure(*shown("coming-from", "yaml", "renew-certificates"))

    reader.follow(*shown("coming-from", "sh", "jobs/report"), *shown("coming-from", "sh", "agentd fire"))

    assert reader.outcome("certificates") == "applied"
    assert {path.name for path in reader.here.glob("*.done")} == {"report.done", "renew.done"}


def test_a_node_moves_from_consul_template(reader: Reader) -> None:
    """The file is the same as the one that consul-template wrote, and nginx takes it by its new name."""
    page, node = "coming-from-consul-template", reader.node
    (reader.here / "maps").mkdir()
    (reader.here / "maps" / "hosts.map").write_bytes((RECORDED / "hosts.map").read_bytes())
    for one in json.loads((RECORDED / "answers.json").read_text())["keyprefix:maps/hosts"]:
        node.consul.kv_put(one["Key"], base64.b64decode(one["Value"]))
    reader.moved["/etc/nginx/maps"] = f"{reader.here}/maps"
    reader.moved["nginx -t"] = f"{node.nginx.binary} -t -p {node.nginx.directory} -c {node.nginx.conf}"
    reader.configure()
    reader.write(*shown(page, "yaml", "path: maps/hosts.map"))
    (compare,) = shown(page, "sh", "agentd render")

    assert reader.run(list(commands(compare))[1]) == (0, "same\n")
    reader.follow(*shown(page, "sh", "reload-or-restart agentd"))
    wait_until(lambda: "maps/hosts.map" in node.content(), "the file in a generation")
    (include,) = shown(page, "nginx", "include agentd/current/maps/hosts.map")
    node.nginx.configure(http=include.text, server="if ($agentd_blocked) { return 403; }")
    reader.follow(*shown(page, "sh", "nginx -t &&"), *shown(page, "sh", "disable --now consul-template"))
    node.nginx.configure(server="if ($agentd_blocked) { return 403; }")


def test_the_commands_of_upstreams(reader: Reader, new_nginx: Callable[..., Nginx]) -> None:
    """On a load balancer that Consul knows, with the interface in Lua; and the guards overridden once."""
    consul, servers = reader.node.consul, ("10.0.0.5:8000", "10.0.0.6:8000")
    balancer = LuaNginx(new_nginx(), "api")
    balancer.seed(*servers)
    balancer.start()
    consul.register("api-lb", balancer.port)
    for server in servers:
        host, _, port = server.partition(":")
        instance = {"Name": "api", "ID": f"upstream-{host}", "Address": host, "Port": int(port)}
        consul.put("/v1/agent/service/register", instance)
    wait_until(lambda: _known(reader.node, "api") >= set(servers), "the servers")
    reader.moved["--on api-lb"] = "--on api-lb --networks 127.0.0.0/8,10.0.0.0/8"
    reader.configure(*shown("upstreams", "yaml", "upstream-override"))
    reader.follow(*shown("upstreams", "sh", "agentd fire"))
    assert reader.outcome("api") in ("applied", "unchanged")

    said = reader.follow(*shown("upstreams", "sh", "agentd upstream"))
    assert said.count("changed") == 3
    assert "server 10.0.0.5:8000 weight=5" in balancer.ask("upstream=api&verbose=")[1]
    reader.follow(*shown("upstreams", "sh", "agentd rolling"))
    assert {f"{one} deploy-api" for one in ("10.0.0.5", "10.0.0.6")} <= set(
        (reader.here / "ssh.log").read_text().splitlines()
    )


def _known(node: Node, service: str) -> set[str]:
    found = node.consul.get(f"/v1/health/service/{service}")
    return {f"{one['Service']['Address']}:{one['Service']['Port']}" for one in found}


def test_a_check_in_consul_and_the_journal(reader: Reader) -> None:
    """Consul takes the file as it comes with agentd, but for the port; the log is what `jq` is told it is."""
    require("jq")
    (reader.here / "service.hcl").write_text(
        (ROOT / "config/consul/service.hcl").read_text().replace("127.0.0.1:9521", _status(reader.node))
    )
    reader.moved["/usr/share/agentd/config/consul/service.hcl"] = f"{reader.here}/service.hcl"
    reader.moved["/etc/consul.d"] = f"{reader.node.consul.directory}/consul.d"
    reader.moved["agentd history --failed --follow"] = "timeout 2 agentd history --failed --follow"
    reader.configure()
    bad = reader.node.fire("ip-blacklist", b"add nonsense")
    assert reader.node.outcome(bad)["outcome"] == "refused"

    register, journal = shown("monitoring", "sh", "consul reload"), shown("monitoring", "sh", "journalctl")
    *first, last = commands(*register)
    assert [reader.run(line)[0] for line in first] == [0, 0]
    wait_until(lambda: "node1" in reader.run(last)[1], "the service")
    said = reader.follow(*journal)
    assert said.count("handler.refused") >= 1
    assert '"outcome":"refused"' in said


def _status(node: Node) -> str:
    return str(node.config["status"]["address"])


def test_the_status_page_over_https(reader: Reader, certificate: Certificate) -> None:
    """With the page's token it answers, and agentd's own commands find out by themselves."""
    require("openssl")
    node = reader.node
    certificate.key.chmod(0o600)
    reader.moved |= {
        "0.0.0.0:9521": _status(node),
        "/etc/agentd/status.crt": str(certificate.certificate),
        "/etc/agentd/status.key": str(certificate.key),
        "/etc/agentd/status.token": f"{reader.here}/status.token",
    }
    make, restart, check = commands(*shown("status-page", "sh", "status.token"))
    reader.write(*shown("status-page", "yaml", "token_file"))

    assert reader.run(make)[0] == 0
    assert restart == "systemctl restart agentd"
    node.agentd.stop()
    node.agentd.process.start(lambda: '"source": "daemon"' in reader.run("agentd status --json")[1])
    said = reader.run(check)[1]
    assert re.search(r"status +its certificate expires on 20", said)
    assert (reader.here / "status.token").stat().st_mode & 0o077 == 0
