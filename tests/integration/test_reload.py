"""nginx_reload against a real nginx: what proves a reload, and how each way to fail is told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentd.handler import PermanentError, TemporaryError
from tests.integration.reloading import Node
from tests.servers.nginx import Nginx
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until


@pytest.fixture
def stopped(new_nginx: Callable[..., Nginx]) -> Node:
    """A node whose nginx does not run; old workers may drain for as long as a test takes."""
    return Node(new_nginx(workers=2, shutdown_timeout="10m"))


@pytest.fixture
def node(stopped: Node) -> Node:
    """A node whose nginx serves generation 1."""
    stopped.nginx.start()
    return stopped


@contextmanager
def long_request(nginx: Nginx) -> Iterator[None]:
    """Keep a connection in the middle of a request, so that its worker cannot end."""
    with socket.create_connection((nginx.address, nginx.port), timeout=30) as connection:
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

    line = node.harness.log[-1]
    assert node.serving == "2"
    assert (line.event, line.fields["generation"]) == ("nginx.reloaded", 2)
    assert set(line.fields["old"]) == before
    assert line.fields["new"]
    assert set(line.fields["new"]) <= node.nginx.workers()  # one that has not named itself yet is not told
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
    node.harness.generation = 2

    node.notify(2)

    assert node.logged == ["nginx.reloaded"]


def test_a_connection_in_use_does_not_delay_the_proof(node: Node) -> None:
    """Its worker still drains then, and that is enough."""
    node.flip(2)
    with long_request(node.nginx):
        node.notify(2)

    assert node.harness.log[-1].fields["draining"] >= 1


def test_too_many_draining_workers_hold_the_next_reload(node: Node) -> None:
    """Until the limit; the workers are real ones that finish a request."""
    node.harness.restart({"max_draining": 0, "drain_limit": "0.7s", "interval": "0s"})
    node.flip(2)
    with long_request(node.nginx):
        node.notify(2)
        held = [node.harness.hold()]
        node.harness.now += 0.7
        held.append(node.harness.hold())

    assert held == [0.5, 0]


# ---------------------------------------------------------------- not proved


def test_a_broken_configuration_is_refused_with_nginx_own_words(node: Node) -> None:
    """Nginx itself keeps silent and serves on; the message quotes its log, well before the deadline."""
    before = node.nginx.workers()
    node.harness.restart({"deadline": "60s"})
    node.flip(2, "no_such_directive on;\n")
    started = time.monotonic()

    with pytest.raises(PermanentError, match='unknown directive "no_such_directive"'):
        node.notify(2)

    assert (node.serving, node.nginx.workers()) == ("1", before)
    assert time.monotonic() - started < 30


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

    with pytest.raises(TemporaryError, match=r"include agentd/current/agentd\.conf in http \{\}"):
        node.notify(1)


def test_a_stopped_master_is_told_as_such(node: Node) -> None:
    """It reloads once it is continued, and the change waits for that."""
    node.flip(2)
    os.kill(node.nginx.master, signal.SIGSTOP)
    with pytest.raises(TemporaryError, match=f"kill -CONT {node.nginx.master}"):
        node.notify(2)
    os.kill(node.nginx.master, signal.SIGCONT)

    node.notify(2)

    assert node.serving == "2"


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
    removed = not node.options.canary.exists()
    node.nginx.start()

    assert (left_behind, removed) == (True, True)
    assert node.serving == "2"


def test_a_socket_that_becomes_stale_later_is_removed_later(node: Node) -> None:
    """Here by an nginx that was started, and killed, after the notification."""
    node.nginx.stop()
    node.notify(1)
    node.nginx.start()
    node.nginx.kill()
    wait_until(lambda: not listened_to(node.options.canary), "the last worker to be gone")

    node.harness.advance(5)

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


def test_an_nginx_that_was_just_starting_is_reloaded_later(stopped: Node) -> None:
    """It had read generation 1 when the notification of 2 found nobody yet."""
    stopped.notify(1)
    stopped.nginx.start()
    stopped.flip(2)

    stopped.harness.advance(5)
    asked = stopped.harness.reloads
    stopped.notify(2)

    assert asked == 1
    assert stopped.serving == "2"
    assert stopped.logged == ["nginx.not_running", "nginx.reloaded"]


def test_an_nginx_that_started_in_peace_is_left_alone(stopped: Node) -> None:
    """It serves what was committed, as a look shows."""
    stopped.notify(1)
    stopped.nginx.start()
    before = stopped.nginx.workers()

    stopped.harness.advance(30)
    stopped.notify(1)

    assert stopped.logged == ["nginx.not_running"]
    assert stopped.nginx.workers() == before


def test_an_nginx_that_started_without_the_include_is_proved_once_it_has_read_it(stopped: Node) -> None:
    """It was promised that it would serve the generation when it starts; its first reload cures that."""
    stopped.notify(1)
    conf = stopped.nginx.conf.read_text()
    stopped.nginx.conf.write_text(conf.replace("include agentd/current/agentd.conf;", ""))
    stopped.nginx.start()

    stopped.harness.advance(5)
    with pytest.raises(TemporaryError, match="nothing answers on"):
        stopped.notify(1)
    stopped.harness.verify()  # after a start it leaves the first word to a reload
    (drift,) = stopped.harness.verify().drift
    stopped.nginx.conf.write_text(conf)
    stopped.nginx.reload()
    wait_until(lambda: listened_to(stopped.options.canary), "nginx to have read the include")
    stopped.notify(1)

    assert stopped.harness.reloads == 1
    assert drift.reload


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

    wait_until(lambda: not Path(node.options.canary).exists(), "the socket to be removed")
