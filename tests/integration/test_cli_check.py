"""`agentd check` against a real Consul and a real nginx."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.cli import main
from agentd.nginx.include import render
from agentd.options import NginxOptions
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
    lines = nginx.conf.read_text().splitlines()
    drain = lines.index("worker_shutdown_timeout 5s;") + 1
    assert found["nginx drain"]["text"] == f"{nginx.conf}:{drain}: worker_shutdown_timeout 5s"
    include = next(at for at, line in enumerate(lines, 1) if INCLUDE in line)
    assert found["nginx include"]["text"] == f"{nginx.conf}:{include}: {INCLUDE} is in http {{}}"


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
    assert found["nginx include"]["advice"].startswith(f"put `{INCLUDE}` into http {{}}")
    if place != "nowhere":
        at = next(at for at, line in enumerate(nginx.conf.read_text().splitlines(), 1) if INCLUDE in line)
        assert found["nginx include"]["text"].startswith(
            f"{nginx.conf}:{at}: includes the tree in {place} {{}}"
        )


def test_a_missing_include_is_told_where_nginx_only_misses_a_variable(served: Nginx, check: Check) -> None:
    """What nginx says of it names neither file nor line, nor the cure."""
    served.configure(server="if ($agentd_blocked) { return 403; }")
    rewrite(served, INCLUDE, "")

    found = check(nginx=served.agentd_section)

    assert "agentd_blocked" in found["nginx -t"]["text"]
    assert found["nginx include"]["advice"] == f"put `{INCLUDE}` into http {{}}"


def test_absolute_include_fails(new_nginx: Callable[..., Nginx], check: Check) -> None:
    """Nginx takes it, but then `nginx -t` of a candidate would test the current generation."""
    nginx = new_nginx()
    nginx.seed_tree()
    rewrite(nginx, INCLUDE, f"include {nginx.tree}/current/agentd.conf;")
    found = check(nginx=nginx.agentd_section)["nginx include"]
    assert found["level"] == "FAIL"
    assert "the path is absolute" in found["text"]
    assert found["advice"] == f"put `{INCLUDE}` into http {{}} instead"


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
    assert found["nginx include"]["advice"] == "start agentd, then nginx unless it runs"


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


# ---------------------------------------------------------------- nginx's processes


@pytest.fixture
def served(new_nginx: Callable[..., Nginx]) -> Nginx:
    """An nginx that serves generation 7, in the background."""
    nginx = new_nginx(workers=2, daemon=True)
    options = NginxOptions.model_validate(nginx.agentd_section)
    nginx.seed_tree(render(7, options, "agentd").decode())
    return nginx.start()


def test_workers_that_all_answer_are_well(served: Nginx, check: Check) -> None:
    """With what they serve."""
    found = check(nginx=served.agentd_section)

    assert found["nginx processes"]["level"] == "ok"
    assert f"master {served.master}, 2 workers" in found["nginx processes"]["text"]
    assert found["nginx canary"]["text"] == "all 2 workers answer: generation 7"


def test_an_nginx_that_does_not_run_is_warned_of(new_nginx: Callable[..., Nginx], check: Check) -> None:
    """Nothing is wrong with what agentd writes."""
    nginx = new_nginx()
    nginx.seed_tree()

    assert check(nginx=nginx.agentd_section)["nginx processes"]["level"] == "warn"


def test_two_masters_are_warned_of(served: Nginx, check: Check) -> None:
    """With both ways out of the upgrade."""
    new = served.upgrade()

    found = check(nginx=served.agentd_section)

    assert found["nginx upgrade"]["level"] == "warn"
    assert f"kill -QUIT {served.master}" in found["nginx upgrade"]["advice"]
    assert f"kill -QUIT {new}" in found["nginx upgrade"]["advice"]


def test_workers_without_a_master_fail(served: Nginx, check: Check) -> None:
    """Nothing can be loaded any more."""
    workers = sorted(served.workers())
    served.kill_master()

    found = check(nginx=served.agentd_section)["nginx orphans"]

    assert found["level"] == "FAIL"
    assert f"kill -QUIT {' '.join(map(str, workers))}; rm -f {served.canary}" in found["advice"]


def test_a_canary_that_was_deleted_fails(served: Nginx, check: Check) -> None:
    """Only a restart brings it back."""
    served.canary.unlink()

    found = check(nginx=served.agentd_section)["nginx canary"]

    assert found["level"] == "FAIL"
    assert found["advice"].startswith("restart nginx")


def test_a_canary_that_is_not_there_yet_is_warned_of(served: Nginx, check: Check) -> None:
    """The first reload makes it."""
    rewrite(served, INCLUDE, f"# {INCLUDE}")
    served.reload()

    assert check(nginx=served.agentd_section)["nginx canary"]["level"] == "warn"


def test_a_worker_that_does_not_answer_is_warned_of(served: Nginx, check: Check) -> None:
    """With its pid."""
    stuck = min(served.workers())
    os.kill(stuck, signal.SIGSTOP)
    try:
        found = check(nginx=served.agentd_section)
    finally:
        os.kill(stuck, signal.SIGCONT)

    assert found["nginx stopped"]["advice"] == f"kill -CONT {stuck}"
    assert str(stuck) in found["nginx canary"]["text"]


def test_another_nginx_is_told_and_no_trouble(
    served: Nginx,  # noqa: ARG001 (it is to run)
    new_nginx: Callable[..., Nginx],
    check: Check,
) -> None:
    """It reads another configuration."""
    ours = new_nginx()
    ours.seed_tree()

    found = check(nginx=ours.agentd_section)

    assert (found["nginx processes"]["level"], found["nginx others"]["level"]) == ("warn", "ok")
    assert "is left alone: pid " in found["nginx others"]["text"]  # other tests may run one, too


def test_a_deadline_shorter_than_the_check_takes_is_warned_of(
    new_nginx: Callable[..., Nginx], check: Check
) -> None:
    """With the line, and what to set instead."""
    nginx = new_nginx()
    nginx.seed_tree()
    handlers = {"reload": {"use": "nginx_reload", "options": {"deadline": "0.0001s"}}}

    found = check(nginx=nginx.agentd_section, handlers=handlers)["nginx deadline"]

    assert found["level"] == "warn"
    assert "agentd.yaml:1: handlers.reload.options.deadline: 0.0001 s is shorter" in found["text"]
