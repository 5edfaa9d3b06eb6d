"""Reloads nginx once for what other handlers committed, and proves that every worker serves it.

Owns the only signal that agentd sends to nginx. Must not stage files; flipping back after a failed proof is
the worker's job. nginx does not report that it rejected a configuration at a reload, hence the proof (see
`proof`).

A generation is given up only if nginx refuses it, or serves it nowhere within the deadline. Where it is live
on some workers and others cannot follow (one hangs, its master was killed, a binary upgrade is under way),
and where the fault is outside the tree, the change waits and is looked at again, so that it neither blocks
later ones nor ends before it is true.

If nginx is not running, that is not a failure, but the outcome says so: it reads the current generation when
it starts. Without `worker_shutdown_timeout` old workers may drain forever; `agentd check` reports that, since
only the whole configuration shows whether it is set.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

from pydantic import Field

from agentd.handler import (
    Change,
    Context,
    Drift,
    Duration,
    Handler,
    HandlerOptions,
    Notification,
    PermanentError,
    TemporaryError,
    Verdict,
)
from agentd.nginx import canary, processes
from agentd.nginx.processes import Processes
from handlers.nginx_reload import error_log, fault
from handlers.nginx_reload.observer import Observer
from handlers.nginx_reload.proof import Observation, Result, Wanted, missing, wait_for_proof

__all__ = ["NginxReload"]

_MAX_DRAINING: Final = 8
_LONGEST_INTERVAL: Final = 3600.0
_LOOK_AT_DRAINING: Final = 0.5
_LOOK_FOR_MASTER: Final = 5.0
# How long a process may keep silent once all others serve what is wanted; shorter for one that has been
# silent before, since no commit is possible meanwhile.
_PATIENCE: Final = 1.5
_PATIENCE_AGAIN: Final = 0.3
# Seconds until a generation that is not live everywhere is looked at again.
_SOON: Final = 1.0
_LATEST: Final = 15.0
_STRETCH: Final = 2.0  # a reload may take that many times as long as `nginx -t` on an idle machine
_AT_LEAST: Final = 2.0  # seconds more: on a busy one the workers have yet to get their turn


class NginxReload(Handler):
    """Reloads nginx, once for all changes within `interval`, and proves that the new workers serve them.

    Name it in `notify` of each handler whose files nginx reads.
    """

    class Options(HandlerOptions):
        """When to reload, and how long the proof may take."""

        interval: Duration = Field(
            1.0, description="Shortest time between two reloads; changes in between share the next one."
        )
        max_draining: int | None = Field(
            None,
            ge=0,
            description="A reload waits while more old workers than this are still finishing their"
            " connections; null: 8, or as many as nginx has workers.",
        )
        drain_limit: Duration = Field(60.0, description="Longest time that a reload waits for old workers.")
        deadline: Duration = Field(
            10.0,
            gt=0,
            description="How soon after the signal the new generation must be live on some worker; otherwise"
            " it is rolled back. Where `nginx -t` takes longer than this, so may the reload.",
        )

    options: Options
    proves: ClassVar[bool] = True

    def __init__(self, options: HandlerOptions) -> None:
        super().__init__(options)
        self._processes: Processes | None = None
        self._signalled_at: float | None = None
        self._signalled: dict[int, int] = {}
        self._replaced: frozenset[int] = frozenset()
        self._silent: frozenset[int] = frozenset()
        self._told: frozenset[int] = frozenset()
        self._looks = 0
        self._check_took = 0.0
        self._proved = self._doubted = 0
        self._held_since: float | None = None
        self._found_no_master = False

    def preflight(self, context: Context) -> Sequence[Drift]:
        """A deadline that the time limit cuts short, and an interval that is no pause between two reloads."""
        found = []
        if self.options.deadline >= context.timeout:
            reason = (
                f"{self.options.deadline:g} s are not shorter than the handler's `timeout`"
                f" ({context.timeout:g} s), which ends each attempt before it"
            )
            found.append(Drift("deadline", reason))
        if self.options.interval > _LONGEST_INTERVAL:
            reason = (
                f"each change would wait for up to {self.options.interval:g} s before nginx reads it; at most"
                f" {_LONGEST_INTERVAL:g} s make sense, and a second is enough to join a burst"
            )
            found.append(Drift("interval", reason))
        return found

    # ------------------------------------------------------------------ when

    def hold(self, now: float, context: Context) -> float:
        """Hold back for the rest of the interval, then while too many old workers drain, up to the limit."""
        if self._signalled_at is not None:
            rest = self._signalled_at + self.options.interval - now
            if 0 < rest <= self.options.interval:  # more: the clock was set back
                return rest
        try:
            running = self._table(context).look()
        except TemporaryError:  # `handle` runs into the same and reports it
            return 0.0
        most = self.options.max_draining
        if most is None:  # else those of a single reload could hold up the next one
            most = max(_MAX_DRAINING, len(running.workers))
        if len(running.draining) <= most:
            self._held_since = None
            return 0.0
        if self._held_since is None or now < self._held_since:
            self._held_since = now
            context.log.info("nginx.draining", draining=len(running.draining), limit=self.options.drain_limit)
        rest = self._held_since + self.options.drain_limit - now
        return min(_LOOK_AT_DRAINING, max(rest, 0.0))

    def due(self, now: float, context: Context) -> float | None:
        """Prove what an nginx serves that was just starting when a notification found none."""
        if self._found_no_master and not context.dry_run:
            canary.remove_stale(context.nginx.canary)  # the last worker may have ended since then
            running = self._table(context).look(afresh=True)
            if running.masters or running.workers or canary.answers(context.nginx.canary):
                self._found_no_master = False
                context.reload()
        return now + _LOOK_FOR_MASTER

    # ------------------------------------------------------------------ what

    def handle(self, change: Change, context: Context) -> str | None:
        """Have every worker of nginx serve the current generation.

        Returns:
            None once it is proved; if nginx is not running, a sentence that says so.

        Raises:
            PermanentError: nginx refuses the generation, or serves it nowhere by the deadline; the message
                quotes nginx's [emerg] lines or says what is missing.
            TemporaryError: it is not live on all workers, not after a rollback, the fault is elsewhere, or
                nginx cannot be signalled.
        """
        if not isinstance(change, Notification):
            raise PermanentError("nginx_reload takes notifications: name it in `notify`, not under `on`")
        if context.dry_run:
            return None
        return self._prove(
            Wanted(context.generation, newer=not change.rollback), context, last_resort=change.rollback
        )

    def verify(self, context: Context) -> Verdict:
        """Whether nginx still serves what was proved; where a reload would mend it, one is asked for.

        A master of an upgrade that was taken back, or an nginx that had read its files before the last
        commit, serves an older generation, and nothing else would tell.
        """
        if not self._proved and self._doubted != context.generation and not context.dry_run:
            self._doubted = context.generation  # after a start a reload may be owed, which comes first
            return Verdict()
        wanted = Wanted(context.generation if context.dry_run else self._proved or self._doubted, newer=True)
        with canary.Questions(context.nginx.canary) as questions:
            observe = Observer(self._table(context), questions, context.nginx)
            seen = observe.settled(wanted)
            if wanted.live_on_all(seen) or not (seen.masters or seen.workers or seen.stranger):
                return Verdict()
            if not wanted.stale(seen):  # perhaps it is only slow
                result, seen = self._wait(observe, wanted, context)
                if result in (Result.LIVE, Result.ENDED):
                    return Verdict()
            if context.mend and any(self._needs_reload(pid, seen, wanted) for pid in seen.masters):
                context.reload()
        drift = Drift("nginx", _failure(seen, wanted, context), reload=_unread(seen, context))
        return Verdict(drift=(drift,))

    def _prove(self, wanted: Wanted, context: Context, *, last_resort: bool) -> str | None:
        """Signal nginx where needed, and wait for the proof.

        With `last_resort`, a failure flips nothing back, so it has to be retried.
        """
        canary.remove_stale(context.nginx.canary)
        with canary.Questions(context.nginx.canary) as questions:
            observe = Observer(self._table(context), questions, context.nginx)
            seen = observe.settled(wanted)
            self._tell_of_others(context)
            if not (seen.masters or seen.workers or seen.stranger):
                return self._skip(context)
            self._found_no_master = False
            if not wanted.newer or not wanted.live_on_all(seen):
                self._reload(observe, seen, wanted, context, last_resort=last_resort)
        self._looks, self._silent, self._proved = 0, frozenset(), wanted.generation
        self._replaced = frozenset()
        return None

    def _tell_of_others(self, context: Context) -> None:
        """Once for each set of them: nginx that runs here with another configuration, or in a container."""
        others = {one.pid: one.title for one in self._table(context).others}
        if others.keys() - self._told:
            context.log.info("nginx.others", masters=others)
        self._told = frozenset(others)

    def _skip(self, context: Context) -> str:
        """Nobody runs, and the way is clear for nginx's next start. Returns the reason for the outcome."""
        self._found_no_master = True
        context.log.info("nginx.not_running", pid_file=str(context.nginx.pid))
        return "nginx is not running, it will serve this when it starts"

    def _reload(
        self, observe: Observer, seen: Observation, wanted: Wanted, context: Context, *, last_resort: bool
    ) -> None:
        started = time.monotonic()
        if wanted.newer or set(self._signalled.values()) != {wanted.generation}:
            self._replaced = frozenset()
        wanted = replace(wanted, instead_of=self._replaced)
        masters = [pid for pid in sorted(seen.masters) if self._needs_reload(pid, seen, wanted)]
        if masters:
            observe.signalled(seen)
            self._held_since, self._signalled_at = None, context.now
            self._signalled = dict.fromkeys(masters, wanted.generation)
            for pid in masters:
                processes.reload(pid)
            if not wanted.newer:
                self._replaced = observe.before
                wanted = replace(wanted, instead_of=observe.before)
        result, seen = self._wait(observe, wanted, context)
        if result is not Result.LIVE and not (last_resort and self._kept(seen, wanted, context)):
            self._fail(result, seen, wanted, context, last_resort=last_resort)
        elif masters and result is Result.LIVE:
            context.log.info(
                "nginx.reloaded",
                generation=wanted.generation,
                masters=masters,
                old=sorted(observe.before),
                new=sorted(seen.workers),
                draining=len(seen.draining),
                duration=round(time.monotonic() - started, 4),
            )

    def _needs_reload(self, master: int, seen: Observation, wanted: Wanted) -> bool:
        """Whether a SIGHUP would bring workers of this master to the generation, and none is on its way."""
        if master in seen.upgrading:  # it would start more workers with its old configuration
            return False
        if not wanted.newer and not wanted.instead_of:  # a reload of what was given up may be under way
            return True
        workers = {pid for pid, parent in seen.workers.items() if parent == master}
        if workers & {*wanted.stale(seen)}:
            return True
        return not workers & {*wanted.live(seen)} and self._signalled.get(master) != wanted.generation

    def _wait(self, observe: Observer, wanted: Wanted, context: Context) -> tuple[Result, Observation]:
        """Wait for the proof, longer than the deadline if the configuration is that large."""
        deadline = max(self.options.deadline, _STRETCH * self._check_took)
        known = observe().silent
        patience = _PATIENCE_AGAIN if known and self._silent.issuperset(known) else _PATIENCE
        signalled = self._signalled.keys()
        result, seen = wait_for_proof(
            observe, wanted, deadline, before=observe.before, signalled=signalled, patience=patience
        )
        if result is Result.LATE and not seen.emergencies and not wanted.live(seen):
            found = fault.look(context, set(seen.answers.values()), ())
            if found.elsewhere:
                raise TemporaryError(found.elsewhere)
            self._check_took = found.took
            context.log.info("nginx.slow", deadline=deadline, check=round(found.took, 3))
            result, seen = wait_for_proof(
                observe,
                wanted,
                _AT_LEAST + _STRETCH * found.took,
                before=observe.before,
                signalled=signalled,
                patience=patience,
            )
        return result, seen

    def _fail(
        self, result: Result, seen: Observation, wanted: Wanted, context: Context, *, last_resort: bool
    ) -> None:
        """Raise what becomes of the change."""
        failure = _failure(seen, wanted, context)
        if result is Result.ENDED or last_resort:
            raise TemporaryError(failure)
        if seen.emergencies and not wanted.live(seen):
            found = fault.look(context, set(seen.answers.values()), seen.emergencies)
            if found.elsewhere:
                raise TemporaryError(f"nginx does not reload: {found.elsewhere}")
            raise PermanentError(failure)
        if result is Result.LATE and not wanted.live(seen) and wanted.stale(seen):
            raise PermanentError(failure)
        self._silent = frozenset(seen.silent)
        self._looks += 1
        raise TemporaryError(failure, retry_after=min(_SOON * 1.5 ** min(self._looks - 1, 20), _LATEST))

    def _kept(self, seen: Observation, wanted: Wanted, context: Context) -> bool:
        """Whether nginx rejected what it just read, but never stopped serving the wanted generation."""
        seen = replace(seen, suspects=frozenset())
        if not seen.emergencies or not replace(wanted, instead_of=frozenset()).live_on_all(seen):
            return False
        context.log.warning(
            "nginx.refused", serving=wanted.generation, emergencies=error_log.quote(list(seen.emergencies))
        )
        return True

    def _table(self, context: Context) -> Processes:
        if self._processes is None or self._processes.nginx != context.nginx:
            self._processes = Processes(context.nginx)
        return self._processes


