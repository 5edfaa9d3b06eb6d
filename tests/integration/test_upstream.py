"""A service in a real Consul becomes the upstream of a real nginx: by file and reload, and at run time."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.servers.backend import Backend
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.fleet import Node
from tests.servers.nginx import loading
from tests.servers.ports import free_port
from tests.servers.site import Site
from tests.servers.waiting import wait_until

pytestmark = pytest.mark.integration
NewSite = Callable[..., Site]


@pytest.fixture
def new_site(new_node: Callable[..., Node], consul: ConsulAgent) -> Iterator[NewSite]:
    """Make sites, not yet started, on the shared Consul agent if none is given."""
    made: list[Site] = []

    def make(agent: ConsulAgent | None = None, **options: object) -> Site:
        if options.get("driver") == "dynamic":
            require("nginx-lua")
        made.append(Site(new_node, agent or consul, **options))  # type: ignore[arg-type]  # the handler's options
        return made[-1]

    yield make
    for site in made:
        site.close()


# ---------------------------------------------------------------- the file driver


def test_nginx_starts_before_any_instance_is_known(new_site: NewSite) -> None:
    """The upstream is there, and answers 502."""
    site = new_site()
    site.node.start()

    assert site.via(1) == {"502": 1}


def test_instances_are_served_as_they_come_and_go(new_site: NewSite) -> None:
    """Registered, critical, passing again, deregistered: each proved live by a reload."""
    site = new_site().start(2)
    first, second = site.backends
    third = site.backend()

    site.register(third)
    site.await_serving(first, second, third)
    site.set_status(first, "critical")
    site.await_serving(second, third)
    site.set_status(first, "passing")
    site.await_serving(first, second, third)
    site.deregister(second)
    site.await_serving(first, third)


def test_weights_and_parameters_reach_nginx(new_site: NewSite) -> None:
    """From Consul's weights, tags and meta; what is not known never does."""
    site = new_site().start(2)
    first, second = site.backends

    site.register(
        first,
        Weights={"Passing": 3, "Warning": 1},
        Tags=["max_fails=2", "prod; }"],
        Meta={"fail_timeout": "5s", "note": "server 6.6.6.6:80;"},
    )
    site.register(second, Tags=["backup"])

    wait_until(lambda: "backup" in site.file() and "weight=3" in site.file(), "the parameters", pause=0.05)
    assert f"    server {first.address} weight=3 max_fails=2 fail_timeout=5s;\n" in site.file()
    assert f"    server {second.address} backup;\n" in site.file()
    assert "prod" not in site.file()
    assert "6.6.6.6" not in site.file()
    site.await_serving(first)


def test_nothing_is_reloaded_when_nothing_changed(new_site: NewSite) -> None:
    """A check that reports the same status with other words is no change of the upstream."""
    site = new_site().start(2)
    generation = site.node.generation
    for note in ("one", "two"):
        path = f"/v1/agent/check/update/service:{site.identity(site.backends[0])}"
        site.consul.put(path, {"Status": "passing", "Output": note})

    third = site.backend()
    site.register(third)
    site.await_serving(*site.backends)

    assert site.node.generation == generation + 1


@pytest.mark.parametrize("networks", [[], ["127.0.0.2/32"]])
def test_consuls_own_api_is_not_served_to_the_public(new_site: NewSite, networks: list[str]) -> None:
    """Somebody registers it as an instance: it is refused by name, and the others are served."""
    site = new_site(networks=networks)
    good = Backend("127.0.0.2").start()
    site.backends.append(good)
    for number, address in enumerate((site.consul.address, "::ffff:127.0.0.1", "localhost")):
        port = site.consul.ports["http"]
        bad = {"Name": site.service, "ID": f"{site.service}-bad{number}", "Address": address, "Port": port}
        site.consul.put("/v1/agent/service/register", bad)
    site.register(good)
    site.node.start()

    site.await_gauge("instances_refused", 4 - len(networks))

    if networks:
        site.await_serving(good)
    assert site.via(4) == ({str(good.port): 4} if networks else {"502": 4})
    status = site.node.agentd.command("status")
    assert (
        f"instance {site.service}-bad0 on node {site.consul.node}: refused: " in status.stdout + status.stderr
    )
    check = site.node.agentd.command("check")
    assert f"instance {site.service}-bad0 on node {site.consul.node} is refused: " in check.stdout
    for number in range(3):
        site.consul.deregister(f"{site.service}-bad{number}")


def test_networks_that_are_narrowed_let_servers_go(new_site: NewSite) -> None:
    """At the next start, though Consul has nothing new; the others are served on."""
    site = new_site()
    site.backends += [Backend(host).start() for host in ("127.0.0.1", "127.0.0.2", "127.0.0.2")]
    for backend in site.backends:
        site.register(backend)
    site.node.start()
    site.await_serving(*site.backends)

    site.node.agentd.stop()
    site.node.configure(site.handlers("file", {"networks": ["127.0.0.2/32"]}))
    site.node.agentd.start()

    site.await_serving(*site.backends[1:])
    site.await_gauge("instances_refused", 1)


