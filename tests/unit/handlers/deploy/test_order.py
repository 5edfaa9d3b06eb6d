"""Which of several events `deploy` takes: the newest for each `dest`."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.handler import Change, Event
from agentd.testing import message
from handlers.deploy.handler import Deploy
from tests.examples import LOOKS
from tests.unit.handlers.deploy.deploying import DeployStand, file


@pytest.fixture
def stand(tmp_path: Path) -> DeployStand:
    """A node with two places to deploy to."""
    return DeployStand(tmp_path, dests=[f"{tmp_path}/srv/*"])


def fire(stand: DeployStand, content: bytes, dest: str = "app") -> Event:
    """An event for a manifest of its own."""
    name = content.decode()
    archive = stand.archive(file("index.html", content), name=f"{name}.tar")
    reference = stand.manifest(archive | {"dest": str(stand.dest.with_name(dest))}, name=f"{name}.yml")
    change = stand.fire(reference)
    assert isinstance(change, Event)
    return change


def test_the_newest_for_a_dest_counts(stand: DeployStand) -> None:
    """In whatever order they came; an event for another `dest` is not touched."""
    one, other, two, three = fire(stand, b"1"), fire(stand, b"x", "b"), fire(stand, b"2"), fire(stand, b"3")

    for waiting in ([one, other, two, three], [three, two, other, one]):
        assert stand.handler.superseded(waiting, stand.context()) == {one.id: three.id, two.id: three.id}


def logged(change: Event, num: int) -> Event:
    """The event as the fleet's log has it."""
    return message("deploy", change.payload, id=change.id, num=num)


def test_of_messages_the_number_counts(stand: DeployStand) -> None:
    """The log's order is the same everywhere; that of firing may be another."""
    one, two, three = (fire(stand, content) for content in (b"1", b"2", b"3"))
    first, second, third = logged(three, 1000), logged(one, 1001), logged(two, 1002)

    void = stand.handler.superseded([third, second, first], stand.context())

    assert void == {first.id: third.id, second.id: third.id}


def test_an_event_has_no_place_among_messages(stand: DeployStand) -> None:
    """Heard while the log could not be reached, it is applied, although messages count as newer otherwise."""
    one, two = fire(stand, b"1"), fire(stand, b"2")
    old = logged(one, 1000)
    assert stand.handler.superseded([old, two], stand.context()) == {}
    stand.deploy(old)

    assert stand.handler.superseded([two], stand.context()) == {}


def test_the_logs_order_is_applied_over_what_was_provisional(stand: DeployStand) -> None:
    """Two events were heard in one order, and the log has them in another."""
    one, two = fire(stand, b"1"), fire(stand, b"2")
    for heard in (one, two):
        stand.deploy(heard)
    late = [logged(two, 1000), logged(one, 1001)]
    void = stand.handler.superseded(late, stand.context())
    stand.deploy(late[1])

    assert void == {two.id: one.id}
    assert (stand.dest / "index.html").read_bytes() == b"1"


def test_a_message_that_is_in_place_is_not_deployed_again(stand: DeployStand) -> None:
    """Its event was applied before the log had it; from then on the fleet compares it."""
    one = fire(stand, b"1")
    stand.deploy(one)
    inode = stand.dest.stat().st_ino
    before = stand.handler.fingerprint(stand.context())
    stand.deploy(logged(one, 1000))

    assert stand.dest.stat().st_ino == inode
    assert before is None
    assert stand.handler.fingerprint(stand.context())


def test_a_joiner_is_compared_by_the_newest_message_alone(tmp_path: Path) -> None:
    """It never gets what was deployed before the log, nor what only older messages were for."""
    nodes = []
    for name in ("old", "joiner"):
        (tmp_path / name).mkdir()
        nodes.append(DeployStand(tmp_path / name, dests=[f"{tmp_path}/{name}/srv/*"]))
    old, joiner = nodes
    old.deploy(fire(old, b"0", "before"))
    old.deploy(logged(fire(old, b"1", "other"), 1000))
    for node in nodes:
        node.configure(dests=[f"{node.directory}/srv/*"], env={"ROOT": str(node.directory)})
        checksum = node.archive(file("a"))["checksum"]
        src, dest = "file://{{ env `ROOT` }}/shelf/app.tar", "{{ env `ROOT` }}/srv/app"
        text = f"src: {src}\ndest: {dest}\nchecksum: {checksum}\n"
        (node.shelf / "same.yml").write_text(text)
        node.deploy(message("deploy", f"file:{node.shelf}/same.yml", num=1001))

    assert old.handler.fingerprint(old.context()) == joiner.handler.fingerprint(joiner.context())
    joiner.deploy(logged(fire(joiner, b"2"), 1002))
    assert old.handler.fingerprint(old.context()) != joiner.handler.fingerprint(joiner.context())


