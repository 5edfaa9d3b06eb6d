"""The handler with the file driver: states in, one file out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agentd.handler import PermanentError, ServiceState
from agentd.testing import HandlerHarness, event, instance, key, service
from handlers.nginx_upstream.handler import NginxUpstream

PATH = "upstreams/api.conf"


def bench_of(**options: Any) -> HandlerHarness:  # noqa: ANN401 (as in the YAML file)
    """A harness with its initial files."""
    harness = HandlerHarness(NginxUpstream, {"upstream": "api"} | options)
    harness.initial()
    return harness


def hosts(*numbers: int, name: str = "api") -> ServiceState:
    """The service with instances 10.0.0.N:80."""
    return service(name, [instance(f"10.0.0.{number}", 80) for number in numbers])


def lines(harness: HandlerHarness, path: str = PATH) -> list[str]:
    """The servers in the file."""
    text = harness.files[path].decode()
    return [line.strip()[7:-1] for line in text.splitlines() if line.startswith("    server ")]


def numbers(harness: HandlerHarness) -> list[int]:
    """The last numbers of the addresses in the file."""
    return [int(line.split(":")[0].rpartition(".")[2]) for line in lines(harness)]


def gauge(harness: HandlerHarness, name: str) -> float:
    """What the metrics show."""
    return float(harness.store["gauges"][f"upstream_{name}"])


def told(harness: HandlerHarness) -> list[str]:
    """The events logged."""
    return [line.event for line in harness.log]


def test_nginx_has_an_upstream_before_any_state_came() -> None:
    """One that answers 502, or the operator's own servers."""
    assert lines(bench_of()) == ["127.0.0.1:1 down"]
    assert lines(bench_of(fallback=["10.9.9.9:80"])) == ["10.9.9.9:80"]


def test_instances_become_servers() -> None:
    """In the file that agentd.conf includes."""
    harness = bench_of()

    changed = harness.handle(hosts(1, 2))

    assert changed == (PATH,)
    assert lines(harness) == ["10.0.0.1:80", "10.0.0.2:80"]
    assert gauge(harness, "servers") == 2


def test_a_stream_upstream_has_a_file_that_http_does_not_include() -> None:
    """Its name does not end in .conf."""
    harness = bench_of(context="stream")

    harness.handle(hosts(1))

    assert lines(harness, "upstreams/api.stream") == ["10.0.0.1:80"]
    assert PATH not in harness.files


def test_nothing_changes_when_nothing_changed() -> None:
    """Another order, other tags, other check output: the same file and the same store."""
    harness = bench_of()
    harness.handle(hosts(1, 2, 3))
    before = harness.store

    assert harness.handle(service("api", list(reversed(hosts(1, 2, 3).raw)), index=9)) == ()
    assert harness.store == before


def test_a_restart_starts_from_what_is_known() -> None:
    """No state need come for the file to be right, also with other options."""
    harness = bench_of()
    harness.handle(hosts(1, 2))

    harness.restart({"upstream": "api", "method": "least_conn"})
    harness.initial()

    assert lines(harness) == ["10.0.0.1:80", "10.0.0.2:80"]
    assert b"least_conn;" in harness.files[PATH]


def test_a_template_is_used(tmp_path: Path) -> None:
    """In place of the built-in text."""
    (tmp_path / "t.j2").write_text("# {{ servers | length }}\n")
    harness = bench_of(template=str(tmp_path / "t.j2"))

    harness.handle(hosts(1, 2))

    assert harness.files[PATH] == b"# 2\n"


def test_a_refused_instance_is_told_and_counted() -> None:
    """The others are served."""
    harness = bench_of()

    harness.handle(service("api", [instance("web.example", 80), instance("10.0.0.1", 80)]))

    assert lines(harness) == ["10.0.0.1:80"]
    assert gauge(harness, "instances_refused") == 1
    assert "upstream.instance_refused" in told(harness)


def loopback(*numbers: int) -> list[dict[str, Any]]:
    """Instances 127.0.0.N:8500."""
    return [instance(f"127.0.0.{number}", 8500) for number in numbers]


