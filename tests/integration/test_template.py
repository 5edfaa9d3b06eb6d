"""Templates on a real Consul and a real nginx: rendered, checked, proved live, held and recovered."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import urllib3

from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.fleet import Node
from tests.servers.ports import free_port
from tests.servers.tls import Certificate
from tests.servers.waiting import wait_until

pytestmark = pytest.mark.integration
TEMPLATE: Final = """\
map $http_x_name $answer {
    default "-";
{% for pair in keyprefix("ROOT/hosts") %}
    {{ pair.key | map_key }} {{ pair.value | quote }};
{% endfor %}
}
upstream PORT {
{% for one in service("SERVICE") %}
    server {{ one | host_port }} weight={{ one.weight }};
{% else %}
    server 127.0.0.1:1 down;
{% endfor %}
}
server {
    listen 127.0.0.1:PORT;
    location / { return 200 "$answer"; }
    location = /motd { return 200 "{{ key_or_default("ROOT/motd", "nothing") }}"; }
    location = /version { return 200 "1"; }
}
"""
SECRETS: Final = tuple(f"-----BEGIN SECRET {word * 20}-----\n".encode() for word in ("first", "other"))


@dataclass
class Place:
    """A node with a handler `site`, which makes a server of nginx's, and one `pem`, which writes a secret."""

    node: Node
    root: str
    port: int
    source: Path

    def put(self, key: str, value: bytes) -> None:
        """Write a key below the root."""
        self.node.consul.kv_put(f"{self.root}/{key}", value)

    def ask(self, path: str = "/", name: str = "") -> str:
        """What nginx answers."""
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            return urllib3.request("GET", url, headers={"X-Name": name}, retries=False).data.decode()
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(str(error)) from error

    def await_answer(self, wanted: str, path: str = "/", name: str = "") -> None:
        """Wait until nginx answers so."""
        wait_until(lambda: self.ask(path, name) == wanted, f"{path} to answer {wanted}")

    def outcome(self, query: str) -> str:
        """The outcome of the newest state of a query; "" while there is none."""
        rows = [row for row in self.node.history("site") if row["id"].startswith(query)]
        return (rows and rows[0]["outcome"]) or ""

    def told(self, handler: str = "site") -> dict[str, Any]:
        """What /status says of a handler."""
        found: dict[str, Any] = json.loads(self.node.agentd.get("/status")[1])["handlers"][handler]
        return found


@pytest.fixture(scope="module")
def place(consul: ConsulAgent, certificate: Certificate) -> Iterator[Place]:
    """One node for all tests."""
    require("nginx")
    port = free_port()
    root, service = f"template-{port}", f"web-{port}"
    with tempfile.TemporaryDirectory(prefix="agentd-", ignore_cleanup_errors=True) as made:
        directory = Path(made)
        source = directory / "site.j2"
        text = TEMPLATE.replace("ROOT", root).replace("PORT", str(port)).replace("SERVICE", service)
        source.write_text(text)
        handlers = {
            "site": {
                "use": "template",
                "on": [{"service": service}, {"keyprefix": f"{root}/hosts/"}, {"key": f"{root}/motd"}],
                "notify": ["nginx-reload"],
                "options": {"files": [{"source": str(source), "path": "servers/site.conf"}]},
            },
            "pem": {
                "use": "template",
                "on": [{"key": f"{root}/pem"}],
                "options": {
                    "files": [
                        {
                            "text": f'{{{{ key("{root}/pem") }}}}',
                            "path": "pem",
                            "secret": True,
                            "escape": "none",
                        }
                    ]
                },
            },
            "nginx-reload": {"use": "nginx_reload", "options": {"interval": "50ms"}},
        }
        node = Node(directory / "n", certificate, number=1, consul=consul, handlers=handlers)
        place = Place(node, root, port, source)
        place.put("pem", SECRETS[0])
        try:
            node.start()
            place.await_answer("1", "/version")
            yield place
        finally:
            node.stop()


def test_what_was_never_there_is_rendered_as_absent(place: Place) -> None:
    """A key gets its default and a service its `else`; nothing waits for what nobody writes."""
    place.await_answer("nothing", "/motd")

    assert b"server 127.0.0.1:1 down;" in place.node.read("servers/site.conf")
    place.put("motd", b"hello")
    place.await_answer("hello", "/motd")
    place.node.consul.kv_delete(f"{place.root}/motd")
    place.await_answer("nothing", "/motd")


def test_values_reach_nginx_as_they_were_written(place: Place) -> None:
    """Whatever quotes, braces or orders of nginx's they look like."""
    values = {
        "include": '/etc/passwd; } server { listen 1; "',
        "default": "\\",
        "hostnames": 'a "quoted" \\"word\\"',
        "volatile": "# no comment",
        "a.example.com": "\u00e4\u20ac {x} 'y'",
        "b/c": '\\";',
        "d": "x" * 3000,
    }
    for name, value in values.items():
        place.put(f"hosts/{name}", value.encode())
    place.await_answer("x" * 3000, name="d")

    assert {name: place.ask(name=name) for name in values} == values
    assert place.ask(name="nobody") == "-"


def test_a_value_that_is_refused_leaves_what_serves_until_it_is_corrected(place: Place) -> None:
    """The outcome names template and line; another state that changes meanwhile recovers with it."""
    key, hosts = f"key:{place.root}/motd", f"keyprefix:{place.root}/hosts/"
    place.put("motd", b"fine")
    place.await_answer("fine", "/motd")

    place.put("motd", b'"; } evil')
    wait_until(lambda: place.outcome(key) == "refused", "the value to be refused")
    reason = place.told()["behind"]["reason"]
    place.put("hosts/later", b"1")
    wait_until(lambda: place.outcome(hosts) == "refused", "the other to be held")
    served = place.ask("/motd"), place.ask(name="later")
    place.put("motd", b"better")
    place.await_answer("better", "/motd")

    assert f"{place.source}, line 17" in reason
    assert "evil" not in reason
    assert served == ("fine", "-")
    assert place.ask(name="later") == "1"
    wait_until(lambda: place.told()["behind"] is None, "nothing to be behind")


