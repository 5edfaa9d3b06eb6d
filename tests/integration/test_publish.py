"""`agentd publish`, `log`, `log forget` and `fleet remove` on a real Consul."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agentd.cli import main
from agentd.errors import ConsulUnavailable
from agentd.fleet.envelope import Envelope
from agentd.fleet.head import Head
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.reader import Reader
from agentd.watch.client import ConsulClient
from agentd.watch.kv import Operation, Transaction
from agentd.watch.options import ConsulOptions
from tests.servers.consul import ConsulAgent
from tests.servers.followers import FollowingNode
from tests.servers.waiting import wait_until

SECRET = "5ecret-payload"
LARGEST = 512 * 1024
NewNode = Callable[..., FollowingNode]


class Fleet:
    """A fleet of its own on the shared Consul, and the command line of a host that runs no agentd."""

    def __init__(self, consul: ConsulAgent, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.consul = consul
        self.name = name
        self.keys = Keys(name)
        self._capsys = capsys
        options = ConsulOptions(address=consul.url).typed(token=consul.token, verify=True)
        self.client = ConsulClient(options)
        self.log = Reader(ConsulKV(self.client), self.keys)

    def close(self) -> None:
        """Leave nothing behind."""
        self.client.close()
        self.consul.kv_delete(self.keys.root, recurse=True)

    def command(self, *words: str) -> tuple[int, str, str]:
        """Run a command on this fleet; its status, and what it printed."""
        address = ["--fleet", self.name, "--http-addr", self.consul.url]
        status = main([words[0], *address, *words[1:]])
        return status, *self.captured()

    def captured(self) -> tuple[str, str]:
        """What was printed since the last time."""
        return self._capsys.readouterr()

    def publish(self, name: str, *words: str) -> int:
        """Publish; the number."""
        status, out, err = self.command("publish", name, *words)
        assert status == 0, err
        told, num = out.split()
        assert told == name
        return int(num)

    def refused(self, *words: str) -> str:
        """Run a command that fails; why."""
        status, out, err = self.command(*words)
        assert (status, out) == (1, "")
        return err

    def json(self, *words: str) -> Any:  # noqa: ANN401 (any JSON)
        """Run a command with --json; the document."""
        status, out, err = self.command(*words, "--json")
        assert status == 0, err
        return json.loads(out)

    def message(self, name: str, num: int) -> Envelope:
        """The message as it lies in Consul."""
        found = self.log.message(name, num)
        assert found is not None
        return found

    def head(self, name: str) -> Head:
        """The head of a name."""
        found = self.log.head(name)
        assert found is not None
        return found

    def payload(self, name: str, num: int) -> bytes | None:
        """The payload of a message, wherever it lies."""
        return self.log.payload(self.message(name, num))

    def acknowledge(self, node: str, **more: object) -> None:
        """Write what a node would write."""
        document = {"format": 1, "agentd": "1", "node_id": node, "boot": "b", "written": 1.0} | more
        self.consul.kv_put(self.keys.node(node), json.dumps(document).encode())


class Denied(Fleet):
    """One on a Consul that denies what no rule grants; one message is kept under `list`."""

    def __init__(
        self,
        consul: ConsulAgent,
        name: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        super().__init__(consul, name, capsys)
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", consul.token or "")
        self.publish("list", "x", "--keep", "all")

    def may(self, rules: dict[str, str], others: str = "") -> None:
        """From now on the token may do this, below the prefixes of the fleet, and what other rules say."""
        text = [
            f'key_prefix "{self.keys.root}{at}" {{ policy = "{access}" }}' for at, access in rules.items()
        ]
        self._monkeypatch.setenv("CONSUL_HTTP_TOKEN", self.consul.make_token("\n".join([*text, others])))


@pytest.fixture
def no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a configuration file."""
    monkeypatch.delenv("AGENTD_CONFIG", raising=False)
    missing = tmp_path / "missing.yaml"
    for place in ("agentd.commands.parser.DEFAULT", "agentd.cli.DEFAULT"):
        monkeypatch.setattr(place, missing)


@pytest.fixture
def fleet(
    consul: ConsulAgent,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
    no_file: None,  # noqa: ARG001
) -> Iterator[Fleet]:
    """A fleet in which nothing is kept yet."""
    with closing(Fleet(consul, f"fleet{suffix}", capsys)) as made:
        yield made


