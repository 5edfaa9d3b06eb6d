"""`agentd render` on a real Consul: what a handler would write, without the daemon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd.cli import main
from agentd.config.load import load
from agentd.configured_tree import open_tree
from agentd.digest import digest
from agentd.handler import Change, Context, Handler, KeyState, PermanentError
from tests.servers.consul import ConsulAgent

SECRET = "5ecret"
BINARY = b"\x1b[31m\xff"


class Copier(Handler):
    """Writes what keys contain: a file for all, one for nobody else, and one that others may not read."""

    def handle(self, change: Change, context: Context) -> None:
        """Store the value, which `render` writes."""
        assert isinstance(change, KeyState)
        text = (change.value or b"").decode()
        if text == "refuse":
            raise PermanentError("hosts.j2:3: it is not wanted")
        if text == "break":
            raise KeyError(SECRET)
        context.store[change.query] = text

    def render(self, context: Context) -> None:
        """Write them."""
        text = "".join(f"{value}\n" for value in dict(context.store).values())
        context.files.write("maps/hosts.map", text.encode())
        context.files.write("maps/raw", BINARY)
        context.files.write("certs/private.key", SECRET.encode(), 0o600, secret=True)
        context.run(["/bin/reload"])


@dataclass(frozen=True)
class Site:
    """A configuration, and the command on it in this process."""

    consul: ConsulAgent
    file: Path
    prefix: str
    capture: pytest.CaptureFixture[bytes]

    def render(self, *words: str) -> tuple[int, str, str]:
        """Its status, standard output and standard error."""
        status, out, err = self.raw(*words)
        return status, out.decode(), err.decode()

    def raw(self, *words: str) -> tuple[int, bytes, bytes]:
        """The same as bytes."""
        status = main(["render", "--config", str(self.file), *words])
        return status, *self.capture.readouterr()

    def put(self, key: str, value: str) -> None:
        """Write one of its keys."""
        self.consul.kv_put(f"{self.prefix}{key}", value.encode())


@pytest.fixture
def site(
    consul: ConsulAgent, directory: Path, key_prefix: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Site]:
    """The site; `copier` takes two keys, of which `one` is there."""
    file = directory / "agentd.yaml"
    file.write_text(yaml.safe_dump(configuration(consul, directory, key_prefix)))
    made = Site(consul, file, key_prefix, capfdbinary)
    made.put("one", "first")
    yield made
    assert not (directory / "state").exists()


def configuration(consul: ConsulAgent, directory: Path, prefix: str) -> dict[str, Any]:
    """With a handler of states, one of events, and one that is only notified."""
    keys = [{"key": f"{prefix}{name}"} for name in ("one", "two")]
    return {
        "consul": {"address": consul.url},
        "nginx": None,
        "tree": {"path": str(directory / "tree")},
        "state": str(directory / "state"),
        "status": {"address": None},
        "handlers": {
            "copier": {"use": f"{__name__}:Copier", "on": [*keys, {"event": "copy"}]},
            "listener": {"use": f"{__name__}:Copier", "on": [{"event": "copy"}]},
            "notified": {"use": f"{__name__}:Copier"},
            "template": {"use": "template", "on": keys, "options": {"files": [sum_of(prefix)]}},
        },
    }


def sum_of(prefix: str) -> dict[str, str]:
    """A file that a template makes from both keys."""
    text = f'{{{{ key("{prefix}one") }}}} {{{{ key_or_default("{prefix}two", "none") }}}}'
    return {"text": text, "path": "sum"}


def test_a_template_gets_the_states_of_all_keys(site: Site) -> None:
    """Also that one of them was never there, as in the daemon; no journal is needed."""
    first = site.render("template", "--file", "sum")
    site.put("two", "second")

    assert first == (0, "first none", "")
    assert site.render("template", "--file", "sum") == (0, "first second", "")


def test_it_prints_every_file_and_writes_none(site: Site) -> None:
    """A secret by its length and digest; a state that is not there yet is told; programs are not run."""
    status, out, err = site.render("copier", "--once")

    assert status == 0
    assert out.splitlines() == [
        "==> certs/private.key (mode 0600): new <==",
        f"  not shown, as it may be secret: {digest(SECRET.encode())}",
        "==> maps/hosts.map (mode 0644): new <==",
        "first",
        "==> maps/raw (mode 0644): new <==",
        f"  not text: {digest(BINARY)}",
        "would run /bin/reload",
    ]
    assert f"key:{site.prefix}two: Consul has nothing there yet" in err
    assert not (site.file.parent / "tree").exists()


def test_it_compares_with_the_current_generation(site: Site) -> None:
    """Removed files as well, and a secret without a line of it."""
    tree = open_tree(load(site.file).config)
    stage = tree.stage("copier")
    for path, data in {"maps/hosts.map": b"zero\n", "maps/raw": BINARY}.items():
        stage.write(path, data)
    stage.write("certs/private.key", b"0ld", 0o600, secret=True)
    tree.commit(stage, extra={}, prepare=lambda *_: None)

    _, out, _ = site.render("copier", "--once", "--diff")
    document = json.loads(site.render("copier", "--once", "--json")[1])

    assert "==> maps/hosts.map (mode 0644): differs from generation 1 <==" in out
    assert "-zero\n+first\n" in out
    assert "==> maps/raw (mode 0644): as in generation 1 <==\n" in out
    assert "3 bytes sha256:" in out
    assert {file["path"]: file["status"] for file in document["files"]} == {
        "certs/private.key": "changed",
        "maps/hosts.map": "changed",
        "maps/raw": "unchanged",
    }
    assert document["files"][1]["content"] == "first\n"
    assert SECRET not in out + json.dumps(document)
    assert "0ld" not in out + json.dumps(document)


def test_one_file_comes_as_it_is(site: Site) -> None:
    """For a pipe, byte by byte; not a secret one, and none that is not written."""
    assert site.raw("copier", "--file", "maps/raw")[:2] == (0, BINARY)

    status, out, err = site.render("copier", "--file", "certs/private.key")
    assert (status, out) == (1, "")
    assert "certs/private.key (mode 0600) is not shown, as it may be secret: 6 bytes" in err

    status, out, err = site.render("copier", "--file", "maps/none")
    assert (status, out) == (1, "")
    assert "it writes certs/private.key, maps/hosts.map, maps/raw" in err


def test_what_the_handler_refuses_is_told(site: Site) -> None:
    """Its own reason, and of a bug only its kind, both with status 1."""
    site.put("one", "refuse")
    status, out, err = site.render("copier", "--once")
    assert (status, out) == (1, "")
    assert "copier: would be refused: hosts.j2:3: it is not wanted" in err

    site.put("one", "break")
    status, out, err = site.render("copier", "--once")
    assert (status, out) == (1, "")
    assert "the handler 'copier' has a bug (KeyError)" in err


@pytest.mark.parametrize(
    "entry, said",
    [
        ("copyer", "there is no handler 'copyer' in .*it has copier"),
        ("listener", "takes only events: `agentd replay ID --dry-run`"),
        ("notified", "has no `on:`"),
    ],
)
def test_an_entry_without_states_is_wrong_usage(site: Site, entry: str, said: str) -> None:
    """It says what to use instead."""
    status, _, err = site.render(entry)
    assert status == 2
    assert re.search(said, err)


def test_it_follows_the_changes_through_a_restart_of_consul(
    new_consul: Callable[..., ConsulAgent], directory: Path
) -> None:
    """A burst gives few renders; Ctrl-C ends it without a word."""
    consul = new_consul()
    consul.kv_put("p/one", b"first")
    file = directory / "agentd.yaml"
    file.write_text(yaml.safe_dump(configuration(consul, directory, "p/")))
    command = [sys.executable, "-m", "agentd", "--config", str(file), "render", "copier", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:

        def next_map() -> str:
            assert process.stdout is not None
            document = json.loads(process.stdout.readline())
            return next(str(one["content"]) for one in document["files"] if one["path"] == "maps/hosts.map")

        assert next_map() == "first\n"
        consul.stop()
        consul.start()
        for value in range(30):
            consul.kv_put("p/two", str(value).encode())
        renders = 1
        while next_map() != "first\n29\n":
            renders += 1
        assert renders <= 3
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.communicate(timeout=20)[1]
    assert process.returncode == 130
