"""`agentd rollout abort`: brings back what all nodes had, under a new number, from any host.

Never prints the payload.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
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
        self._log = Log(ConsulKV(reached.client), Keys(reached.name), signer=signing.signer)

    def write(self) -> dict[str, Any]:
        """End it at whatever step it is; the result for `--json`. Raises what `abort` raises."""
        keys, name, log = self._log.keys, self._name, self._log
        needed = [keys.head(name), keys.messages(name), keys.pruned(name)]
        with explained(self._client, "write", needed, _PURPOSE):
            for _ in range(_TRIES):
                with nothing_yet("aborted"):
                    opened = self._opened()
                    draft = self._draft(opened)
                    form = SIGNED if self._signing.signer else FORMAT
                    require_understood(log, self._client, form, _PURPOSE, least=ROLLOUTS)
                    self._warn_if_frozen()
                    above = Census(self._client, keys).documents().reached(name, time.time())
                try:
                    num = log.publish(name, draft, keep="latest", above=above, newest=opened.newest.num)
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

    def _opened(self) -> OpenRollout:
        head = self._log.head(self._name, consistent=True)
        opened = self._log.open_rollout(self._name, head)
        if opened is None:
            raise AgentdError(
                f"no rollout of {self._name} is open: see `agentd log {self._name}`; publish what the nodes"
                " should have"
            )
        if not opened.released:
            raise AgentdError(
                f"nothing under {self._name} was ever published for all nodes, so there is nothing to go back"
                " to: run the command that began the rollout once more to go on with it; or drop it with"
                f" `agentd log forget {self._name} --yes`, and publish what the nodes should have (those that"
                " were admitted keep what they have until then)"
            )
        return opened

    def _draft(self, opened: OpenRollout) -> Draft:
        """The message that ends it."""
        before = self._log.message(self._name, opened.released)
        try:
            body = None if before is None else self._signing.body(before, self._log)
        except Untrusted as error:
            raise AgentdError(
                f"not aborted: message {opened.released} of {self._name}, which all nodes had, is not"
                f" believed here ({error})"
            ) from error
        if before is None or body is None:
            raise AgentdError(
                f"the payload of message {opened.released} of {self._name}, which all nodes had, is no longer"
                f" in Consul: drop the rollout with `agentd log forget {self._name} --yes`, and publish what"
                " the nodes should have"
            )
        return Draft(
            body=body,
            issued=time.time(),
            publisher=publisher(),
            kind="abort",
            rollout=opened.newest.rollout,
            restores=opened.released,
            sealed=before.is_sealed or self._signing.seals(self._name),
        )

    def _warn_if_frozen(self) -> None:
        freeze, unknown = read_now(self._reached, time.time())
        for text in [
            *unknown,
            *([f"the fleet is {freeze}: nodes go back after `agentd thaw`"] if freeze else []),
        ]:
            sys.stderr.write(f"agentd: warning: {printable(text)}\n")
