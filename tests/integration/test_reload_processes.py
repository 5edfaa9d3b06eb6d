"""nginx_reload against nginx's processes as operators and accidents leave them: all of them must answer."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentd.handler import PermanentError, TemporaryError
from agentd.nginx import canary
from handlers.nginx_reload.observer import Observer
from handlers.nginx_reload.proof import Observation
from tests.integration.reloading import Node
from tests.servers.nginx import Nginx
from tests.servers.ports import free_port
from tests.servers.waiting import wait_until


@pytest.fixture
def node(new_nginx: Callable[..., Nginx]) -> Node:
    """A node whose nginx, with two workers, serves generation 1."""
    return started(new_nginx)


def started(new_nginx: Callable[..., Nginx], **options: Any) -> Node:  # noqa: ANN401 (Nginx's own options)
    """A node whose nginx serves generation 1."""
    made = Node(new_nginx(**{"workers": 2, **options}))
    made.nginx.start()
    return made


def reloads(node: Node) -> int:
    """How often nginx was signalled."""
    return node.nginx.error_log.read_text().count("signal 1 (SIGHUP) received from")


@contextmanager
def paused(*pids: int) -> Iterator[None]:
    """Stop processes, as a debugger or a hanging disk does."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def until_live(node: Node, generation: int) -> None:
    """Notify until it is proved, as the engine does with what waits."""

    def live() -> bool:
        try:
            node.notify(generation)
        except TemporaryError:
            return False
        return True

    wait_until(live, f"generation {generation} to be live")


# ---------------------------------------------------------------- every worker


@pytest.mark.parametrize("workers", [1, 2, 32])
def test_every_worker_answers_before_it_is_proved(new_nginx: Callable[..., Nginx], workers: int) -> None:
    """However many there are, on one socket."""
    node = started(new_nginx, workers=workers)
    node.flip(2)

    node.notify(2)

    line = node.harness.log[-1]
    assert line.event == "nginx.reloaded"
    assert len(line.fields["new"]) == workers


def test_what_is_live_already_is_not_reloaded_again(node: Node) -> None:
    """Also after a restart of agentd: a look shows it."""
    node.flip(2)
    node.notify(2)
    node.harness.restart()
    before = node.nginx.workers()

    node.notify(2)

    assert node.nginx.workers() == before
    assert reloads(node) == 1


# ---------------------------------------------------------------- the pid file


@pytest.mark.parametrize("content", [None, "", "1", "999999999"])
def test_the_pid_file_is_not_needed(node: Node, content: str | None) -> None:
    """Removed, emptied, or the pid of something else."""
    node.options.pid.unlink()
    if content is not None:
        node.options.pid.write_text(content)
    node.flip(2)

    node.notify(2)

    assert node.logged == ["nginx.reloaded"]
    assert node.serving == "2"


def test_another_nginx_is_never_signalled(new_nginx: Callable[..., Nginx]) -> None:
    """Even where the pid file names it by mistake, and ours does not run."""
    other, ours = started(new_nginx), Node(new_nginx())
    ours.options.pid.write_text(str(other.nginx.master))
    ours.flip(2)

    ours.notify(2)

    ours.notify(2)

    told = [line.fields["masters"] for line in ours.harness.log if line.event == "nginx.others"]
    assert other.nginx.master in told[0]
    assert reloads(other) == 0


# ---------------------------------------------------------------- no master


def test_orphans_are_told_with_the_cure(node: Node) -> None:
    """They serve the old generation for ever, and keep the ports from a new nginx: that is not applied."""
    workers = sorted(node.nginx.kill_master())
    node.flip(2)

    with pytest.raises(TemporaryError) as raised:
        node.notify(2)

    pids = " ".join(map(str, workers))
    assert "serve generation 1 without a master" in str(raised.value)
    assert f"`kill -QUIT {pids}; rm -f {node.options.canary}`" in str(raised.value)


def test_once_the_orphans_are_gone_it_ends_well(node: Node) -> None:
    """As told: they are ended, and nginx is started; it needs no reload then."""
    workers = node.nginx.kill_master()
    node.flip(2)
    with pytest.raises(TemporaryError):
        node.notify(2)
    for pid in workers:
        os.kill(pid, signal.SIGQUIT)
    wait_until(lambda: not any(map(serves, workers)), "the workers to end")
    node.options.canary.unlink()
    node.nginx.start()

    node.notify(2)

    assert (node.serving, reloads(node)) == ("2", 0)


