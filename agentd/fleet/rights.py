"""Finds the rights that a token lacks on the fleet's keys, and the ACL rules that grant them.

Consul answers some reads that a token may not make as if the keys did not exist. Code that finds nothing
checks the rights here before it trusts the answer
(https://developer.hashicorp.com/consul/docs/security/acl/acl-rules#key-value-rules).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

from agentd.errors import ConsulRefused

Access = Literal["read", "write"]


class Authority(Protocol):
    """Knows what its token may do; `ConsulClient` is one."""

    def authorized(self, resource: str, access: str, segment: str) -> bool | None:
        """Whether the token has the right; None if ACLs are disabled."""
        ...


def rule(access: Access, prefix: str) -> str:
    """The ACL rule that grants access to all keys that begin with `prefix`."""
    return f'key_prefix "{prefix}" {{ policy = "{access}" }}'


def missing_rules(authority: Authority, access: Access, prefixes: Iterable[str]) -> list[str]:
    """The rules that the token's policies lack, one for each prefix; empty if they grant everything.

    Raises:
        ConsulUnavailable: Consul cannot answer at the moment.
        ConsulRefused: Consul does not know the token, or does not support the question.
    """
    return [
        rule(access, prefix) for prefix in prefixes if authority.authorized("key", access, prefix) is False
    ]


def demand(authority: Authority, access: Access, prefixes: Iterable[str], purpose: str) -> None:
    """Require that the token has the rights.

    Args:
        authority: knows what the token may do.
        access: "read", or "write", which includes "read".
        prefixes: key prefixes.
        purpose: what needs the rights, such as "publishing".

    Raises:
        ConsulRefused: the token lacks a right; the text has the rules to add. Also as for `missing_rules`.
        ConsulUnavailable: as for `missing_rules`.
    """
    if rules := missing_rules(authority, access, prefixes):
        raise ConsulRefused(f"{purpose} needs more rights: add to the token's policy: {' '.join(rules)}")


@contextmanager
def explained(authority: Authority, access: Access, prefixes: Iterable[str], purpose: str) -> Iterator[None]:
    """Turn Consul's refusals in the block into the rules to add, if missing rights are the reason.

    Raises:
        ConsulRefused: as for `demand`, or otherwise as raised in the block.
        ConsulUnavailable: as for `demand`.
    """
    try:
        yield
    except ConsulRefused:
        demand(authority, access, prefixes, purpose)
        raise


def unseen(authority: Authority) -> str:
    """Why it is unknown which nodes a message with a service filter is for; "" if that is known."""
    if authority.authorized("service", "read", "") is not False:
        return ""
    return 'the token may not see all services; add to its policy: service_prefix "" { policy = "read" }'
