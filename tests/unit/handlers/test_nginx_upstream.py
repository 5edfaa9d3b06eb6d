"""The handler with the file driver: states in, one file out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agentd.handler import PermanentError, ServiceState
from agentd.testing import HandlerBench, event, instance, key, service
from handlers.nginx_upstream import NginxUpstream

PATH = "upstreams/api.conf"


def bench_of(**options: Any) -> HandlerBench:  # noqa: ANN401 (as in the YAML file)
    """A bench with its initial files."""
    bench = HandlerBench(NginxUpstream, {"upstream": "api"} | options)
    bench.initial()
    return bench


def hosts(*numbers: int, name: str = "api") -> ServiceState:
    """The service with instances 10.0.0.N:80."""
    return service(name, [instance(f"10.0.0.{number}", 80) for number in numbers])


def lines(bench: HandlerBench, path: str = PATH) -> list[str]:
    """The servers in the file."""
    text = bench.files[path].decode()
    return [line.strip()[7:-1] for line in text.splitlines() if line.startswith("    server ")]


def numbers(bench: HandlerBench) -> list[int]:
    """The last numbers of the addresses in the file."""
    return [int(line.split(":")[0].rpartition(".")[2]) for line in lines(bench)]


def gauge(bench: HandlerBench, name: str) -> float:
    """What the metrics show."""
    return float(bench.store["gauges"][f"upstream_{name}"])


def told(bench: HandlerBench) -> list[str]:
    """The events logged."""
    return [line.event for line in bench.log]


def test_nginx_has_an_upstream_before_any_state_came() -> None:
    """One that answers 502, or the operator's own servers."""
    assert lines(bench_of()) == ["127.0.0.1:1 down"]
    assert lines(bench_of(fallback=["10.9.9.9:80"])) == ["10.9.9.9:80"]


def test_instances_become_servers() -> None:
    """In the file that agentd.conf includes."""
    bench = bench_of()

    changed = bench.handle(hosts(1, 2))

    assert changed == (PATH,)
    assert lines(bench) == ["10.0.0.1:80", "10.0.0.2:80"]
    assert gauge(bench, "servers") == 2


def test_a_stream_upstream_has_a_file_that_http_does_not_include() -> None:
    """Its name does not end in .conf."""
    bench = bench_of(context="stream")

    bench.handle(hosts(1))

    assert lines(bench, "upstreams/api.stream") == ["10.0.0.1:80"]
    assert PATH not in bench.files


def test_nothing_changes_when_nothing_changed() -> None:
    """Another order, other tags, other check output: the same file and the same store."""
    bench = bench_of()
    bench.handle(hosts(1, 2, 3))
    before = bench.store

    assert bench.handle(service("api", list(reversed(hosts(1, 2, 3).raw)), index=9)) == ()
    assert bench.store == before


def test_a_restart_starts_from_what_is_known() -> None:
    """No state need come for the file to be right, also with other options."""
    bench = bench_of()
    bench.handle(hosts(1, 2))

    bench.restart({"upstream": "api", "method": "least_conn"})
    bench.initial()

    assert lines(bench) == ["10.0.0.1:80", "10.0.0.2:80"]
    assert b"least_conn;" in bench.files[PATH]


def test_a_template_is_used(tmp_path: Path) -> None:
    """In place of the built-in text."""
    (tmp_path / "t.j2").write_text("# {{ servers | length }}\n")
    bench = bench_of(template=str(tmp_path / "t.j2"))

    bench.handle(hosts(1, 2))

    assert bench.files[PATH] == b"# 2\n"


def test_a_refused_instance_is_told_and_counted() -> None:
    """The others are served."""
    bench = bench_of()

    bench.handle(service("api", [instance("web.example", 80), instance("10.0.0.1", 80)]))

    assert lines(bench) == ["10.0.0.1:80"]
    assert gauge(bench, "instances_refused") == 1
    assert "upstream.instance_refused" in told(bench)


# ---------------------------------------------------------------- guards


def test_the_last_good_servers_are_held() -> None:
    """All critical: the upstream stays, with an alarm, until somebody is fit again."""
    bench = bench_of()
    bench.handle(hosts(1, 2))
    before = bench.files

    bench.handle(hosts())
    held = bench.files, gauge(bench, "held_empty"), gauge(bench, "missing")
    bench.handle(hosts(2))

    assert held == (before, 1.0, 2.0)
    assert numbers(bench) == [2]
    assert gauge(bench, "held_empty") == 0
    assert [name for name in told(bench) if name.startswith("upstream.")] == [
        "upstream.held",
        "upstream.released",
    ]