def test_a_kill_loses_nothing(place: Place) -> None:
    """What came before it, and what came while nobody ran; the states that did not change are still known."""
    place.put("hosts/known", b"known")
    place.await_answer("known", name="known")
    place.put("motd", b"before")
    place.node.agentd.kill()
    place.put("motd", b"after")

    place.node.agentd.start()

    place.await_answer("after", "/motd")
    assert place.ask(name="known") == "known"


def test_a_rollback_holds_until_the_next_change_after_it(place: Place) -> None:
    """Resumed, the entry leaves alone what was rolled back; a change renders all from the newest states."""
    place.put("motd", b"before")
    place.await_answer("before", "/motd")
    place.put("motd", b"newer")
    place.await_answer("newer", "/motd")

    assert place.node.agentd.command("rollback").returncode == 0
    place.await_answer("before", "/motd")
    assert place.told()["paused"]
    assert place.node.agentd.command("resume").returncode == 0
    assert place.ask("/motd") == "before"

    place.put("hosts/after.example.org", b"rollback")
    place.await_answer("rollback", name="after.example.org")
    assert place.ask("/motd") == "newer"


def test_a_changed_template_is_rendered_at_a_reload(place: Place) -> None:
    """With an outcome of its own; one that is wrong is refused, and agentd goes on."""
    text = place.source.read_text()
    place.source.write_text(text.replace('return 200 "1"', 'return 200 "2"'))
    place.node.agentd.reload()
    place.await_answer("2", "/version")

    place.source.write_text(text + "{% for %}")
    place.node.agentd.reload()
    wait_until(lambda: (place.told()["behind"] or {}).get("reason"), "the mistake to be told")
    checked = place.node.agentd.command("check").stdout
    place.source.write_text(text)
    place.node.agentd.reload()
    place.await_answer("1", "/version")

    assert f"{place.source}, line {len(text.splitlines()) + 1}" in checked


def test_a_replaced_secret_is_nowhere_on_the_disk(place: Place) -> None:
    """Neither in a generation nor in the journal: raw, in base64 or in hex."""
    old, new = SECRETS
    wait_until(lambda: place.node.read("pem") == old, "the secret")

    place.put("pem", new)
    wait_until(lambda: place.node.read("pem") == new, "the new one")
    forms = [old, base64.b64encode(old), old.hex().encode(), old[:40]]

    def is_gone() -> bool:
        files = (file for file in place.node.directory.rglob("*") if file.is_file())
        return not any(form in file.read_bytes() for file in files for form in forms)

    wait_until(is_gone, "it to be gone")
    assert (place.node.nginx.tree / "current" / "pem").stat().st_mode & 0o777 == 0o600


def test_what_the_token_may_not_read_is_waited_for(
    new_consul: Callable[..., ConsulAgent], new_node: Callable[..., Node]
) -> None:
    """It is not absent; and with Consul down, a start keeps what was rendered."""
    consul = new_consul(acl=True)
    consul.kv_put("a", b"1")
    consul.kv_put("b", b"2")
    handlers = {
        "sum": {
            "use": "template",
            "on": [{"key": "a"}, {"key": "b"}],
            "options": {"files": [{"text": '{{ key("a") }}{{ key_or_default("b", "-") }}', "path": "sum"}]},
        }
    }
    node = new_node(consul, handlers=handlers)
    token = node.directory / "token"
    token.touch(0o600)
    token.write_text(consul.make_token('key "a" { policy = "read" }'))
    node.config["consul"]["token_file"] = str(token)
    node.configure()
    node.agentd.start()

    def told() -> bool:
        found = json.loads(node.agentd.get("/status")[1])["handlers"]["sum"]
        return bool(found["waiting_reason"] == "waits for key:b")

    wait_until(told, "the reason")
    assert not (node.nginx.tree / "current" / "sum").exists()

    token.write_text(consul.token or "")
    node.agentd.reload()
    wait_until((node.nginx.tree / "current" / "sum").exists, "the file")
    assert node.read("sum") == b"12"
    node.agentd.stop()
    consul.stop()
    node.agentd.start()
    assert node.read("sum") == b"12"


def test_a_new_node_starts_though_nginx_needs_the_files_from_the_first(
    consul: ConsulAgent, certificate: Certificate, directory: Path
) -> None:
    """nginx.conf uses a map that is not there before the first render."""
    key = f"new-node-{free_port()}"
    consul.kv_put(key, b"served")
    text = f'map $host $motd {{ default "{{{{ key("{key}") }}}}"; }}'
    handlers = {
        "motd": {
            "use": "template",
            "on": [{"key": key}],
            "notify": ["nginx-reload"],
            "options": {"files": [{"text": text, "path": "maps/motd.inc"}]},
        },
        "nginx-reload": {"use": "nginx_reload"},
    }
    node = Node(directory / "n", certificate, number=1, consul=consul, handlers=handlers)
    node.nginx.configure(
        http="include agentd/current/maps/motd.inc;", server="location = /motd { return 200 $motd; }"
    )
    try:
        node.start()
        url = f"http://{node.nginx.address}:{node.nginx.port}/motd"
        assert urllib3.request("GET", url).data == b"served"
    finally:
        node.stop()
