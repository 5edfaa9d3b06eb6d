"""nginx_reload against a real nginx: what proves a reload, and how each way to fail is told."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agentd.apply.canary import render
from agentd.handler import NginxOptions, PermanentError, TemporaryError
from agentd.testing import HandlerBench, notification
from handlers.nginx_reload import NginxReload, canary
from tests.servers.nginx import Nginx
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until


class Node:
    """One nginx, its tree written by hand, and the handler under test."""

    def __init__(self, nginx: Nginx) -> None:
        self.nginx = nginx
        self.options = NginxOptions.model_validate(nginx.agentd_section)
        self.bench = HandlerBench(NginxReload, {"deadline": "8s"}, nginx=self.options)
        self.flip(1)

    def flip(self, generation: int, extra: str = "") -> None:
        """Make a generation current, as a commit does; `extra` joins its agentd.conf."""
        tree, name = self.nginx.tree, f"generations/{generation:06d}"
        (tree / name).mkdir(parents=True, exist_ok=True)
        (tree / name / "agentd.conf").write_bytes(render(generation, self.options, "agentd") + extra.encode())
        (tree / "new").symlink_to(name)
        (tree / "new").rename(tree / "current")
        self.bench.generation = generation

    def notify(self, *generations: int, rollback: bool = False) -> None:
        """Tell the handler of these generations as one batch."""
        self.bench.handle(*(notification(number, "keys", rollback=rollback) for number in generations))

    @property
    def serving(self) -> str:
        """What the canary answers."""
        return canary.ask(self.options.canary)

    @property
    def logged(self) -> list[str]:
        """The names of the events logged."""
        return [line.event for line in self.bench.log]


@pytest.fixture
def stopped(new_nginx: Callable[..., Nginx]) -> Node:
    """A node whose nginx does not run."""
    return Node(new_nginx(workers=2))


@pytest.fixture
def node(stopped: Node) -> Node:
    """A node whose nginx serves generation 1."""
    stopped.nginx.start()
    return stopped


@contextmanager
def long_request(nginx: Nginx) -> Iterator[None]:
    """Keep a connection in the middle of a request, so that its worker cannot end."""
    with socket.create_connection((nginx.address, nginx.port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /")
        connection.recv(10_000)
        yield


def listened_to(path: Path) -> bool:
    """Whether the socket file has a listener."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


# ---------------------------------------------------------------- proved


def test_a_reload_is_proved_by_new_workers_and_the_canary(node: Node) -> None:
    """Afterwards nginx serves the generation, with none of the workers from before."""
    before = node.nginx.workers()
    node.flip(2)

    node.notify(2)

    line = node.bench.log[-1]
    assert node.serving == "2"
    assert (line.event, line.fields["generation"]) == ("nginx.reloaded", 2)
    assert set(line.fields["old"]) == before
    assert set(line.fields["new"]) == node.nginx.workers()
    assert not before & node.nginx.workers()


def test_a_batch_of_notifications_makes_one_reload(node: Node) -> None:
    """Ten commits are one generation to nginx."""
    node.flip(11)

    node.notify(*range(2, 12))

    assert node.logged == ["nginx.reloaded"]


def test_a_rollback_is_loaded_even_though_it_was_proved_before(node: Node) -> None:
    """Nginx may have read the generation in between."""
    node.flip(2)
    node.notify(2)
    node.flip(3)
    node.nginx.reload()
    node.flip(2)

    node.notify(2, rollback=True)

    assert node.serving == "2"


def test_a_newer_generation_in_place_of_the_notified_one_will_do(node: Node) -> None:
    """Another process committed after the attempt began: its generation holds these changes, too."""
    node.flip(3)
    node.bench.generation = 2

    node.notify(2)

    assert node.logged == ["nginx.reloaded"]


