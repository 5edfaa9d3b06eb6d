"""`agentd check` against a real Consul and a real nginx."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.cli import main
from tests.servers.consul import ConsulAgent
from tests.servers.nginx import Nginx

Check = Callable[..., dict[str, dict[str, str]]]

HANDLERS = {
    "a": {
        "use": "command",
        "on": [{"event": "deploy"}, {"keyprefix": "site/"}, {"service": "web"}],
        "options": {"argv": ["/bin/true"]},
    }
}
INCLUDE = "include agentd/current/agentd.conf;"


@pytest.fixture
def check(directory: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run `agentd check` on sections of a configuration; what was found, by subject."""

    def run(**sections: Any) -> dict[str, dict[str, str]]:  # noqa: ANN401 (any part of the configuration)
        file = directory / "agentd.yaml"
        tree = (
            directory / "agentd"
            if sections.get("nginx") is None
            else Path(sections["nginx"]["conf"]).parent / "agentd"
        )
        configuration = {
            "consul": {"address": f"unix://{directory}/none.sock"},
            "nginx": None,
            "tree": {"path": str(tree)},
            "state": str(directory / "state"),
            "handlers": HANDLERS,
        }
        file.write_text(json.dumps(configuration | sections))
        status = main(["check", "--json", "--config", str(file)])
        found = json.loads(capsys.readouterr().out)
        assert status == int(any(one["level"] == "FAIL" for one in found))
        return {one["subject"]: one for one in reversed(found)}

    return run


def rewrite(nginx: Nginx, old: str, new: str) -> None:
    """Edit nginx.conf as an operator does."""
    text = nginx.conf.read_text()
    assert old in text
    nginx.conf.write_text(text.replace(old, new))


# ---------------------------------------------------------------- Consul


def test_consul_is_told_with_version_and_leader(consul: ConsulAgent, check: Check) -> None:
    """An agent without ACLs: version, node, leader, and that nothing is refused."""
    found = check(consul={"address": consul.url})
    assert re.fullmatch(r"Consul \d+\.\d+\.\d+\S*, server node1 in dc1", found["consul"]["text"])
    assert found["consul leader"]["level"] == found["acl"]["level"] == "ok"


def test_each_missing_right_is_named_and_its_advice_mends_it(
    new_consul: Callable[..., ConsulAgent], directory: Path, check: Check
) -> None:
    """Without a token every query is told to be refused; a token with exactly the advised rules passes."""
    agent = new_consul(acl=True)
    refused = check(consul={"address": agent.url})
    assert {name for name, one in refused.items() if one["level"] == "FAIL"} >= {
        "acl event",
        "acl keyprefix:site/",
        "acl service:web",
    }

    rules = ['node_prefix "" { policy = "read" }']
    rules += [one["advice"].partition(": ")[2] for one in refused.values() if "this rule" in one["advice"]]
    (directory / "token").write_text(agent.make_token("\n".join(rules)))
    allowed = check(consul={"address": agent.url, "token_file": str(directory / "token")})
    assert {one["level"] for name, one in allowed.items() if name.startswith(("acl", "consul"))} == {"ok"}


def test_token_for_some_events_is_warned_of(
    new_consul: Callable[..., ConsulAgent], directory: Path, check: Check
) -> None:
    """It reads what is wanted, but a full ring would go unnoticed."""
    agent = new_consul(acl=True)
    (directory / "token").write_text(agent.make_token('event "deploy" { policy = "read" }'))
    found = check(consul={"address": agent.url, "token_file": str(directory / "token")})
    assert found["acl event"]["level"] == "warn"


# ---------------------------------------------------------------- nginx


def test_nginx_that_includes_the_tree_is_well(new_nginx: Callable[..., Nginx], check: Check) -> None:
    """Configuration, include and worker_shutdown_timeout, each with its own line."""
    nginx = new_nginx()
    nginx.seed_tree()
    found = check(nginx=nginx.agentd_section)
    assert found["nginx -t"]["level"] == found["nginx include"]["level"] == "ok"
    assert found["nginx drain"]["text"] == "worker_shutdown_timeout 5s"


