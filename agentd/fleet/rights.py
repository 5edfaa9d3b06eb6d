"""Which rights a token lacks on the fleet's keys, and the ACL rules that grant them.

Consul answers some reads that a token may not make as if nothing were there, so whoever finds nothing asks
here before believing it (https://developer.hashicorp.com/consul/docs/security/acl/acl-rules#key-value-rules).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

from agentd.errors import ConsulRefused

Access = Literal["read", "write"]


class Authority(Protocol):
    """Says what its token may do, as `ConsulClient` does."""

    def authorized(self, resource: str, access: str, segment: str) -> bool | None:
        """Whether the token has the right; None if there are no ACLs."""
        ...


def rule(access: Access, prefix: str) -> str:
    """The rule that grants the right on all keys that begin with `prefix`."""
    return f'key_prefix "{prefix}" {{ policy = "{access}" }}'


def missing_rules(authority: Authority, access: Access, prefixes: Iterable[str]) -> list[str]:
    """The rules that the token's policies lack, one for each prefix; empty if it has all the rights.

    Raises:
        ConsulUnavailable: Consul cannot say now.
        ConsulRefused: the token is unknown to Consul, or this Consul cannot be asked.
    """
    return [
        rule(access, prefix) for prefix in prefixes if authority.authorized("key", access, prefix) is False
    ]


def demand(authority: Authority, access: Access, prefixes: Iterable[str], purpose: str) -> None:
    """See that the token has the rights.

    Args:
        authority: says what the token may do.
        access: read, or write, which includes it.
        prefixes: of keys.
        purpose: what needs them, such as "publishing".

    Raises:
        ConsulRefused: it lacks one; the text has the rules to add. Or as `missing_rules`.
        ConsulUnavailable: as `missing_rules`.
    """
    if rules := missing_rules(authority, access, prefixes):
        raise ConsulRefused(f"{purpose} needs more rights: add to the policy of the token: {' '.join(rules)}")


@contextmanager
def explained(authority: Authority, access: Access, prefixes: Iterable[str], purpose: str) -> Iterator[None]:
    """What Consul refuses within is told as the rules to add, if rights are what is missing.

    Raises:
        ConsulRefused: as `demand`; else as it was raised within.
        ConsulUnavailable: as `demand`.
    """
    try:
        yield
    except ConsulRefused:
        demand(authority, access, prefixes, purpose)
        raise