def test_a_connection_in_use_does_not_delay_the_proof(node: Node) -> None:
    """Its worker drains, and that is enough."""
    node.flip(2)
    with long_request(node.nginx):
        started = time.monotonic()
        node.notify(2)
        took = time.monotonic() - started

    assert node.bench.log[-1].fields["draining"] >= 1
    assert took < 3  # it lives for 5 seconds more


def test_too_many_draining_workers_hold_the_next_reload(node: Node) -> None:
    """Until the limit; the workers are real ones that finish a request."""
    node.bench.restart({"max_draining": 0, "drain_limit": "0.7s", "interval": "0s"})
    node.flip(2)
    with long_request(node.nginx):
        node.notify(2)
        held = [node.bench.hold()]
        node.bench.now += 0.7
        held.append(node.bench.hold())

    assert held == [0.5, 0]


# ---------------------------------------------------------------- not proved


def test_a_broken_configuration_is_refused_with_nginx_own_words(node: Node) -> None:
    """Nginx itself keeps silent and serves on; the message quotes its log, well before the deadline."""
    before = node.nginx.workers()
    node.flip(2, "no_such_directive on;\n")
    started = time.monotonic()

    with pytest.raises(PermanentError, match='unknown directive "no_such_directive"'):
        node.notify(2)

    assert (node.serving, node.nginx.workers()) == ("1", before)
    assert time.monotonic() - started < 3


def test_a_port_that_is_taken_is_refused(node: Node) -> None:
    """The check passes such a configuration, only the apply fails."""
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = other.getsockname()[1]
        node.flip(2, f"server {{ listen 127.0.0.1:{port}; }}\n")
        check = subprocess.run(
            [node.nginx.binary, "-t", "-c", node.nginx.conf], check=False, capture_output=True
        )

        with pytest.raises(PermanentError, match=r"Address already in use\); still could not bind"):
            node.notify(2)

    assert check.returncode == 0
    assert node.serving == "1"


def test_after_the_flip_back_nginx_is_proved_to_serve_the_old_one(node: Node) -> None:
    """The notification of the rollback ends well."""
    node.flip(2, "no_such_directive on;\n")
    with pytest.raises(PermanentError):
        node.notify(2)
    node.flip(1)

    node.notify(1, rollback=True)

    assert node.logged == ["nginx.reloaded"]
    assert node.serving == "1"


def test_a_rollback_is_live_where_nginx_never_left_it(node: Node) -> None:
    """Someone else broke the configuration: nginx refuses it, but serves what is wanted all along."""
    node.nginx.break_configuration()

    node.notify(1, rollback=True)

    assert node.logged == ["nginx.refused"]
    assert node.serving == "1"


def test_a_rollback_that_is_not_proved_is_tried_again(node: Node) -> None:
    """There is nothing behind it to go back to."""
    node.flip(2)
    node.nginx.reload()
    node.flip(1)
    node.nginx.break_configuration()

    with pytest.raises(TemporaryError, match="no_such_directive"):
        node.notify(1, rollback=True)


def test_a_missing_include_is_told_as_such(new_nginx: Callable[..., Nginx]) -> None:
    """The new workers are there, and nothing answers: the operator is told what to write where."""
    nginx = new_nginx()
    nginx.conf.write_text(nginx.conf.read_text().replace("include agentd/", "# include agentd/"))
    node = Node(nginx)
    nginx.start()
    node.bench.restart({"deadline": "0.5s"})

    with pytest.raises(PermanentError, match=r"include agentd/current/agentd\.conf in http \{\}"):
        node.notify(1)


def test_a_busy_master_is_given_until_the_deadline(node: Node) -> None:
    """Not reloaded and nothing said: the message says that there are no new workers."""
    node.flip(2)
    node.bench.restart({"deadline": "0.3s"})
    os.kill(node.nginx.master, signal.SIGSTOP)
    try:
        with pytest.raises(PermanentError, match=r"no new workers; see .*error\.log"):
            node.notify(2)
    finally:
        os.kill(node.nginx.master, signal.SIGCONT)


# ---------------------------------------------------------------- no master


