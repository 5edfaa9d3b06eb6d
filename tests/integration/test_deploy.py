"""`deploy` in a real daemon: manifests and archives from a real nginx, events from a real Consul."""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.test_faults import small_disk, waits
from tests.servers.equipment import require
from tests.servers.fleet import Node
from tests.servers.waiting import wait_until
from tests.unit.handlers.deploy.deploying import contents, file, pack

FILES = 150
KILLS = 8


class Site:
    """A node that deploys what its own nginx serves.

    Attributes:
        dest: what is deployed to.
        shelf: what nginx serves.
        event: the name of the event.
    """

    def __init__(self, node: Node, event: str, **options: Any) -> None:  # noqa: ANN401 - the handler's own
        self.node, self.event = node, event
        self.dest, self.shelf = node.directory / "srv" / "app", node.directory / "shelf"
        self.dest.parent.mkdir()
        self.shelf.mkdir()
        for directory in (node.directory, node.directory.parent):  # nginx's workers are not root
            directory.chmod(0o755)
        self.url = f"http://{node.nginx.address}:{node.nginx.port}/shelf"
        node.nginx.configure(server=f"location /shelf/ {{ alias {self.shelf}/; }}")
        entry = {
            "use": "deploy",
            "on": [{"event": event}],
            "timeout": "60s",
            "retry": {"attempts": 30, "first": "200ms", "longest": "1s"},
            "options": {"dests": [str(self.dest)], "allow_commands": True} | options,
        }
        node.config |= {"handlers": {"deploy": entry}, "sources": {"allow": [f"{self.url}/"]}}
        node.configure()

    def manifest(self, letter: str, fields: Mapping[str, Any] | None = None, *, size: int = 20) -> bytes:
        """Put an archive full of one letter on the shelf, and a manifest; returns the payload for it."""
        members = [file(f"d{number % 7}/{number}", letter.encode() * size) for number in range(FILES)]
        archive = pack(self.shelf / f"{letter}.tar.gz", *members)
        given = {
            "src": f"{self.url}/{archive.name}",
            "checksum": hashlib.sha256(archive.read_bytes()).hexdigest(),
            "dest": str(self.dest),
        }
        (self.shelf / f"{letter}.yml").write_text(yaml.safe_dump(given | dict(fields or {})))
        return f"{self.url}/{letter}.yml".encode()

    def fire(self, payload: bytes) -> str:
        """Fire the event."""
        return self.node.fire(self.event, payload)

    def letters(self) -> set[str]:
        """The letters that are in place; a half of a deploy would have two, or too few files."""
        found = contents(self.dest)
        assert len(found) in (0, FILES)
        return {data.decode()[0] for data in found.values() if isinstance(data, bytes)}

    @property
    def clean(self) -> bool:
        """Whether nothing lies beside `dest`."""
        return [path.name for path in self.dest.parent.iterdir()] == [self.dest.name]


@pytest.fixture
def new_site(new_node: Callable[..., Node], suffix: str) -> Callable[..., Site]:
    """Make a site, not yet started."""
    require("rsync")
    return lambda **options: Site(new_node(handlers={}), f"deploy{suffix}", **options)


def test_an_event_deploys_what_its_manifest_names(new_site: Callable[..., Site]) -> None:
    """Over HTTP; the same again changes nothing; and what was fetched is gone."""
    site = new_site(require_digest=True)
    site.node.start()
    payload = site.manifest("a", {"commands": {"post": [f"touch {site.shelf}/post"]}})
    digest = hashlib.sha256((site.shelf / "a.yml").read_bytes()).hexdigest()

    pinned = payload + f" sha256:{digest}".encode()

    outcomes = [site.node.outcome(site.fire(pinned))["outcome"] for _ in range(2)]

    assert outcomes == ["applied", "unchanged"]
    assert site.letters() == {"a"}
    assert site.clean
    assert (site.shelf / "post").exists()
    assert list((site.node.directory / "state" / "fetched").iterdir()) == []
    assert site.node.outcome(site.fire(payload))["outcome"] == "refused"


def test_of_the_events_of_a_batch_the_newest_counts(new_site: Callable[..., Site]) -> None:
    """All of them have an outcome, and the others name it."""
    site = new_site()
    site.node.start()
    payloads = [site.manifest(letter) for letter in "abcd"]
    site.node.agentd.stop()
    fired = [site.fire(payload) for payload in payloads]
    site.node.agentd.start()

    entries = [site.node.outcome(one) for one in fired]

    assert [entry["outcome"] for entry in entries] == ["expired"] * 3 + ["applied"]
    assert {entry["reason"] for entry in entries[:3]} == {f"superseded by {fired[3]}"}
    assert site.letters() == {"d"}


def test_a_failing_command_ends_as_failed_at_once(new_site: Callable[..., Site]) -> None:
    """`dest` is what it was, and the reason stands in the history."""
    site = new_site()
    site.node.start()
    site.node.outcome(site.fire(site.manifest("a")))

    entry = site.node.outcome(site.fire(site.manifest("b", {"commands": {"post": ["echo no good; exit 4"]}})))

    assert entry["outcome"] == "failed"
    assert "post command 1 of 1 ended with status 4: no good" in entry["reason"]
    assert site.letters() == {"a"}
    assert site.clean