def serves(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


# ---------------------------------------------------------------- a binary upgrade


@pytest.fixture
def upgradable(new_nginx: Callable[..., Nginx]) -> Node:
    """A node whose nginx runs in the background."""
    return started(new_nginx, daemon=True)


def test_an_old_master_of_an_upgrade_cannot_follow(upgradable: Node) -> None:
    """Its workers accept as well; SIGHUP would only make it start more of them with the old configuration."""
    old = upgradable.nginx.workers()
    new = upgradable.nginx.upgrade()
    upgradable.flip(2)

    with pytest.raises(TemporaryError, match="live on 2 of 4 workers") as raised:
        upgradable.notify(2)

    assert f"kill -QUIT {upgradable.nginx.master}`, or take it back with `kill -QUIT {new}" in str(
        raised.value
    )
    assert upgradable.nginx.workers() == old


def test_an_upgrade_that_is_finished_ends_the_wait(upgradable: Node) -> None:
    """SIGQUIT to the old master: the new one serves the generation already."""
    upgradable.nginx.upgrade()
    upgradable.flip(2)
    with pytest.raises(TemporaryError):
        upgradable.notify(2)
    os.kill(upgradable.nginx.master, signal.SIGQUIT)

    until_live(upgradable, 2)

    assert reloads(upgradable) == 1


def test_an_upgrade_that_is_taken_back_ends_the_wait(upgradable: Node) -> None:
    """HUP to the old master, which starts old workers, and QUIT to the new one: then the old one reloads."""
    new = upgradable.nginx.upgrade()
    upgradable.flip(2)
    with pytest.raises(TemporaryError):
        upgradable.notify(2)
    os.kill(upgradable.nginx.master, signal.SIGHUP)
    os.kill(new, signal.SIGQUIT)
    wait_until(lambda: not serves(new), "the new master to end")

    until_live(upgradable, 2)

    wait_until(lambda: len(upgradable.nginx.workers()) == 2, "only those of the reload to be left")
    assert upgradable.serving == "2"


def test_an_upgrade_that_is_taken_back_during_the_proof_fails_nothing(upgradable: Node) -> None:
    """The old master was not signalled for the generation, so that it does not serve it proves nothing."""
    new = upgradable.nginx.upgrade()
    upgradable.flip(2)
    look = Observer.__call__

    def taking_back(observer: Observer) -> Observation:
        seen = look(observer)
        if new in seen.masters and seen.answers.keys() == seen.workers.keys():
            os.kill(upgradable.nginx.master, signal.SIGHUP)
            os.kill(new, signal.SIGQUIT)
            wait_until(lambda: not serves(new), "the new master to end")
        return seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Observer, "__call__", taking_back)
        with pytest.raises(TemporaryError):
            upgradable.notify(2)

    until_live(upgradable, 2)

    assert upgradable.serving == "2"


def test_workers_of_an_old_master_that_was_killed_are_found(upgradable: Node) -> None:
    """They share the sockets with those of the new one; only their answers tell."""
    upgradable.nginx.upgrade()
    orphans = upgradable.nginx.kill_master()
    upgradable.flip(2)

    with pytest.raises(TemporaryError, match="live on 2 of 4 workers") as raised:
        upgradable.notify(2)

    assert all(str(pid) in str(raised.value) for pid in orphans)


def test_an_upgrade_whose_old_workers_were_ended_is_no_obstacle(upgradable: Node) -> None:
    """SIGWINCH leaves the old master there without workers, as nginx's manual has it."""
    upgradable.nginx.upgrade()
    os.kill(upgradable.nginx.master, signal.SIGWINCH)
    wait_until(lambda: not upgradable.nginx.workers(), "the old workers to end")
    upgradable.flip(2)

    upgradable.notify(2)

    assert upgradable.serving == "2"


# ---------------------------------------------------------------- a worker that does not answer


