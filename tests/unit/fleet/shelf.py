"""A log as it lies in Consul, written by a test: also as no agentd would write it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from agentd.errors import ConsulUnavailable
from agentd.fleet.envelope import LARGEST_BODY, Draft, Envelope
from agentd.fleet.head import Head
from agentd.fleet.keys import Keys
from agentd.trust.keyring import Signer
from agentd.watch.kv import Pair

NOW = 1_700_000_000.0


@dataclass
class Shelf:
    """The keys of one fleet, and what a `Reader` needs of a key-value store.

    Attributes:
        down: whether it does not answer.
        asked: how often it was asked.
        answers: is called before each answer; what it raises, the question does.
        written: is called with each key that is written.
    """

    keys_of: Keys = field(default_factory=lambda: Keys("test"))
    values: dict[str, bytes] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    down: bool = False
    asked: int = 0
    answers: Callable[[], None] = lambda: None
    written: Callable[[str, bytes], None] = lambda _key, _value: None

    # ------------------------------------------------------------------ read

    def pairs(self, keys: Iterable[str], *, consistent: bool = False) -> dict[str, Pair]:  # noqa: ARG002 (as KV)
        """See `KV`."""
        self._answer()
        return {key: Pair(key, self.values[key], 0, "", 1) for key in keys if key in self.values}

    def pair(self, key: str, *, consistent: bool = False) -> Pair | None:
        """See `KV`."""
        return self.pairs([key], consistent=consistent).get(key)

    def keys(self, prefix: str, *, consistent: bool = False) -> tuple[str, ...]:  # noqa: ARG002 (as KV)
        """See `KV`."""
        self._answer()
        return tuple(sorted(key for key in self.values if key.startswith(prefix)))

    def _answer(self) -> None:
        self.asked += 1
        self.answers()
        if self.down:
            raise ConsulUnavailable("nothing is listening there")

    # ------------------------------------------------------------------ write

    def put(self, key: str, value: bytes) -> None:
        """Write one key."""
        self.values[key] = value
        self.written(key, value)

    def publish(
        self,
        name: str,
        body: bytes | str,
        *,
        num: int = 0,
        keep: str = "all",
        signer: Signer | None = None,
        **more: Any,  # noqa: ANN401 (fields of a draft)
    ) -> Envelope:
        """Append one message, and let the head name it."""
        head = self.heads.get(name) or Head(keep)  # type: ignore[arg-type]
        num = num or head.newest + 1
        fields: dict[str, Any] = {"issued": NOW, "publisher": "test", "id": f"{name}-{num}"} | more
        draft = Draft(body=body.encode() if isinstance(body, str) else body, **fields)
        message = draft.numbered(self.keys_of.fleet, name, num, head.newest, signer=signer)
        if len(draft.body) > LARGEST_BODY:
            self.put(self.keys_of.body(draft.sha256 or ""), draft.body)
        self.put(self.keys_of.message(name, num), message.raw)
        recent = (*head.recent, num)[-60:]
        self.head(
            name,
            Head(
                head.keep,
                newest=num,
                oldest=head.oldest or num,
                count=head.count + 1,
                cut=head.cut,
                mended=head.mended,
                snapshot=num if message.snapshot else head.snapshot,
                recent=recent,
                inline=message.raw,
            ),
        )
        return message

    def head(self, name: str, head: Head) -> None:
        """Write a head."""
        self.heads[name] = head
        self.put(self.keys_of.head(name), head.render())