def _failure(seen: Observation, wanted: Wanted, context: Context) -> str:
    """The message of a failed proof."""
    nginx = context.nginx
    start = f"nginx does not serve generation {wanted.generation}"
    if seen.emergencies:
        return f"{start}; it wrote: {error_log.quote(list(seen.emergencies))}"
    if not (seen.masters or seen.workers or seen.stranger):
        return f"{start}: its processes ended"
    if not seen.answers and (seen.deaf or _replaced(nginx.canary)):
        return f"{start}, or cannot show it: {_deaf(seen, context)}"
    if wanted.live(seen):
        return f"generation {wanted.generation} is {missing(seen, wanted, nginx.canary)}"
    return f"{start}: {missing(seen, wanted, nginx.canary)}; see {nginx.error_log}"


def _replaced(path: Path) -> bool:
    """Whether nginx listens on the canary's socket, but not where its name leads."""
    try:
        return canary.unlinked(path)
    except OSError:
        return False


def _deaf(seen: Observation, context: Context) -> str:
    """Why the canary cannot be asked, and the cure."""
    nginx = context.nginx
    if _replaced(nginx.canary):
        return (
            f"the file of its socket {nginx.canary} was removed or replaced, and nginx goes on listening"
            " where nobody can connect; a reload or an upgrade does not make it again: restart nginx"
        )
    include = context.files.reference("agentd.conf")
    return (
        f"nothing answers on {nginx.canary} ({seen.deaf}); include {include} in http {{}} of {nginx.conf},"
        " and run `systemctl reload nginx`"
    )


def _unread(seen: Observation, context: Context) -> bool:
    """Whether nobody opened the canary's socket, which nginx does when it first reads the `include`."""
    try:
        return bool(seen.deaf) and not canary.opened(context.nginx.canary)
    except OSError:
        return False
