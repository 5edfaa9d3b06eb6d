"""`agentd publish`: writes a message to the fleet's log, without an event, from any host.

Owns what is refused before anything is written: a payload that is too large, a name that no node keeps, a
message that a handler on this node would refuse, or that other nodes would not understand or not believe.
Never prints the payload.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from agentd.commands import argument_types
from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.commands.payload import add_payload_arguments, read_payload
from agentd.commands.publisher import publisher
from agentd.commands.target import add_target_arguments, check_target, described, matching
from agentd.commands.to_consul import nothing_yet
from agentd.commands.to_fleet import add_fleet_arguments, fleet
from agentd.commands.wait_for_fleet import FleetWait, add_wait_for_fleet
from agentd.errors import (
    AgentdError,
    BadDocument,
    ConfigError,
    ConsulError,
    ConsulRefused,
    ConsulUnavailable,
    Untrusted,
)
from agentd.printable import printable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from agentd.commands.to_fleet import ReachedFleet
    from agentd.fleet.envelope import Draft, Envelope
    from agentd.fleet.head import Head, Keep
    from agentd.fleet.rights import Access

_PURPOSE: Final = "publishing"


def add_arguments(parser: Parser) -> None:
    """Add the options for the name, the payload, the nodes it is for, and its validity."""
    parser.add_example(
        'agentd publish ip-blacklist "add 192.0.2.7 10m"',
        "agentd publish deploy --reference https://builds.example/site.tar.gz --node '^web'",
        "agentd publish deploy --again 1790000000000",
    )
    parser.usage = "%(prog)s [options] NAME [PAYLOAD]"
    parser.add_argument(
        "name",
        type=argument_types.kept_name,
        metavar="NAME",
        help="name of the event, as in `on:` of a handler",
    )
    add_payload_arguments(parser)
    parser.add_argument(
        "--reference",
        type=argument_types.word,
        metavar="R",
        help="publish a reference (kv:, file:, http(s):, s3:, gs:) as `R sha256:HEX`; R is fetched to compute"
        " or verify the digest if `sources.allow` in the configuration file permits it",
    )
    parser.add_argument(
        "--again",
        type=argument_types.message_number,
        metavar="NUM",
        help="publish an earlier message again; `agentd log` shows its number",
    )
    add_target_arguments(parser)
    parser.add_argument(
        "--ttl",
        type=argument_types.some_seconds,
        metavar="T",
        help="how long the message is valid, such as 10m (default: for good)",
    )
    parser.add_argument(
        "--snapshot",
        action="store_true",
        help="the payload replaces all earlier messages of the name, which are then dropped",
    )
    parser.add_argument(
        "--keep",
        choices=("latest", "all"),
        help="for a new name: keep only the latest message, or all that have not expired",
    )
    parser.add_argument(
        "--no-dry-run",
        action="store_true",
        help="do not try the message on the handlers here first, nor fetch a reference whose digest is given",
    )
    add_wait_for_fleet(parser)
    add_fleet_arguments(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Try the message here, write it, and print its name and number; with `--wait` also the fleet's progress.

    Raises:
        ConfigError: the options contradict each other, or the configuration is invalid.
        AgentdError: the message is not published; the text says why.
        ConsulUnavailable: there was no answer; the message may have been written.
    """
    from agentd.commands.upkeep import upkeep  # noqa: PLC0415 (parsing does without)
    from agentd.fleet.envelope import LARGEST_BODY  # noqa: PLC0415 (as above)

    _check(arguments)
    typed = None if arguments.reference or arguments.again else _typed(arguments)
    with fleet(arguments) as reached:
        wait = FleetWait(reached.name, reached.client, arguments.name, arguments) if arguments.wait else None
        if wait is not None:
            with nothing_yet("published"):
                wait.begin()
        publication = _Publication(arguments, reached)
        told = publication.publish(typed)
        output.line(f"{told['name']} {told['num']}")
        enough = True
        if wait is not None:
            enough = wait.conclude(lambda: wait.published(told["num"]), told, output)
        if output.json:
            output.document(told)
        upkeep(reached, swept=told["bytes"] > LARGEST_BODY)
    return int(not enough)