def test_a_stuck_old_worker_is_told_and_nothing_is_flipped_back(node: Node) -> None:
    """The change is live on the sound ones; it ends well once that worker goes on."""
    stuck = min(node.nginx.workers())
    node.flip(2)
    with paused(stuck):
        with pytest.raises(TemporaryError, match="live on 2 of 3 workers") as raised:
            node.notify(2)
        again = pytest.raises(TemporaryError, match=f"pid {stuck} does not answer")
        with again:
            node.notify(2)

    until_live(node, 2)

    assert (raised.value.retry_after or 0.0) >= 1.0
    assert f"kill -CONT {stuck}" in str(raised.value)
    assert reloads(node) == 1


def test_a_stuck_new_worker_is_told(node: Node) -> None:
    """One of those that came with the generation; it is not signalled for it again."""
    node.flip(2)
    node.notify(2)
    node.harness.restart()
    stuck = min(node.nginx.workers())
    with paused(stuck), pytest.raises(TemporaryError, match="live on 1 of 2 workers"):
        node.notify(2)

    until_live(node, 2)

    assert reloads(node) == 1


def test_a_later_change_goes_on_beside_a_stuck_worker(node: Node) -> None:
    """It is loaded by all others, without delay."""
    stuck = min(node.nginx.workers())
    with paused(stuck):
        for generation in (2, 3):
            node.flip(generation)
            with pytest.raises(TemporaryError, match="live on 2 of 3 workers"):
                node.notify(generation)
        served = {canary.ask(node.options.canary).generation for _ in range(8)}

    until_live(node, 3)

    assert served == {"3"}


def test_a_stuck_worker_that_is_ended_ends_the_wait(node: Node) -> None:
    """As the operator is told."""
    stuck = min(node.nginx.workers())
    node.flip(2)
    os.kill(stuck, signal.SIGSTOP)
    with pytest.raises(TemporaryError):
        node.notify(2)
    os.kill(stuck, signal.SIGKILL)

    until_live(node, 2)

    assert stuck not in node.nginx.workers()


def test_a_rollback_beside_a_stuck_worker_reloads_once(node: Node) -> None:
    """Each look at it would otherwise be a reload more, for as long as that worker is stuck."""
    node.flip(2)
    node.notify(2)
    stuck = min(node.nginx.workers())
    node.flip(1)
    with paused(stuck):
        for _ in range(3):
            with pytest.raises(TemporaryError, match="live on 2 of 3 workers"):
                node.notify(1, rollback=True)

    def live() -> bool:
        try:
            node.notify(1, rollback=True)
        except TemporaryError:
            return False
        return True

    wait_until(live, "the rollback to be live")

    assert (node.serving, reloads(node)) == ("1", 2)


# ---------------------------------------------------------------- the canary


def test_a_canary_that_was_deleted_is_told_with_the_cure(node: Node) -> None:
    """Nginx keeps listening on a socket without a name, through every reload."""
    node.options.canary.unlink()
    node.flip(2)

    with pytest.raises(TemporaryError, match=r"socket .* was removed or replaced, .*restart nginx"):
        node.notify(2)


def test_a_canary_that_was_taken_over_is_told_with_the_cure(node: Node) -> None:
    """No worker of nginx is at fault if another program listens under the name of its socket."""
    node.options.canary.unlink()
    node.flip(2)

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(node.options.canary))
        other.listen()
        with pytest.raises(TemporaryError, match=r"socket .* was removed or replaced, .*restart nginx"):
            node.notify(2)


def test_an_nginx_without_a_master_is_told(node: Node) -> None:
    """With `master_process off` nothing in /proc tells that it is nginx; but something answers."""
    node.nginx.stop()
    node.nginx.configure(main="master_process off;")
    node.nginx.process.start(lambda: canary.answers(node.options.canary))
    node.flip(2)

    with pytest.raises(TemporaryError, match=r"without a master.* answers '1'"):
        node.notify(2)


def test_after_the_restart_the_canary_proves_again(node: Node) -> None:
    """The cure works."""
    node.options.canary.unlink()
    node.flip(2)
    with pytest.raises(TemporaryError):
        node.notify(2)
    node.nginx.stop()
    node.nginx.start()

    node.notify(2)

    assert node.serving == "2"


# ---------------------------------------------------------------- whose fault


