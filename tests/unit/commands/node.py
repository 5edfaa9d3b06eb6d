"""A node for tests of commands: configuration, journal and tree in a temporary directory, and no daemon."""

from __future__ import annotations

import fcntl
import json
import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentd.cli import main
from agentd.commands.node import Node
from agentd.config.load import load
from agentd.handler import Change, Context, Event, Handler, PermanentError, TemporaryError
from agentd.journal.entry import Ending, Entry, Outcome
from agentd.journal.journal import Journal
from agentd.journal.plan import Plan

SECRET = b"5ecret"


class Writer(Handler):
    """Does what the payload says, so that a test can ask for every end."""

    def handle(self, change: Change, context: Context) -> None:
        """Stage the payload as a file for all and a file for none, run a program, or refuse."""
        assert isinstance(change, Event)
        if change.payload == b"refuse":
            raise PermanentError("it is not wanted")
        if change.payload == b"later":
            raise TemporaryError("not now")
        if change.payload == b"run":
            context.run(["/bin/program", "argument"])
            return
        if change.payload == b"binary":
            context.files.write("binary.dat", b"\xff\x00")
            return
        context.files.write("plain.txt", change.payload + b"\n")
        context.files.write("secret.key", SECRET + change.payload, mode=0o600)


class Prover(Handler):
    """Would prove a generation live."""

    proves = True

    def handle(self, change: Change, context: Context) -> None:
        """Nothing to prove without a daemon."""


class CommandNode:
    """The node, and the command line on it."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str] | None = None) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.file = directory / "agentd.yaml"
        self._capsys = capsys
        module = Writer.__module__
        configuration = {
            "nginx": None,
            "tree": {"path": str(directory / "tree")},
            "state": str(self.state),
            "status": {"address": None},
            "handlers": {
                "writer": {"use": f"{module}:Writer", "on": [{"event": "*"}], "notify": ["prover"]},
                "prover": {"use": f"{module}:Prover"},
            },
        }
        self.file.write_text(json.dumps(configuration))  # JSON is YAML

    def command(self, *argv: str) -> tuple[int, str, str]:
        """Run a command in this process; return status, standard output and standard error."""
        status = main([argv[0], "--config", str(self.file), *argv[1:]])
        assert self._capsys is not None
        return status, *self._capsys.readouterr()

    def json(self, *argv: str) -> Any:  # noqa: ANN401 (any JSON)
        """Run a command with --json; return the document."""
        return json.loads(self.command(*argv, "--json")[1])

    @contextmanager
    def opened(self) -> Iterator[Node]:
        """The same node from inside, its journal made if there is none."""
        journal = Journal(self.state / "journal.db")
        try:
            yield Node(load(self.file), journal)
        finally:
            journal.close()

    def receive(self, payload: bytes = b"hello", *, number: int = 1) -> Entry:
        """Owe the writer an event, as the dispatcher does."""
        with self.opened() as node:
            return node.journal.queue("writer", event(payload, number=number))

    def end(self, entry: Entry, outcome: Outcome, reason: str = "") -> None:
        """End an entry, as a worker does."""
        with self.opened() as node:
            node.journal.end([Ending(entry, outcome, reason, duration=0.25)])

    def commit(self, text: bytes, *more: str, mode: int = 0o644) -> int:
        """Make one more generation, as the writer does for an event with that payload; `more` are paths."""
        with self.opened() as node:
            stage = node.tree.stage("writer")
            stage.write("plain.txt", text, mode=mode)
            for path in more:
                stage.write(path, text)
            made = node.committer.commit(stage, Plan(handler="writer"))
        assert made is not None
        return made

    @contextmanager
    def daemon_runs(self) -> Iterator[None]:
        """Hold what the daemon holds while it runs."""
        self.state.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(self.state / "agentd.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(lock)


def event(payload: bytes, *, number: int = 1, name: str = "refresh") -> Event:
    """An event as Consul lists it; the number makes its ID."""
    raw = {
        "ID": f"{number:08x}-0000-4000-8000-000000000000",
        "Name": name,
        "Payload": b64encode(payload).decode(),
        "LTime": number,
    }
    return Event("event", raw)