def _check(arguments: Namespace) -> None:
    """Raises ConfigError if options contradict each other."""
    check_target(arguments)
    if arguments.again and (arguments.node or arguments.service or arguments.snapshot):
        raise ConfigError(
            ["--again publishes a message unchanged: leave out --node, --service, --tag and --snapshot"]
        )
    given = [arguments.payload, arguments.file, arguments.reference, arguments.again]
    if sum(one is not None for one in given) > 1:
        raise ConfigError(["give one of PAYLOAD, --file, --reference and --again"])


def _typed(arguments: Namespace) -> bytes:
    from agentd.fleet.envelope import LARGEST  # noqa: PLC0415 (parsing does without)

    payload = read_payload(arguments, LARGEST)
    if len(payload) > LARGEST:
        raise AgentdError(
            f"the payload is longer than {LARGEST} bytes, the most that Consul stores in one key: put it"
            " where the nodes can fetch it, and publish a --reference, if the handler accepts one"
        )
    return payload


class _Publication:
    """One message to be published."""

    def __init__(self, arguments: Namespace, reached: ReachedFleet) -> None:
        from agentd.commands.rehearsal import takers  # noqa: PLC0415 (parsing does without)
        from agentd.commands.signing import check_typed, read_signing  # noqa: PLC0415 (as above)
        from agentd.fleet.keys import Keys  # noqa: PLC0415 (as above)
        from agentd.fleet.kv import ConsulKV  # noqa: PLC0415 (as above)
        from agentd.fleet.log import Log  # noqa: PLC0415 (as above)

        self._arguments = arguments
        self._name: str = arguments.name
        self._reached = reached
        self._signing = read_signing(reached)
        self._signing.check(self._name)
        if self._signing.seals(self._name):
            check_typed(self._name, arguments.payload)
        self._log = Log(ConsulKV(reached.client), Keys(reached.name), signer=self._signing.signer)
        # The configuration of another fleet does not apply.
        self._takers = takers(reached.document if reached.options else None, self._name)

    def publish(self, typed: bytes | None) -> dict[str, Any]:
        """Write the message, and return the result for `--json`. Raises what `execute` raises."""
        from agentd.commands.understood import require_understood  # noqa: PLC0415 (as above)
        from agentd.digest import digest  # noqa: PLC0415 (as above)
        from agentd.fleet.envelope import FORMAT, SIGNED  # noqa: PLC0415 (as above)
        from agentd.fleet.keys import POISONED  # noqa: PLC0415 (as above)

        keys, signer = self._log.keys, self._signing.signer
        with nothing_yet("published"):
            with self._needs("read", keys.head(self._name), keys.messages(self._name), keys.record):
                head = self._head()
                keep = self._keep(head)
                self._compare_with_newest(head)
                draft = self._draft(typed)
                form = SIGNED if signer else FORMAT
                require_understood(self._log, self._reached.client, form, _PURPOSE)
            num = max(head.newest + 1 if head else 0, int(draft.issued * 1000))
            # Close enough to the final message for a check of its size and fields.
            message = draft.numbered(self._reached.name, self._name, min(num, POISONED - 1), 0, signer=signer)
            matches = self._matching(message)
            tried = [] if self._arguments.no_dry_run else self._rehearse(message, draft.body)
            above = self._acknowledged()  # Consul may have lost it, and our clock may be behind
        num = self._write(draft, keep, head, above)
        return {
            "fleet": self._reached.name,
            "name": self._name,
            "num": num,
            "id": draft.id,
            "payload": digest(draft.body),
            "bytes": len(draft.body),
            "expires": draft.expires,
            "signed_by": self._signing.publisher,
            "sealed": draft.sealed,
            "matches": matches,
            "tried": tried,
        }

    def _head(self) -> Head | None:
        """The head of the name; None if it is missing or malformed.

        Raises:
            UnknownFormat: a newer agentd wrote it.
            ConsulRefused: the token may not see whether there is one.
        """
        try:
            head = self._log.head(self._name)
        except BadDocument as error:
            if not self._arguments.keep:
                raise AgentdError(
                    f"{self._name}: {error}; add --keep latest or --keep all to rebuild it from the messages"
                    " that are there"
                ) from error
            return None
        if head is None:
            self._demand("read", self._log.keys.head(self._name))
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
            sealed=self._signing.seals(self._name),
        )

    def _compare_with_newest(self, head: Head | None) -> None:
        """Warn, or raise AgentdError, if the newest message is signed or sealed, and this one will not be."""
        if head is None or head.is_empty:
            return
        try:
            newest = self._log.message(self._name, head.newest)
        except BadDocument:  # junk, which nobody believes
            return
        if warning := self._signing.check_newest(newest, self._name):
            _warn(warning)

    def _earlier(self, num: int, now: float, expires: float | None) -> Draft:
        """An earlier message, to be written again."""
        message = self._log.message(self._name, num)
        if message is None:
            raise AgentdError(
                f"there is no message {num} of {self._name}: `agentd log {self._name}` lists the messages"
            )
        try:
            body = self._signing.body(message, self._log)
        except Untrusted as error:
            raise AgentdError(
                f"not published: message {num} of {self._name} is not believed here ({error}): publish its"
                " payload anew if it is right"
            ) from error
        if body is None:
            raise AgentdError(f"the payload of message {num} of {self._name} is no longer in Consul")
        draft = message.again(body, issued=now, publisher=publisher(), expires=expires)
        return replace(draft, sealed=draft.sealed or self._signing.seals(self._name))

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
            found = matching(message, self._log.keys, self._reached.client)
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

    def _write(self, draft: Draft, keep: Keep, head: Head | None, above: int) -> int:
        """Write the message, and return its number; if the token lacks a right, the error names it."""
        from agentd.fleet.log import PATIENCE  # noqa: PLC0415 (as above)

        keys = self._log.keys
        prefixes = [keys.head(self._name), keys.messages(self._name), keys.pruned(self._name)]
        if draft.sha256:
            prefixes.append(keys.bodies)
        if head is None:  # the very first message also writes the fleet's record
            prefixes.append(keys.record)
        left = self._reached.client.time_left
        try:
            with self._needs("write", *prefixes):
                return self._log.publish(
                    self._name,
                    draft,
                    keep=keep,
                    above=above,
                    patience=min(PATIENCE, left()),
                    pause=lambda seconds: time.sleep(min(seconds, left())),
                )
        except ConsulUnavailable as error:
            raise ConsulUnavailable(
                f"{error}; it may or may not have been published: see `agentd log {self._name}`"
            ) from error

    def _acknowledged(self) -> int:
        """The highest number that a node acknowledges. Warns if no node keeps the name."""
        from agentd.fleet.census import Census  # noqa: PLC0415 (as above)

        client, keys = self._reached.client, self._log.keys
        try:
            documents = Census(client, keys).documents()
            if not documents.keep(self._name) and client.authorized("key", "read", keys.nodes) is not False:
                _warn(f"no node of the fleet {self._reached.name!r} keeps {self._name!r} at the moment")
        except ConsulRefused:  # it is not needed for publishing
            return 0
        return documents.reached(self._name, time.time())

    def _demand(self, access: Access, prefix: str) -> None:
        from agentd.fleet.rights import demand  # noqa: PLC0415 (as above)

        demand(self._reached.client, access, [prefix], _PURPOSE)

    def _needs(self, access: Access, *prefixes: str) -> AbstractContextManager[None]:
        from agentd.fleet.rights import explained  # noqa: PLC0415 (as above)

        return explained(self._reached.client, access, prefixes, _PURPOSE)


def _warn(text: str) -> None:
    sys.stderr.write(f"agentd: warning: {printable(text)}\n")
