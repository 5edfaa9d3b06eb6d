"""`agentd keys resign` on a real Consul: what is in force gets the keys of today, and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ConsulUnavailable
from agentd.fleet.envelope import Draft, Envelope
from agentd.fleet.kv import ConsulKV
from agentd.fleet.log import Log
from agentd.fleet.rollout import Admission
from agentd.trust.key_files import read_key
from agentd.trust.keyring import Signer
from agentd.trust.keys import SecretKey, new_fleet_key, new_secret_key
from agentd.watch.kv import Operation, Transaction
from tests.integration.test_publish import Fleet
from tests.integration.test_publish_signed import SigningFleet
from tests.servers.consul import ConsulAgent
from tests.servers.waiting import wait_until

ALL = ["deploy", "secret*", "list", "agentd.freeze"]


class RotatingFleet(SigningFleet):
    """A fleet whose keys are replaced."""

    def put(self, name: str, payload: str, *words: str) -> int:
        """Publish from a file, as secrets are; the number."""
        (self.directory / "payload").write_text(payload)
        return self.publish(name, "--file", str(self.directory / "payload"), *words)

    def rotate_publisher(self, **more: Any) -> None:  # noqa: ANN401 (YAML)
        """Believe an old and a new key, and sign with the new one."""
        new = self.key("ops-2", new_secret_key())
        publishers = {"ops": {"key": [self.ops, new], "may": ALL}}
        self.configure(publishers=publishers, signing_key=str(self.path("ops-2")), **more)
        self.new = new

    def rotate_fleet(self) -> None:
        """Open with both fleet keys, and seal with the new one."""
        self.key("fleet-2", new_fleet_key())
        self.configure(fleet_keys=[str(self.path("fleet-2")), str(self.path("fleet"))])

    def drop_old(self) -> None:
        """Believe the new key of the publisher alone."""
        publishers = {"ops": {"key": self.new, "may": ALL}}
        self.configure(publishers=publishers, signing_key=str(self.path("ops-2")))

    def resign(self, *names: str, status: int = 0) -> dict[str, tuple[list[int], str]]:
        """Sign again; by name the new numbers, and what is left to do."""
        done, out, err = self.command("keys", "resign", *names, "--json")
        assert done == status, err
        return {one["name"]: (one["numbers"], one["left"] or "") for one in json.loads(out)["names"]}

    def write_signed(self, name: str, payload: bytes, **more: Any) -> int:  # noqa: ANN401 (of a draft)
        """Append a message of a rollout, signed with the first key; its number."""
        key = read_key(str(self.path("ops")))
        assert isinstance(key, SecretKey)
        log = Log(self.log.kv, self.log.keys, signer=Signer(key))
        return log.publish(name, Draft(payload, time.time(), "ops", **more), keep="latest")

    def newest(self, name: str) -> Envelope:
        """The newest message of a name."""
        return self.message(name, self.head(name).newest)

    def command(self, *words: str) -> tuple[int, str, str]:
        """Run a command on this host, also one that is a verb."""
        if words[0] != "keys":
            return super().command(*words)
        from agentd.cli import main  # noqa: PLC0415 (only here)

        address = ["--fleet", self.name, "--http-addr", self.consul.url]
        return main([*words[:2], *address, *words[2:]]), *self.captured()


@pytest.fixture
def fleet(
    consul: ConsulAgent,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[RotatingFleet]:
    """A fleet with a message that is signed and one that is sealed."""
    with closing(RotatingFleet(consul, f"resigned{suffix}", capsys, directory)) as made:
        monkeypatch.setenv("AGENTD_CONFIG", str(made.file))
        made.configure()
        made.put("deploy", "v17", "--keep", "latest")
        made.put("secret", "ring", "--keep", "latest")
        yield made


class TestRotation:
    """Keys are replaced, and the old ones dropped."""

    def test_a_publishers_key(self, fleet: RotatingFleet) -> None:
        """Afterwards a node that has only the new one believes all that is in force."""
        before = fleet.newest("deploy")
        fleet.rotate_publisher()
        done = fleet.resign()
        fleet.drop_old()
        assert fleet.opened(fleet.newest("deploy")) == b"v17"
        assert fleet.opened(fleet.newest("secret")) == b"ring"
        after = fleet.newest("deploy")
        assert done["deploy"] == ([after.num], "")
        assert (after.id, after.first, after.issued) == (before.id, before.num, before.issued)
        assert fleet.log.message("deploy", before.num) is None
        assert fleet.head("deploy").recent == (after.num,)
        assert (fleet.head("deploy").count, fleet.head("deploy").oldest) == (1, after.num)

    def test_the_fleets_key(self, fleet: RotatingFleet) -> None:
        """What is sealed is sealed with the new one; what is not sealed stays as it is."""
        before = fleet.newest("deploy")
        fleet.rotate_fleet()
        assert fleet.resign()["deploy"] == ([], "")
        fleet.configure(fleet_keys=[str(fleet.path("fleet-2"))])
        assert fleet.opened(fleet.newest("secret")) == b"ring"
        assert fleet.newest("deploy") == before

    def test_it_may_be_run_again(self, fleet: RotatingFleet) -> None:
        """Nothing is done twice."""
        fleet.rotate_publisher()
        fleet.resign()
        before = fleet.newest("deploy"), fleet.newest("secret")
        assert fleet.resign() == {"deploy": ([], ""), "secret": ([], "")}
        assert (fleet.newest("deploy"), fleet.newest("secret")) == before

    def test_a_freeze(self, fleet: RotatingFleet) -> None:
        """A node that restarts after the old key was dropped stays frozen."""
        fleet.configure(publishers={"ops": {"key": fleet.ops, "may": ALL}})
        assert fleet.command("freeze", "--reason", "night", "--wait", "0")[0] == 1  # no node says so
        fleet.rotate_publisher()
        done = fleet.resign()
        fleet.drop_old()
        after = fleet.newest("agentd.freeze")
        assert done["agentd.freeze"] == ([after.num], "")
        assert (after.kind, after.is_signed_again) == ("freeze", True)
        assert fleet.opened(after) == b'{"frozen": true, "reason": "night"}'

    def test_what_comes_next_follows_on(self, fleet: RotatingFleet) -> None:
        """The log is whole: the next message has the one before it."""
        fleet.rotate_publisher()
        fleet.resign()
        before = fleet.newest("deploy").num
        after = fleet.put("deploy", "v18")
        assert fleet.message("deploy", after).prev == before
        assert fleet.head("deploy").recent == (before, after)

    def test_earlier_ones_stay_as_they_are(self, fleet: RotatingFleet) -> None:
        """Only what is in force is signed again."""
        first = fleet.head("deploy").newest
        fleet.put("deploy", "v18")
        fleet.rotate_publisher()
        ((num,), _) = fleet.resign("deploy")["deploy"]
        assert fleet.head("deploy").recent == (first, num)
        assert fleet.message("deploy", num).body == b"v18"

    def test_a_large_payload(self, fleet: RotatingFleet) -> None:
        """It stays where it is."""
        fleet.put("deploy", "x" * 40_000)
        fleet.rotate_publisher()
        ((num,), _) = fleet.resign("deploy")["deploy"]
        assert fleet.payload("deploy", num) == b"x" * 40_000

    def test_a_name_that_is_sealed_from_now_on(self, fleet: RotatingFleet) -> None:
        """What is in force becomes secret, too, and what was there before it in clear is deleted."""
        fleet.put("deploy", "v18")
        fleet.put("deploy", "v17")
        fleet.configure(seal=["secret*", "deploy"])
        ((num,), _) = fleet.resign("deploy")["deploy"]
        assert fleet.message("deploy", num).is_sealed
        assert fleet.log.numbers("deploy") == [num]
        assert (fleet.head("deploy").count, fleet.head("deploy").oldest) == (1, num)
        assert fleet.opened(fleet.message("deploy", num)) == b"v17"


class TestRollout:
    """A rollout is open."""

    def test_what_nodes_may_take_moves_in_its_order(self, fleet: RotatingFleet) -> None:
        """The newest step, and what all other nodes have; afterwards it can be released."""
        released = fleet.head("deploy").newest
        step = {"kind": "admit", "rollout": "r1"}
        first = fleet.write_signed("deploy", b"v18", admission=Admission(1), **step)
        second = fleet.write_signed("deploy", b"v18", admission=Admission(2), **step)
        fleet.rotate_publisher()
        moved, left = fleet.resign("deploy")["deploy"]
        fleet.drop_old()
        assert (len(moved), left) == (2, "")
        head = fleet.head("deploy")
        assert (head.released, head.newest) == tuple(moved)
        messages = [fleet.message("deploy", num) for num in moved]
        assert [(one.kind, one.first) for one in messages] == [("payload", released), ("admit", second)]
        assert [fleet.opened(one) for one in messages] == [b"v17", b"v18"]
        assert messages[1].admission == Admission(2)
        assert head.recent == (first, *moved)

    def test_what_a_rollout_released_is_in_force(self, fleet: RotatingFleet) -> None:
        """An earlier payload does not become the newest one."""
        fleet.write_signed("deploy", b"v18", kind="admit", rollout="r1", admission=Admission(1))
        last = fleet.write_signed("deploy", b"v18", kind="release", rollout="r1")
        fleet.rotate_publisher()
        [moved], _ = fleet.resign("deploy")["deploy"]
        assert fleet.message("deploy", moved).first == last
        assert fleet.head("deploy").released is None


class TestForSomeNodes:
    """Messages that are not for all."""

    def test_all_that_are_in_force_move_in_their_order(self, fleet: RotatingFleet) -> None:
        """The newest for all nodes, and the newest for each choice of them since."""
        fleet.put("deploy", "v18")
        for target, payload in [("^a", "a1"), ("^b", "b1"), ("^a", "a2")]:
            fleet.put("deploy", payload, "--node", target)
        fleet.rotate_publisher()
        numbers, _ = fleet.resign("deploy")["deploy"]
        assert [fleet.message("deploy", num).body for num in numbers] == [b"v18", b"b1", b"a2"]
        assert fleet.head("deploy").newest == numbers[-1]
        fleet.drop_old()
        assert [fleet.opened(fleet.message("deploy", num)) for num in numbers] == [b"v18", b"b1", b"a2"]

    def test_what_comes_after_moves_along(self, fleet: RotatingFleet) -> None:
        """A later one has the new key already: it must stay the later one."""
        fleet.rotate_publisher()
        fleet.put("deploy", "a1", "--node", "^a")
        numbers, _ = fleet.resign("deploy")["deploy"]
        assert [fleet.message("deploy", num).body for num in numbers] == [b"v17", b"a1"]

    def test_an_expired_one_is_not_in_force(self, fleet: RotatingFleet) -> None:
        """What nobody would take any more is left as it is."""
        fleet.put("deploy", "short", "--ttl", "0.1s")
        fleet.rotate_publisher()
        message = fleet.newest("deploy")
        wait_until(lambda: message.is_over(time.time()), "the end of its time")
        numbers, _ = fleet.resign("deploy")["deploy"]
        assert [fleet.message("deploy", num).body for num in numbers] == [b"v17"]


class TestLeft:
    """What has to be done otherwise; exit status 1."""

    def test_a_name_of_which_all_are_kept(self, fleet: RotatingFleet) -> None:
        """A snapshot replaces what the old key has signed."""
        fleet.put("list", "one", "--keep", "all")
        fleet.put("list", "two")
        fleet.rotate_publisher()
        ((numbers, left),) = fleet.resign("list", status=1).values()
        assert (numbers, left[:14]) == ([], "2 messages are")
        assert "`agentd publish list --snapshot --file FILE`" in left
        fleet.put("list", "both", "--snapshot")
        assert fleet.resign("list") == {"list": ([], "")}

    def test_one_that_nobody_signed(self, fleet: RotatingFleet) -> None:
        """Nobody signs unseen what anybody may have written."""
        fleet.configure(require=None, signing_key=None)
        num = fleet.put("deploy", "v18")
        fleet.rotate_publisher(require=None)
        ((numbers, left),) = fleet.resign("deploy", status=1).values()
        assert (numbers, left) == (
            [], f"message {num} is not signed: if it is right, `agentd publish deploy --again {num}`",
        )  # fmt: skip

    def test_where_signatures_are_required_an_unsigned_one_is_not_in_force(
        self, fleet: RotatingFleet
    ) -> None:
        """The newest that nodes accept is signed again; a forged one stays unsigned."""
        plain = Fleet(fleet.consul, fleet.name, fleet._capsys)
        fleet.write({"fleet": {"name": fleet.name}})
        forged = plain.publish("deploy", "bad")
        plain.client.close()
        fleet.rotate_publisher()
        ((num,), _) = fleet.resign("deploy")["deploy"]
        assert fleet.message("deploy", num).body == b"v17"
        assert fleet.head("deploy").recent == (forged, num)

    def test_one_that_cannot_be_opened(self, fleet: RotatingFleet) -> None:
        """The others are treated all the same."""
        fleet.rotate_publisher(fleet_keys=[str(fleet.path("fleet-2"))])
        fleet.key("fleet-2", new_fleet_key())
        done = fleet.resign(status=1)
        assert "sealed with the fleet key agentd1.fid." in done["secret"][1]
        assert len(done["deploy"][0]) == 1

    @pytest.mark.parametrize(
        "change, why",
        [
            ({"signing_key": None}, "there is no `trust.signing_key` here"),
            ({"publishers": {"x": {"key": new_secret_key().public.text, "may": "*"}}}, "no publisher has it"),
        ],
    )
    def test_no_key_to_sign_with(self, fleet: RotatingFleet, change: Any, why: str) -> None:  # noqa: ANN401 (YAML)
        """It is told before anything is read."""
        fleet.configure(**change)
        assert why in fleet.refused("keys", "resign")

    def test_names_that_are_none(self, fleet: RotatingFleet) -> None:
        """One that is not in the log, and one that the publisher may not send."""
        fleet.rotate_publisher()
        assert "there is no log of list" in fleet.resign("list", status=1)["list"][1]
        assert "may not send 'other'" in fleet.refused("keys", "resign", "other")


class TestFaults:
    """Others write, and connections break."""

    def test_somebody_publishes_in_the_meantime(
        self, fleet: RotatingFleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What they published is in force, and is signed with the new key already."""
        fleet.rotate_publisher()
        write, news = ConsulKV.write, iter(["v18"])

        def overtaken(kv: ConsulKV, operations: Sequence[Operation]) -> Transaction:
            for payload in news:
                fleet.put("deploy", payload)
            return write(kv, operations)

        monkeypatch.setattr(ConsulKV, "write", overtaken)
        assert fleet.resign("deploy") == {"deploy": ([], "")}
        assert fleet.newest("deploy").body == b"v18"
        assert len(fleet.log.numbers("deploy")) == 2

    @pytest.mark.parametrize("written", [False, True])
    def test_the_connection_breaks(
        self, fleet: RotatingFleet, monkeypatch: pytest.MonkeyPatch, *, written: bool
    ) -> None:
        """Before or after it was written; run again, it ends with one message."""
        fleet.rotate_publisher()
        write, breaks = ConsulKV.write, iter([True])

        def broken(kv: ConsulKV, operations: Sequence[Operation]) -> Transaction:
            now = next(breaks, False)
            done = write(kv, operations) if written or not now else None
            if now or done is None:
                raise ConsulUnavailable("the connection broke")
            return done

        monkeypatch.setattr(ConsulKV, "write", broken)
        assert "the connection broke" in fleet.refused("keys", "resign", "deploy")
        fleet.resign("deploy")
        fleet.drop_old()
        assert fleet.opened(fleet.newest("deploy")) == b"v17"
        assert len(fleet.log.numbers("deploy")) == 1


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A Consul server that denies what no rule grants."""
    agent = ConsulAgent(tmp_path_factory.mktemp("strict"), acl=True)
    agent.start()
    yield agent
    agent.stop()


class TestReplay:
    """Somebody who may write to the log puts an old one back."""

    @pytest.fixture
    def old(self, fleet: RotatingFleet) -> RotatingFleet:
        """A fleet whose log ends before what its nodes have in force, and whose publisher has a new key."""
        pairs = [fleet.keys.head("deploy"), fleet.keys.message("deploy", fleet.head("deploy").newest)]
        before = {key: fleet.consul.kv_get(key) or b"" for key in pairs}
        self.live = fleet.put("deploy", "v18")
        fleet.acknowledge("web1", format=2, names={"deploy": {"live": self.live}})
        fleet.rotate_publisher()
        fleet.consul.kv_delete(fleet.keys.messages("deploy"), recurse=True)
        for key, value in before.items():
            fleet.consul.kv_put(key, value)
        return fleet

    def test_what_is_old_is_not_made_new(self, old: RotatingFleet) -> None:
        """Nodes that have a newer message would take it."""
        before = old.newest("deploy")
        ((numbers, left),) = old.resign("deploy", status=1).values()
        assert numbers == []
        assert f"nodes have message {self.live} in force" in left
        assert old.newest("deploy") == before

    def test_what_is_published_after_it_can_be_signed_again(self, old: RotatingFleet) -> None:
        """It has a higher number than what nodes have."""
        num = old.put("deploy", "v19")
        assert num > self.live
        assert old.resign("deploy")["deploy"] == ([], "")


class TestRights:
    """Under default deny."""

    POLICY = Path(__file__).parents[2] / "config" / "consul" / "publisher.hcl"

    @pytest.fixture
    def denied(
        self,
        strict: ConsulAgent,
        suffix: str,
        capsys: pytest.CaptureFixture[str],
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[RotatingFleet]:
        """A fleet with a signed message, after its publisher's key was replaced."""
        with closing(RotatingFleet(strict, f"denied{suffix}", capsys, directory)) as made:
            monkeypatch.setenv("AGENTD_CONFIG", str(made.file))
            monkeypatch.setenv("CONSUL_HTTP_TOKEN", strict.token or "")
            made.configure()
            made.put("deploy", "v17", "--keep", "latest")
            made.rotate_publisher()
            yield made

    def test_the_policy_of_a_publisher_is_enough(
        self, denied: RotatingFleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """To publish what is signed, and to sign it again."""
        policy = self.POLICY.read_text().replace("FLEET", denied.name)
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", denied.consul.make_token(policy))
        ((first,), _) = denied.resign()["deploy"]
        assert denied.put("deploy", "v18") > first

    @pytest.mark.parametrize("lacking", ["names/", "messages/"])
    def test_a_right_that_is_missing_is_named(
        self, denied: RotatingFleet, monkeypatch: pytest.MonkeyPatch, lacking: str
    ) -> None:
        """With the rule to add; nothing was changed."""
        before = denied.newest("deploy")
        access = dict.fromkeys(["names/", "messages/", "pruned/"], "write") | {"nodes/": "read"}
        access |= {lacking: "read"}
        rules = [
            f'key_prefix "{denied.keys.root}{at}" {{ policy = "{policy}" }}' for at, policy in access.items()
        ]
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", denied.consul.make_token("\n".join(rules)))
        why = denied.refused("keys", "resign")
        assert "signing messages again needs more rights: add to the token's policy" in why
        assert f'key_prefix "{denied.keys.root}{lacking}deploy' in why
        assert denied.newest("deploy") == before

    def test_a_log_that_the_token_must_not_see_is_not_empty(
        self, denied: RotatingFleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It does not say that there is nothing to do."""
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", denied.consul.make_token(""))
        assert f'key_prefix "{denied.keys.root}' in denied.refused("keys", "resign")
        assert f'key_prefix "{denied.keys.root}' in denied.refused("keys", "resign", "deploy")
