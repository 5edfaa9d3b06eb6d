"""What a HAProxy that answers wrongly makes of the ring: a reason, never a key in it."""

from __future__ import annotations

import base64
import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentd.handler import NginxOptions, Verdict
from agentd.testing import HandlerHarness, event
from handlers.tls_ticket_keys import TicketKeys
from tests.examples import LOOKS

FILE = "tickets/haproxy.keys"
KEY = base64.b64encode(random.Random(1).randbytes(80)).decode()


class Pretender:
    """Answers on a unix socket as HAProxy does, but for the commands for which it has other answers."""

    def __init__(self, directory: Path, file: Path) -> None:
        self.path = directory / "s"
        self.file = file
        self.slots: list[str] = []
        self.asked: list[str] = []
        self.answers: dict[str, str] = {}
        self.reloads = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> None:
        """Close the socket and end the thread."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):  # stopped
            while True:
                client, _ = self._listener.accept()
                with client, client.makefile("r") as stream, suppress(OSError):
                    command = stream.readline().strip()
                    self.asked.append(command)
                    client.sendall(self._answer(command).encode("utf-8", "surrogatepass"))

    def _answer(self, command: str) -> str:
        for start, answer in self.answers.items():
            if command.startswith(start):
                return answer
        if command == "show tls-keys":
            return f"# id (file)\n0 ({self.file})\n\n"
        if command.startswith("show tls-keys "):
            return "# id secret\n" + "".join(f"0.{at} {key}\n" for at, key in enumerate(self.slots)) + "\n"
        if self.reloads:  # between the question and the push: the new process has read the file
            self.reloads -= 1
            self.slots = self.file.read_text().split()
        for one in command.split(";"):
            self.slots = [*self.slots[1:], one.split(" ")[-1]]
        return "TLS ticket key updated!\n\n" * len(command.split(";"))


class Bench:
    """The handler, its HAProxy, and a ring that the latter has."""

    def __init__(self, directory: Path) -> None:
        current = directory / "agentd" / "current"
        current.mkdir(parents=True)
        self.haproxy = Pretender(directory, current / FILE)
        options = {"haproxy": {"socket": f"unix:{self.haproxy.path}"}, "promote_after": "60s"}
        nginx = NginxOptions(conf=directory / "nginx.conf")
        self.handler = HandlerHarness(TicketKeys, options, nginx=nginx)
        self.handler.initial()
        self.haproxy.slots = self.handler.files[FILE].decode().split()

    def stage(self) -> Verdict:
        """Bring a new key, and verify."""
        self.handler.handle(event("rotate", KEY))
        return self.handler.verify()

    def reason(self) -> str:
        """Why it is not in effect."""
        [drift] = self.handler.verify().drift
        return drift.reason


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One whose HAProxy answers rightly so far."""
    made = Bench(tmp_path_factory.mktemp("h"))
    yield made
    made.haproxy.stop()


def test_what_is_wanted_is_pushed_once(bench: Bench) -> None:
    """And then only looked at."""
    verdict, pushed = bench.stage(), len(bench.haproxy.asked)
    again = bench.handler.verify()

    assert (verdict.drift, verdict.mended, again.drift) == ((), (), ())
    assert bench.haproxy.slots[2] == KEY
    assert [one.partition(" ")[0] for one in bench.haproxy.asked[pushed:]] == ["show", "show"]


@pytest.mark.parametrize(
    "command, answer, reason",
    [
        ("show tls-keys", "Unknown command.\n\n", "it does not list its ticket keys"),
        ("show tls-keys", "\n", "it does not list its ticket keys"),
        ("show tls-keys", "# id (file)\n0 (/etc/a;show info)\n\n", "none of its `bind` lines"),
        ("show tls-keys", "# id (file)\n0 (FILE", "the answer was cut off"),
        ("show tls-keys", "x" * 100_000, "the answer has more than"),
        ("show tls-keys ", "# id secret\n\n", "its answer has 0 ticket keys instead of 3"),
        ("show tls-keys ", f"0.0 {KEY}\n0.1 {KEY}\n\n", "its answer has 2 ticket keys"),
        ("show tls-keys ", f"0.0 {KEY}\n0.1 {KEY}\n0.2 {KEY}=\n\n", "its answer has 0 ticket keys"),
        ("set ssl tls-key", "Permission denied\n\n", "HAProxy denied permission"),
        ("set ssl tls-key", f"what is {KEY}?\n\n", "HAProxy did not take a ticket key"),
        ("set ssl tls-key", "TLS ticket key updated!\n\n", "it does not have the keys that it took"),
    ],
)
def test_a_wrong_answer_is_drift(bench: Bench, command: str, answer: str, reason: str) -> None:
    """The change is not in effect, and the key is not in the reason."""
    bench.haproxy.answers = {command: answer.replace("FILE", str(bench.haproxy.file))}

    [drift] = bench.stage().drift

    assert reason in drift.reason
    assert KEY not in drift.reason