def test_check_leaves_nothing_behind(new_nginx: Callable[..., Nginx], check: Check) -> None:
    """No probe in the tree, no pid file, no state directory: it only looks."""
    nginx = new_nginx()
    nginx.seed_tree()
    before = set(nginx.conf.parent.rglob("*"))
    check(nginx=nginx.agentd_section)
    assert set(nginx.conf.parent.rglob("*")) == before
    assert not nginx.pid_file.exists()


@pytest.mark.parametrize("place", ["nowhere", "main", "server"])
def test_tree_that_is_not_included_in_http_fails(
    place: str, new_nginx: Callable[..., Nginx], check: Check
) -> None:
    """Left out, at the top level, or inside a server: nginx would not serve the tree as it is meant."""
    nginx = new_nginx()
    nginx.seed_tree()
    rewrite(nginx, INCLUDE, "")
    if place == "main":
        nginx.conf.write_text(INCLUDE + "\n" + nginx.conf.read_text())
    if place == "server":
        rewrite(nginx, "root /;", f"root /; {INCLUDE}")
    found = check(nginx=nginx.agentd_section)
    assert found["nginx include"]["level"] == "FAIL"
    assert found["nginx include"]["advice"] == f"put `{INCLUDE}` into http {{}}"


def test_include_in_a_file_that_http_includes_is_found(new_nginx: Callable[..., Nginx], check: Check) -> None:
    """conf.d/agentd.conf is as good a place as nginx.conf."""
    nginx = new_nginx()
    nginx.seed_tree()
    (nginx.conf.parent / "conf.d").mkdir()
    (nginx.conf.parent / "conf.d" / "own.conf").write_text(f"{INCLUDE}\n")
    rewrite(nginx, INCLUDE, "include conf.d/*.conf;")
    assert check(nginx=nginx.agentd_section)["nginx include"]["level"] == "ok"


def test_before_the_first_start_the_include_is_expected_to_fail(
    new_nginx: Callable[..., Nginx], check: Check
) -> None:
    """There is no generation yet: a warning that says what to start first."""
    nginx = new_nginx()
    found = check(nginx=nginx.agentd_section)
    assert found["nginx include"]["level"] == "warn"
    assert found["nginx include"]["advice"] == "start agentd, and then nginx"


def test_broken_nginx_configuration_is_quoted(new_nginx: Callable[..., Nginx], check: Check) -> None:
    """The words of nginx, with file and line."""
    nginx = new_nginx()
    nginx.seed_tree()
    nginx.break_configuration()
    found = check(nginx=nginx.agentd_section)
    assert found["nginx -t"]["level"] == "FAIL"
    assert found["nginx -t"]["text"].startswith('unknown directive "no_such_directive" in ')


def test_missing_shutdown_timeout_is_warned_of(new_nginx: Callable[..., Nginx], check: Check) -> None:
    """Old workers might drain for ever; a comment does not count."""
    nginx = new_nginx()
    nginx.seed_tree()
    rewrite(nginx, "worker_shutdown_timeout 5s;", "# worker_shutdown_timeout 5s;")
    assert check(nginx=nginx.agentd_section)["nginx drain"]["level"] == "warn"


def test_missing_nginx_fails(new_nginx: Callable[..., Nginx], check: Check) -> None:
    """A wrong nginx.binary is told as such."""
    nginx = new_nginx()
    found = check(nginx=nginx.agentd_section | {"binary": "/no/such/nginx"})
    assert found["nginx"]["level"] == "FAIL"
    assert "/no/such/nginx" in found["nginx"]["text"]


def test_shipped_configuration_lacks_only_what_the_machine_lacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """config/agentd.yaml itself has no problem: whatever fails is a server or a directory."""
    shipped = Path(__file__).parents[2] / "config" / "agentd.yaml"
    assert main(["check", "--json", "--config", str(shipped)]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert found[0] == {
        "level": "ok",
        "subject": "configuration",
        "text": f"{shipped}: ticket-keys, blacklist, nginx-reload",
        "advice": "",
    }
