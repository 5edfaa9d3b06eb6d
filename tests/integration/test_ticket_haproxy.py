"""The ring of session ticket keys in a real HAProxy: what it starts with, and what it is given later."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd import haproxy
from agentd.handler import NginxOptions, Verdict
from agentd.testing import HandlerHarness, event, message
from handlers.tls_ticket_keys import TicketKeys
from handlers.tls_ticket_keys.document import Document
from tests.integration.test_handlers_nginx import publish
from tests.servers.agentd import AgentdProcess
from tests.servers.consul import ConsulAgent
from tests.servers.equipment import require
from tests.servers.fleet import TICKET_EVENT, main_job
from tests.servers.haproxy import TicketHAProxy
from tests.servers.nginx import Nginx
from tests.servers.ports import free_port
from tests.servers.process import ServerExitedError
from tests.servers.tls import TLS12, TLS13, Certificate, TLSClient
from tests.servers.waiting import wait_until

pytestmark = pytest.mark.integration
KEYS = [random.Random(seed).randbytes(80) for seed in range(6)]
SHORT = random.Random(7).randbytes(48)
RELOAD = "it runs with other keys than"


class Site:
    """A HAProxy, and the handler of its keys; without nginx."""

    def __init__(self, directory: Path, certificate: Certificate, *, master: bool, **options: object) -> None:
        self.certificate = certificate
        self.tree = directory / "conf" / "agentd"
        self.haproxy = TicketHAProxy(
            directory, certificate, self.tree / "current/tickets/haproxy.keys", master=master
        )
        listeners = [f"127.0.0.1:{self.haproxy.port}", f"127.0.0.1:{self.haproxy.second} localhost"]
        self.section = {"socket": self.haproxy.interface, "probe": listeners, "timeout": "1s"}
        given = {"promote_after": "60s", "retire_after": "1h", "haproxy": self.section} | options
        nginx = NginxOptions(conf=directory / "conf" / "nginx.conf")
        self.handler = HandlerHarness(TicketKeys, given, nginx=nginx)
        self.handler.initial()
        self.publish()
        self.number = 0

    def publish(self) -> None:
        """Make what the handler holds the current generation."""
        self.tree.mkdir(parents=True, exist_ok=True)
        publish(self.tree, self.handler)

    def take(self, phase: str, *ring: bytes, following: bytes | None = None) -> Verdict:
        """Commit a document of the fleet, and verify."""
        self.number += 1
        document = Document(phase, ring, following, since=int(self.handler.now))  # type: ignore[arg-type]
        self.handler.handle(message(TICKET_EVENT, document.render(), num=self.number))
        self.publish()
        return self.handler.verify()

    def fire(self, key: bytes, ltime: int = 1) -> Verdict:
        """Commit a single key, and verify."""
        self.handler.handle(event(TICKET_EVENT, base64.b64encode(key), ltime=ltime))
        self.publish()
        return self.handler.verify()

    def advance(self, seconds: float) -> Verdict:
        """Commit what is due by then, and verify."""
        self.handler.advance(seconds)
        self.publish()
        return self.handler.verify()

    def reasons(self) -> list[str]:
        """What does not hold."""
        return [one.reason for one in self.handler.verify().drift]

    def client(self, version: object) -> TLSClient:
        """One that has no session yet."""
        return TLSClient(self.certificate, version)  # type: ignore[arg-type]

    def resumes(self, client: TLSClient, port: int = 0) -> bool:
        """Whether HAProxy resumes its session."""
        return client.connect("127.0.0.1", port or self.haproxy.port).resumed


NewSite = Callable[..., Site]
STEPS: list[Callable[[Site], Verdict]] = [lambda site: site.fire(KEYS[0]), lambda site: site.advance(60)]
"""Of a rotation."""


@pytest.fixture
def new_site(directory: Path, certificate: Certificate) -> Iterator[NewSite]:
    """Make sites; a HAProxy that was started is stopped here."""
    require("haproxy")
    made: list[Site] = []

    def make(*, master: bool = False, **options: object) -> Site:
        own = directory / f"h{len(made)}"
        own.mkdir()
        made.append(Site(own, certificate, master=master, **options))
        return made[-1]

    yield make
    for site in made:
        site.haproxy.process.stop()


@pytest.fixture
def site(new_site: NewSite) -> Site:
    """One whose HAProxy runs with the first ring."""
    made = new_site()
    made.haproxy.start()
    return made


# ---------------------------------------------------------------- a ring without a fleet


def test_the_first_key_encrypts(site: Site) -> None:
    """From its first start on, with what the tree has."""
    assert site.handler.verify() == Verdict()
    assert len(set(site.haproxy.slots())) == 1
    assert site.handler.modes["tickets/haproxy.keys"] == 0o600


def test_a_ring_moves_while_haproxy_runs(site: Site) -> None:
    """Staged, promoted, retired: each in the running process, which is the same in the end."""
    pid, [first, *_] = site.haproxy.pid, site.haproxy.slots()

    seen = [site.fire(KEYS[0]), site.haproxy.slots(), site.advance(60), site.haproxy.slots()]
    retired = site.advance(3600)

    assert seen == [Verdict(), [first, first, KEYS[0]], Verdict(), [first, KEYS[0], KEYS[0]]]
    assert (retired, site.haproxy.slots()) == (Verdict(), [KEYS[0]] * 3)
    assert site.haproxy.pid == pid


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_no_session_is_lost_in_a_rotation(site: Site, version: object) -> None:
    """Neither one that comes back at each step, nor one that comes back after it."""
    often, once = site.client(version), site.client(version)
    for client in (often, once):
        site.resumes(client)

    resumed = [site.resumes(often)]
    for step in STEPS:
        step(site)
        resumed += [site.resumes(often), site.resumes(often, site.haproxy.second)]

    assert all(resumed), resumed
    assert site.resumes(once)


def test_with_two_keys_waiting_the_first_comes_first(site: Site) -> None:
    """There is one slot for a key that waits."""
    site.fire(KEYS[0], ltime=1)
    site.handler.advance(30)
    waiting = site.fire(KEYS[1], ltime=2), site.haproxy.slots()[2]

    promoted = site.advance(30), site.haproxy.slots()[1:]

    assert waiting == (Verdict(), KEYS[0])
    assert promoted == (Verdict(), [KEYS[0], KEYS[1]])


# ---------------------------------------------------------------- a fleet that coordinates


def test_a_coordinated_rotation(site: Site) -> None:
    """A former key leaves before the next one comes, and at no step HAProxy needs a reload."""
    found = []
    steps: list[tuple[str, tuple[bytes, ...], bytes | None]] = [
        ("staged", (), KEYS[0]),
        ("promoted", (KEYS[0],), None),
        ("idle", (KEYS[0],), None),
        ("staged", (KEYS[0],), KEYS[1]),
        ("promoted", (KEYS[1], KEYS[0]), None),
        ("idle", (KEYS[1], KEYS[0]), None),
        ("idle", (KEYS[1],), None),
        ("staged", (KEYS[1],), KEYS[2]),
        ("promoted", (KEYS[2], KEYS[1]), None),
    ]
    for phase, ring, following in steps:
        assert site.take(phase, *ring, following=following) == Verdict()
        found.append(site.haproxy.slots())

    [first] = {*found[0]} - {KEYS[0]}
    assert found == [
        [first, first, KEYS[0]],
        [first, KEYS[0], KEYS[0]],  # the node's own key still decrypts
        [first, KEYS[0], KEYS[0]],
        [KEYS[0], KEYS[0], KEYS[1]],
        [KEYS[0], KEYS[1], KEYS[1]],
        [KEYS[0], KEYS[1], KEYS[1]],
        [KEYS[1]] * 3,
        [KEYS[1], KEYS[1], KEYS[2]],
        [KEYS[1], KEYS[2], KEYS[2]],
    ]


def test_a_revocation_leaves_no_other_key(site: Site) -> None:
    """At once, in the middle of a rotation, without a reload."""
    site.take("staged", KEYS[0], following=KEYS[1])

    assert site.take("promoted", KEYS[2]).drift == ()
    site.handler.advance(3600)
    site.publish()

    assert site.handler.verify() == Verdict()
    assert site.haproxy.slots() == [KEYS[2]] * 3


def test_a_node_that_was_away_catches_up(site: Site) -> None:
    """It missed a whole rotation; its HAProxy ran on."""
    site.take("idle", KEYS[0])
    site.advance(3600)

    assert site.take("idle", KEYS[3], KEYS[2]).drift == ()
    assert site.haproxy.slots() == [KEYS[2], KEYS[3], KEYS[3]]


def test_the_fleet_is_told_how_many_keys_it_holds(site: Site) -> None:
    """And for how long its sessions are resumed."""
    told = site.handler.report()
    site.handler.restart({"haproxy": site.section | {"session_timeout": "1h"}})

    assert (told["most"], told["session_timeout"]) == (2, 300)
    assert site.handler.report()["session_timeout"] == 3600


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_one_that_is_a_step_behind_resumes_all_the_same(new_site: NewSite, version: object) -> None:
    """Whichever of two takes a step first: a session of each is resumed by the other, always."""
    one, other = new_site(), new_site()
    for site in (one, other):
        site.take("idle", KEYS[0])
        site.haproxy.start()
    steps: list[tuple[str, tuple[bytes, ...], bytes | None]] = [
        ("staged", (KEYS[0],), KEYS[1]),
        ("promoted", (KEYS[1], KEYS[0]), None),
        ("idle", (KEYS[1], KEYS[0]), None),
    ]
    resumed = []
    for order in ((one, other), (other, one)):
        for phase, ring, following in steps:
            for site in order:
                assert site.take(phase, *ring, following=following).drift == ()
                for begun, offered in ((one, other), (other, one)):
                    client = site.client(version)
                    begun.resumes(client)
                    resumed.append(offered.resumes(client))
        for site in order:
            site.take("idle", KEYS[0])  # from the beginning

    assert all(resumed), resumed


# ---------------------------------------------------------------- what happens to HAProxy


def test_a_restart_takes_the_ring_from_the_tree(site: Site) -> None:
    """Nothing has to be pushed: staged as well as promoted."""
    for step in STEPS:
        step(site)
        site.haproxy.restart()
        assert site.handler.verify() == Verdict()


def test_a_reload_takes_the_ring_from_the_tree(new_site: NewSite) -> None:
    """The new worker as the one before."""
    site = new_site(master=True)
    site.haproxy.start()
    site.fire(KEYS[0])

    site.haproxy.reload()

    assert site.handler.verify() == Verdict()
    assert site.advance(60) == Verdict()
    assert site.haproxy.slots()[1:] == [KEYS[0], KEYS[0]]


def test_a_haproxy_that_does_not_run_is_drift(site: Site) -> None:
    """What cannot be seen is not in effect; once it runs again, it is."""
    site.haproxy.process.kill()
    dead = site.fire(KEYS[0])

    site.haproxy.start()

    [drift] = dead.drift
    assert drift.part == f"HAProxy at {site.haproxy.interface}"
    assert "nothing is listening there" in drift.reason
    assert site.handler.verify() == Verdict()


def test_a_haproxy_that_hangs_is_drift(site: Site) -> None:
    """It is asked again, and then given what it lacks."""
    os.kill(site.haproxy.process.pid, signal.SIGSTOP)
    try:
        hung = site.fire(KEYS[0])
    finally:
        os.kill(site.haproxy.process.pid, signal.SIGCONT)

    [drift] = hung.drift
    assert "1 s" in drift.reason
    assert site.handler.verify() == Verdict()
    assert site.haproxy.slots()[2] == KEYS[0]


def test_a_key_that_nobody_else_has_needs_a_reload(site: Site) -> None:
    """Somebody pushed it: another push would let it encrypt."""
    site.take("idle", KEYS[0])
    site.haproxy.push(KEYS[4])

    told, slots = site.reasons(), site.haproxy.slots()
    site.haproxy.restart()

    assert told == [f"{RELOAD} {site.haproxy.keys} has: reload HAProxy"]
    assert slots == [KEYS[0], KEYS[0], KEYS[4]]
    assert site.handler.verify() == Verdict()


def test_keys_that_are_lost_are_given_again(site: Site) -> None:
    """Somebody pushed the key that encrypts, so that the former one is gone: that is mended, or only told."""
    site.take("idle", KEYS[1], KEYS[0])
    site.haproxy.push(KEYS[1])

    site.handler.mend = False
    told = site.reasons()
    site.handler.mend = True
    mended = site.handler.verify()

    assert told == ["it does not have the ring's keys: 3 have to be pushed"]
    assert (mended.drift, len(mended.mended)) == ((), 1)
    assert site.haproxy.slots() == [KEYS[0], KEYS[1], KEYS[1]]


def test_a_key_of_another_length_is_told(site: Site) -> None:
    """HAProxy cannot have it beside the one that encrypts, and then not without a reload."""
    waiting = site.fire(SHORT)
    promoted = site.advance(60)
    site.haproxy.restart()

    assert "the next key has 48 bytes and the one that encrypts 80" in waiting.drift[0].reason
    assert RELOAD in promoted.drift[0].reason
    assert site.handler.verify() == Verdict()


# ---------------------------------------------------------------- what HAProxy takes


@pytest.mark.parametrize(
    "keys, slots",
    [
        (KEYS[:2], None),
        (KEYS[:3], KEYS[:3]),
        (KEYS[:5], KEYS[2:5]),
        ([SHORT] * 3, [SHORT] * 3),
        ([*KEYS[:2], SHORT], None),
    ],
    ids=["two", "three", "five", "short ones", "two lengths"],
)
def test_what_haproxy_starts_with(site: Site, keys: list[bytes], slots: list[bytes] | None) -> None:
    """At least three keys of one length, of which it holds the last three: on that the file rests."""
    site.haproxy.process.stop()
    site.haproxy.keys.write_bytes(b"".join(base64.b64encode(key) + b"\n" for key in keys))
    if slots is None:
        with pytest.raises(ServerExitedError, match=r"please supply at least 3|wrong sized key"):
            site.haproxy.start()
    else:
        assert site.haproxy.start().slots() == slots


def test_a_socket_of_the_lowest_level_shows_the_keys(site: Site) -> None:
    """On that the warnings of `agentd check` rest."""
    other = site.haproxy.socket.with_name("user.sock")
    site.haproxy.configure(sockets=f"stats socket {other} mode 600 level user")
    site.haproxy.restart()

    shown = haproxy.ask(f"unix:{other}", "show tls-keys #0", 5)

    assert base64.b64encode(site.haproxy.slots()[1]).decode() in shown


# ---------------------------------------------------------------- how it is configured


def test_a_haproxy_that_does_not_load_the_ring(site: Site) -> None:
    """No `tls-ticket-keys`, another file, or one past `current`, which would be removed one day."""
    other = site.haproxy.socket.with_name("other.keys")
    other.write_bytes(site.handler.files["tickets/haproxy.keys"])
    fixed = (site.tree / "current").resolve() / "tickets/haproxy.keys"
    for keys in ("", f"tls-ticket-keys {other}", f"tls-ticket-keys {fixed}"):
        site.haproxy.configure(keys=keys)
        site.haproxy.restart()
        [reason] = site.reasons()
        assert reason == (
            f"none of its `bind` lines loads the ring: add `tls-ticket-keys {site.haproxy.keys}`, and reload"
            " it"
        )


def test_the_tree_may_be_reached_by_another_path(site: Site) -> None:
    """By a link to its directory."""
    link = site.tree.parent / "link"
    link.symlink_to(site.tree)
    site.haproxy.configure(keys=f"tls-ticket-keys {link}/current/tickets/haproxy.keys")
    site.haproxy.restart()

    assert site.fire(KEYS[0]) == Verdict()
    assert site.haproxy.slots()[2] == KEYS[0]


def test_a_listener_with_keys_of_its_own(site: Site) -> None:
    """The handshake shows it, though the process holds the ring."""
    listener = f"127.0.0.1:{site.haproxy.own}"
    site.handler.restart({"haproxy": site.section | {"probe": [listener]}})

    [drift] = site.handler.verify().drift

    assert drift.part == f"HAProxy {listener}"
    assert drift.reason.startswith("it encrypts with another key (sha256:")


def test_listeners_that_are_not_named_are_not_asked(site: Site) -> None:
    """And that is said."""
    site.handler.restart({"haproxy": site.section | {"probe": []}})

    assert site.handler.verify() == Verdict(
        unasked="no TLS listener of HAProxy was asked: `haproxy.probe` names none"
    )


def test_a_listener_that_is_not_there(site: Site) -> None:
    """It is not in effect where nobody answers."""
    site.handler.restart({"haproxy": site.section | {"probe": [f"127.0.0.1:{free_port()}"]}})

    [reason] = site.reasons()
    assert reason.startswith("cannot connect: ")


def test_check_warns_of_every_socket_that_others_can_use(site: Site) -> None:
    """On any of them, whatever its level, the keys can be read."""
    assert site.handler.preflight() == []
    port, open_socket = free_port(), site.haproxy.socket.with_name("user.sock")
    for parent in (site.haproxy.socket.parent, site.haproxy.socket.parent.parent):
        parent.chmod(0o755)
    sockets = f"stats socket {open_socket} mode 666 level user\n    stats socket 127.0.0.1:{port} level user"
    site.haproxy.configure(sockets=sockets)
    site.haproxy.restart()

    found = [one.reason for one in site.handler.preflight()]

    assert [str(port) in reason or str(open_socket) in reason for reason in found] == [True, True]
    assert all("ticket keys" in reason for reason in found)


def test_check_warns_of_a_haproxy_that_does_not_answer(site: Site) -> None:
    """Its path may be wrong."""
    site.haproxy.process.stop()

    [found] = site.handler.preflight()

    assert found.warning
    assert "start HAProxy, or correct the path of its `stats socket`" in found.reason


# ---------------------------------------------------------------- HAProxy and nginx


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_two_haproxys_resume_each_others_sessions_and_nginx_neither(
    new_site: NewSite, new_nginx: Callable[..., Nginx], version: object
) -> None:
    """With the same keys everywhere: a session of nginx is for nginx, one of HAProxy for HAProxy."""
    one, other, nginx = new_site(), new_site(), new_nginx()
    for site in (one, other):
        site.take("idle", KEYS[0])
        site.haproxy.start()
    publish(nginx.tree, one.handler)
    nginx.start()
    ports = {"one": one.haproxy.port, "other": other.haproxy.port, "nginx": nginx.tls_port}

    found = {}
    for start, end in (("one", "other"), ("one", "nginx"), ("nginx", "one"), ("nginx", "nginx")):
        client = one.client(version)
        client.connect("127.0.0.1", ports[start])
        found[start, end] = client.connect("127.0.0.1", ports[end]).resumed

    assert found == {
        ("one", "other"): True,
        ("one", "nginx"): False,
        ("nginx", "one"): False,
        ("nginx", "nginx"): True,
    }


def test_with_both_both_must_be_right(site: Site, new_nginx: Callable[..., Nginx]) -> None:
    """That nginx was reloaded is seen beside a HAProxy that has the keys, and the other way round."""
    nginx = new_nginx()
    section = NginxOptions.model_validate(nginx.agentd_section)
    keys = nginx.tree / "current/tickets/haproxy.keys"
    both = HandlerHarness(TicketKeys, {"promote_after": 0, "haproxy": site.section}, nginx=section)
    both.initial()
    publish(nginx.tree, both)
    nginx.start()
    site.haproxy.configure(keys=f"tls-ticket-keys {keys}")
    site.haproxy.restart()
    started = both.verify()

    both.handle(event(TICKET_EVENT, base64.b64encode(KEYS[0])))
    publish(nginx.tree, both)
    loaded_by_haproxy = [one.part for one in both.verify().drift]
    nginx.reload()
    loaded_by_both = both.verify()
    site.haproxy.process.kill()

    assert started == loaded_by_both == Verdict()
    assert loaded_by_haproxy == [f"127.0.0.1:{nginx.tls_port}"]
    assert [one.part for one in both.verify().drift] == [f"HAProxy at {site.haproxy.interface}"]


# ---------------------------------------------------------------- the daemon


def outcome(agentd: AgentdProcess, event_id: str) -> object:
    """What became of an event; None as long as it waits."""
    found = json.loads(agentd.command("history", "--json").stdout)
    return next((one["outcome"] for one in found if one["id"] == event_id), None)


@pytest.mark.parametrize("secrets", [False, True], ids=["on disk", "in memory"])
def test_applied_means_that_haproxy_has_the_key(
    site: Site,
    consul: ConsulAgent,
    new_agentd: Callable[..., AgentdProcess],
    directory: Path,
    secrets: bool,  # noqa: FBT001 (a case)
) -> None:
    """A node with HAProxy alone: an event is applied only when HAProxy runs and holds its key."""
    suffix, tree = f"-{free_port()}", directory / "files"
    handler = main_job(promote_after="0s", suffix=suffix)["ticket-keys"] | {"notify": []}
    handler["options"] |= {"haproxy": site.section}
    status = ("127.0.0.1", free_port())
    agentd = new_agentd(
        {
            "consul": {"address": f"{consul.address}:{consul.ports['http']}"},
            "nginx": None,
            "tree": {"path": str(tree)} | ({"secrets": str(directory / "secrets")} if secrets else {}),
            "state": str(directory / "state"),
            "status": {"address": f"{status[0]}:{status[1]}"},
            "handlers": {"ticket-keys": handler},
        },
        status,
    )
    agentd.start()
    site.haproxy.configure(keys=f"tls-ticket-keys {tree}/current/tickets/haproxy.keys")
    site.haproxy.process.kill()

    fired = consul.fire(TICKET_EVENT + suffix, base64.b64encode(KEYS[0]))
    wait_until(
        lambda: "not in effect: HAProxy at" in agentd.command("status").stdout, "it to be seen", pause=0.3
    )
    before = outcome(agentd, fired)
    site.haproxy.start()
    wait_until(lambda: outcome(agentd, fired), "the outcome", pause=0.3)

    assert (before, outcome(agentd, fired)) == (None, "applied")
    assert "not verified" not in agentd.command("history").stdout  # by the nginx of this machine
    assert site.haproxy.slots()[1] == KEYS[0]
    assert base64.b64encode(KEYS[0]) not in agentd.process.log.read_bytes()
