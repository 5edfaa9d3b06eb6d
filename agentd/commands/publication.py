"""One message on its way into the fleet's log: for `agentd publish`, at once or in steps.

Owns what is refused before anything is written: a name that no node keeps, a message that a handler on this
node would refuse, or that other nodes would not understand or not believe. Never prints the payload.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agentd.commands.publisher import publisher
from agentd.commands.target import described, matching
from agentd.commands.to_consul import nothing_yet
from agentd.errors import AgentdError, BadDocument, ConsulError, ConsulRefused, ConsulUnavailable, Untrusted
from agentd.printable import printable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from agentd.commands.to_fleet import ReachedFleet
    from agentd.fleet.envelope import Draft, Envelope
    from agentd.fleet.head import Head, Keep
    from agentd.fleet.rights import Access

_PURPOSE: Final = "publishing"


class Prepared(NamedTuple):
    """A message that may be written.

    Attributes:
        draft: the message.
        keep: how its name is kept, or will be.
        head: of the name, as it was read; None if there is none that can be used.
        above: the highest number that a node acknowledges.
        matches: the nodes that it is for now; None for all, or if unknown.
        tried: what became of it in the dry run here, by handler.
    """

    draft: Draft
    keep: Keep
    head: Head | None
    above: int
    matches: list[str] | None
    tried: list[dict[str, str]]


class Publication:
    """One message to be published.

    Args:
        arguments: of `agentd publish`.
        reached: the fleet.

    Attributes:
        log: writes it.
        signing: who signs it.
    """

    def __init__(self, arguments: Namespace, reached: ReachedFleet) -> None:
        from agentd.commands.rehearsal import takers  # noqa: PLC0415 (parsing does without)
        from agentd.commands.signing import check_typed, read_signing  # noqa: PLC0415 (as above)
        from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)
        from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)
        from agentd.fleet.log import Log  # noqa: PLC0415 (as above)

        self._arguments = arguments
        self._name: str = arguments.name
        self._reached = reached
        self.signing = read_signing(reached)
        self.signing.check(self._name)
        if self.signing.seals(self._name):
            check_typed(self._name, arguments.payload)
        self.log = Log(
            ConsulKV(reached.client),
            Keys(reached.name),
            signer=self.signing.signer,
            believes=self.signing.believes,
        )
        # The configuration of another fleet does not apply.
        self._takers = takers(reached.document if reached.options else None, self._name)

    def prepare(self, typed: bytes | None) -> Prepared:
        """Find out whether it may be written, and try it here. Raises what `execute` raises."""
        from agentd.commands.understood import ROLLOUTS, require_understood  # noqa: PLC0415 (as above)
        from agentd.fleet.envelope import FORMAT, SIGNED  # noqa: PLC0415 (as above)
        from agentd.fleet.keys import POISONED  # noqa: PLC0415 (as above)

        keys, signer = self.log.keys, self.signing.signer
        with nothing_yet("published"):
            with self._needs("read", keys.head(self._name), keys.messages(self._name), keys.record):
                head = self._head()
                keep = self._keep(head)
                self._compare_with_newest(head)
                draft = self._draft(typed)
                form = SIGNED if signer else FORMAT
                least = ROLLOUTS if self._arguments.canary else 0
                require_understood(self.log, self._reached.client, form, _PURPOSE, least=least)
                if self._arguments.canary:
                    self._require_whole(draft, keep)
            num = max(head.newest + 1 if head else 0, int(draft.issued * 1000))
            # Close enough to the final message for a check of its size and fields.
            message = draft.numbered(self._reached.name, self._name, min(num, POISONED - 1), 0, signer=signer)
            matches = self._matching(message)
            tried = [] if self._arguments.no_dry_run else self._rehearse(message, draft.body)
            self._warn_if_frozen()
            above = self._acknowledged(draft)  # Consul may have lost it, and our clock may be behind
        return Prepared(draft, keep, head, above, matches, tried)

    def told(self, prepared: Prepared, num: int) -> dict[str, Any]:
        """The result for `--json`, of a message that was written under this number."""
        from agentd.digest import digest  # noqa: PLC0415 (as above)

        draft = prepared.draft
        return {
            "fleet": self._reached.name,
            "name": self._name,
            "num": num,
            "id": draft.id,
            "payload": digest(draft.body),
            "bytes": len(draft.body),
            "expires": draft.expires,
            "signed_by": self.signing.publisher,
            "sealed": draft.sealed,
            "matches": prepared.matches,
            "tried": prepared.tried,
        }

    def _head(self) -> Head | None:
        """The head of the name; None if it is missing or malformed.

        Raises:
            UnknownFormat: a newer agentd wrote it.
            ConsulRefused: the token may not see whether there is one.
        """
        try:
            head = self.log.head(self._name)
        except BadDocument as error:
            if not self._arguments.keep:
                raise AgentdError(
                    f"{self._name}: {error}; add --keep latest or --keep all to rebuild it from the messages"
                    " that are there"
                ) from error
            return None
        if head is None:
            self._demand("read", self.log.keys.head(self._name))
        return head

    def _keep(self, head: Head | None) -> Keep:
        """How the name is kept, or will be. Raises AgentdError if that is unknown or contradictory."""
        asked: Keep | None = self._arguments.keep
        if head is not None:
            if head.is_empty:  # an empty log can be kept in either way
                return asked or head.keep
            if asked not in (None, head.keep):
                raise AgentdError(
                    f"{self._name} is already kept, as {head.keep!r}: leave out --keep, or drop its messages"
                    f" first with `agentd log forget {self._name}`"
                )
            # Whoever published first may not have known that nodes need all messages.
            return "all" if "all" in self._takers.values() else head.keep
        keep = asked or next(filter(None, self._takers.values()), None)
        if keep is None:
            raise AgentdError(
                f"no node is known to keep {self._name!r}: the fleet {self._reached.name!r} has no messages"
                " of that name, and no handler here has it with `keep:`; correct the name, or, if handlers on"
                " other nodes keep it, add --keep latest or --keep all"
            )
        return keep

    def _require_whole(self, draft: Draft, keep: Keep) -> None:
        """Raises AgentdError if this message cannot go out in steps."""
        if keep != "latest":
            raise AgentdError(
                f"{self._name} is kept as 'all', where each message adds to those before it, so that nodes"
                " cannot get one later than others: leave out --canary"
            )
        if draft.node or draft.service or draft.tag or draft.snapshot:
            raise AgentdError(
                f"message {self._arguments.again} of {self._name} is a snapshot, or only for some nodes:"
                " publish its payload anew with --canary"
            )

    def _draft(self, typed: bytes | None) -> Draft:
        """The message to write. Raises AgentdError."""
        from agentd.fleet.envelope import Draft  # noqa: PLC0415 (as above)

        arguments, now = self._arguments, time.time()
        expires = None if arguments.ttl is None else now + arguments.ttl
        if arguments.again:
            return self._earlier(arguments.again, now, expires)
        return Draft(
            body=self._pinned() if typed is None else typed,
            issued=now,
            publisher=publisher(),
            expires=expires,
            node=arguments.node or "",
            service=arguments.service or "",
            tag=arguments.tag or "",
            snapshot=arguments.snapshot,
            sealed=self.signing.seals(self._name),
        )

    def _compare_with_newest(self, head: Head | None) -> None:
        """Warn, or raise AgentdError, if the newest message is signed or sealed, and this one will not be."""
        if head is None or head.is_empty:
            return
        try:
            newest = self.log.message(self._name, head.newest)
        except BadDocument:  # junk, which nobody believes
            return
        if warning := self.signing.check_newest(newest, self._name):
            _warn(warning)

    def _earlier(self, num: int, now: float, expires: float | None) -> Draft:
        """An earlier message, to be written again."""
        message = self.log.message(self._name, num)
        if message is None:
            raise AgentdError(
                f"there is no message {num} of {self._name}: `agentd log {self._name}` lists the messages"
            )
        try:
            body = self.signing.body(message, self.log)
        except Untrusted as error:
            raise AgentdError(
                f"not published: message {num} of {self._name} is not believed here ({error}): publish its"
                " payload anew if it is right"
            ) from error
        if body is None:
            raise AgentdError(f"the payload of message {num} of {self._name} is no longer in Consul")
        draft = message.again(body, issued=now, publisher=publisher(), expires=expires)
        return replace(draft, sealed=draft.sealed or self.signing.seals(self._name))

    def _pinned(self) -> bytes:
        from agentd.commands.pinned_reference import pin  # noqa: PLC0415 (only a reference needs it)
        from agentd.commands.to_consul import consul_options  # noqa: PLC0415 (as above)

        # Nodes read a kv: reference in their own datacenter, not in the fleet's.
        here = consul_options(self._arguments)
        fetch, left = not self._arguments.no_dry_run, self._reached.client.time_left()
        return pin(
            self._arguments.reference, self._reached.document, here, fetch=fetch, seconds=left
        ).encode()

    def _matching(self, message: Envelope) -> list[str] | None:
        """The nodes that the message is for; None for all, or if unknown. Warns if there are none."""
        try:
            found = matching(message, self.log.keys, self._reached.client)
        except ConsulError as error:
            _warn(f"cannot tell whether any node matches: {error}")
            return None
        if found == []:
            _warn(f"no node matches {described(message)} at the moment")
        return found

    def _rehearse(self, message: Envelope, body: bytes) -> list[dict[str, str]]:
        """Try the message on this node's handlers. Raises AgentdError if one of them would refuse it."""
        if not self._takers:
            return []
        from agentd.commands.rehearsal import INSTEAD, rehearse  # noqa: PLC0415 (as above)
        from agentd.fleet.receipt import event_of  # noqa: PLC0415 (as above)

        if not any(self._takers.values()):  # a payload, which may be secret, must not be stored for nothing
            raise AgentdError(
                f"not published: {', '.join(self._takers)} here would not get it, since `keep:` is missing"
                f" beside `event: {self._name}`: add it, or {INSTEAD}"
            )
        change = event_of(message, body, message.issued, live=True)
        change = change.opened(body) if message.is_sealed else change
        told = rehearse(self._arguments.config, self._takers, change)
        for one in told:
            sys.stderr.write(f"agentd: dry run here: {one['handler']} would be {one['outcome']}\n")
        return [{"handler": one["handler"], "outcome": one["outcome"]} for one in told]

    def write(self, prepared: Prepared, newest: int | None = None) -> int:
        """Write the message, and return its number; if the token lacks a right, the error names it.

        Args:
            prepared: the message.
            newest: write only if this is still the number of the newest message; 0 if there never was one.

        Raises:
            Overtaken: it is not, and nothing was written.
            ConsulUnavailable: there was no answer; the message may have been written.
        """
        from agentd.fleet.log import PATIENCE  # noqa: PLC0415 (as above)

        keys = self.log.keys
        prefixes = [keys.head(self._name), keys.messages(self._name), keys.pruned(self._name)]
        if prepared.draft.sha256:
            prefixes.append(keys.bodies)
        if prepared.head is None:  # the very first message also writes the fleet's record
            prefixes.append(keys.record)
        left = self._reached.client.time_left
        try:
            with self._needs("write", *prefixes):
                return self.log.publish(
                    self._name,
                    prepared.draft,
                    keep=prepared.keep,
                    above=prepared.above,
                    newest=newest,
                    patience=min(PATIENCE, left()),
                    pause=lambda seconds: time.sleep(min(seconds, left())),
                )
        except ConsulUnavailable as error:
            raise ConsulUnavailable(
                f"{error}; it may or may not have been published: see `agentd log {self._name}`"
            ) from error

    def _acknowledged(self, draft: Draft) -> int:
        """The highest number that a node acknowledges. Warns if no node keeps the name.

        Raises:
            AgentdError: nodes have the document of a rotation, and the message would replace it for good, or
                not reach all of them.
        """
        from agentd.fleet.census import Census  # noqa: PLC0415 (as above)
        from agentd.fleet.rotation_report import is_rotated  # noqa: PLC0415 (as above)

        client, keys = self._reached.client, self.log.keys
        try:
            documents = Census(client, keys).documents()
            if not documents.keep(self._name) and client.authorized("key", "read", keys.nodes) is not False:
                _warn(f"no node of the fleet {self._reached.name!r} keeps {self._name!r} at the moment")
        except ConsulRefused:  # it is not needed for publishing
            return 0
        is_partial = self._arguments.canary or draft.node or draft.service or draft.expires is not None
        if (is_partial or not draft.body.startswith(b"{")) and is_rotated(
            documents.found.values(), self._name
        ):
            why = "all nodes need the same keys" if is_partial else "this would end that"
            raise AgentdError(
                f"not published: the keys of {self._name!r} are rotated step by step, and {why}: use `agentd"
                " rotate-tickets`"
            )
        return documents.reached(self._name, time.time())

    def _warn_if_frozen(self) -> None:
        """Warn if nodes will hold the message back."""
        from agentd.commands.frozen import read_now  # noqa: PLC0415 (as above)

        freeze, unknown = read_now(self._reached, time.time())
        for why in unknown:
            _warn(why)
        if freeze:
            _warn(
                f"the fleet is {freeze}: nodes hold this back until `agentd thaw`, unless the name is urgent"
                " to them (`fleet.urgent`)"
            )

    def _demand(self, access: Access, prefix: str) -> None:
        from agentd.fleet.rights import demand  # noqa: PLC0415 (as above)

        demand(self._reached.client, access, [prefix], _PURPOSE)

    def _needs(self, access: Access, *prefixes: str) -> AbstractContextManager[None]:
        from agentd.fleet.rights import explained  # noqa: PLC0415 (as above)

        return explained(self._reached.client, access, prefixes, _PURPOSE)


def _warn(text: str) -> None:
    sys.stderr.write(f"agentd: warning: {printable(text)}\n")
