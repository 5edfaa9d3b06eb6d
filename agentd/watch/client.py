"""Consul as the rest of agentd sees it: py-consul over our own transport.

This one place deals with what Consul and py-consul leave implicit: an index counts only after the status was
checked, a 404 from the KV store is an answer, an empty answer may be due to an ACL. Nothing here repeats a
request, waits between two, or keeps state; that is up to the poller.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from agentd.errors import ConsulRefused, ConsulTooLarge, ConsulUnavailable
from agentd.http import Response
from agentd.watch.changes import Json
from agentd.watch.options import ConsulOptions
from agentd.watch.parsing import Odd, Parsed, TooHeavyError, parse
from agentd.watch.py_consul import base
from agentd.watch.transport import ACLsDisabledError, Parameters, Transport

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
        filtered_by_acls: True if Consul (1.11 or later) says that it left something out.
        odd: the items of the list that are not in `raw`, because they could not be read.
    """

    status: int
    index: int
    raw: Json = field(repr=False)
    known_leader: bool = True
    filtered_by_acls: bool = False
    odd: tuple[Odd, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What the local agent says about itself.

    Attributes:
        node: its name.
        node_id: its ID, which it makes anew if its data directory is lost.
        members: how many agents of its datacenter it knows, itself included.
    """

    node: str
    datacenter: str
    version: str
    server: bool
    node_id: str = ""
    members: int = 1


@dataclass(frozen=True, slots=True)
class EventClock:
    """The agent's Lamport clock of events: the time that the next event gets, after all that it knows.

    Attributes:
        time: 0 before the agent has started it.
        node: the agent's ID, which it makes anew if its data directory is lost.
        alone: whether it knows no other agent: it has not joined them, or there is none.
    """

    time: int
    node: str
    alone: bool = False


class ConsulClient(base.Consul):  # type: ignore[misc] # py-consul ships no type information
    """One client per thread: it holds one connection. py-consul's endpoints (`kv`, `session`, ...) work too.

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
        """Give py-consul our transport instead of its own."""
        return self._transport

    def close(self) -> None:
        """Close for good; from another thread it abandons a poll. A second call does nothing."""
        self._transport.close()

    def end_by(self, at: float) -> None:
        """Give up whatever is not answered by then (monotonic seconds), and ask nothing after it."""
        self._transport.end_by(at)

    def time_left(self) -> float:
        """Seconds until the time set by `end_by`; infinite without one."""
        return self._transport.time_left()

    def get(
        self,
        path: str,
        params: Parameters = (),
        index: int | None = None,
        wait: float | None = None,
        read: Callable[[bytes], Parsed] = parse,
    ) -> Answer:
        """Read once; with an index, block until there is a newer one or `wait` is over.

        https://developer.hashicorp.com/consul/api-docs/features/blocking

        Args:
            path: unquoted, such as "/v1/kv/a b".
            params: of the query string, unquoted.
            index: of the last answer; None or 0 for an answer at once.
            wait: seconds, at most 60; `options.wait` by default.
            read: reads the JSON; raises ValueError.

        Raises:
            ConsulUnavailable: no answer, a 5xx, or an answer that is not Consul's.
            ConsulRefused: an answer that says no.
        """
        seconds = self.options.wait if wait is None else wait
        query = [*params, *([("dc", self.dc)] if self.dc else [])]
        if index:
            query += [("index", str(index)), ("wait", f"{seconds:.3f}s")]
        patience = self.options.patience(seconds if index else 0.0)
        return _answer(path, self._transport.request("GET", path, query, patience=patience), read)

    def send(
        self,
        method: str,
        path: str,
        params: Parameters = (),
        body: bytes = b"",
        patience: float | None = None,
    ) -> Response:
        """Write once. The answer is a success, a 404, or the 409 of a transaction that was rolled back.

        Args:
            method: PUT or DELETE.
            path: unquoted, such as "/v1/kv/a b".
            params: of the query string, unquoted.
            body: what to send.
            patience: seconds until the answer must have begun; as `options` has it by default.

        Raises:
            ConsulUnavailable: no answer, or a 5xx; whether it was written is not known.
            ConsulRefused: an answer that says no.
        """
        query = [*params, *([("dc", self.dc)] if self.dc else [])]
        seconds = self.options.patience(0.0) if patience is None else patience
        return self._transport.request(method, path, query, body=body or None, patience=seconds)

    def authorized(self, resource: str, access: str, segment: str) -> bool | None:
        """Ask Consul whether our token has a right; an answer without an error does not prove it.

        Args:
            resource: event, key, service, node or agent.
            access: read, list or write.
            segment: the name that the right is for; "" asks for all names.

        Returns:
            None if ACLs are disabled, so that nothing can be refused.

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
        answer = _parsed(_AUTHORIZE, reply).value
        one = answer[0] if isinstance(answer, list) and len(answer) == 1 else None
        if reply.status != HTTPStatus.OK or not isinstance(one, dict):
            raise ConsulRefused(
                f"this Consul does not say whether the token may {access} {resource} {segment!r}"
            )
        return one.get("Allow") is True

    def fire(self, name: str, payload: bytes = b"") -> str:
        """Fire a user event, and return its ID.

        Raises:
            ConsulUnavailable: no server is reachable.
            ConsulRefused: the token may not fire it, or it is too large (older agents answer 500, newer 413).
        """
        try:
            return str(_field(self.event.fire(name, body=payload), "ID"))
        except ConsulUnavailable as error:
            if "exceeds configured limit" in str(error):
                raise ConsulRefused(f"the event is too large: {error}") from error
            raise

    def self_info(self) -> AgentInfo:
        """What the local agent says about itself (needs agent:read).

        Raises:
            ConsulError: no answer, or one that says no.
        """
        told = self.agent.self()
        config = _field(told, "Config")
        members = str(_field(_field(_field(told, "Stats"), "serf_lan"), "members"))
        return AgentInfo(
            node=str(_field(config, "NodeName")),
            datacenter=str(_field(config, "Datacenter")),
            version=str(_field(config, "Version")),
            server=bool(_field(config, "Server")),
            node_id=str(_field(config, "NodeID")),
            members=int(members) if members.isdecimal() and len(members) <= _INDEX_DIGITS else 1,
        )

    def event_clock(self) -> EventClock:
        """The agent's Lamport clock of events (needs agent:read).

        Raises:
            ConsulError: no answer, or one that says no.
        """
        told = self.agent.self()
        serf = _field(_field(told, "Stats"), "serf_lan")
        time = str(_field(serf, "event_time"))
        if not _is_number(time):
            raise ConsulUnavailable("Consul's answer has no event_time: is this a Consul agent?")
        node = str(_field(_field(told, "Config"), "NodeID"))
        return EventClock(int(time), node, alone=str(_field(serf, "members")) == "1")

    def members(self) -> int:
        """How many agents of its datacenter the local one knows (needs agent:read).

        Raises:
            ConsulError: no answer, or one that says no.
        """
        told = str(_field(_field(_field(self.agent.self(), "Stats"), "serf_lan"), "members"))
        if not _is_number(told):
            raise ConsulUnavailable("Consul's answer has no number of members: is this a Consul agent?")
        return int(told)

    def leader(self) -> str:
        """The address of the leader, or "" if there is none.

        Raises:
            ConsulError: no answer, or one that says no.
        """
        return str(self.status.leader() or "")


def _is_number(text: str) -> bool:
    """Whether it is one of Consul's 64-bit numbers."""
    return text.isascii() and text.isdigit() and len(text) <= _INDEX_DIGITS


def _field(answer: Json, name: str) -> Any:  # noqa: ANN401 (any JSON)
    if not isinstance(answer, Mapping) or name not in answer:
        raise ConsulUnavailable(f"Consul's answer has no {name}: is this a Consul agent?")
    return answer[name]


def _answer(path: str, reply: Response, read: Callable[[bytes], Parsed] = parse) -> Answer:
    """The status comes first: an error carries an index too, and it means nothing."""
    headers = reply.headers
    index = headers.get("X-Consul-Index", "")
    if not _is_number(index):
        if reply.status == HTTPStatus.NOT_FOUND:
            raise ConsulRefused(f"Consul knows no {path}: is this a Consul agent, and new enough?")
        raise ConsulUnavailable(f"the answer to {path} has no X-Consul-Index: is this a Consul agent?")
    parsed = Parsed(None) if reply.status == HTTPStatus.NOT_FOUND else _parsed(path, reply, read)
    return Answer(
        status=reply.status,
        index=int(index),
        raw=parsed.value,
        known_leader=headers.get("X-Consul-KnownLeader", "true") != "false",
        filtered_by_acls=headers.get("X-Consul-Results-Filtered-By-ACLs") == "true",
        odd=tuple(parsed.odd),
    )


def _parsed(path: str, reply: Response, read: Callable[[bytes], Parsed] = parse) -> Parsed:
    try:
        return read(reply.body)
    except TooHeavyError as error:
        raise ConsulTooLarge(f"the answer to {path} cannot be read: {error}") from error
    except ValueError as error:
        raise ConsulUnavailable(
            f"the answer to {path} is not JSON that agentd can read ({error}): is this a Consul agent?"
        ) from error