def test_a_server_that_is_away_only_delays(new_site: Callable[..., Site]) -> None:
    """An answer of 404 is an answer, no connection is none."""
    site = new_site()
    site.node.start()
    payload = site.manifest("a")
    missing = site.node.outcome(site.fire(payload.replace(b"a.yml", b"none.yml")))
    site.node.nginx.stop()
    fired = site.fire(payload)
    wait_until(lambda: waits(site.node, fired, "a.yml"), "the event to wait", pause=0.1)
    site.node.nginx.start()

    assert site.node.outcome(fired)["outcome"] == "applied"
    assert missing["outcome"] == "refused"
    assert "404" in missing["reason"]


def test_a_full_disk_only_delays(new_site: Callable[..., Site]) -> None:
    """`dest` is what it was until there is room, and then it is the new one."""
    site = new_site()
    with small_disk(site.dest.parent, size="8m"):
        site.node.start()
        site.node.outcome(site.fire(site.manifest("a")))
        filler = site.dest.parent / "filler"
        filler.write_bytes(bytes(6_000_000))
        fired = site.fire(site.manifest("b", size=20_000))
        wait_until(lambda: waits(site.node, fired, "(?i)no space left"), "the event to wait", pause=0.1)
        before = site.letters()
        filler.unlink()

        assert site.node.outcome(fired)["outcome"] == "applied"
        assert (before, site.letters()) == ({"a"}, {"b"})
        site.node.stop()


def test_check_names_a_parent_that_others_can_write(new_site: Callable[..., Site]) -> None:
    """Before the first deploy, with the option that allows an owner; the deploy itself is refused."""
    site = new_site()
    site.dest.parent.chmod(0o777)
    site.node.start()

    shown = site.node.agentd.command("check", "--json")
    entry = site.node.outcome(site.fire(site.manifest("a")))

    assert shown.returncode != 0
    for text in (shown.stdout, entry["reason"]):
        assert f"{site.dest.parent} can be written by everyone" in text
        assert "parent_owner" in text
    assert entry["outcome"] == "refused"


def test_a_manifest_full_of_braces_holds_up_nothing(new_site: Callable[..., Site]) -> None:
    """It is refused, and the next one is deployed; a search that grows with the square would take minutes."""
    site = new_site()
    site.node.start()
    good = site.manifest("a")
    slow = good.replace(b"a.yml", b"slow.yml")
    (site.shelf / "slow.yml").write_bytes(b'commands:\n  post:\n    - "' + b"{" * 200_000)

    refused, applied = site.node.outcome(site.fire(slow)), site.node.outcome(site.fire(good))

    assert (refused["outcome"], applied["outcome"]) == ("refused", "applied")
    assert "is not closed" in refused["reason"]
    assert site.letters() == {"a"}


def test_a_dry_run_deploys_nothing(new_site: Callable[..., Site]) -> None:
    """It says which programs would run."""
    site = new_site(redeploy=True)
    site.node.start()
    fired = site.fire(site.manifest("a", {"commands": {"pre": ["echo >>../ran"]}}))
    site.node.outcome(fired)
    shutil.rmtree(site.dest)

    shown = site.node.agentd.command("replay", fired, "--dry-run", "--json")

    assert shown.returncode == 0, shown.stderr
    assert "/bin/sh" in shown.stdout
    assert not site.dest.exists()


def test_kill_9_leaves_one_or_the_other(new_site: Callable[..., Site]) -> None:
    """Killed in the middle of deploys and their commands: `dest` is always whole, in the end the last one."""
    site = new_site()
    fields = {"commands": {"pre": ["sleep 0.05"], "post": ["sleep 0.25"]}, "excludes": ["*.pid"]}
    payloads = {letter: site.manifest(letter, fields) for letter in "ab"}
    site.node.start()
    fired = site.fire(payloads["a"])
    site.node.outcome(fired)
    chance = random.Random(3)
    for number in range(KILLS):
        fired = site.fire(payloads["ba"[number % 2]])
        time.sleep(chance.uniform(0.0, 0.7))
        site.node.agentd.kill()
        assert site.letters() in ({"a"}, {"b"})
        site.node.agentd.start()

    entry = site.node.outcome(fired)

    assert entry["outcome"] in ("applied", "unchanged")
    assert site.letters() == {"ba"[(KILLS - 1) % 2]}
    wait_until(lambda: all(one["outcome"] for one in site.node.history("deploy")), "every outcome", pause=0.1)
    assert site.clean


def test_a_deploy_that_was_killed_is_undone_at_the_next_start(new_site: Callable[..., Site]) -> None:
    """Even if its manifest is gone by then: the old `dest` is back before anything else."""
    site = new_site()
    site.node.start()
    site.node.outcome(site.fire(site.manifest("a")))
    over = site.shelf / "over"  # outside a unit, nobody ends the program of a daemon that was killed
    site.fire(site.manifest("b", {"commands": {"post": [f"until test -e {over}; do sleep 0.1; done"]}}))
    wait_until(lambda: site.letters() == {"b"}, "the new one to be in place", pause=0.05)
    site.node.agentd.kill()
    over.touch()
    Path(site.shelf / "b.yml").unlink()

    site.node.agentd.start()

    wait_until(lambda: site.letters() == {"a"}, "the old one to be back", pause=0.05)
    wait_until(lambda: all(one["outcome"] for one in site.node.history("deploy")), "every outcome", pause=0.1)
    assert [one["outcome"] for one in site.node.history("deploy")] == ["refused", "applied"]
    assert site.clean
