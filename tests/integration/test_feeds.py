"""Downloads in the real daemon: servers that are slow, broken or hostile hold up nothing else."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.integration.test_faults import small_disk
from tests.servers.fleet import BLACKLIST_EVENT, Node, main_job
from tests.servers.rough import Manner, RoughServer, dribbles, head, sends
from tests.servers.waiting import wait_until

NewNode = Callable[..., Node]
Serve = Callable[..., RoughServer]
DRIP = dribbles(head(200), 1.0, 3600.0)
BROKEN = sends(head(200, Transfer_Encoding="chunked") + b"-5\r\nhello\r\n")
ODD_DATE = head(
    200, Last_Modified="Thu, 01 Jan 99999999999 00:00:00 GMT", Date="Thu, 01 Jan 99999999999 00:00:00 GMT"
)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers with the manners given."""
    with ExitStack() as stack:

        def start(*manners: Manner) -> RoughServer:
            server = RoughServer(list(manners))
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def new_blacklist(new_node: NewNode, suffix: str) -> Callable[..., Node]:
    """A node with these lists, by name: the reference, or the whole options."""

    def make(**lists: str | dict[str, object]) -> Node:
        options = {name: {"reference": one} if isinstance(one, str) else one for name, one in lists.items()}
        handlers = main_job(interval="0s", suffix=suffix)
        handlers["blacklist"]["options"] = {"lists": options}
        allow = sorted({str(one["reference"]).rsplit("/", 1)[0] for one in options.values()})
        return new_node(handlers=handlers, settings={"sources": {"allow": allow}}).start()

    return make


def statuses(node: Node, *clients: str) -> list[int]:
    """What each client is answered."""
    return [node.nginx.get(client=client)[0] for client in clients]


def feed(server: RoughServer, every: str = "2s") -> dict[str, object]:
    """The options of a list that this server feeds."""
    return {"reference": f"{server.url}/list", "every": every}


def apply(node: Node, suffix: str, *lines: str) -> float:
    """Fire lines that must be applied long before a drip ends; the seconds until nginx proved them."""
    began = time.monotonic()
    event = node.fire(BLACKLIST_EVENT + suffix, "\n".join(lines).encode())
    entry = node.outcome(event)
    assert entry["outcome"] == "applied", entry
    return time.monotonic() - began


def metrics(node: Node, pattern: str) -> bool:
    """Whether a line of the metrics matches now."""
    return re.search(pattern, node.agentd.get("/metrics")[1], re.MULTILINE) is not None


def test_bad_feeds_hold_up_nothing(new_blacklist: Callable[..., Node], serve: Serve, suffix: str) -> None:
    """Beside one that drips and one that raises, a good feed, `add` and the expiry go on.

    How quick they are on a quiet machine is the soak's to judge; a drip goes on for a quarter of an hour.
    """
    versions = [sends(head(200) + f"198.51.100.{n}\n".encode()) for n in range(1, 200)]
    good = serve(*versions)
    node = new_blacklist(
        drip=feed(serve(DRIP)),
        broken=feed(serve(BROKEN)),
        odd=feed(serve(sends(ODD_DATE + b"203.0.113.9\n"))),
        good=feed(good),
    )
    wait_until(lambda: statuses(node, "203.0.113.9") == [403], "the feed with the odd date")
    wait_until(lambda: len(good.asked) >= 2, "the good feed to be asked again")
    asked = len(good.asked)
    took = apply(node, suffix, "add 192.0.2.1")
    for number in range(2, 6):  # one whose time is over before it is handled is not applied
        apply(node, suffix, f"add 192.0.2.{number} {4 + 5 * took:.0f}s")
    wait_until(lambda: statuses(node, "192.0.2.5", "192.0.2.1") == [200, 403], "the expiry")
    wait_until(lambda: len(good.asked) >= asked + 3, "the good feed's interval")

    for line in (
        r'agentd_handler_blacklist_feeds_failing\{handler="blacklist"\} 1.0$',
        r'agentd_tasks\{handler="blacklist",state="running"\} [1-4].0$',
        r'blacklist_feed_good_success_age_seconds\{handler="blacklist"\} ',
    ):
        wait_until(partial(metrics, node, line), line)
    wait_until(
        lambda: "a chunk has no usable size" in node.agentd.command("status").stdout, "the reason", pause=0.5
    )
    listed = json.loads(node.agentd.command("blacklist", "list", "--json").stdout)
    assert next(one["feed"]["asked"] for one in listed["lists"] if one["name"] == "drip") > 0