class TestMessage:
    """What is written."""

    def test_a_new_name_is_kept_as_was_said(self, fleet: Fleet) -> None:
        """The name and the number are printed, the payload never."""
        num = fleet.publish("deploy", SECRET, "--keep", "latest")
        assert (fleet.head("deploy").keep, fleet.head("deploy").newest) == ("latest", num)
        message = fleet.message("deploy", num)
        assert (message.body, message.via, message.expires) == (SECRET.encode(), "publish", None)
        assert "@" in message.publisher

    def test_later_ones_need_no_keep(self, fleet: Fleet) -> None:
        """And have higher numbers."""
        first = fleet.publish("list", "one", "--keep", "all")
        second = fleet.publish("list", "two")
        assert second > first
        assert fleet.message("list", second).prev == first

    def test_options_go_into_the_message(self, fleet: Fleet) -> None:
        """Whom it is for, until when, and whether it stands for those before it."""
        words = ["--node", "^web", "--service", "nginx", "--tag", "edge", "--ttl", "10m", "--snapshot"]
        told = fleet.json("publish", "list", "x", "--keep", "all", *words)
        message = fleet.message("list", told["num"])
        assert (message.node, message.service, message.tag) == ("^web", "nginx", "edge")
        assert message.snapshot
        assert message.expires is not None
        assert message.expires - message.issued == pytest.approx(600)

    @pytest.mark.parametrize("size", [0, 1, 32 * 1024, 32 * 1024 + 1, LARGEST])
    def test_every_size_up_to_the_largest_arrives(self, fleet: Fleet, tmp_path: Path, size: int) -> None:
        """Of any bytes."""
        content = bytes(range(256)) * (size // 256 + 1)
        (tmp_path / "payload").write_bytes(content[:size])
        num = fleet.publish("list", "--keep", "all", "--file", str(tmp_path / "payload"))
        assert fleet.payload("list", num) == content[:size]

    def test_a_large_payload_that_nobody_needs_goes_when_another_comes(
        self, fleet: Fleet, tmp_path: Path
    ) -> None:
        """A day after it was seen to be unneeded; one that a message refers to stays."""
        content = b"y" * 40_000
        (tmp_path / "payload").write_bytes(content)
        unneeded = "ab" * 32
        fleet.consul.kv_put(fleet.keys.body(unneeded), b"x")
        since = json.dumps({"format": 1, "since": {unneeded: time.time() - 90_000}}).encode()
        fleet.consul.kv_put(fleet.keys.swept, since)
        num = fleet.publish("list", "--keep", "all", "--file", str(tmp_path / "payload"))
        assert fleet.consul.kv_get(fleet.keys.body(unneeded)) is None
        assert fleet.payload("list", num) == content

    def test_one_byte_more_is_refused(self, fleet: Fleet, tmp_path: Path) -> None:
        """With what to do instead; nothing is written."""
        (tmp_path / "payload").write_bytes(b"x" * (LARGEST + 1))
        why = fleet.refused("publish", "list", "--keep", "all", "--file", str(tmp_path / "payload"))
        assert "longer than 524288 bytes" in why
        assert "--reference" in why
        assert fleet.log.head("list") is None

    @pytest.mark.parametrize("words", [["-"], ["--file", "-"]])
    def test_standard_input_is_taken_as_it_is(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, words: list[str]
    ) -> None:
        """Binary too."""
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\x00\r\n")))
        assert fleet.payload("list", fleet.publish("list", *words, "--keep", "all")) == b"\xff\x00\r\n"

    def test_nothing_typed_is_an_empty_payload(self, fleet: Fleet) -> None:
        """As with `fire`."""
        assert fleet.payload("list", fleet.publish("list", "--keep", "all")) == b""

    def test_the_payload_is_shown_nowhere(self, fleet: Fleet) -> None:
        """Not by publishing it, not in the log, not where it is refused."""
        shown = [
            fleet.command("publish", "list", SECRET, "--keep", "all", "--json"),
            fleet.command("log"),
            fleet.command("log", "--json"),
            fleet.command("publish", "nobody", SECRET),
        ]
        assert SECRET not in str(shown)
        assert f"sha256:{hashlib.sha256(SECRET.encode()).hexdigest()[:8]}" in str(shown)


class TestRefusal:
    """What is not written."""

    def test_a_name_that_nobody_keeps(self, fleet: Fleet) -> None:
        """It may be a slip of the finger; `--keep` is the way to begin one."""
        why = fleet.refused("publish", "depoly", "x")
        assert f"no node is known to keep 'depoly': the fleet '{fleet.name}' has no messages" in why
        assert "--keep" in why
        assert fleet.consul.kv_get(fleet.keys.head("depoly")) is None

    def test_another_keep_than_that_of_the_name(self, fleet: Fleet) -> None:
        """A name is kept in one way."""
        fleet.publish("list", "x", "--keep", "all")
        assert "is already kept, as 'all'" in fleet.refused("publish", "list", "x", "--keep", "latest")
        assert fleet.head("list").count == 1
        fleet.command("log", "forget", "list", "--yes")
        fleet.publish("list", "x", "--keep", "latest")
        assert fleet.head("list").keep == "latest"

    def test_a_head_of_a_newer_format(self, fleet: Fleet) -> None:
        """It is left as it is; this agentd is to be upgraded."""
        fleet.consul.kv_put(fleet.keys.head("list"), b'{"format":99}')
        assert "upgrade agentd" in fleet.refused("publish", "list", "x", "--keep", "all")
        assert fleet.consul.kv_get(fleet.keys.head("list")) == b'{"format":99}'

    def test_a_fleet_that_takes_newer_messages_only(self, fleet: Fleet) -> None:
        """A message of ours would be one that nobody takes."""
        fleet.publish("list", "x", "--keep", "all")
        fleet.consul.kv_put(fleet.keys.record, b'{"format":1,"floor_format":7}')
        assert "takes messages of format 7 or newer" in fleet.refused("publish", "list", "x")

    def test_a_node_that_would_not_understand_it(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        """The nodes that are to be upgraded first are named."""
        fleet.publish("list", "x", "--keep", "all")
        fleet.acknowledge("lb1", format=3)
        fleet.acknowledge("lb2")
        monkeypatch.setattr("agentd.fleet.envelope.FORMAT", 3)
        monkeypatch.setattr("agentd.fleet.envelope.FORMATS", range(1, 4))
        why = fleet.refused("publish", "list", "y")
        assert "lb2 would not understand a message of format 3" in why
        assert "lb1" not in why

    def test_a_poisoned_head(self, fleet: Fleet) -> None:
        """Whoever publishes says how it was kept; the messages are still there."""
        first = fleet.publish("list", "x", "--keep", "all")
        fleet.consul.kv_put(fleet.keys.head("list"), b"poison")
        assert "add --keep latest or --keep all to rebuild it" in fleet.refused("publish", "list", "y")
        second = fleet.publish("list", "y", "--keep", "all")
        assert fleet.head("list").recent == (first, second)

    def test_a_poisoned_record_of_the_fleet(self, fleet: Fleet) -> None:
        """It says what to do, and that is enough."""
        first = fleet.publish("list", "x", "--keep", "all")
        fleet.consul.kv_put(fleet.keys.record, b"poison")
        assert f"consul kv delete {fleet.keys.record}`" in fleet.refused("publish", "list", "y")
        fleet.consul.kv_delete(fleet.keys.record)
        assert fleet.publish("list", "y") > first
        assert fleet.log.record() is not None

    def test_an_answer_that_never_comes(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whether it was written is not known, and that is what is said."""

        def lost(*_: object, **__: object) -> int:
            raise ConsulUnavailable("no answer")

        monkeypatch.setattr("agentd.fleet.log.Log.publish", lost)
        why = fleet.refused("publish", "list", "x", "--keep", "all")
        assert "no answer; it may or may not have been published: see `agentd log list`" in why

    def test_no_consul(self, fleet: Fleet) -> None:
        """It says what to do."""
        status, _, why = fleet.command("publish", "list", "x", "--http-addr", "127.0.0.1:1")
        assert status == 1
        assert "correct --http-addr" in why

    @pytest.mark.parametrize(
        "words",
        [
            ["--tag", "x"],
            ["--again", "7", "--node", "x"],
            ["--again", "7", "--snapshot"],
            ["x", "--file", "y"],
            ["x", "--reference", "kv:y"],
            ["--file", "x", "--again", "7"],
        ],
    )
    def test_what_does_not_go_together(self, fleet: Fleet, words: list[str]) -> None:
        """It is wrong usage, and Consul is not asked."""
        status, out, err = fleet.command("publish", "list", *words)
        assert (status, out) == (2, "")
        assert "--" in err

    @pytest.mark.parametrize(
        "words",
        [
            ["_list"], ["a/b"], ["*"], ["list", "--ttl", "0s"], ["list", "--ttl", "-1"],
            ["list", "--again", "x"], ["list", "--again", "9000000000000000"], ["list", "x", "y"],
            ["list", "--keep", "some"], ["--ttl", "1s"],
        ],
    )  # fmt: skip
    def test_what_cannot_be_meant(self, fleet: Fleet, words: list[str]) -> None:
        """It is wrong usage."""
        with pytest.raises(SystemExit, match="2"):
            fleet.command("publish", *words)


class TestTarget:
    """Whom it is for."""

    def test_a_target_that_matches_nobody_is_told(self, fleet: Fleet) -> None:
        """It is published all the same: a node may come."""
        fleet.acknowledge("web1")
        status, _, err = fleet.command("publish", "list", "x", "--keep", "all", "--node", "^db")
        assert status == 0
        assert "warning: no node matches node=^db" in err

    def test_a_name_that_no_node_keeps_any_more_is_told(self, fleet: Fleet) -> None:
        """Such as after the fleet was turned off; it is published all the same, since a node may come."""
        warning = f"warning: no node of the fleet '{fleet.name}' keeps 'list' at the moment"
        assert warning in fleet.command("publish", "list", "x", "--keep", "all")[2]
        fleet.acknowledge("web1", names={"list": {}})
        assert warning not in fleet.command("publish", "list", "x")[2]

    @pytest.mark.parametrize("ahead, exceeded", [(3600, True), (10 * 86400, False)])
    def test_it_comes_after_all_that_a_node_has(self, fleet: Fleet, ahead: int, *, exceeded: bool) -> None:
        """Even if Consul has lost that, and this clock is behind; but nobody can use up the numbers."""
        reached = int((time.time() + ahead) * 1000)
        fleet.acknowledge("web1", names={"list": {"live": reached}})
        num = fleet.publish("list", "x", "--keep", "all")
        assert (num > reached) == exceeded
        assert fleet.message("list", num).prev == (reached if exceeded else 0)

    def test_those_that_match_are_listed(self, fleet: Fleet) -> None:
        """In the document."""
        fleet.acknowledge("web1")
        fleet.acknowledge("db1")
        told = fleet.json("publish", "list", "x", "--keep", "all", "--node", "^web")
        assert told["matches"] == ["web1"]

    def test_services_and_their_tags_are_those_of_the_catalogue(self, fleet: Fleet) -> None:
        """A service on another node than one of the fleet does not count."""
        service = f"edge-{fleet.name}"
        tagged = {"Name": service, "Tags": ["v2"]}
        fleet.consul.put("/v1/agent/service/register", tagged)
        words = ["publish", "list", "x", "--keep", "all", "--service", f"^{service}$"]
        try:
            assert fleet.json(*words)["matches"] == [fleet.consul.node]
            assert fleet.json(*words, "--tag", "^v2")["matches"] == [fleet.consul.node]
            assert fleet.json(*words, "--tag", "v3")["matches"] == []
            fleet.acknowledge("lb1")
            assert fleet.json(*words)["matches"] == []
        finally:
            fleet.consul.deregister(service)

    def test_a_node_that_is_not_called_like_its_agent_has_its_services(self, fleet: Fleet) -> None:
        """As where `fleet.node` is set; a node that is called like that agent has none of them."""
        service = f"edge-{fleet.name}"
        fleet.consul.put("/v1/agent/service/register", {"Name": service})
        fleet.acknowledge("lb1", node_id=fleet.client.self_info().node_id)
        fleet.acknowledge(fleet.consul.node, node_id="00000000-0000-0000-0000-000000000001")
        try:
            told = fleet.json("publish", "list", "x", "--keep", "all", "--service", f"^{service}$")
            assert told["matches"] == ["lb1"]
        finally:
            fleet.consul.deregister(service)


class TestAgain:
    """An earlier message, once more."""

    def test_it_gets_a_new_number(self, fleet: Fleet, tmp_path: Path) -> None:
        """And is otherwise as it was, its large body too."""
        (tmp_path / "payload").write_bytes(b"x" * 40_000)
        first = fleet.publish(
            "deploy", "--file", str(tmp_path / "payload"), "--keep", "latest", "--node", "a"
        )
        fleet.publish("deploy", "bad")
        again = fleet.publish("deploy", "--again", str(first))
        assert fleet.head("deploy").newest == again
        assert (fleet.payload("deploy", again), fleet.message("deploy", again).node) == (b"x" * 40_000, "a")
        assert fleet.message("deploy", again).via == "again"

    def test_one_that_is_not_there(self, fleet: Fleet) -> None:
        """The log lists those that are."""
        fleet.publish("deploy", "x", "--keep", "latest")
        assert "`agentd log deploy` lists" in fleet.refused("publish", "deploy", "--again", "7")


class TestOnce:
    """Each message comes into the log exactly once."""

    def test_an_answer_that_is_lost_is_looked_for(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was written before the connection broke is not written again."""
        write, answers = ConsulKV.write, iter([False])

        def breaks_once(kv: ConsulKV, operations: Sequence[Operation]) -> Transaction:
            done = write(kv, operations)
            if not next(answers, True):
                raise ConsulUnavailable("the connection broke")
            return done

        monkeypatch.setattr(ConsulKV, "write", breaks_once)
        num = fleet.publish("list", "x", "--keep", "all")
        assert fleet.log.numbers("list") == [num]

    def test_all_arrive_each_once(self, fleet: Fleet) -> None:
        """A lost check-and-set is read on from, and tried again."""
        fleet.publish("list", "begin", "--keep", "all")
        program = "import sys; from agentd.cli import main; [main(sys.argv[1:]) for _ in range(20)]"
        words = ["publish", "--fleet", fleet.name, "--http-addr", fleet.consul.url, "list"]
        running = [
            subprocess.Popen(
                [sys.executable, "-c", program, *words, f"from {one}"], stdout=subprocess.PIPE, text=True
            )
            for one in range(2)
        ]
        printed = [one.communicate(timeout=120)[0].splitlines() for one in running]
        numbers = {int(line.split()[1]) for lines in printed for line in lines}
        assert [len(lines) for lines in printed] == [20, 20]
        assert len(numbers) == 40
        found = fleet.log.numbers("list")
        assert set(found[1:]) == numbers
        prevs = [fleet.message("list", num).prev for num in found]
        assert prevs == [0, *found[:-1]]


class TestLog:
    """What is kept."""

    def test_the_newest_come_first(self, fleet: Fleet) -> None:
        """Of all names together, no more than were asked for."""
        numbers = [
            fleet.publish(name, "x", "--keep", keep)
            for name, keep in [("list", "all"), ("deploy", "latest"), ("list", "all"), ("list", "all")]
        ]
        _, out, _ = fleet.command("log", "--limit", "3")
        head, *rows = (line.split() for line in out.splitlines())
        assert head[:3] == ["NUMBER", "ISSUED", "(UTC)"]
        assert [int(row[0]) for row in rows] == numbers[:0:-1]

    def test_a_message_is_told_with_all_but_its_payload(self, fleet: Fleet) -> None:
        """Who, when, how, what, for how long, for whom."""
        words = ["--ttl", "1h", "--snapshot", "--node", "^web"]
        told = fleet.json("publish", "list", SECRET, "--keep", "all", *words)
        document = fleet.json("log", "list")
        (message,) = document["messages"]
        assert (message["num"], message["via"], message["event"]) == (told["num"], "publish", None)
        assert (message["bytes"], message["payload"]) == (len(SECRET), told["payload"])
        assert (message["snapshot"], message["node"], message["expired"]) == (True, "^web", False)
        assert [(one["name"], one["keep"], one["count"]) for one in document["names"]] == [("list", "all", 1)]
        _, out, _ = fleet.command("log", "list")
        assert "snapshot" in out
        assert "node=^web" in out
        assert "1 h 0 m" in out

    def test_more_than_the_head_lists(self, fleet: Fleet) -> None:
        """All are found; a head lists 60."""
        fleet.publish("list", "x", "--keep", "all")
        for _ in range(70):
            fleet.publish("list", "x")
        assert len(fleet.json("log", "list", "--limit", "100")["messages"]) == 71
        assert len(fleet.json("log", "list")["messages"]) == 30

    def test_what_cannot_be_read_hides_nothing_else(self, fleet: Fleet) -> None:
        """A message of a newer format, one that is gone, one from elsewhere, a poisoned head."""
        numbers = [fleet.publish("list", "x", "--keep", "all") for _ in range(5)]
        other = fleet.publish("deploy", "x", "--keep", "latest")
        keys = [fleet.keys.message("list", num) for num in numbers]
        fleet.consul.kv_put(keys[1], b'{"format":99}')
        fleet.consul.kv_delete(keys[2])
        fleet.consul.kv_put(keys[3], fleet.consul.kv_get(keys[4]) or b"")
        fleet.consul.kv_put(fleet.keys.head("bad"), b"\x1b[31m")
        fleet.consul.kv_put(fleet.keys.names + "a/b", b"junk")
        document = fleet.json("log")
        errors = {one["num"]: one.get("error", "") for one in document["messages"]}
        assert set(errors) == {*numbers, other}
        assert "upgrade" in errors[numbers[1]]
        assert "is missing" in errors[numbers[2]]
        assert "copied from another key" in errors[numbers[3]]
        assert not any(errors[num] for num in (numbers[0], numbers[4], other))
        assert [one["name"] for one in document["names"] if "error" in one] == ["bad"]
        status, out, _ = fleet.command("log")
        assert status == 0
        assert out.count("cannot be read") == 3
        assert "bad: the head is not JSON" in out

    def test_much_junk_hides_nothing_else(self, fleet: Fleet) -> None:
        """A screen shows the messages, and how much there is of it."""
        num = fleet.publish("list", "x", "--keep", "all")
        for number in range(20):
            fleet.consul.kv_put(fleet.keys.head(f"junk{number}"), b"junk")
        _, out, _ = fleet.command("log")
        assert str(num) in out
        assert out.count("the head is not JSON") == 5
        assert "15 more heads cannot be read" in out

    def test_nothing_kept_yet(self, fleet: Fleet) -> None:
        """Which is no error, unless one name was asked for."""
        fleet.acknowledge("lb1")
        assert fleet.command("log") == (0, "Nothing is kept yet.\n", "")
        assert fleet.json("log")["notes"] == []
        assert "keeps nothing under 'list'" in fleet.refused("log", "list")

    def test_a_fleet_that_nobody_is_in(self, fleet: Fleet) -> None:
        """Perhaps its name was mistyped, as `agentd fleet` says, too."""
        why = f"no node acknowledges in the fleet {fleet.name!r}: is that its name?"
        status, out, _ = fleet.command("log")
        as_json = fleet.command("log", "--json")
        assert (status, out.splitlines()[0]) == (1, f"! {why}")
        assert (as_json[0], json.loads(as_json[1])["notes"]) == (1, [why])
        assert why in fleet.refused("fleet", "forget", "--gone")

    def test_a_name_whose_head_is_poisoned(self, fleet: Fleet) -> None:
        """It is told why."""
        fleet.consul.kv_put(fleet.keys.head("list"), b"poison")
        assert "list: the head is not JSON" in fleet.refused("log", "list")


class TestForget:
    """Messages that nobody is to get any more."""

    def test_all_go_by_default(self, fleet: Fleet) -> None:
        """And the next one goes on."""
        last = [fleet.publish("list", "x", "--keep", "all") for _ in range(3)][-1]
        assert fleet.command("log", "forget", "list", "--yes")[1] == "list: 3 messages forgotten\n"
        assert (fleet.head("list").floor, fleet.log.numbers("list")) == (last, [])
        _, out, _ = fleet.command("fleet")
        assert "not there" not in out
        assert fleet.publish("list", "y") > last

    def test_none_goes_without_yes(self, fleet: Fleet) -> None:
        """They cannot be brought back, so the first run only counts them."""
        number = fleet.publish("list", "x", "--keep", "all")
        status, out, _ = fleet.command("log", "forget", "list")
        assert (status, out.partition(".")[0]) == (1, "list: 1 message would be forgotten")
        assert "add --yes" in out
        assert fleet.log.numbers("list") == [number]
        assert fleet.head("list").floor == 0

    def test_a_second_time_there_is_nothing(self, fleet: Fleet) -> None:
        """Which is no error, so that a script may run again."""
        fleet.publish("list", "x", "--keep", "all")
        fleet.command("log", "forget", "list", "--yes")
        assert fleet.command("log", "forget", "list", "--yes")[:2] == (0, "list: 0 messages forgotten\n")
        assert fleet.command("log", "forget", "list")[:2] == (0, "list: there are no messages to forget.\n")

    def test_what_an_interrupted_run_left_goes_with_the_next(self, fleet: Fleet) -> None:
        """The head is written first, so such messages are in nobody's way."""
        number = fleet.publish("list", "x", "--keep", "all")
        raw = fleet.message("list", number).raw
        fleet.command("log", "forget", "list", "--yes")
        fleet.consul.kv_put(fleet.keys.message("list", number), raw)
        assert "1 message would be forgotten" in fleet.command("log", "forget", "list")[1]
        assert fleet.command("log", "forget", "list", "--yes")[1] == "list: 1 message forgotten\n"
        assert fleet.log.numbers("list") == []

    def test_those_before_a_number(self, fleet: Fleet) -> None:
        """That one stays."""
        numbers = [fleet.publish("list", "x", "--keep", "all") for _ in range(3)]
        told = fleet.json("log", "forget", "list", "--yes", "--before", f"{numbers[1]:016}")
        assert told["forgotten"] == 1
        assert fleet.log.numbers("list") == numbers[1:]

    @pytest.mark.parametrize(
        "words,said",
        [
            (["forget", "nothing"], "no log of nothing"),
            (["forget", "a/b"], "cannot be kept"),
        ],
    )
    def test_what_is_not_there(self, fleet: Fleet, words: list[str], said: str) -> None:
        """It says what is."""
        why = fleet.refused("log", *words)
        assert said in why
        assert "agentd log" in why

    def test_a_name_like_the_verb_is_shown_after_two_dashes(self, fleet: Fleet) -> None:
        """An event may be called `forget`."""
        fleet.publish("forget", "x", "--keep", "all")
        assert "1 kept" in fleet.command("log", "--", "forget")[1]
        assert fleet.command("log", "forget", "forget", "--yes")[1] == "forget: 1 message forgotten\n"


class TestRemove:
    """All that a fleet has in Consul."""

    def test_it_lists_and_does_not_delete_by_default(self, fleet: Fleet, tmp_path: Path) -> None:
        """`--yes` does."""
        (tmp_path / "payload").write_bytes(b"x" * 40_000)
        fleet.publish("list", "--file", str(tmp_path / "payload"), "--keep", "all")
        fleet.consul.kv_put(fleet.keys.root + "junk", b"x")
        status, out, _ = fleet.command("fleet", "remove")
        assert status == 1
        assert out.splitlines()[:4] == [
            "       2  heads of names, and the fleet's record",
            "       1  messages",
            "       1  bodies of messages",
            "       1  keys that agentd did not write",
        ]
        assert "add --yes" in out
        assert fleet.log.head("list") is not None

    def test_everything_goes(self, fleet: Fleet) -> None:
        """And nothing of a fleet whose name only begins alike."""
        fleet.publish("list", "x", "--keep", "all")
        neighbour = f"agentd/{fleet.name}-2/names/list"
        fleet.consul.kv_put(neighbour, b"x")
        try:
            status, out, _ = fleet.command("fleet", "remove", "--yes")
            assert status == 0
            assert f"Everything below {fleet.keys.root} was removed." in out
            assert ConsulKV(fleet.client).keys(fleet.keys.root) == ()
            assert fleet.consul.kv_get(neighbour) == b"x"
        finally:
            fleet.consul.kv_delete(neighbour)
        assert "There is nothing below" in fleet.command("fleet", "remove", "--yes")[1]

    def test_not_while_nodes_acknowledge(self, fleet: Fleet) -> None:
        """They would write again; one that was stopped will not, and one that cannot be read may."""
        fleet.acknowledge("lb1")
        fleet.acknowledge("lb2", stopped=2.0)
        fleet.consul.kv_put(fleet.keys.node("lb3"), b"junk")
        status, _, why = fleet.command("fleet", "remove", "--yes")
        assert status == 1
        assert "lb1, lb3 still acknowledge" in why
        assert fleet.consul.kv_get(fleet.keys.node("lb1"))
        assert fleet.command("fleet", "remove", "--yes", "--force")[0] == 0
        assert fleet.consul.kv_get(fleet.keys.node("lb1")) is None


class TestHere:
    """On a node: its handlers try the message first."""

    @pytest.fixture
    def config(self, fleet: Fleet, tmp_path: Path) -> str:
        """The configuration of a node with a blacklist, on which agentd has not run yet."""
        sections = {
            "consul": {"address": fleet.consul.url},
            "nginx": None,
            "tree": {"path": str(tmp_path / "tree")},
            "state": str(tmp_path / "state"),
            "status": {"address": None},
            "fleet": {"name": fleet.name},
            "sources": {"allow": [f"file:{tmp_path}/lists"]},
            "handlers": {
                "blacklist": {"use": "ip_blacklist", "on": [{"event": "list", "keep": "all"}]},
                "other": {"use": "command", "on": [{"event": "*"}], "options": {"argv": ["/bin/false"]}},
                "keys": {"use": "tls_ticket_keys", "on": [{"event": "rotate"}]},
            },
        }
        file = tmp_path / "agentd.yaml"
        file.write_text(json.dumps(sections))  # JSON is YAML
        return str(file)

    def publish(self, fleet: Fleet, config: str, *words: str) -> tuple[int, str, str]:
        """Publish as that node does: the file says which fleet, and where Consul is."""
        status = main(["publish", "--config", config, "list", *words])
        return status, *fleet.captured()

    def test_what_they_take_is_published(self, fleet: Fleet, config: str, tmp_path: Path) -> None:
        """How the name is kept stands in the configuration; nothing is applied by trying."""
        status, out, err = self.publish(fleet, config, "add 192.0.2.7 10m")
        assert (status, out.split()[0]) == (0, "list")
        assert "dry run here: blacklist would be changed" in err
        assert (fleet.head("list").keep, fleet.head("list").count) == ("all", 1)
        assert not (tmp_path / "state").exists()
        assert not (tmp_path / "tree").exists()

    def test_all_is_kept_for_handlers_that_need_all(self, fleet: Fleet, config: str) -> None:
        """Whatever somebody said who began the log from a host without them."""
        fleet.publish("list", "add 192.0.2.6", "--keep", "latest")
        assert self.publish(fleet, config, "add 192.0.2.7")[0] == 0
        assert (fleet.head("list").keep, fleet.head("list").count) == ("all", 2)

    def test_what_they_do_not_keep_is_not(self, fleet: Fleet, config: str) -> None:
        """It would not reach them; and it may be a key, which must not lie in Consul for all who may read."""
        status = main(["publish", "--config", config, "rotate", SECRET, "--keep", "latest"])
        assert status == 1
        _, err = fleet.captured()
        assert "keys here would not get it, since `keep:` is missing beside `event: rotate`" in err
        assert SECRET not in err
        assert fleet.log.head("rotate") is None

    def test_what_they_refuse_is_not(self, fleet: Fleet, config: str) -> None:
        """The reason is the handler's; whoever knows better says so."""
        status, _, err = self.publish(fleet, config, "add 300.1.1.1")
        assert status == 1
        assert "'blacklist' here would not take it (refused: " in err
        assert fleet.log.head("list") is None
        assert self.publish(fleet, config, "add 300.1.1.1", "--no-dry-run")[0] == 0

    def test_a_message_that_is_brought_back_is_tried_as_well(self, fleet: Fleet, config: str) -> None:
        """What is right may have changed since."""
        self.publish(fleet, config, "add 300.1.1.1", "--no-dry-run")
        (num,) = fleet.log.numbers("list")
        status, _, err = self.publish(fleet, config, "--again", str(num))
        assert status == 1
        assert "would not take it" in err

    def test_a_reference_gets_its_digest(self, fleet: Fleet, config: str, tmp_path: Path) -> None:
        """Computed from what `sources.allow` lets be fetched."""
        (tmp_path / "lists").mkdir()
        (tmp_path / "lists" / "drop").write_bytes(b"192.0.2.0/24\n")
        where = f"file:{tmp_path}/lists/drop"
        status, _, err = self.publish(fleet, config, "--reference", where, "--no-dry-run")
        assert status == 0, err
        sha256 = hashlib.sha256(b"192.0.2.0/24\n").hexdigest()
        assert fleet.payload("list", fleet.head("list").newest) == f"{where} sha256:{sha256}".encode()

    def test_another_fleet_is_not_tried_here(self, fleet: Fleet, config: str) -> None:
        """What handlers here make of it says nothing about that one."""
        neighbour = Keys(f"{fleet.name}-2")
        words = ["--fleet", neighbour.fleet, "add 300.1.1.1"]
        try:
            assert "no node is known to keep 'list'" in self.publish(fleet, config, *words)[2]
            assert self.publish(fleet, config, *words, "--keep", "all")[0] == 0
        finally:
            fleet.consul.kv_delete(neighbour.root, recurse=True)


class TestDaemons:
    """What daemons make of it."""

    @pytest.fixture
    def new_node(self, fleet: Fleet, directory: Path) -> Iterator[NewNode]:
        """Start nodes of the fleet, each stopped at the end."""
        with ExitStack() as stack:

            def make(name: str, **options: Any) -> FollowingNode:  # noqa: ANN401 (FollowingNode's own)
                node = FollowingNode(
                    directory / name, name, fleet=fleet.name, consul=fleet.consul, event="list", **options
                )
                stack.callback(node.stop)
                return node.start()

            yield make

    def test_those_that_it_is_for_apply_it(self, fleet: Fleet, new_node: NewNode, tmp_path: Path) -> None:
        """Whatever its size, from a host that runs no agentd."""
        nodes = [new_node("web1"), new_node("db1")]
        (tmp_path / "payload").write_bytes(b"x" * LARGEST)
        fleet.publish("list", "one", "--keep", "all", "--node", "^web")
        fleet.publish("list", "two", "--node", "^db")
        first = fleet.publish("list", "three")
        fleet.publish("list", "--file", str(tmp_path / "payload"))
        fleet.publish("list", "--again", str(first))
        nodes[0].await_tally("one", "three", "x" * LARGEST, "three")
        nodes[1].await_tally("two", "three", "x" * LARGEST, "three")

    def test_a_node_tries_it_while_its_daemon_runs(self, new_node: NewNode, fleet: Fleet) -> None:
        """What its blacklist refuses reaches nobody; what it takes, the daemon itself too."""
        handlers = {"blacklist": {"use": "ip_blacklist", "on": [{"event": "list", "keep": "all"}]}}
        node = new_node("lb1", handlers=handlers)
        refused = node.agentd.command("publish", "list", "add 300.1.1.1")
        assert refused.returncode == 1
        assert "'blacklist' here would not take it" in refused.stderr
        taken = node.agentd.command("publish", "list", "add 192.0.2.7 10m")
        assert taken.returncode == 0, taken.stderr
        wait_until(lambda: [row["outcome"] for row in node.history("blacklist")] == ["applied"], "it")
        assert fleet.head("list").count == 1

    def test_a_fleet_can_be_turned_off(self, fleet: Fleet, new_node: NewNode) -> None:
        """`fleet: null` on every node, then one command; events still work, and nothing comes back."""
        node = new_node("lb1", keep="latest")
        fleet.publish("list", "one", "--keep", "latest")
        node.await_tally("one")
        wait_until(lambda: fleet.consul.kv_get(fleet.keys.node("lb1")), "its acknowledgement")
        assert "lb1 still acknowledge" in fleet.command("fleet", "remove", "--yes")[2]
        node.stop()
        node.config["fleet"] = None
        node.config["handlers"]["tally"]["on"] = [{"event": "list"}]
        node.configure()
        node.start()
        assert fleet.command("fleet", "remove", "--yes")[0] == 0
        fleet.consul.fire("list", b"two")
        node.await_tally("one", "two")
        assert ConsulKV(fleet.client).keys(fleet.keys.root) == ()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """One Consul server that denies what no rule grants."""
    agent = ConsulAgent(tmp_path_factory.mktemp("strict"), acl=True)
    agent.start()
    yield agent
    agent.stop()


class TestRights:
    """Under default deny."""

    @pytest.fixture
    def denied(
        self,
        strict: ConsulAgent,
        suffix: str,
        capsys: pytest.CaptureFixture[str],
        no_file: None,  # noqa: ARG002
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[Denied]:
        """A fleet with one name, and tokens that lack a right."""
        with closing(Denied(strict, f"fleet{suffix}", capsys, monkeypatch)) as made:
            yield made

    EVERY: ClassVar = dict.fromkeys(["names/list", "messages/list/", "pruned/list", "bodies/"], "write") | {
        "names/_fleet": "read"
    }

    @pytest.mark.parametrize("lacking", ["names/list", "messages/list/", "bodies/"])
    def test_a_right_that_publishing_lacks_is_named(
        self, denied: Denied, lacking: str, tmp_path: Path
    ) -> None:
        """As the rule to add to the policy; a token for one name is enough."""
        (tmp_path / "payload").write_bytes(b"x" * 40_000)
        words = ["publish", "list", "--file", str(tmp_path / "payload")]
        denied.may(self.EVERY)
        assert denied.command(*words)[0] == 0
        (tmp_path / "payload").write_bytes(b"y" * 40_000)
        denied.may(self.EVERY | {lacking: "read"})
        rule = f'key_prefix "{denied.keys.root}{lacking}" {{ policy = "write" }}'
        assert f"publishing needs more rights: add to the token's policy: {rule}" in denied.refused(*words)

    @pytest.mark.parametrize("lacking", ["names/list", "names/_fleet"])
    def test_a_right_to_read_is_named_too(self, denied: Denied, lacking: str) -> None:
        """What must not be seen is not taken for nothing."""
        denied.may({at: access for at, access in self.EVERY.items() if at != lacking})
        rule = f'key_prefix "{denied.keys.root}{lacking}" {{ policy = "read" }}'
        assert rule in denied.refused("publish", "list", "x")

    def test_a_fleet_whose_nodes_the_token_must_not_see_may_be_there(self, denied: Denied) -> None:
        """That nothing is kept is certain all the same."""
        denied.consul.kv_delete(denied.keys.root, recurse=True)
        denied.may({"names/": "read", "messages/": "read"})
        status, out, _ = denied.command("log")
        note, said = out.splitlines()
        assert (status, said) == (0, "Nothing is kept yet.")
        assert note.endswith(f'key_prefix "{denied.keys.nodes}" {{ policy = "read" }}')

    def test_a_log_that_the_token_must_not_see_is_not_empty(self, denied: Denied) -> None:
        """Consul answers as if nothing were there."""
        denied.may({})
        for words in (["log"], ["log", "list"], ["publish", "list", "x"], ["fleet", "remove"]):
            assert f'key_prefix "{denied.keys.root}' in denied.refused(*words)

    @pytest.mark.parametrize(
        "rules,words,rule",
        [
            ("", ["--node", "x"], 'key_prefix "{nodes}"'),
            ('key_prefix "{nodes}" {{ policy = "read" }}', ["--node", "x"], 'node_prefix ""'),
            (
                'key_prefix "{nodes}" {{ policy = "read" }} node_prefix "" {{ policy = "read" }}',
                ["--service", "x"],
                'service_prefix ""',
            ),
        ],
    )
    def test_who_matches_is_not_known_without_the_right(
        self, denied: Denied, rules: str, words: list[str], rule: str
    ) -> None:
        """Which is not nobody."""
        denied.may(self.EVERY, rules.format(nodes=denied.keys.nodes))
        status, _, err = denied.command("publish", "list", "x", *words)
        assert status == 0
        assert "warning: cannot tell whether any node matches" in err
        assert rule.format(nodes=denied.keys.nodes) + ' { policy = "read" }' in err

    @pytest.mark.parametrize(
        "words", [["log", "forget", "list", "--yes"], ["fleet", "remove", "--yes", "--force"]], ids=" ".join
    )
    def test_a_viewer_can_change_nothing(self, denied: Denied, words: list[str]) -> None:
        """The rule to add is told."""
        denied.may({"": "read"})
        status, _, err = denied.command(*words)
        assert status == 1
        assert '{ policy = "write" }' in err
        assert denied.log.head("list") is not None