def test_a_stopped_nginx_needs_no_reload(node: Node) -> None:
    """It removed its pid file and its socket, and will read what is current."""
    node.nginx.stop()
    node.flip(2)

    node.notify(2)
    node.nginx.start()

    assert node.logged == ["nginx.not_running"]
    assert node.serving == "2"


def test_a_killed_nginx_can_start_again(node: Node) -> None:
    """Its socket file is left behind, over which no nginx can bind: it is removed."""
    node.nginx.kill()
    wait_until(lambda: not listened_to(node.options.canary), "the last worker to be gone")
    left_behind = node.options.canary.exists()
    node.flip(2)

    node.notify(2)
    node.nginx.start()

    assert left_behind
    assert node.bench.log[0].fields["stale_socket_removed"]
    assert node.serving == "2"


def test_a_socket_that_becomes_stale_later_is_removed_later(node: Node) -> None:
    """Workers outlived their master when the notification came."""
    workers = node.nginx.workers()
    node.nginx.process.kill()
    node.notify(1)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not listened_to(node.options.canary), "the last worker to be gone")

    node.bench.advance(5)

    assert not node.options.canary.exists()


def test_a_stale_socket_is_removed_before_a_reload_too(stopped: Node) -> None:
    """Nginx started without the include, and is to bind the socket at this reload."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stopped.options.canary))
    current = stopped.nginx.tree / "current" / "agentd.conf"
    current.write_text("")
    stopped.nginx.start()
    stopped.flip(2)

    stopped.notify(2)

    assert stopped.serving == "2"


def test_workers_without_a_master_are_reported(node: Node) -> None:
    """They serve the old generation for ever and keep the ports from a new nginx."""
    workers = node.nginx.workers()
    node.nginx.process.kill()
    try:
        node.flip(2)
        node.notify(2)
    finally:
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    assert node.logged == ["nginx.not_running", "nginx.orphans"]
    assert node.bench.log[-1].fields["serving"] == "1"


def test_an_nginx_that_was_just_starting_is_reloaded_later(stopped: Node) -> None:
    """It had read generation 1 when the notification of 2 found no pid file yet."""
    hidden = stopped.options.pid.with_suffix(".hidden")
    stopped.nginx.start()
    shutil.move(stopped.options.pid, hidden)
    stopped.flip(2)
    stopped.notify(2)
    served_meanwhile = stopped.serving
    shutil.move(hidden, stopped.options.pid)

    stopped.bench.advance(5)

    assert (served_meanwhile, stopped.serving) == ("1", "2")
    assert stopped.logged[-1] == "nginx.reloaded"


def test_the_late_reload_is_made_once(stopped: Node) -> None:
    """An nginx that started in peace is reloaded once, and then left alone."""
    stopped.notify(1)
    stopped.nginx.start()

    stopped.bench.advance(30)

    assert stopped.logged.count("nginx.reloaded") == 1


# ---------------------------------------------------------------- what nginx itself does, on which this rests


def test_a_check_leaves_the_running_canary_alone(node: Node) -> None:
    """`nginx -t` neither removes nor replaces the socket that the server listens on."""
    before = node.options.canary.stat().st_ino

    subprocess.run([node.nginx.binary, "-t", "-q", "-c", node.nginx.conf], check=True, capture_output=True)

    assert node.options.canary.stat().st_ino == before
    assert node.serving == "1"


def test_a_check_without_a_server_leaves_no_socket(stopped: Node) -> None:
    """It binds the socket for a moment and removes it."""
    subprocess.run(
        [stopped.nginx.binary, "-t", "-q", "-c", stopped.nginx.conf], check=True, capture_output=True
    )

    assert not stopped.options.canary.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stopping_nginx_removes_its_socket(node: Node, number: signal.Signals) -> None:
    """Only a kill leaves it behind."""
    node.nginx.process.stop(number)

    wait_until(lambda: not Path(node.options.canary).exists(), "the socket to be removed", seconds=2)
