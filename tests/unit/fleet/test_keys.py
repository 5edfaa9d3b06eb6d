"""The keys of a fleet, and back."""

from __future__ import annotations

import pytest

from agentd.fleet.keys import POISONED, Keys, is_kept_name, is_node

KEYS = Keys("prod")


def test_everything_lies_below_the_fleet() -> None:
    """Two fleets on one Consul never meet."""
    sha256 = "ab" * 32
    assert [
        KEYS.record, KEYS.head("deploy"), KEYS.message("deploy", 1764180000000), KEYS.pruned("deploy"),
        KEYS.body(sha256), KEYS.node("lb1.example.com"), KEYS.swept,
    ] == [
        "agentd/prod/names/_fleet", "agentd/prod/names/deploy",
        "agentd/prod/messages/deploy/0001764180000000",
        "agentd/prod/pruned/deploy/ids", f"agentd/prod/bodies/{sha256}", "agentd/prod/nodes/lb1.example.com",
        "agentd/prod/bodies/_swept",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["", "*", "_fleet", "a/b", "a b", "é", ".", "..", ".a", "-a", "x" * 65, "a\n"]
)
def test_some_names_cannot_be_kept(name: str) -> None:
    """They would not be a key, or one of another meaning."""
    assert not is_kept_name(name)
    for make in (KEYS.head, KEYS.messages, KEYS.pruned, Keys):
        with pytest.raises(ValueError, match="A-Za-z0-9"):
            make(name)


@pytest.mark.parametrize("node", ["", "a/b", "..", "lb 1", "x" * 254])
def test_some_nodes_cannot_have_a_document(node: str) -> None:
    """They are told to take another name."""
    assert not is_node(node)
    with pytest.raises(ValueError, match=r"fleet\.node"):
        KEYS.node(node)


@pytest.mark.parametrize("num", [0, -1, POISONED, 10**400, True])
def test_some_numbers_are_no_message(num: int) -> None:
    """Least of all one after which there could be no other."""
    with pytest.raises(ValueError, match="number"):
        KEYS.message("deploy", num)


def test_a_body_is_named_by_its_digest() -> None:
    """Nothing else leads below `bodies/`."""
    with pytest.raises(ValueError, match="SHA-256"):
        KEYS.body("../x")


def test_back_from_a_key() -> None:
    """What is not exactly one of ours is none."""
    assert KEYS.name_of("agentd/prod/names/deploy") == "deploy"
    assert KEYS.node_of("agentd/prod/nodes/lb1") == "lb1"
    assert KEYS.number_of("deploy", "agentd/prod/messages/deploy/0000000000000007") == 7
    assert KEYS.place_of("agentd/prod/messages/deploy/0000000000000007") == ("deploy", 7)


@pytest.mark.parametrize(
    "key",
    [
        "agentd/prod/names/_fleet", "agentd/prod/names/", "agentd/prod/names/a/b", "agentd/test/names/a",
        "deploy", "agentd/prod/messages/deploy/7", "agentd/prod/messages/deploy/0000000000000000",
        "agentd/prod/messages/deploy/9999999999999999", "agentd/prod/messages/deploy/000000000000000\u0667",
        "agentd/prod/messages/deploy/0000000000000007/x", "agentd/prod/nodes/a/b",
    ],
)  # fmt: skip
def test_junk_is_none_of_ours(key: str) -> None:
    """Whoever may write below the prefix may write anything."""
    assert KEYS.name_of(key) is None
    assert KEYS.number_of("deploy", key) is None
    assert KEYS.place_of(key) is None
    assert KEYS.node_of(key) is None