def test_the_last_good_servers_are_held(new_site: NewSite) -> None:
    """All instances critical: they are served on, an alarm is raised, and an override ends it."""
    site = new_site(grace="1m").start(2)  # in which one after the other counts as at once
    before = site.file()
    for backend in site.backends:
        site.set_status(backend, "critical")

    site.await_gauge("held_empty", 1)
    held = site.file(), site.serves(*site.backends)
    site.node.outcome(site.node.fire(site.override, b"api"))

    assert held == (before, True)
    assert "server 127.0.0.1:1 down;" in site.file()
    assert any("upstream.held" in line and "empty" in line for line in site.node.agentd.log_lines())


def test_a_restart_of_agentd_changes_nothing(new_site: NewSite) -> None:
    """And what changed meanwhile is caught up with."""
    site = new_site().start(3)
    first, second, third = site.backends
    before = site.file()

    site.node.agentd.stop()
    site.deregister(third)
    while_down = site.serves(first, second, third)
    site.node.agentd.start()
    site.await_serving(first, second)

    assert while_down
    assert before != site.file()


def test_a_stream_upstream(new_site: NewSite) -> None:
    """TCP is balanced in stream {}."""
    require("nginx-stream")
    site = new_site(context="stream")
    port = free_port()
    site.node.nginx.configure(
        main=f"{loading('stream')}"
        "stream { include agentd/current/upstreams/*.stream;\n"
        f" server {{ listen 127.0.0.1:{port}; proxy_pass api; }} }}"
    )
    backend = site.backend()
    site.register(backend)
    site.node.start()

    def answered() -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return str(backend.port).encode() in connection.recv(4096)

    wait_until(answered, "the stream to be served")


# ---------------------------------------------------------------- the run-time driver


def test_instances_come_and_go_without_a_reload(new_site: NewSite) -> None:
    """The same workers serve them, and the file is in step for the next reload."""
    site = new_site(driver="dynamic").start(2)
    first, second = site.backends
    third = site.backend()
    workers = site.node.nginx.workers()

    site.register(third, Weights={"Passing": 4, "Warning": 1})
    site.await_serving(first, second, third)
    site.deregister(second)
    site.await_serving(first, third)

    assert site.node.nginx.workers() == workers
    wait_until(lambda: second.address not in site.file(), "the file to be committed")
    assert f"server {third.address} weight=4;" in site.file()
    site.await_gauge("in_step", 1)


def taken_down(site: Site) -> None:
    """The first backend, by an operator, through the interface; waits until it is written down."""
    assert site.lua is not None
    status, _ = site.lua.ask(f"upstream=api&server={site.backends[0].address}&down=")
    assert status == 200
    wait_until(lambda: f"{site.backends[0].address} down;" in site.file(), "the file to say down", pause=0.05)


def test_a_server_taken_down_stays_down(new_site: NewSite) -> None:
    """Over a reload, a restart of nginx, one of agentd, and whatever Consul says; until it is put up."""
    site = new_site(driver="dynamic").start(3)
    first, second, third = site.backends
    workers = site.node.nginx.workers()
    taken_down(site)

    assert site.node.nginx.workers() == workers
    site.reload()
    assert site.serves(second, third)
    site.node.nginx.stop()
    site.node.nginx.start()
    assert site.serves(second, third)
    site.node.agentd.stop()
    site.node.agentd.start()
    assert site.serves(second, third)
    site.set_status(first, "critical")
    site.set_status(first, "passing")
    fourth = site.backend()
    site.register(fourth)
    site.await_serving(second, third, fourth)
    assert site.lua is not None
    site.lua.ask(f"upstream=api&server={first.address}&up=")
    site.await_serving(first, second, third, fourth)
    wait_until(lambda: "down;" not in site.file(), "the file to say up", pause=0.05)


def test_after_a_reload_the_driver_is_told(new_site: NewSite) -> None:
    """It compares once the proof succeeded, and not only when its time comes."""
    site = new_site(driver="dynamic", sync="1h").start(2)
    assert site.lua is not None
    site.lua.ask(f"upstream=api&add=&server=127.0.0.1:{free_port()}")

    site.reload()

    wait_until(lambda: len(site.lua.ask("upstream=api")[1].splitlines()) == 2, "what was added to go")  # type: ignore[union-attr]  # asserted above


def test_a_killed_nginx_can_start_again(new_site: NewSite) -> None:
    """The socket of the interface that it leaves behind, on which it could not listen, is removed."""
    site = new_site(driver="dynamic").start(1)
    assert site.lua is not None
    socket = site.lua.socket
    site.node.nginx.kill()

    wait_until(lambda: not socket.exists(), "the socket to be removed")
    site.node.nginx.canary.unlink(missing_ok=True)  # by nginx_reload, at the next reload, or before a start
    site.node.nginx.start()

    site.await_serving(*site.backends)


def test_an_interface_that_hangs_holds_nothing_up(new_site: NewSite) -> None:
    """The file is committed, in time, and the log says what is wrong."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        interface = f"http://127.0.0.1:{silent.getsockname()[1]}/dynamic"
        site = new_site(driver="dynamic", interface=interface, interface_timeout="300ms")
        backend = site.backend()
        site.register(backend)
        site.node.start()

        wait_until(lambda: backend.address in site.file(), "the file")
        site.await_gauge("in_step", 0)

    wait_until(lambda: "timed out after 0.3 s" in "\n".join(site.node.agentd.log_lines()), "the word")
