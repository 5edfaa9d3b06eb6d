"""`agentd publish --canary`: a payload that reaches the nodes step by step.

Owns what comes next. Each decision rests on what the log and the acknowledgements say at that moment, and is
written only if the log is still the same. So whoever runs the same command, at the same time or later, goes
on where another one ended. Nothing is remembered elsewhere.
"""

from __future__ import annotations

import secrets
import time
import uuid
from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

from agentd.commands.fleet_tally import Tally, print_others
from agentd.commands.fleet_watch import FleetWatch
from agentd.commands.frozen import read_now
from agentd.commands.output import Output, span
from agentd.commands.publication import Prepared, Publication
from agentd.commands.rollout_steps import admit_first, next_step
from agentd.commands.step_wait import Ended, Step, StepWait
from agentd.commands.to_consul import nothing_yet
from agentd.commands.to_fleet import fleet
from agentd.commands.upkeep import upkeep
from agentd.errors import AgentdError, Overtaken, RolloutOpen, RolloutOver, Untrusted
from agentd.fleet.envelope import LARGEST_BODY, Envelope
from agentd.fleet.keys import Keys
from agentd.fleet.rollout import ALL, Admission

if TYPE_CHECKING:
    from agentd.commands.to_fleet import ReachedFleet
    from agentd.fleet.head import Head
    from agentd.fleet.turns import OpenRollout

_MOST_TURNS: Final = 1000  # steps, lost races, and looks at a log that is gone
_LAST: Final = "last step"  # of an earlier run, or of another one
_GLANCE: Final = 1.0  # seconds until it is looked again


def publish_in_steps(arguments: Namespace, typed: bytes | None, output: Output) -> int:
    """Begin a rollout, or go on with it, until it is released and confirmed, or stops.

    Returns 0 if all nodes have it in force, but for those that `--max-failures` allows for.

    Args:
        arguments: of `agentd publish`.
        typed: the payload, None if it is to be found as the arguments say.
        output: of the command.

    Raises:
        AgentdError: nothing was published; the text says why.
    """
    with fleet(arguments) as reached:
        watch = FleetWatch(reached.client, Keys(reached.name), arguments.timeout)
        publication = Publication(arguments, reached)
        prepared = publication.prepare(typed)
        wait = StepWait(publication.log, watch, arguments, quiet=output.json)
        rollout = _Rollout(arguments, reached, publication, prepared, watch, wait)
        try:
            ended = rollout.run()
        except KeyboardInterrupt:
            wait.say(f"interrupted: {rollout.advice}")
            raise
        if output.json:
            output.document(publication.told(prepared, rollout.num) | rollout.told(ended))
        else:
            rollout.print(ended, output)
        if ended.outcome == "released":
            watch.restart(arguments.timeout)
            upkeep(reached, swept=len(prepared.draft.body) > LARGEST_BODY)
    return int(ended.outcome != "released")


