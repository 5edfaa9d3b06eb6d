"""Run-time upstreams with ngx_dynamic_upstream, played by a stand-in that is as odd as the module.

Debian has no package of the module: nginx is real and reads agentd's files, the interface is the stand-in's,
which begins again with the file that nginx has read at every reload.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers.backend import Backend
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.fleet import Node
from tests.servers.site import Site
from tests.servers.waiting import wait_until

pytestmark = pytest.mark.integration
NewSite = Callable[..., Site]
DRIVERS = ("module", "dynamic")


@pytest.fixture
def new_site(new_node: Callable[..., Node], consul: ConsulAgent) -> Iterator[NewSite]:
    """Make sites, not yet started, on the shared Consul agent."""
    made: list[Site] = []

    def make(driver: str = "module", **options: Any) -> Site:  # noqa: ANN401 (the handler's options)
        if driver == "dynamic":
            require("nginx-lua")
        made.append(Site(new_node, consul, driver=driver, **options))
        return made[-1]

    yield make
    for site in made:
        site.close()


def status(site: Site) -> list[dict[str, Any]]:
    """What the handler says of its parts."""
    handlers = json.loads(site.node.agentd.get("/status")[1])["handlers"]
    return list(handlers["upstream-api"]["status"])


def logged(site: Site, event: str) -> list[dict[str, Any]]:
    """The daemon's log lines of one event."""
    lines = (json.loads(line) for line in site.node.agentd.log_lines() if line.startswith("{"))
    return [line for line in lines if line.get("event") == event]


def in_step(site: Site, *backends: Backend) -> None:
    """Wait until the interface lists exactly these."""
    wanted = {backend.address for backend in backends}
    wait_until(lambda: site.listed().keys() == wanted, f"{sorted(wanted)} to be listed", pause=0.05)


# ---------------------------------------------------------------- set a moment ago


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_was_set_a_moment_ago_survives_a_reload(new_site: NewSite, driver: str) -> None:
    """Five of five: the timer would not have looked for an hour, and new workers start with it."""
    site = new_site(driver, sync="1h").start(3)
    first, second, third = (backend.address for backend in site.backends)

    for turn in range(2, 7):
        before = site.file()
        down, up, weighed = (first, second, third) if turn % 2 else (second, first, third)
        answers = [
            site.ask(f"upstream=api&server={down}&down=")[0],
            site.ask(f"upstream=api&server={up}&up=")[0],
            site.ask(f"upstream=api&server={weighed}&weight={turn}")[0],
        ]
        assert before == site.file()
        site.reload()

        listed = site.listed()
        assert answers == [200, 200, 200]
        assert listed[down].endswith(" down")
        assert not listed[up].endswith(" down")
        assert f"weight={turn} " in listed[weighed]
        assert f"{down} down;" in site.file()
        assert f"{third} weight={turn};" in site.file()


@pytest.mark.parametrize("driver", DRIVERS)
def test_operators_win_over_consul(new_site: NewSite, driver: str) -> None:
    """Another weight in Consul, critical and back again, a restart of agentd; until they give it back."""
    site = new_site(driver).start(2)
    first, second = site.backends
    site.ask(f"upstream=api&server={first.address}&weight=7")
    site.ask(f"upstream=api&server={second.address}&down=")
    wait_until(lambda: f"{first.address} weight=7;" in site.file(), "the weight to be learnt", pause=0.05)

    site.register(first, Weights={"Passing": 3, "Warning": 1})
    site.set_status(second, "critical")
    site.set_status(second, "passing")
    third = site.backend()
    site.register(third)
    in_step(site, first, second, third)
    kept = site.listed()
    site.node.agentd.stop()
    site.node.agentd.start()
    site.reload()
    after = site.listed()
    site.ask(f"upstream=api&server={first.address}&weight=3")
    wait_until(lambda: f"{first.address} weight=3;" in site.file(), "the weight to be Consul's", pause=0.05)
    site.register(first, Weights={"Passing": 4, "Warning": 1})

    for listed in (kept, after):
        assert listed[first.address].startswith("weight=7 ")
        assert listed[second.address].endswith(" down")
    wait_until(lambda: site.listed()[first.address].startswith("weight=4 "), "Consul's next weight")


# ---------------------------------------------------------------- what must not be done to the module


def test_an_ipv6_address_takes_effect_with_a_reload(new_site: NewSite) -> None:
    """It is never added, which would hang a worker: the file is written, and agentd reloads nginx."""
    site = new_site().start(1)
    workers = site.node.nginx.workers()
    six = site.backend()

    site.register(six, Address="::1")

    address = f"[::1]:{six.port}"
    wait_until(lambda: address in site.listed(), "the reload", pause=0.05)
    assert site.node.nginx.workers() != workers
    assert (site.module.hung, site.module.stuck) == (0, set())
    assert [line["servers"] for line in logged(site, "upstream.by_reload")] == [[address]]
    wait_until(lambda: not [part for part in status(site) if "trouble" in part], "the status to be clear")


def test_a_worker_that_hangs_is_not_joined_by_others(new_site: NewSite) -> None:
    """One question is not answered, and none is asked until a reload; what to do is told."""
    site = new_site(interface_timeout="2s").start(1)
    with pytest.raises(TimeoutError):
        site.ask("upstream=api&add=&server=[::1]:9")  # as an operator did

    site.await_gauge("in_step", 0)
    told = wait_until(
        lambda: [part["trouble"] for part in status(site) if "kill -9" in part.get("trouble", "")],
        "the cure to be told",
        pause=0.05,
    )
    second = site.backend()
    site.register(second)  # agentd reloads for it, since it cannot be set at run time
    site.await_gauge("in_step", 1)
    in_step(site, *site.backends)

    assert "reload it" in told[0]
    assert site.module.hung == 2


@pytest.mark.parametrize("method", ["ip_hash", "hash $remote_addr", "random"])
def test_some_methods_change_with_a_reload(new_site: NewSite, method: str) -> None:
    """The module crashes workers, or sends to servers that are gone: nothing is set at run time."""
    site = new_site(method=method).start(1)  # some of them send one client to one server
    first, second, third = site.backends[0], site.backend(), site.backend()
    asked = len(site.module.queries)

    site.register(second)
    in_step(site, first, second)
    site.register(third, Weights={"Passing": 4, "Warning": 1})
    in_step(site, first, second, third)
    site.deregister(second)
    in_step(site, first, third)

    assert not [query for query in site.module.queries[asked:] if "server=" in query]
    assert f"balanced by {method.partition(' ')[0]}" in logged(site, "upstream.by_reload")[0]["reason"]


def test_a_server_without_a_port_does_not_stop_the_rest(new_site: NewSite) -> None:
    """Somebody added it by hand, and the module lists it as it came."""
    site = new_site().start(1)
    assert site.ask("upstream=api&add=&server=192.0.2.9")[0] == 200
    second = site.backend()

    site.register(second)

    in_step(site, *site.backends)
    site.await_gauge("in_step", 1)


def test_a_question_that_is_refused_does_not_stop_the_rest(new_site: NewSite) -> None:
    """The module's word for it is 500: told once, and not taken for an outage."""
    site = new_site().start(1)
    site.module.zones["api"]["web.example:80"] = type(next(iter(site.module.zones["api"].values())))()
    second = site.backend()

    site.register(second)

    wait_until(lambda: second.address in site.listed(), "the second server")
    wait_until(
        lambda: [part for part in status(site) if "remove it by hand" in part.get("trouble", "")],
        "what is in the way to be named",
    )