def test_a_refused_instance_is_shown_until_it_is_gone() -> None:
    """With its name, the reason and the option; the log has it once."""
    harness = bench_of()
    raw = [*loopback(1), *hosts(1).raw]

    harness.handle(service("api", raw))
    harness.handle(service("api", [*raw, *hosts(2).raw]))
    shown = harness.store["status"]
    harness.handle(hosts(1, 2))

    assert [one["part"] for one in shown] == ["instance 127.0.0.1:8500 on node node-127.0.0.1"]
    assert "127.0.0.1 is a loopback address: if a server is there, name 127.0.0.0/8 in" in shown[0]["trouble"]
    assert told(harness).count("upstream.instance_refused") == 1
    assert harness.store["status"] == []
    assert gauge(harness, "instances_refused") == 0


def test_servers_that_a_guard_keeps_are_trouble_until_they_are_back() -> None:
    """A service without an instance is not well, even if nginx goes on with the last ones."""
    harness = bench_of()
    harness.handle(hosts(1, 2))

    harness.handle(service("api", []))
    (held,) = harness.store["status"]
    harness.handle(hosts(1, 2))

    assert held["part"] == "guard empty"
    assert held["trouble"].startswith("2 of 2 servers stay in use, which Consul no longer has as fit")
    assert harness.store["status"] == []


def test_many_refused_instances_fill_neither_log_nor_store() -> None:
    """Whoever registers thousands is counted, not quoted."""
    harness = bench_of()

    harness.handle(service("api", [instance(f"-{number}", 80) for number in range(3000)]))

    assert gauge(harness, "instances_refused") == 3000
    assert len(harness.store["status"]) == 11
    assert harness.store["status"][-1] == {"part": "2990 more instances", "trouble": "refused"}
    assert len(told(harness)) < 20


def test_refused_instances_alone_are_no_empty_service() -> None:
    """What is good is kept, whatever the guards allow to remove."""
    harness = bench_of(min_servers=0, max_removed=100)
    harness.handle(hosts(1, 2))

    harness.handle(service("api", loopback(1, 2)))

    assert numbers(harness) == [1, 2]
    assert gauge(harness, "held_empty") == 1


def test_a_loopback_server_from_an_earlier_version_goes_at_the_start() -> None:
    """No new state need come; the operator is told how to keep it."""
    harness = bench_of(networks=["127.0.0.0/8", "10.0.0.0/8"])
    harness.handle(service("api", [*loopback(1), *hosts(1, 2, 3).raw]))
    harness.restart({"upstream": "api"})
    before = [(one.part, one.warning) for one in harness.preflight()]

    harness.initial()

    assert numbers(harness) == [1, 2, 3]
    assert before == [("networks", True)]
    assert "upstream.instance_refused" in told(harness)
    assert "name 127.0.0.0/8" in harness.preflight()[0].reason


def test_an_upstream_of_loopback_servers_alone_is_kept_and_told() -> None:
    """An upgrade is no outage; `agentd check` fails."""
    harness = bench_of(networks=["127.0.0.0/8"])
    harness.handle(service("api", loopback(1, 2)))
    harness.restart({"upstream": "api"})

    harness.initial()

    assert numbers(harness) == [1, 2]
    assert [(one.part, one.warning) for one in harness.preflight()] == [("networks", False)] * 2
    assert [one["part"] for one in harness.store["status"]] == [
        "guard empty",
        "server 127.0.0.1:8500",
        "server 127.0.0.2:8500",
    ]


def test_a_fallback_may_be_on_this_machine() -> None:
    """The operator names it, not Consul."""
    assert lines(bench_of(fallback=["127.0.0.1:8081"])) == ["127.0.0.1:8081"]
    for host in ("169.254.1.1", "0.0.0.0", "[::ffff:127.0.0.1]"):  # noqa: S104 (it is refused)
        with pytest.raises(ValidationError):
            bench_of(fallback=[f"{host}:80"])


# ---------------------------------------------------------------- guards


def test_the_last_good_servers_are_held() -> None:
    """All critical: the upstream stays, with an alarm, until somebody is fit again."""
    harness = bench_of()
    harness.handle(hosts(1, 2))
    before = harness.files

    harness.handle(hosts())
    held = harness.files, gauge(harness, "held_empty"), gauge(harness, "missing")
    harness.handle(hosts(2))

    assert held == (before, 1.0, 2.0)
    assert numbers(harness) == [2]
    assert gauge(harness, "held_empty") == 0
    assert [name for name in told(harness) if name.startswith("upstream.")] == [
        "upstream.held",
        "upstream.released",
    ]


