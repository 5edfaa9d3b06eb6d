"""Reloads nginx once for what others committed, and proves that the new workers run it.

Owns the only signal that agentd sends to nginx. Must not stage files; the flip back after a failed proof is
the worker's. nginx says nothing when it refuses a configuration at a reload, hence the proof (see `proof`).

An nginx that does not run is no failure: it reads the current generation when it starts. Whether
`worker_shutdown_timeout` is set, without which old workers may drain for ever, is for `agentd check` to
say: only a dump of the whole configuration tells.
"""

from __future__ import annotations

import time
from typing import ClassVar, Final

from pydantic import Field

from agentd.handler import (
    Change,
    Context,
    Duration,
    Handler,
    HandlerOptions,
    Notification,
    PermanentError,
    TemporaryError,
)
from handlers.nginx_reload import canary, error_log
from handlers.nginx_reload.master import Master, running_master
from handlers.nginx_reload.proof import Look, Wanted, missing, wait_for_proof

__all__ = ["NginxReload"]

_LOOK_AT_DRAINING: Final = 0.5
_LOOK_FOR_MASTER: Final = 5.0


class NginxReload(Handler):
    """Name it in `notify` of the handlers whose files nginx reads."""

    class Options(HandlerOptions):
        """The options of one entry."""

        interval: Duration = Field(
            1.0, description="Least time between two reloads; what comes meanwhile joins the next one."
        )
        max_draining: int = Field(
            8, ge=0, description="A reload waits while more old workers than this finish their connections."
        )
        drain_limit: Duration = Field(60.0, description="The longest that a reload waits for old workers.")
        deadline: Duration = Field(
            10.0, gt=0, description="How long after the signal the new configuration must be proved live."
        )

    options: Options
    proves: ClassVar[bool] = True

    def __init__(self, options: HandlerOptions) -> None:
        super().__init__(options)
        self._signalled_at: float | None = None
        self._held_since: float | None = None
        self._proved: int | None = None
        self._found_no_master = False

    # ------------------------------------------------------------------ when

    def hold(self, now: float, context: Context) -> float:
        """Hold for the rest of the interval, then while too many old workers drain, up to the limit."""
        if self._signalled_at is not None:
            rest = self._signalled_at + self.options.interval - now
            if 0 < rest <= self.options.interval:  # more: the clock was set back
                return rest
        draining = _draining(context)
        if draining <= self.options.max_draining:
            self._held_since = None
            return 0.0
        if self._held_since is None or now < self._held_since:
            self._held_since = now
            context.log.info("nginx.draining", draining=draining, limit=self.options.drain_limit)
        rest = self._held_since + self.options.drain_limit - now
        return min(_LOOK_AT_DRAINING, max(rest, 0.0))

    def due(self, now: float, context: Context) -> float | None:
        """Reload an nginx that was starting when a notification found none: it may have read older files."""
        if self._found_no_master and not context.dry_run:
            with running_master(context.nginx.pid) as master:
                if master is not None:
                    self._reload(master, context, newer=True, last_resort=True)
                else:
                    canary.remove_stale(context.nginx.canary)  # its last worker may have ended since
        return now + _LOOK_FOR_MASTER

    # ------------------------------------------------------------------ what

    def handle(self, change: Change, context: Context) -> None:
        """Reload nginx and prove it.

        Raises:
            PermanentError: not proved; the message quotes nginx's [emerg] lines or says what is missing.
            TemporaryError: not proved after a rollback, or nginx cannot be signalled.
        """
        if not isinstance(change, Notification):
            raise PermanentError("nginx_reload takes notifications: name it in `notify`, not under `on`")
        if context.dry_run or (self._proved == context.generation and not change.rollback):
            return  # a merged notification, whose generation an earlier one of this batch proved
        with running_master(context.nginx.pid) as master:
            if master is None:
                self._skip(context)
            else:
                self._reload(master, context, newer=not change.rollback, last_resort=change.rollback)

    def _skip(self, context: Context) -> None:
        """No master: see that nothing is in the way of the next start."""
        self._found_no_master = True
        nginx = context.nginx
        removed = canary.remove_stale(nginx.canary)
        context.log.info("nginx.not_running", pid_file=str(nginx.pid), stale_socket_removed=removed)
        try:
            serving = canary.ask(nginx.canary)
        except OSError:
            return
        # Workers outlive a master that was killed: they go on serving and keep the ports from a new nginx.
        context.log.warning("nginx.orphans", serving=serving, advice="end nginx's old workers, then start it")

    def _reload(self, master: Master, context: Context, *, newer: bool, last_resort: bool) -> None:
        """Signal and wait for the proof, of a `newer` generation if it must be.

        With `last_resort` nothing is flipped back on a failure, so that it has to be tried again.
        """
        wanted = Wanted(context.generation, newer=newer)
        canary.remove_stale(context.nginx.canary)
        look = _Watch(master, context)
        self._proved, self._held_since, self._signalled_at = None, None, context.now
        started = time.monotonic()
        master.reload()
        proved, seen = wait_for_proof(look, wanted, self.options.deadline)
        if not proved and not (last_resort and self._kept(seen, wanted, context)):
            failure = _failure(seen, wanted, context)
            raise TemporaryError(failure) if last_resort or not seen.alive else PermanentError(failure)
        self._proved, self._found_no_master = context.generation, False
        if proved:
            context.log.info(
                "nginx.reloaded",
                generation=int(seen.answer or 0),
                old=sorted(look.before.active),
                new=sorted(seen.new),
                draining=len(seen.draining),
                duration=round(time.monotonic() - started, 4),
            )

    def _kept(self, seen: Look, wanted: Wanted, context: Context) -> bool:
        """Whether nginx refused what it read now, but never stopped serving the generation wanted."""
        if seen.new or not seen.emergencies or not wanted.met_by(_answer(context)):
            return False
        context.log.warning(
            "nginx.refused", serving=wanted.generation, emergencies=error_log.quote(list(seen.emergencies))
        )
        return True


class _Watch:
    """Looks at one nginx; made just before the signal, called after it."""

    def __init__(self, master: Master, context: Context) -> None:
        self.before = master.workers()
        self._master = master
        self._context = context
        self._mark = error_log.mark(context.nginx.error_log)
        self._writers = {master.pid}  # a worker that could not start is gone, but what it wrote counts

    def __call__(self) -> Look:
        alive = self._master.alive
        workers = self._master.workers()
        new = workers.active - self.before.children
        left = workers.active & self.before.children
        self._writers |= new
        lines = error_log.emergencies(self._mark, self._writers)
        answer = _answer(self._context) if new and not left else None
        return Look(alive, new, left, workers.draining, answer, tuple(lines))


def _answer(context: Context) -> str | None:
    try:
        return canary.ask(context.nginx.canary)
    except OSError:
        return None


def _draining(context: Context) -> int:
    try:
        with running_master(context.nginx.pid) as master:
            return len(master.workers().draining) if master else 0
    except TemporaryError:  # `handle` meets the same and says so
        return 0


def _failure(seen: Look, wanted: Wanted, context: Context) -> str:
    """The message of a failed proof."""
    start = f"nginx does not serve generation {wanted.generation}"
    if seen.emergencies:
        return f"{start}; it wrote: {error_log.quote(list(seen.emergencies))}"
    if seen.new and not seen.left and seen.answer is None:
        include = context.files.reference("agentd.conf")
        return (
            f"{start}, or hides it: it reloaded, but nothing answers on {context.nginx.canary}; "
            f"include {include} in http {{}} of {context.nginx.conf}"
        )
    return f"{start}: {missing(seen, wanted)}; see {context.nginx.error_log}"