def test_a_reload_before_the_push_is_made_good(bench: Bench) -> None:
    """The new process had the next key already, and the push let it encrypt: it does not for long."""
    bench.handler.handle(event("rotate", KEY))
    bench.haproxy.file.parent.mkdir()
    bench.haproxy.file.write_bytes(bench.handler.files[FILE])
    bench.haproxy.reloads = 1

    verdict = bench.handler.verify()

    assert (verdict.drift, bench.haproxy.slots[1] != KEY, bench.haproxy.slots[2]) == ((), True, KEY)


def test_a_next_key_of_another_length_holds_nothing_else_up(bench: Bench) -> None:
    """The key that encrypts is pushed all the same."""
    bench.handler.handle(event("rotate", KEY, ltime=1))
    bench.handler.advance(60)
    bench.handler.handle(event("rotate", base64.b64encode(random.Random(2).randbytes(48)), ltime=2))

    reason = bench.reason()

    assert "the next key has 48 bytes and the one that encrypts 80" in reason
    assert bench.haproxy.slots[1] == KEY


@settings(max_examples=LOOKS or 60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=40) | st.sampled_from(["/\0", "/" + "x" * 5000, "/a b", "/;show info", "/.."]), st.text()
)
def test_whatever_it_answers_is_drift(bench: Bench, place: str, text: str) -> None:
    """And no bug, whatever it calls the file, and whatever keys it says there are."""
    listed = f"# id (file)\n0 ({place}/current/{FILE})\n1 ({bench.haproxy.file})\n\n"
    bench.haproxy.answers = {"show tls-keys ": f"{text}\n", "show tls-keys": listed}

    assert bench.handler.verify().drift


def test_a_dry_run_pushes_nothing(bench: Bench) -> None:
    """It only tells."""
    bench.handler.handle(event("rotate", KEY))
    bench.handler.dry_run = True

    assert bench.reason() == "it does not have the ring's keys: 1 have to be pushed"
    assert not any(one.startswith("set") for one in bench.haproxy.asked)


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_no_key_is_sent_where_anybody_could_listen(bench: Bench, mode: int) -> None:
    """While HAProxy does not run, somebody else could answer in its place."""
    bench.haproxy.path.parent.chmod(mode)
    assert "no key was sent: every user of this machine can put a socket" in bench.stage().drift[0].reason
    assert not any(one.startswith("set") for one in bench.haproxy.asked)
    bench.haproxy.path.parent.chmod(0o700)
    assert bench.handler.verify().drift == ()


def test_all_references_to_the_file_are_given_the_keys(bench: Bench) -> None:
    """A configuration may name it in two ways."""
    other = bench.haproxy.file.parents[3] / "link"
    other.symlink_to(bench.haproxy.file.parents[2])
    names = [str(bench.haproxy.file), f"{other}/current/{FILE}"]
    listed = "".join(f"{at} ({name})\n" for at, name in enumerate([*names, "/etc/other.keys"]))
    right = "".join(f"0.{at} {key}\n" for at, key in enumerate(bench.haproxy.slots))
    bench.haproxy.answers = {f"show tls-keys {name}": f"{right}\n" for name in names}
    bench.haproxy.answers["show tls-keys"] = f"# id (file)\n{listed}\n"

    bench.handler.verify()

    assert bench.haproxy.asked[1:] == [f"show tls-keys {name}" for name in names]


def test_neither_store_nor_log_has_a_key(bench: Bench) -> None:
    """Nor the report."""
    bench.stage()

    told = json.dumps([bench.handler.store, bench.handler.report()]) + repr(bench.handler.log)

    assert "ticket_keys.pushed" in told
    assert KEY not in told
    assert repr(base64.b64decode(KEY)) not in told


def test_without_the_option_there_is_no_file() -> None:
    """And one that was there goes when the option does."""
    handler = HandlerHarness(TicketKeys, {"haproxy": {}})
    handler.initial()
    with_option = FILE in handler.files

    handler.restart({})
    handler.initial()

    assert (with_option, FILE in handler.files) == (True, False)


@pytest.mark.parametrize(
    "option",
    [
        {"socket": "/run/haproxy.sock"},
        {"socket": "tcp:127.0.0.1:9999"},
        {"probe": ["except *:443"]},
        {"probe": ["443"]},
    ],
)
def test_options_that_make_no_sense_are_refused(option: dict[str, object]) -> None:
    """When the configuration is read."""
    with pytest.raises(ValidationError):
        TicketKeys.Options.model_validate({"haproxy": option})
