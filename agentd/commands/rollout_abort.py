"""`agentd rollout abort`: brings back what all nodes had, under a new number, from any host.

Never prints the payload.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from agentd.commands.frozen import read_now
from agentd.commands.output import Output
from agentd.commands.publisher import publisher
from agentd.commands.signing import Signing, read_signing
from agentd.commands.to_consul import nothing_yet
from agentd.commands.to_fleet import fleet
from agentd.commands.understood import ROLLOUTS, require_understood
from agentd.commands.wait_for_fleet import FleetWait
from agentd.errors import AgentdError, ConsulUnavailable, Overtaken, RolloutOver, Untrusted
from agentd.fleet.census import Census
from agentd.fleet.envelope import FORMAT, SIGNED, Draft
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.log import Log
from agentd.fleet.rights import explained
from agentd.printable import printable

if TYPE_CHECKING:
    from agentd.commands.to_fleet import ReachedFleet
    from agentd.fleet.envelope import Envelope
    from agentd.fleet.head import Head
    from agentd.fleet.members import Documents
    from agentd.fleet.turns import OpenRollout

_PURPOSE: Final = "aborting a rollout"
_TRIES: Final = 20  # the publisher may take a step at the same time


def abort(arguments: Namespace, output: Output) -> int:
    """End the rollout of a name; 1 if `--wait` was given and too few nodes confirm.

    Raises:
        AgentdError: none is open, or there is nothing to go back to; the text says what to do.
        ConsulUnavailable: there was no answer; it may have been aborted.
    """
    with fleet(arguments) as reached:
        wait = FleetWait(reached.name, reached.client, arguments.name, arguments) if arguments.wait else None
        if wait is not None:
            with nothing_yet("aborted"):
                wait.begin()
        told = _Abortion(reached, arguments.name, read_signing(reached)).write()
        output.line(f"{told['name']} {told['num']}")
        output.line(
            f"the rollout {told['rollout']} is aborted: all nodes get the payload of message"
            f" {told['restores']} again"
        )
        enough = wait is None or wait.conclude(lambda: wait.published(told["num"]), told, output)
    if output.json:
        output.document(told)
    return int(not enough)


class _Abortion:
    """The end of one rollout."""

    def __init__(self, reached: ReachedFleet, name: str, signing: Signing) -> None:
        signing.check(name)
        self._reached = reached
        self._client = reached.client
        self._name = name
        self._signing = signing
        kv = ConsulKV(reached.client)
        keys, signer = Keys(reached.name), signing.signer
        self._log = Log(kv, keys, signer=signer, believes=signing.believes)
        self._any = Log(kv, keys, signer=signer)  # ends a rollout that is not believed

    def write(self) -> dict[str, Any]:
        """End it at whatever step it is; the result for `--json`. Raises what `abort` raises."""
        keys, name, log = self._log.keys, self._name, self._log
        needed = [keys.head(name), keys.messages(name), keys.pruned(name)]
        with explained(self._client, "write", needed, _PURPOSE):
            for _ in range(_TRIES):
                with nothing_yet("aborted"):
                    head = log.head(name, consistent=True)
                    opened = self._opened(head)
                    draft = self._draft(head, opened)
                    form = SIGNED if self._signing.signer else FORMAT
                    require_understood(log, self._client, form, _PURPOSE, least=ROLLOUTS)
                    self._warn_if_frozen()
                    documents = Census(self._client, keys).documents()
                    self._require_whole(draft.restores, opened, documents)
                    above = documents.reached(name, time.time())
                try:
                    writer = log if self._signing.believes(opened.newest) else self._any
                    num = writer.publish(
                        name, draft, keep="latest", above=above, newest=head.newest if head else 0
                    )
                except (Overtaken, RolloutOver):
                    continue
                except ConsulUnavailable as error:
                    raise ConsulUnavailable(
                        f"{error}; it may or may not have been aborted: see `agentd rollout status {name}`"
                    ) from error
                return {
                    "fleet": keys.fleet,
                    "name": name,
                    "num": num,
                    "rollout": draft.rollout,
                    "restores": draft.restores,
                }
        raise AgentdError(f"others keep writing to the log of {name}, so nothing was aborted: try again")

    def _opened(self, head: Head | None) -> OpenRollout:
        opened = self._log.open_rollout(self._name, head, self._signing.believes)
        opened = opened or self._log.open_rollout(self._name, head)
        if opened is None:
            raise AgentdError(
                f"no rollout of {self._name} is open: see `agentd log {self._name}`; publish what the nodes"
                " should have"
            )
        return opened

    def _draft(self, head: Head | None, opened: OpenRollout) -> Draft:
        """The message that ends it."""
        before = self._before(head, opened)
        try:
            body = self._signing.body(before, self._log)
        except Untrusted as error:
            text = (
                f"not aborted: message {before.num} of {self._name}, which all nodes had, cannot be read here"
            )
            raise AgentdError(f"{text}: {error}") from error
        if body is None:
            raise AgentdError(
                f"the payload of message {before.num} of {self._name}, which all nodes had, is no longer in"
                f" Consul: {self._instead}"
            )
        return Draft(
            body=body,
            issued=time.time(),
            publisher=publisher(),
            kind="abort",
            rollout=opened.newest.rollout,
            restores=before.num,
            sealed=before.is_sealed or self._signing.seals(self._name),
        )

    def _before(self, head: Head | None, opened: OpenRollout) -> Envelope:
        """What all nodes had: the newest message for them that is believed, whatever the head says."""
        before, refused = None, ""
        for reading in self._log.after(self._name, 0, head) if head else ():
            for one in reading.messages:
                if one.role != "all" or one.num >= opened.newest.num:
                    continue
                try:
                    self._signing.verify(one)
                except Untrusted as error:
                    refused = f"; message {one.num} is not believed here ({error})"
                else:
                    before = one
        if before is None:
            raise AgentdError(
                f"nothing under {self._name} was ever published for all nodes, so there is nothing to go back"
                f" to{refused}: run the command that began the rollout once more to go on with it; or"
                f" {self._instead} (those that were admitted keep what they have until then)"
            )
        return before

    def _require_whole(self, before: int, opened: OpenRollout, documents: Documents) -> None:
        """Raises AgentdError if most other nodes have a later message than the one that is to be restored.

        To sign an old one anew, which somebody put back, would make it the newest everywhere.
        """
        states = (one.names[self._name] for one in documents.found.values() if self._name in one.names)
        lives = Counter(one.live for one in states if one.live and one.live < opened.first.num)
        most = max(lives.values(), default=0)
        had = min((num for num, count in lives.items() if count == most), default=0)
        if had > before:
            raise AgentdError(
                f"not aborted: the other nodes have message {had} of {self._name} in force, and the newest"
                f" one before the rollout is {before} (`agentd log {self._name}`): perhaps an old log was put"
                " back. Try again once the nodes have written back what is missing"
            )

    @property
    def _instead(self) -> str:
        return (
            f"drop the rollout with `agentd log forget {self._name} --yes`, and publish what the nodes should"
            " have"
        )

    def _warn_if_frozen(self) -> None:
        freeze, unknown = read_now(self._reached, time.time())
        for text in [
            *unknown,
            *([f"the fleet is {freeze}: nodes go back after `agentd thaw`"] if freeze else []),
        ]:
            sys.stderr.write(f"agentd: warning: {printable(text)}\n")
