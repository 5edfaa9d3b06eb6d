"""Consul as the rest of agentd sees it: py-consul over our own transport.

One place absorbs what Consul and py-consul do not say: the index is a number that follows the status, a 404
of the KV store is an answer, silence may be an ACL. Nothing here repeats a request, waits between two, or
keeps a state; that is the poller's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from consul import base  # type: ignore[import-untyped] # py-consul ships no type information

from agentd.errors import ConsulRefused, ConsulUnavailable
from agentd.watch.changes import Json
from agentd.watch.options import ANSWER_TIME, ConsulOptions
from agentd.watch.transport import ACLsDisabledError, Parameters, Reply, Transport

_AUTHORIZE: Final = "/v1/internal/acl/authorize"
_INDEX_DIGITS: Final = 20  # of 2**64 - 1


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a read.

    Attributes:
        status: 200, or 404 where the KV store has nothing.
        index: X-Consul-Index.
        raw: the parsed JSON; None for a 404.
        known_leader: X-Consul-KnownLeader; True where the endpoint does not say.
        last_contact_ms: milliseconds since the server that answered heard from the leader; None if not said.
        filtered_by_acls: True if Consul (1.11 or later) says that it left something out.
    """

    status: int
    index: int
    raw: Json = field(repr=False)
    known_leader: bool = True
    last_contact_ms: int | None = None
    filtered_by_acls: bool = False


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What the local agent says of itself."""

    node: str
    datacenter: str
    version: str
    server: bool


class ConsulClient(base.Consul):  # type: ignore[misc] # py-consul ships no type information
    """One client a thread: it holds one connection. py-consul's endpoints (`kv`, `session`, ...) work too.

    Args:
        options: where the agent is. The token is read from its file now, and again after a 403.

    Raises:
        ConsulRefused: the token file or a TLS file cannot be used.
    """

    def __init__(self, options: ConsulOptions) -> None:
        self.options = options
        self.stale = options.stale
        self._transport = Transport(options)
        where = options.endpoint
        super().__init__(
            host=where.host, port=where.port, scheme=where.scheme, verify=True, dc=options.datacenter
        )
        # py-consul lets CONSUL_HTTP_TOKEN override everything; the transport adds our token to every request.
        self.token = None

    def http_connect(self, *_: object) -> Transport:
        """Give py-consul our transport in place of its own."""
        return self._transport

    def close(self) -> None:
        """Close for good; from another thread it abandons a poll. A second call does nothing."""
        self._transport.close()

    def get(
        self, path: str, params: Parameters = (), index: int | None = None, wait: float | None = None
    ) -> Answer:
        """Read once; with an index, block until there is a newer one or `wait` is over.

        https://developer.hashicorp.com/consul/api-docs/features/blocking

        Args:
            path: unquoted, such as "/v1/kv/a b".
            params: of the query string, unquoted.
            index: of the last answer; None or 0 for an answer at once.
            wait: seconds, at most 60; `options.wait` by default.

        Raises:
            ConsulUnavailable: no answer, a 5xx, or an answer that is not Consul's.
            ConsulRefused: an answer that says no.
        """
        seconds = self.options.wait if wait is None else wait
        query = [*params, *([("dc", self.dc)] if self.dc else [])]
        if index:
            query += [("index", str(index)), ("wait", f"{seconds:.3f}s")]
        patience = self.options.patience(seconds if index else 0.0)
        return _answer(path, self._transport.request("GET", path, query, patience=patience))

    def send(
        self,
        method: str,
        path: str,
        params: Parameters = (),
        body: bytes = b"",
        patience: float = ANSWER_TIME,
    ) -> Reply:
        """Write once. The answer is a success, a 404, or the 409 of a transaction that was rolled back.

        Args:
            method: PUT or DELETE.
            path: unquoted, such as "/v1/kv/a b".
            params: of the query string, unquoted.
            body: what to send.
            patience: seconds until the answer must have begun.

        Raises:
            ConsulUnavailable: no answer, or a 5xx; whether it was written is not known.
            ConsulRefused: an answer that says no.
        """
        query = [*params, *([("dc", self.dc)] if self.dc else [])]
        return self._transport.request(method, path, query, body=body or None, patience=patience)

    def authorized(self, resource: str, access: str, segment: str) -> bool | None:
        """Ask Consul whether our token has a right; silence is no proof that it has.

        Args:
            resource: event, key, service, node or agent.
            access: read, list or write.
            segment: the name that the right is for; "" asks for all names.

        Returns:
            None where ACLs are disabled, so that there is nothing to be refused.

        Raises:
            ConsulUnavailable: Consul cannot say now.
            ConsulRefused: the token is unknown to Consul, or this Consul cannot be asked.
        """
        asked = [{"Resource": resource, "Access": access, "Segment": segment}]
        params = [("dc", self.dc)] if self.dc else []
        try:
            reply = self._transport.request("POST", _AUTHORIZE, params, body=json.dumps(asked).encode())
        except ACLsDisabledError:
            return None
        answer = _json(_AUTHORIZE, reply)
        if reply.status != HTTPStatus.OK or not isinstance(answer, list) or len(answer) != 1:
            raise ConsulRefused(
                f"this Consul does not say whether the token may {access} {resource} {segment!r}"
            )
        return bool(answer[0].get("Allow"))

    def fire(self, name: str, payload: bytes = b"") -> str:
        """Fire a user event, and return its ID.

        Raises:
            ConsulUnavailable: no server is reachable, or the payload is too large (older agents answer 500).
            ConsulRefused: the token may not fire it.
        """
        return str(_field(self.event.fire(name, body=payload), "ID"))

    def self_info(self) -> AgentInfo:
        """What the local agent says of itself (needs agent:read).

        Raises:
            ConsulError: no answer, or one that says no.
        """
        config = _field(self.agent.self(), "Config")
        return AgentInfo(
            node=str(_field(config, "NodeName")),
            datacenter=str(_field(config, "Datacenter")),
            version=str(_field(config, "Version")),
            server=bool(_field(config, "Server")),
        )

    def leader(self) -> str:
        """The address of the leader, or "" if there is none.

        Raises:
            ConsulError: no answer, or one that says no.
        """
        return str(self.status.leader() or "")


def _field(answer: Json, name: str) -> Any:  # noqa: ANN401 (any JSON)
    if not isinstance(answer, Mapping) or name not in answer:
        raise ConsulUnavailable(f"Consul's answer has no {name}: is this a Consul agent?")
    return answer[name]


def _answer(path: str, reply: Reply) -> Answer:
    """The status comes first: an error carries an index too, and it means nothing."""
    headers = reply.headers
    index = headers.get("X-Consul-Index", "")
    if not (index.isascii() and index.isdigit() and len(index) <= _INDEX_DIGITS):
        if reply.status == HTTPStatus.NOT_FOUND:
            raise ConsulRefused(f"Consul knows no {path}: correct consul.address, or use a newer Consul")
        raise ConsulUnavailable(f"the answer to {path} has no X-Consul-Index: correct consul.address")
    contact = headers.get("X-Consul-LastContact", "")
    return Answer(
        status=reply.status,
        index=int(index),
        raw=None if reply.status == HTTPStatus.NOT_FOUND else _json(path, reply),
        known_leader=headers.get("X-Consul-KnownLeader", "true") != "false",
        last_contact_ms=int(contact) if contact.isascii() and contact.isdigit() else None,
        filtered_by_acls=headers.get("X-Consul-Results-Filtered-By-ACLs") == "true",
    )


def _json(path: str, reply: Reply) -> Json:
    try:
        return json.loads(reply.body)
    except ValueError as error:
        raise ConsulUnavailable(f"the answer to {path} is not JSON: correct consul.address") from error