def test_a_hold_does_not_keep_new_servers_out() -> None:
    """What is fit joins; what is missing stays."""
    harness = bench_of(max_removed=30)
    harness.handle(hosts(1, 2, 3, 4))

    harness.handle(hosts(4, 5))

    assert numbers(harness) == [1, 2, 3, 4, 5]
    assert gauge(harness, "held_share") == 1


def test_min_servers_holds() -> None:
    """With a metric of its own."""
    harness = bench_of(min_servers=2)
    harness.handle(hosts(1, 2))

    harness.handle(hosts(1))

    assert numbers(harness) == [1, 2]
    assert gauge(harness, "held_min_servers") == 1


def test_a_hold_is_told_once() -> None:
    """Not with every state that comes meanwhile."""
    harness = bench_of(min_servers=3)
    harness.handle(hosts(1, 2, 3))

    harness.handle(hosts(1))
    harness.handle(hosts(2))

    assert told(harness).count("upstream.held") == 1


def test_an_override_lets_them_go() -> None:
    """Once: what comes later is guarded again."""
    harness = bench_of(min_servers=2)
    harness.handle(hosts(1, 2, 3, 4))
    harness.handle(hosts(1))

    harness.handle(event("upstream-override", "api\n"))
    overridden = numbers(harness)
    harness.handle(hosts())

    assert overridden == [1]
    assert numbers(harness) == [1]
    assert gauge(harness, "held_empty") == 1


def test_an_override_of_an_empty_service_leaves_the_placeholder() -> None:
    """The operator says that nobody serves."""
    harness = bench_of()
    harness.handle(hosts(1, 2))
    harness.handle(hosts())

    harness.handle(event("upstream-override", "api"))

    assert lines(harness) == ["127.0.0.1:1 down"]


@pytest.mark.parametrize("payload", ["", "search", "api2"])
def test_an_override_names_its_upstream(payload: str) -> None:
    """Several upstreams may listen to one event."""
    harness = bench_of()

    with pytest.raises(PermanentError, match="the payload of an override"):
        harness.handle(event("upstream-override", payload))


def test_another_service_takes_the_place_at_once() -> None:
    """The operator changed the entry: no guard keeps what it does not name any more."""
    harness = bench_of()
    harness.handle(hosts(1, 2, 3))

    harness.handle(hosts(7, name="other"))

    assert numbers(harness) == [7]


def test_another_service_that_is_empty_does_not() -> None:
    """A typing error in a name must not empty an upstream."""
    harness = bench_of()
    harness.handle(hosts(1, 2, 3))

    harness.handle(hosts(name="typo"))

    assert numbers(harness) == [1, 2, 3]


# ---------------------------------------------------------------- grace


def test_a_removal_waits_for_the_grace() -> None:
    """And is done on time, by itself."""
    harness = bench_of(grace="30s")
    harness.handle(hosts(1, 2))
    harness.handle(hosts(2))
    waiting = numbers(harness), harness.next_due

    harness.advance(29)
    before = numbers(harness)
    harness.advance(1)

    assert waiting == ([1, 2], 1_700_000_030.0)
    assert before == [1, 2]
    assert numbers(harness) == [2]
    assert harness.next_due is None


def test_who_comes_back_within_the_grace_never_left() -> None:
    """A restart of an instance costs no reload at all."""
    harness = bench_of(grace="30s")
    harness.handle(hosts(1, 2))
    generation = harness.generation

    harness.handle(hosts(2))
    harness.advance(10)
    harness.handle(hosts(1, 2))
    harness.advance(100)

    assert harness.generation == generation
    assert numbers(harness) == [1, 2]


def test_a_grace_survives_a_restart() -> None:
    """It is in the store."""
    harness = bench_of(grace="30s")
    harness.handle(hosts(1, 2))
    harness.handle(hosts(2))

    harness.restart()
    harness.initial()
    harness.advance(30)

    assert numbers(harness) == [2]


# ---------------------------------------------------------------- what else may come