def test_an_operators_mistake_after_the_check_makes_it_wait(node: Node) -> None:
    """The configuration is broken for every generation."""
    node.flip(2)
    node.nginx.break_configuration()

    with pytest.raises(TemporaryError, match=r"outside the tree.*no_such_directive"):
        node.notify(2)
    node.nginx.configure()
    node.notify(2)

    assert node.serving == "2"


def test_a_port_that_the_operator_asked_for_makes_it_wait(node: Node) -> None:
    """The check passes it; the line is named."""
    with occupied() as port:
        node.nginx.configure(server=f"listen 127.0.0.1:{port};")
        node.flip(2)
        words = rf"nginx\.conf:\d+: nginx cannot listen on 127.0.0.1:{port}"
        with pytest.raises(TemporaryError, match=words):
            node.notify(2)

    node.notify(2)

    assert node.serving == "2"


def test_a_port_that_the_generation_asked_for_ends_it(node: Node) -> None:
    """Nothing outside of it can mend that."""
    with occupied() as port:
        node.flip(2, f"server {{ listen 127.0.0.1:{port}; }}\n")

        with pytest.raises(PermanentError, match=f"bind.* to 127.0.0.1:{port} failed"):
            node.notify(2)


@contextmanager
def occupied() -> Iterator[int]:
    """A port on which another program listens, and which nobody takes afterwards."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        yield port


# ---------------------------------------------------------------- later looks


def test_what_was_proved_and_is_served_no_more_is_mended(upgradable: Node) -> None:
    """An upgrade that is taken back brings an older generation back with it: a reload loads the new one."""
    new = upgradable.nginx.upgrade()
    os.kill(upgradable.nginx.master, signal.SIGWINCH)
    wait_until(lambda: not upgradable.nginx.workers(), "the old workers to end")
    upgradable.flip(2)
    upgradable.notify(2)
    os.kill(upgradable.nginx.master, signal.SIGHUP)
    os.kill(new, signal.SIGQUIT)
    wait_until(lambda: not serves(new), "the new master to end")
    wait_until(lambda: len(upgradable.nginx.workers()) == 2, "the old master's workers")
    before = upgradable.serving

    verdict = upgradable.harness.verify()
    asked = upgradable.harness.reloads
    upgradable.notify(2)

    assert [(one.part, "generation 1" in one.reason) for one in verdict.drift] == [("nginx", True)], verdict
    assert (before, asked, upgradable.serving) == ("1", 1, "2")
    assert not upgradable.harness.verify().drift


def test_what_cannot_be_mended_is_drift(node: Node) -> None:
    """As long as the workers without a master are there."""
    node.flip(2)
    node.notify(2)
    workers = node.nginx.kill_master()
    wait_until(lambda: not node.harness.verify().drift, "all workers to be heard: they serve what was proved")
    node.flip(3)
    with pytest.raises(TemporaryError):
        node.notify(3)
    node.harness.restart()

    def told() -> bool:
        """Whether each of them is named: one look is short, and may not hear all of them."""
        return any(all(str(pid) in one.reason for pid in workers) for one in node.harness.verify().drift)

    wait_until(told, "all workers without a master to be named")
    assert not node.harness.reloads


def test_an_nginx_that_was_stopped_is_no_drift(node: Node) -> None:
    """It serves nothing, and will read what is current."""
    node.flip(2)
    node.notify(2)
    node.nginx.stop()

    assert not node.harness.verify().drift


# ---------------------------------------------------------------- time


def test_a_deadline_that_is_too_short_is_stretched(new_nginx: Callable[..., Nginx]) -> None:
    """By what `nginx -t` takes: hundreds of TLS servers are read for longer than a few milliseconds."""
    nginx = new_nginx(workers=2)
    own = nginx.conf.read_text()
    lines = "\n".join(line.strip() for line in own.splitlines() if line.strip().startswith("ssl_certificate"))
    servers = "\n".join(
        f"server {{ listen {nginx.address}:{nginx.tls_port} ssl; server_name s{number}.test; {lines} }}"
        for number in range(300)
    )
    nginx.configure(http=servers)
    node = Node(nginx)
    nginx.start()
    node.harness.restart({"deadline": "0.01s"})
    node.flip(2)

    node.notify(2)

    assert node.serving == "2"
    assert "nginx.slow" in node.logged