def take(node: DeployStand, waiting: list[Event]) -> None:
    """Handle what waits, as the worker does."""
    void = node.handler.superseded(waiting, node.context())
    for change in waiting:
        if change.id not in void:
            node.deploy(change)


@given(
    count=st.integers(1, 4),
    followed=st.integers(0, 4),
    heard=st.lists(st.integers(0, 3), max_size=4, unique=True),
    at_once=st.booleans(),
)
@settings(max_examples=LOOKS or 15, deadline=None)
def test_all_nodes_end_up_alike(*, count: int, followed: int, heard: list[int], at_once: bool) -> None:
    """One follows, one hears some of it before the log does and in any order, one gets only the newest."""
    with tempfile.TemporaryDirectory() as directory:
        nodes = []
        for name in ("straight", "other", "joiner"):
            (Path(directory) / name).mkdir()
            nodes.append(DeployStand(Path(directory) / name))
        events = [[fire(node, str(n).encode()) for n in range(count)] for node in nodes]
        logs = [[logged(change, 1000 + n) for n, change in enumerate(one)] for one in events]
        straight, other, joiner = nodes
        for change in logs[0]:
            take(straight, [change])
        take(other, logs[1][:followed])
        for number in heard:
            if followed <= number < count:
                take(other, [events[1][number]])
        late = logs[1][followed:]
        for some in [late] if at_once else [[change] for change in late]:
            take(other, some)
        take(joiner, logs[2][-1:])

        assert [(node.dest / "index.html").read_text() for node in nodes] == [str(count - 1)] * 3
        assert len({node.store["messages"]["deploy"][0] for node in nodes}) == 1


def test_events_that_name_no_manifest_supersede_nothing(stand: DeployStand) -> None:
    """They are refused or retried in their turn, and `handle` says why."""
    good, lost, bad = fire(stand, b"1"), fire(stand, b"2"), fire(stand, b"3")
    (stand.shelf / "2.yml").unlink()
    (stand.shelf / "3.yml").write_text("- nothing")

    assert stand.handler.superseded([good, lost, bad], stand.context()) == {}


def test_manifests_of_commands_are_all_run(stand: DeployStand) -> None:
    """They have no `dest` that one could take from another."""
    changes = [stand.fire(stand.manifest({"dest": "", "commands": {"pre": ["true"]}})) for _ in range(2)]

    assert stand.handler.superseded([one for one in changes if isinstance(one, Event)], stand.context()) == {}


def test_a_manifest_is_read_once(stand: DeployStand) -> None:
    """What was judged is what is deployed, also if another lies there by now."""
    change = fire(stand, b"1")
    stand.handler.superseded([change], stand.context())
    (stand.shelf / "1.yml").write_text("- nothing")

    stand.deploy(change)

    assert (stand.dest / "index.html").read_bytes() == b"1"


def test_a_message_of_an_event_that_was_heard_is_read_once_as_well(stand: DeployStand) -> None:
    """While it waits it has another ID than when it is handled."""
    one = logged(fire(stand, b"1"), 1000)
    stand.handler.superseded([replace(one, raw=one.raw | {"ID": f"{one.id}#2"})], stand.context())
    (stand.shelf / "1.yml").write_text("- nothing")

    stand.deploy(one)

    assert (stand.dest / "index.html").read_bytes() == b"1"


def test_an_event_that_comes_late_is_superseded_by_what_is_in_place(stand: DeployStand) -> None:
    """Gossip may turn two events around; every node ends with the newer one."""
    early, late = fire(stand, b"1"), fire(stand, b"2")
    stand.deploy(late)

    assert stand.handler.superseded([early], stand.context()) == {early.id: late.id}


def test_long_after_a_deploy_its_order_says_nothing(stand: DeployStand) -> None:
    """A fleet that was set up anew counts from the beginning."""
    early, late = fire(stand, b"1"), fire(stand, b"2")
    stand.deploy(late)
    stand.now += 3600

    assert stand.handler.superseded([early], stand.context()) == {}


def test_the_random_delay_holds_all_that_waits(stand: DeployStand) -> None:
    """Once for all of it, at most for as long as configured; the next deploy is held anew."""
    stand.configure(random_delay="60s")

    def hold(now: float) -> float:
        return stand.handler.hold(now, stand.context())

    first = hold(1000.0)
    assert 0 <= first <= 60
    assert hold(1000.0 + first / 2) == pytest.approx(first / 2)
    assert hold(1000.0 + first) == 0
    stand.handler._start = 0.0
    _deploy_nothing(stand.handler, stand)
    assert stand.handler._start is None


def test_without_a_delay_nothing_is_held(stand: DeployStand) -> None:
    """The default."""
    assert stand.handler.hold(1000.0, stand.context()) == 0.0


def _deploy_nothing(handler: Deploy, stand: DeployStand) -> None:
    change: Change = stand.fire(stand.manifest({"dest": "", "commands": {}}))
    handler.handle(change, stand.context())
