"""This node's acknowledgement as it stands in Consul: who may write it.

Owns the check-and-set. The document is written on the index of this daemon's own last write. If another node,
or another daemon on this one, writes under the same name, one of the two loses the race, reports that, and
leaves the document to the other, so that they do not keep overwriting each other.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from typing import Final

import structlog

from agentd.errors import AgentdError, ConsulRefused, ConsulUnavailable
from agentd.fleet.acknowledgement import Acknowledgement
from agentd.fleet.acknowledgement_codec import DocumentError, parse
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV, cas
from agentd.watch.client import ConsulClient

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INSTANCE: Final = secrets.token_hex(4)  # identifies this process

_log = structlog.get_logger()


class NameTaken(AgentdError):  # noqa: N818 (the name says what happened)
    """Another node, or another daemon, acknowledges under this node's name."""


class OwnDocument:
    """The document of one daemon; used from one thread.

    Args:
        keys: the fleet's keys.

    Attributes:
        instance: identifies this daemon in its documents.
        rivalled: whether another daemon at the same Consul agent took the document over while this one ran.
    """

    def __init__(self, keys: Keys) -> None:
        self.instance = _INSTANCE
        self.rivalled = False
        self._keys = keys
        self._node = ""
        self._node_id = ""
        self._index: int | None = None  # of this daemon's last write; None if it must be looked up

    def rename(self, node: str, node_id: str) -> None:
        """Write as this node, whose Consul agent has this ID, from now on."""
        self._node, self._node_id, self._index = node, node_id, None

    def is_intact(self, client: ConsulClient) -> bool:
        """Whether the document is still as this daemon wrote it; if not, note whether a rival wrote it."""
        if self._index is None:
            return True
        pair = ConsulKV(client).pair(self._keys.node(self._node))
        if (pair.index if pair else 0) == self._index:
            return True
        self._index = None
        self.rivalled = self._is_rival(_parsed(pair.value) if pair else None)
        return False

    def write(self, client: ConsulClient, data: bytes) -> None:
        """Write the document.

        Raises:
            NameTaken: it is another node's or another daemon's.
            ConsulRefused: the token lacks the right; the text has the rule to add.
            ConsulUnavailable: there was no answer, or others keep overwriting the document.
        """
        kv, key = ConsulKV(client), self._keys.node(self._node)
        known, self._index = self._index, None  # without an answer, the index is unknown
        try:
            index = self._claim(kv, client, key) if known is None else known
            self._index = _put(kv, key, data, index)
            if self._index is None:
                self._index = _put(kv, key, data, self._reclaim(kv, key))
        except ConsulRefused as error:
            rule = f'key "{key}" {{ policy = "write" }}'
            raise ConsulRefused(
                f"acknowledging as {self._node} needs more rights: add to the token's policy: {rule}: {error}"
            ) from error
        if self._index is None:
            raise ConsulUnavailable("others keep overwriting this node's acknowledgement")

    def _claim(self, kv: ConsulKV, client: ConsulClient, key: str) -> int:
        """The index to write on, before the first write. A document of a node that is gone is taken over.

        Raises:
            NameTaken: the document is that of another node that is in the catalogue.
        """
        pair = kv.pair(key, consistent=True)
        other = _parsed(pair.value) if pair else None
        if other and other.node_id != self._node_id and other.stopped is None:
            if not self._is_gone(client, other.node_id):
                raise NameTaken(self._taken_by(other))
            _log.warning("fleet.name_taken_over", node=self._node, from_agent=other.node_id)
        if self.rivalled:
            return self._reclaim(kv, key)
        return pair.index if pair else 0  # another instance is this daemon's previous process

    def _reclaim(self, kv: ConsulKV, key: str) -> int:
        """The index to write on, after somebody else wrote or removed the document.

        Raises:
            NameTaken: another node or daemon wrote it.
        """
        pair = kv.pair(key, consistent=True)
        other = _parsed(pair.value) if pair else None
        if other and other.node_id != self._node_id:
            raise NameTaken(self._taken_by(other))
        self.rivalled = self._is_rival(other)
        if self.rivalled:
            raise NameTaken(
                f"another daemon at the same Consul agent acknowledges as {self._node}: set a different"
                " fleet.node for each of them, and restart them"
            )
        return pair.index if pair else 0

    def _is_rival(self, other: Acknowledgement | None) -> bool:
        """Whether another daemon at the same Consul agent wrote this, and has not said that it stopped."""
        return (
            other is not None
            and other.node_id == self._node_id
            and other.instance not in ("", self.instance)
            and other.stopped is None
        )

    def _is_gone(self, client: ConsulClient, other: str) -> bool:
        """Whether the catalogue has no agent with this ID; it is trusted only if it has our own agent."""
        if not _UUID.fullmatch(other):
            return True
        question = f'ID == "{other}" or ID == "{self._node_id}"'
        found = client.get("/v1/catalog/nodes", [("filter", question)]).raw or ()
        ids = {one.get("ID") for one in found if isinstance(one, dict)}
        return self._node_id in ids and other not in ids

    def _taken_by(self, other: Acknowledgement) -> str:
        return (
            f"another node acknowledges as {self._node} (its Consul agent has the ID {other.node_id}): set a"
            " different fleet.node on one of them or, if that one is gone for good, run"
            f" `agentd fleet forget {self._node}`"
        )


def _put(kv: ConsulKV, key: str, data: bytes, index: int) -> int | None:
    """Write the key, and return its new index; None if `index` is no longer the current one."""
    done = kv.write([cas(key, data, index)])
    if done.failures:
        return None
    found = done.results[0].get("ModifyIndex") if done.results else None
    if type(found) is not int:
        raise ConsulUnavailable("the answer to a transaction has no ModifyIndex: is this a Consul agent?")
    return found


def _parsed(raw: bytes) -> Acknowledgement | None:
    """The document; None if it is junk, which anybody may overwrite."""
    with suppress(DocumentError):
        return parse(raw)
    return None
