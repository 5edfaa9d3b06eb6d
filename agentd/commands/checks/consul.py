"""Consul: reachable, with a leader, and the rights of our token, each proved by asking for it.

A missing right shows as silence (`200 []`) in Consul's answers; so each one is asked for by name.
"""

from __future__ import annotations

from collections.abc import Iterator

from agentd.commands.checks.finding import Finding
from agentd.config.load import Loaded, OnEvent
from agentd.errors import ConsulError, ConsulRefused
from agentd.watch.client import ConsulClient
from agentd.watch.queries import EventQuery, KeyPrefixQuery
from agentd.watch.query import Right
from agentd.watch.release import changes

_EVERY = "*"


def findings(loaded: Loaded) -> Iterator[Finding]:
    """Reachable first; if it is not, nothing more is asked."""
    try:
        client = ConsulClient(loaded.config.consul)
    except ConsulError as error:
        yield Finding("FAIL", "consul", str(error), "correct the consul section of the configuration")
        return
    try:
        yield from _agent(client)
        yield from _rights(client, loaded)
    except ConsulError as error:
        yield Finding("FAIL", "consul", str(error), "start the local Consul agent, or correct consul.address")
    finally:
        client.close()


def _agent(client: ConsulClient) -> Iterator[Finding]:
    leader = client.leader()
    try:
        info = client.self_info()
    except ConsulRefused:
        yield Finding(
            "warn", "consul",
            "reachable; without agent:read its version is unknown, as is what it missed while it was down",
            f"give the token this rule: {rule(('agent', 'read', ''))}",
        )  # fmt: skip
    else:
        kind = "server" if info.server else "client"
        yield Finding("ok", "consul", f"Consul {info.version}, {kind} {info.node} in {info.datacenter}")
        for change in changes(info.version):
            yield Finding("ok", "consul release", change)
    if leader:
        yield Finding("ok", "consul leader", leader)
    else:
        yield Finding("FAIL", "consul leader", "there is none", "see the log of the Consul servers")


def _rights(client: ConsulClient, loaded: Loaded) -> Iterator[Finding]:
    items = [on for handler in loaded.handlers for on in handler.entry.on]
    queries = sorted({on.query() for on in items}, key=str)
    names = {on.event for on in items if isinstance(on, OnEvent)}
    for query in queries:
        for right in query.needs:
            allowed = client.authorized(*right)
            if allowed is None:
                yield Finding("ok", "acl", "ACLs are disabled: every read is allowed")
                return
            if allowed:
                yield Finding("ok", f"acl {query}", f"the token may {_spoken(right)}")
            elif query == EventQuery() and _may_read(client, names):
                yield Finding(
                    "warn", f"acl {query}", "the token reads only some events: a full ring will go unnoticed",
                    f"give it this rule: {rule(right)}",
                )  # fmt: skip
            else:
                advice = rule(right, below=isinstance(query, KeyPrefixQuery))
                text = f"the token may not {_spoken(right)}: Consul would answer as if there were nothing"
                yield Finding("FAIL", f"acl {query}", text, f"give it this rule: {advice}")


def _may_read(client: ConsulClient, names: set[str]) -> bool:
    return _EVERY not in names and all(client.authorized("event", "read", name) for name in names)


def _spoken(right: Right) -> str:
    resource, access, segment = right
    return f"{access} {resource} {segment!r}" if segment else f"{access} every {resource}"


def rule(right: Right, *, below: bool = False) -> str:
    """The right in the language of Consul's policies; `below` is for everything that begins with the segment.

    https://developer.hashicorp.com/consul/docs/security/acl/acl-rules
    """
    resource, access, segment = right
    kind = f"{resource}_prefix" if below or not segment else resource
    return f'{kind} "{segment}" {{ policy = "{access}" }}'