def test_many_slow_feeds_keep_a_good_one_waiting_for_seconds(
    new_blacklist: Callable[..., Node], serve: Serve
) -> None:
    """Not for as long as they drip, up to a quarter of an hour; they are more than sources.parallel."""
    drip, good = serve(DRIP), serve(sends(head(200) + b"203.0.113.9\n"))
    slow = {f"drip{number}": feed(drip) for number in range(40)}
    node = new_blacklist(**slow, good=feed(good))
    wait_until(lambda: statuses(node, "203.0.113.9") == [403], "the good feed")
    asked = len(good.asked)
    wait_until(lambda: len(good.asked) >= asked + 3, "the good feed's interval")
    line = r'agentd_tasks\{handler="blacklist",state="running"\} 4[01].0$'
    wait_until(lambda: metrics(node, line), "all of them to drip")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "packed"])
def test_no_download_takes_the_last_room_from_the_journal(
    new_node: NewNode, serve: Serve, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    """A list that is allowed, but larger than the disk of the state, is that feed's failure alone."""
    large = serve(sends(head(200) + pack(b"203.0.113.9\n" * 8_000_000)))
    handlers = main_job(interval="0s", suffix=suffix)
    handlers["blacklist"]["options"] = {"lists": {"large": feed(large, "1s")}}
    node = new_node(handlers=handlers, settings={"sources": {"allow": [large.url]}})
    with small_disk(node.directory / "state", "48m"):
        node.start()
        applied = 0
        while len(large.asked) < 2 or applied < 20:
            applied += 1
            apply(node, suffix, f"add 192.0.{applied >> 8}.{applied & 255}")
        words = "MB would be left there for the journal"
        wait_until(lambda: words in node.agentd.command("status").stdout, "the reason", pause=0.5)
        node.stop()

    assert not [line for line in node.agentd.log_lines() if "journal cannot be written" in line]


def test_a_slow_load_holds_up_no_other_event(
    new_blacklist: Callable[..., Node], serve: Serve, suffix: str
) -> None:
    """While it downloads, other events are applied at once, and are not undone by it."""
    body = b"198.51.100.0/24\n203.0.113.0/24\n"
    rest = threading.Event()
    slow = serve(lambda client, _: held(client, body, rest))
    quick = serve(sends(head(200) + b"192.0.2.128/25\n"))
    node = new_blacklist(slow=f"{slow.url}/list", quick=f"{quick.url}/list")
    event = node.fire(BLACKLIST_EVENT + suffix, b"add 192.0.2.1\nadd 192.0.2.2\nload slow")
    wait_until(lambda: slow.asked, "the download")

    apply(node, suffix, "add 192.0.2.3")
    apply(node, suffix, "load quick")
    apply(node, suffix, "add 192.0.2.9\nremove 192.0.2.2\nremove 203.0.113.5")
    apply(node, suffix, "clear quick")
    before = statuses(node, "192.0.2.3", "192.0.2.1", "192.0.2.200")
    rest.set()
    outcome = node.outcome(event)

    assert before == [403, 200, 200]
    assert outcome["outcome"] == "applied"
    assert statuses(node, "192.0.2.1", "192.0.2.2", "198.51.100.5", "203.0.113.5", "203.0.113.6") == [
        403, 200, 403, 200, 403,
    ]  # fmt: skip


def held(client: object, body: bytes, rest: threading.Event) -> None:
    """Serve a body, the last byte only once `rest` is set."""
    send = client.sendall  # type: ignore[attr-defined]
    send(head(200, Content_Length=len(body)) + body[:-1])
    rest.wait(600)
    send(body[-1:])


def test_a_kill_in_mid_download_loses_nothing(
    new_blacklist: Callable[..., Node], serve: Serve, suffix: str
) -> None:
    """The event stays pending, is fetched again after the restart, and what overtook it before stays so."""
    body = b"198.51.100.0/24\n"
    slow = serve(DRIP, sends(head(200) + body))
    node = new_blacklist(slow=f"{slow.url}/list", other=f"{slow.url}/other")
    event = node.fire(BLACKLIST_EVENT + suffix, b"load slow\nadd 192.0.2.1")
    wait_until(lambda: slow.asked, "the download")
    apply(node, suffix, "add 192.0.2.9\nremove 192.0.2.1")

    node.agentd.kill()
    node.agentd.start()
    outcome = node.outcome(event)

    assert outcome["outcome"] == "applied"
    assert statuses(node, "198.51.100.5", "192.0.2.1", "192.0.2.9") == [403, 200, 403]
    fetched = node.directory / "state" / "fetched"
    wait_until(lambda: not list(fetched.iterdir()), "the private directories to be removed")


def test_a_clear_ends_an_older_load(new_blacklist: Callable[..., Node], serve: Serve, suffix: str) -> None:
    """A load that still downloads ends as superseded, and its connection is closed."""
    slow = serve(DRIP)
    node = new_blacklist(slow=f"{slow.url}/list")
    event = node.fire(BLACKLIST_EVENT + suffix, b"load slow")
    wait_until(lambda: slow.asked, "the download")

    clear = node.outcome(node.fire(BLACKLIST_EVENT + suffix, b"clear slow"))
    load = node.outcome(event)

    assert clear["outcome"] in ("applied", "unchanged")
    assert (load["outcome"], load["reason"]) == ("expired", f"superseded by {clear['id']}")
    wait_until(
        lambda: 'agentd_tasks{handler="blacklist",state="running"} 0.0' in node.agentd.get("/metrics")[1],
        "the download to end",
    )


def test_a_feed_that_was_being_fetched_is_not_asked_at_once_after_a_kill(
    new_blacklist: Callable[..., Node], serve: Serve, directory: Path
) -> None:
    """So a feed that brings the daemon down does not do it again and again, and the others are fetched."""
    (directory / "good").write_text("198.51.100.1\n")
    bad = serve(DRIP)
    node = new_blacklist(
        bad=feed(bad, every="1h"), good={"reference": f"file:{directory}/good", "every": "2s"}
    )
    wait_until(lambda: bad.asked, "the bad feed to be asked")

    node.agentd.kill()
    (directory / "good").write_text("198.51.100.2\n")
    node.agentd.start()
    wait_until(lambda: statuses(node, "198.51.100.2") == [403], "the good feed")

    words = "agentd ended while it was being fetched"
    wait_until(lambda: words in node.agentd.command("status").stdout, "the reason", pause=0.5)
    assert len(bad.asked) == 1


def test_a_dry_run_downloads_at_once(new_blacklist: Callable[..., Node], serve: Serve, suffix: str) -> None:
    """There is nobody whom it could hold up; and it changes nothing."""
    server = serve(sends(head(200) + b"198.51.100.1\n"), sends(head(200) + b"198.51.100.2\n"))
    node = new_blacklist(one=f"{server.url}/list")
    apply(node, suffix, "load one")
    event = next(entry["id"] for entry in node.history("blacklist") if entry["kind"] == "event")

    shown = node.agentd.command("replay", "--dry-run", event)

    assert shown.returncode == 0, shown.stderr
    assert "blacklist/lists/one.ipv4" in shown.stdout
    assert statuses(node, "198.51.100.1", "198.51.100.2") == [403, 200]


def test_a_stop_and_a_reload_do_not_wait_for_downloads(
    new_blacklist: Callable[..., Node], serve: Serve, suffix: str
) -> None:
    """The event stays pending, and is downloaded again by what comes after."""
    slow = serve(DRIP)
    node = new_blacklist(drip=feed(serve(DRIP)), slow=f"{slow.url}/list")
    event = node.fire(BLACKLIST_EVENT + suffix, b"load slow")
    wait_until(lambda: slow.asked, "the download")

    node.config["drain"] = "1h"  # for work in progress
    node.configure()
    node.agentd.reload()
    wait_until(lambda: len(slow.asked) > 1, "the download after the reload")

    assert node.agentd.stop() == 0
    entry = node.entry(event)
    assert entry is not None
    assert entry["outcome"] is None
    assert list((node.directory / "state" / "fetched").iterdir()) == []