class _Rollout:
    """One run of the command.

    Attributes:
        num: the number of the newest message that it has seen of its rollout.
    """

    def __init__(
        self,
        arguments: Namespace,
        reached: ReachedFleet,
        publication: Publication,
        prepared: Prepared,
        watch: FleetWatch,
        wait: StepWait,
    ) -> None:
        self._arguments = arguments
        self._reached = reached
        self._name: str = arguments.name
        self._publication = publication
        self._log = publication.log
        self._prepared = prepared
        self._watch = watch
        self._wait = wait
        self._rollout = ""
        self._resumed = self._retried = False
        self._steps: dict[int, Step] = {}
        self._began = time.monotonic()
        self._lost_at = 0.0  # when the log was gone; 0 if it never was
        self._newest = 0  # of the log, when it was looked at last; perhaps nobody believes that message
        self.num = 0

    def run(self) -> Ended:
        """Go on until it ends.

        Raises:
            AgentdError: nothing was published, and no rollout of this payload is open.
        """
        try:
            for _ in range(_MOST_TURNS):
                if ended := self._turn():
                    return ended
        except AgentdError as error:
            if not self._rollout:
                raise
            return Ended("stopped", str(error), self._last())
        return Ended("stopped", "others keep writing to the log", self._last())

    def _last(self) -> Tally | None:
        step = self._steps.get(self.num)
        return step.found if step else None

    # ------------------------------------------------------------------ what comes next

    def _turn(self) -> Ended | None:
        """Do what the log asks for now; None if there is more to do."""
        self._watch.restart(self._arguments.timeout)
        head, newest, opened = self._watch.patiently(self._look)
        self._newest = head.newest if head else 0
        if opened and self._is_same(opened.newest):
            self._join(opened.newest)
            return self._widen(opened.newest)
        if self._rollout:
            return self._over(head, newest)
        if opened:
            raise self._refused(opened)
        if newest and newest.kind == "release" and self._is_same(newest):
            self._join(newest)
            return self._over(head, newest)
        self._begin()
        return None

    def _look(self) -> tuple[Head | None, Envelope | None, OpenRollout | None]:
        """The head, the newest message, and the rollout that is open, if it is believed."""
        head = self._head()
        newest = None if head is None or head.is_empty else self._log.message(self._name, head.newest)
        believes = self._publication.signing.believes
        return head, newest, self._log.open_rollout(self._name, head, believes)

    def _head(self) -> Head | None:
        return self._log.head(self._name, consistent=True)

    def _is_same(self, message: Envelope) -> bool:
        """Whether it belongs to this rollout, or may: it has the same payload."""
        if self._rollout and message.rollout != self._rollout:
            return False
        try:
            body = self._watch.patiently(lambda: self._publication.signing.body(message, self._log))
        except Untrusted as error:
            if message.kind == "release":
                return False
            raise AgentdError(
                f"not published: a rollout is open that is not believed here ({error}): see `agentd log"
                f" {self._name}`, and end it with `agentd rollout abort {self._name}` if somebody forged it"
            ) from error
        return body == self._prepared.draft.body

    def _refused(self, opened: OpenRollout) -> RolloutOpen:
        return RolloutOpen(
            f"not published: a rollout of another payload is open {opened}: see `agentd rollout status"
            f" {self._name}`; go on with it by the command that began it, or end it with `agentd rollout"
            f" abort {self._name}`"
        )

    def _join(self, message: Envelope) -> None:
        """Go on with the rollout of this message."""
        if not self._rollout:
            self._rollout, self._resumed = message.rollout, True
            self._wait.say(f"goes on with the rollout {self._rollout}")
        self.num = message.num

    def _begin(self) -> None:
        with nothing_yet("published"):
            self._wait.look()
            if not self._wait.known:
                raise AgentdError(f"not published: no node keeps {self._name!r} at the moment")
            rollout = secrets.token_hex(8)
            canary = self._arguments.canary
            admission = admit_first(canary, self._wait.known, self._wait.tagged, rollout)
        if frozen := self._await_thaw():
            raise AgentdError(f"not published: {frozen}")
        try:
            num = self._write("admit", rollout, admission)
        except (Overtaken, RolloutOpen):
            return  # somebody else was faster: look what it was
        self._rollout = rollout
        self._note("canary", num)

    def _widen(self, message: Envelope) -> Ended | None:
        """Wait for the step, and take the next one."""
        before = message.admission or Admission()
        pause = 0.0 if before.below >= ALL else self._arguments.pause
        step = self._step(message)
        ended = self._wait.confirm(message, step, pause, self._newest)
        if ended is None:
            return None
        if ended.outcome != "released":
            found = ended.found
            has_failed = found is not None and (found.refused or any(one.lost for one in found.waiting))
            if self._retried or step.label != _LAST or not has_failed:
                return ended
            self._retry(message)
            return None
        wait, steps = self._wait, self._arguments.steps
        following = next_step(steps, before, wait.admitted, wait.known, self._rollout)
        percent, wider = following or (0, None)
        if frozen := self._await_thaw():
            return Ended("stopped", frozen, self._last())
        try:
            num = self._write("admit" if wider else "release", self._rollout, wider)
        except (Overtaken, RolloutOver):
            return None  # as above
        self._note(f"{percent}%" if wider else "release", num)
        return None

    def _retry(self, message: Envelope) -> None:
        """Admit the same nodes once more: what one refused or lost, it takes only under another number."""
        self._retried = True
        self._watch.restart(self._arguments.timeout)  # it may be up
        try:
            num = self._write("admit", self._rollout, message.admission)
        except (Overtaken, RolloutOver):
            return  # as above
        self._wait.say("nodes that failed get it once more")
        self._note("again", num)

    def _over(self, head: Head | None, newest: Envelope | None) -> Ended | None:
        """What became of the rollout, which is not open any more."""
        if self._is_forgotten(head):
            why = f"somebody dropped it with `agentd log forget {self._name}`: nodes keep what they have"
            return Ended("aborted", why, self._last())
        if newest is None or newest.num < self.num:
            self._lost_at = self._lost_at or time.monotonic()
            if time.monotonic() - self._lost_at > self._arguments.timeout:
                why = "Consul has lost the log, and no node has written it back"
                return Ended("stopped", why, self._last())
            time.sleep(_GLANCE)
            return None
        if newest.rollout != self._rollout:
            why = f"message {newest.num} by {newest.publisher} ({newest.via}) has replaced it"
            return Ended("replaced", why, self._last())
        self.num = newest.num
        if newest.kind == "abort":
            why = f"{newest.publisher} aborted it: message {newest.num} brings back what all nodes had"
            return Ended("aborted", why, self._last())
        ended = self._wait.confirm(newest, self._step(newest), 0.0, self._newest)
        return replace(ended, outcome="unconfirmed") if ended and ended.outcome == "stopped" else ended

    def _is_forgotten(self, head: Head | None) -> bool:
        return head is not None and head.floor >= self.num > 0

    def _await_thaw(self) -> str:
        """Wait while the fleet is frozen and nobody writes to the log; why it still is, "" if it is not."""
        self._watch.restart(self._arguments.timeout)
        is_told = False
        while freeze := self._watch.patiently(lambda: read_now(self._reached, time.time()))[0]:
            head = self._watch.patiently(self._head)
            if head is not None and head.newest > self._newest:  # which the next write notices
                break
            if self._watch.left() < 2 * _GLANCE:  # the next answer needs time, too
                return f"{freeze}: nothing is admitted before `agentd thaw`"
            if not is_told:
                self._wait.say(f"{freeze}: waits for the thaw")
                is_told = True
            time.sleep(_GLANCE)
        return ""

    # ------------------------------------------------------------------ writing

    def _write(self, kind: Literal["admit", "release"], rollout: str, admission: Admission | None) -> int:
        if self._is_forgotten(self._watch.patiently(self._head)):
            raise RolloutOver(f"the log of {self._name} was forgotten meanwhile")
        draft = replace(
            self._prepared.draft,
            id=str(uuid.uuid4()),
            issued=time.time(),
            kind=kind,
            rollout=rollout,
            admission=admission,
        )
        return self._publication.write(self._prepared._replace(draft=draft), self._newest)

    def _note(self, label: str, num: int) -> None:
        self._steps[num] = Step(label, num)
        self.num = num

    def _step(self, message: Envelope) -> Step:
        return self._steps.setdefault(message.num, Step(_LAST, message.num))

    # ------------------------------------------------------------------ what is told

    @property
    def advice(self) -> str:
        """What to do about it while it is open."""
        if not self._rollout:
            return "nothing was published"
        return (
            "no more nodes are admitted; run the same command again to go on (nodes that failed then try once"
            f" more), or `agentd rollout abort {self._name}` to go back to what all nodes had"
        )

    def told(self, ended: Ended) -> dict[str, Any]:
        """What a program is told of the rollout."""
        others = (*ended.found.refused, *ended.found.waiting) if ended.found else ()
        return {
            "rollout": self._rollout,
            "resumed": self._resumed,
            "outcome": ended.outcome,
            "why": ended.why or None,
            "seconds": round(time.monotonic() - self._began, 3),
            "steps": [
                {
                    "step": one.label,
                    "num": one.num,
                    "nodes": one.found.nodes if one.found else None,
                    "confirmed": len(one.found.confirmed) if one.found else None,
                    "failed": [each.node for each in one.found.refused] if one.found else [],
                    "seconds": round(one.seconds, 3) or None,
                }
                for one in self._steps.values()
            ],
            "others": [{"node": one.node, "state": one.state, "reason": one.reason} for one in others],
        }

    def print(self, ended: Ended, output: Output) -> None:
        """Tell a person how it ended."""
        found, is_good = ended.found, ended.outcome == "released"
        where = f"in force on {len(found.confirmed)} of {found.nodes} nodes" if found else "not confirmed"
        step = self._steps.get(self.num)
        state = {"stopped": f"stopped at {step.label}" if step else "stopped", "unconfirmed": "released"}
        what = f"{self._name} {self.num}: {state.get(ended.outcome, ended.outcome)}"
        took = f" after {span(time.monotonic() - self._began)}" if is_good else ""
        output.line(f"{what}: {where}{took}", "green" if is_good else "red")
        if ended.why:
            output.line(ended.why, "yellow")
        if found:
            print_others(found, output)
        if ended.outcome == "stopped":
            output.line(self.advice)
        elif ended.outcome == "unconfirmed":
            again = f"`agentd publish {self._name} --again {self.num}`"
            output.line(f"the rollout is over; {again} has nodes that failed try once more")
