"""The rights that a token lacks, told as the rules to add."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from agentd.errors import ConsulRefused
from agentd.fleet.rights import demand, explained, missing_rules

KEYS = ["agentd/edge/names/", "agentd/edge/messages/"]


class Token:
    """May do what is listed; `None` for a Consul without ACLs."""

    def __init__(self, *granted: tuple[str, str], acls: bool = True) -> None:
        self._granted, self._acls = granted, acls

    def authorized(self, resource: str, access: str, segment: str) -> bool | None:
        """As Consul answers."""
        assert resource == "key"
        return (access, segment) in self._granted if self._acls else None


def test_each_right_that_is_missing_is_told_as_its_rule() -> None:
    """Only those that are missing, ready to be pasted into a policy."""
    token = Token(("write", KEYS[0]))
    assert missing_rules(token, "write", KEYS) == ['key_prefix "agentd/edge/messages/" { policy = "write" }']


def test_what_needs_the_rights_is_named() -> None:
    """The refusal says for what, and what to do."""
    with pytest.raises(ConsulRefused, match=r'^publishing needs .*: key_prefix "agentd/edge/names/" \{'):
        demand(Token(), "write", KEYS, "publishing")


@pytest.mark.parametrize(
    "token", [Token(("read", KEYS[0]), ("read", KEYS[1])), Token(acls=False)], ids=["granted", "no ACLs"]
)
def test_enough_rights_are_no_news(token: Token) -> None:
    """Nor are those of a Consul that has no ACLs."""
    demand(token, "read", KEYS, "reading the log")


def test_a_refusal_is_told_as_the_rules_to_add() -> None:
    """Consul itself names neither the key nor the rule in every release."""
    with pytest.raises(ConsulRefused, match="publishing needs more rights"), publishing(Token()):
        raise ConsulRefused("Permission denied")


def test_a_refusal_for_another_reason_stays_as_it_is() -> None:
    """The rights are there."""
    with pytest.raises(ConsulRefused, match=r"^too large$"), publishing(Token(acls=False)):
        raise ConsulRefused("too large")


def publishing(token: Token) -> AbstractContextManager[None]:
    """What needs to write."""
    return explained(token, "write", KEYS, "publishing")