def test_a_hold_does_not_keep_new_servers_out() -> None:
    """What is fit joins; what is missing stays."""
    bench = bench_of(max_removed=30)
    bench.handle(hosts(1, 2, 3, 4))

    bench.handle(hosts(4, 5))

    assert numbers(bench) == [1, 2, 3, 4, 5]
    assert gauge(bench, "held_share") == 1


def test_min_servers_holds() -> None:
    """With a metric of its own."""
    bench = bench_of(min_servers=2)
    bench.handle(hosts(1, 2))

    bench.handle(hosts(1))

    assert numbers(bench) == [1, 2]
    assert gauge(bench, "held_min_servers") == 1


def test_a_hold_is_told_once() -> None:
    """Not with every state that comes meanwhile."""
    bench = bench_of(min_servers=3)
    bench.handle(hosts(1, 2, 3))

    bench.handle(hosts(1))
    bench.handle(hosts(2))

    assert told(bench).count("upstream.held") == 1


def test_an_override_lets_them_go() -> None:
    """Once: what comes later is guarded again."""
    bench = bench_of(min_servers=2)
    bench.handle(hosts(1, 2, 3, 4))
    bench.handle(hosts(1))

    bench.handle(event("upstream-override", "api\n"))
    overridden = numbers(bench)
    bench.handle(hosts())

    assert overridden == [1]
    assert numbers(bench) == [1]
    assert gauge(bench, "held_empty") == 1


def test_an_override_of_an_empty_service_leaves_the_placeholder() -> None:
    """The operator says that nobody serves."""
    bench = bench_of()
    bench.handle(hosts(1, 2))
    bench.handle(hosts())

    bench.handle(event("upstream-override", "api"))

    assert lines(bench) == ["127.0.0.1:1 down"]


@pytest.mark.parametrize("payload", ["", "search", "api2"])
def test_an_override_names_its_upstream(payload: str) -> None:
    """Several upstreams may listen to one event."""
    bench = bench_of()

    with pytest.raises(PermanentError, match="the payload of an override"):
        bench.handle(event("upstream-override", payload))


def test_another_service_takes_the_place_at_once() -> None:
    """The operator changed the entry: no guard keeps what it does not name any more."""
    bench = bench_of()
    bench.handle(hosts(1, 2, 3))

    bench.handle(hosts(7, name="other"))

    assert numbers(bench) == [7]


def test_another_service_that_is_empty_does_not() -> None:
    """A typing error in a name must not empty an upstream."""
    bench = bench_of()
    bench.handle(hosts(1, 2, 3))

    bench.handle(hosts(name="typo"))

    assert numbers(bench) == [1, 2, 3]


# ---------------------------------------------------------------- grace


def test_a_removal_waits_for_the_grace() -> None:
    """And is done on time, by itself."""
    bench = bench_of(grace="30s")
    bench.handle(hosts(1, 2))
    bench.handle(hosts(2))
    waiting = numbers(bench), bench.next_due

    bench.advance(29)
    before = numbers(bench)
    bench.advance(1)

    assert waiting == ([1, 2], 1_700_000_030.0)
    assert before == [1, 2]
    assert numbers(bench) == [2]
    assert bench.next_due is None


def test_who_comes_back_within_the_grace_never_left() -> None:
    """A restart of an instance costs no reload at all."""
    bench = bench_of(grace="30s")
    bench.handle(hosts(1, 2))
    generation = bench.generation

    bench.handle(hosts(2))
    bench.advance(10)
    bench.handle(hosts(1, 2))
    bench.advance(100)

    assert bench.generation == generation
    assert numbers(bench) == [1, 2]


def test_a_grace_survives_a_restart() -> None:
    """It is in the store."""
    bench = bench_of(grace="30s")
    bench.handle(hosts(1, 2))
    bench.handle(hosts(2))

    bench.restart()
    bench.initial()
    bench.advance(30)

    assert numbers(bench) == [2]


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
        ({"driver": "dynamic"}, "which need it"),
        ({"interface": "http://127.0.0.1:1/x"}, "which need it"),
        ({"driver": "haproxy", "interface": "http://127.0.0.1:1/x"}, "not an interface"),
        ({"driver": "dynamic", "interface": "tcp:127.0.0.1:1"}, "not an interface"),
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


def test_options_that_fit_make_a_frame() -> None:
    """With nothing but its name an upstream is nginx's own."""
    options = NginxUpstream.Options.model_validate({"upstream": "api", "method": "ip_hash"})

    assert not NginxUpstream(options).options.takes_backups  # type: ignore[arg-type]  # validated as this class