def test_another_kind_of_change_is_refused() -> None:
    """A key is no service."""
    with pytest.raises(PermanentError, match="takes the state of a service, not a key"):
        bench_of().handle(key("a", b"b"))


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"upstream": "a b"}, "upstream"),
        ({"upstream": "a;"}, "upstream"),
        ({"interface": "http://127.0.0.1:1/x"}, "for the drivers dynamic and haproxy"),
        ({"driver": "dynamic", "interface": "http://127.0.0.1:65536/x"}, "is needed, not"),
        ({"driver": "haproxy", "interface": "http://127.0.0.1:1/x"}, "unix:/PATH or tcp:HOST:PORT is needed"),
        ({"driver": "dynamic", "interface": "tcp:127.0.0.1:1"}, "http://HOST:PORT/PATH or unix:"),
        ({"driver": "dynamic", "interface": "ftp://x"}, "interface"),
        ({"context": "stream", "keepalive": 5}, "stream upstream"),
        ({"balancer": "lua", "method": "least_conn"}, "balancer lua"),
        ({"fallback": ["web:80"]}, "not an IP"),
        ({"networks": ["10.0.0.1/8"]}, "host bits"),
        ({"method": "least_conn; include x"}, "method"),
        ({"fail_timeout": 0}, "fail_timeout"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], reason: str) -> None:
    """Before anything runs."""
    with pytest.raises(ValidationError, match=reason):
        bench_of(**options)


@pytest.mark.parametrize(
    "options, place",
    [
        ({}, None),
        ({"driver": "dynamic"}, "unix:/run/agentd/upstreams/interface.sock:/dynamic"),
        ({"driver": "dynamic", "interface": "unix:/run/x/s:/y"}, "unix:/run/x/s:/y"),
        ({"driver": "dynamic", "interface": "http://127.0.0.1:9522/y"}, "http://127.0.0.1:9522/y"),
        ({"driver": "haproxy"}, "unix:/run/haproxy/admin.sock"),
        ({"driver": "haproxy", "interface": "tcp:127.0.0.1:9999"}, "tcp:127.0.0.1:9999"),
    ],
)
def test_a_run_time_interface_is_on_a_unix_socket_by_default(
    options: dict[str, Any], place: str | None
) -> None:
    """Another one, also over TCP, has to be named."""
    made = NginxUpstream.Options.model_validate({"upstream": "api"} | options)

    assert made.place == place  # type: ignore[attr-defined]  # validated as the handler's class


def test_a_run_time_interface_that_others_reach_is_told_by_check_alone() -> None:
    """It goes on working."""
    given = {"upstream": "api", "driver": "dynamic", "interface": "http://127.0.0.1:1/dynamic"}
    harness = HandlerHarness(NginxUpstream, given)

    (told_by_check,) = harness.preflight()

    assert (told_by_check.part, told_by_check.warning) == ("interface", True)
    assert "every user of this machine can connect to http://127.0.0.1:1/dynamic" in told_by_check.reason
    assert harness.log == []


def test_options_that_fit_make_a_block() -> None:
    """With nothing but its name an upstream is nginx's own."""
    options = NginxUpstream.Options.model_validate({"upstream": "api", "method": "ip_hash"})

    assert not NginxUpstream(options).options.takes_backups  # type: ignore[arg-type]  # validated as this class


def test_a_fingerprint_is_of_the_servers_in_use() -> None:
    """Nodes that have the same state agree, whatever came before, and whoever registered first."""
    first, second, joiner = bench_of(), bench_of(), bench_of()
    first.handle(hosts(1, 2, 3))
    first.handle(hosts(2, 3, 1))
    second.handle(hosts(1, 2, 3))

    assert first.fingerprint() == second.fingerprint()
    assert joiner.fingerprint() is None
    second.handle(hosts(1, 2, 3, 4))
    assert first.fingerprint() != second.fingerprint()


def test_what_an_operator_set_on_one_node_is_not_compared() -> None:
    """A server taken down there, another weight, and one that is kept for being down."""
    first, second = bench_of(), bench_of()
    for node in (first, second):
        node.handle(hosts(1, 2, 3))
    second.store["down"] = {"10.0.0.1:80": "down"}
    second.store["weights"] = {"10.0.0.2:80": 9}
    second.store["used"].append("10.0.0.9:80")
    second.store["down"]["10.0.0.9:80"] = "down"

    assert first.fingerprint() == second.fingerprint()
