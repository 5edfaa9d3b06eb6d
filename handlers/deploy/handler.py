"""`deploy`: the plug-in. A change names a manifest, the manifest an archive and where its content is to lie.

It owns what is allowed, what is remembered (`store["deployed"]`: `dest` -> what is in place), and which of
several changes counts. A deploy is a side effect that no staging undoes, so it happens *at least* once: again
if agentd was killed before it noted the end. The second time the tree is exchanged and the commands run once
more, with the same AGENTD_CHANGE_ID.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from agentd.handler import Change, Context, Event, Handler, HandlerError, KeyState, PermanentError
from handlers.deploy.deployment import Deployed, Deployment
from handlers.deploy.manifest import LARGEST, Manifest, Read, read_manifest
from handlers.deploy.options import DeployOptions
from handlers.deploy.staging import BusyError, left_behind, recover

_LATE: Final = 600.0
"""Seconds after a deploy within which an event that was fired before it may still come in, by gossip."""

_MOST_DEPLOYED: Final = 200


class Deploy(Handler):
    """Deploys what a manifest in Stretcher's format names: an archive to a directory, with commands."""

    Options = DeployOptions
    options: DeployOptions

    def __init__(self, options: DeployOptions) -> None:
        super().__init__(options)
        self._start: float | None = None
        self._manifests: dict[str, Read] = {}

    def initial(self, context: Context) -> None:
        """Undo what a deploy left half-way when agentd was killed; its change is handled again."""
        for dest in left_behind(self.options.parents()):
            try:
                if recover(dest):
                    context.log.warning("deploy.undone", dest=str(dest))
            except BusyError:
                context.log.info("deploy.busy", dest=str(dest))
            except OSError as error:  # its reason says it all, and a start is not held up by it
                context.log.warning("deploy.not_undone", dest=str(dest), reason=str(error))

    def hold(self, now: float, context: Context) -> float:  # noqa: ARG002 (the interface)
        """Hold what waits for the random delay."""
        if self._start is None:
            self._start = now + random.uniform(0.0, self.options.random_delay)  # noqa: S311 (it spreads load)
        return max(0.0, self._start - now)

    def superseded(self, waiting: Sequence[Event], context: Context) -> Mapping[str, str]:
        """Of the events for one `dest` the newest counts, by Lamport time and ID, also if it came first."""
        known, self._manifests = self._manifests, {}
        newest: dict[str, Event] = {}
        void: dict[str, str] = {}
        for event in sorted(waiting, key=_order, reverse=True):
            target = self._target(event, known, context)
            if target in newest:
                void[event.id] = newest[target].id
            elif target:
                newest[target] = event
        for target, event in newest.items():
            if later := self._deployed_later(target, event, context):
                void[event.id] = later
        return void

    def handle(self, change: Change, context: Context) -> None:
        """Deploy what the change names, unless it is in place.

        Raises:
            PermanentError: the manifest or the archive cannot be used, or is not allowed.
            TemporaryError: what is needed cannot be had now, or a command failed.
        """
        self._start = None
        reference = _reference(change)
        if reference is None:
            return
        read = self._manifests.pop(change.id, None) or self._read(reference, context)
        dest = self._allowed(read.manifest)
        if dest is not None and self._in_place(read, dest, context):
            context.log.info("deploy.in_place", dest=str(dest), manifest=read.digest[:8])
            return
        deployed = Deployment(read.manifest, dest, self.options, context, change.id).run()
        if deployed is not None:
            self._remember(change, read, deployed, context)

    # ------------------------------------------------------------------ the manifest

    def _read(self, reference: str, context: Context) -> Read:
        if self.options.require_digest and " sha" not in reference:
            raise PermanentError(
                "the payload must name the manifest's digest: URL sha256:HEX (require_digest)"
            )
        data = context.fetch(reference, max_size=LARGEST).read_bytes()
        try:
            read = read_manifest(data, self.options.environment())
        except ValueError as error:
            raise PermanentError(f"the manifest cannot be used: {error}") from error
        if read.unknown:
            context.log.warning("deploy.unknown_fields", fields=list(read.unknown))
        return read

    def _allowed(self, manifest: Manifest) -> Path | None:
        """Where the manifest deploys to; None if it only runs commands.

        Raises:
            PermanentError: the configuration does not allow it.
        """
        allowed = self.options.allow_commands
        for line in manifest.commands.every:
            if not (allowed if isinstance(allowed, bool) else line in allowed):
                raise PermanentError(
                    "the manifest runs commands that `allow_commands` in the options does not allow"
                )
        if not manifest.src:
            return None
        dest = self.options.resolve(manifest.target)
        if dest is None:
            raise PermanentError(f"{manifest.target} is not among `dests` in the options, or leads elsewhere")
        return dest

    # ------------------------------------------------------------------ which one counts

    def _target(self, event: Event, known: Mapping[str, Read], context: Context) -> str:
        """The `dest` that an event asks for; "" if it has none, or none that can be told now."""
        try:
            reference = _reference(event)
            read = known.get(event.id) or (self._read(reference, context) if reference else None)
        except HandlerError:  # `handle` says why
            return ""
        if read is None:
            return ""
        self._manifests[event.id] = read
        return read.manifest.target

    def _deployed_later(self, target: str, event: Event, context: Context) -> str:
        """The id of an event that was fired after this one and has been deployed just now; "" for none."""
        last = context.store.get("deployed", {}).get(target)
        if last is None or last["order"] is None or context.now - last["at"] > _LATE:
            return ""
        return str(last["id"]) if tuple(last["order"]) > _order(event) else ""

    # ------------------------------------------------------------------ what is in place

    def _in_place(self, read: Read, dest: Path, context: Context) -> bool:
        last = context.store.get("deployed", {}).get(read.manifest.target)
        if last is None or self.options.redeploy or last["manifest"] != read.digest:
            return False
        try:
            found = dest.lstat()
        except OSError:
            return False
        return bool([found.st_dev, found.st_ino] == last["inode"])

    def _remember(self, change: Change, read: Read, deployed: Deployed, context: Context) -> None:
        now = {
            "id": change.id,
            "order": list(_order(change)) if isinstance(change, Event) else None,
            "at": context.now,
            "manifest": read.digest,
            "inode": [deployed.device, deployed.inode],
        }
        every = context.store.get("deployed", {}) | {read.manifest.target: now}
        newest = sorted(every, key=lambda target: every[target]["at"])[-_MOST_DEPLOYED:]
        context.store["deployed"] = {target: every[target] for target in newest}
        context.store["gauges"] = {
            "deploy_timestamp_seconds": context.now,
            "deploy_entries": deployed.entries,
            "deploy_bytes": deployed.size,
        }
        context.log.info(
            "deploy.done", dest=read.manifest.target, entries=deployed.entries, bytes=deployed.size
        )


def _reference(change: Change) -> str | None:
    """What the change names; None if it is a key that was deleted.

    Raises:
        PermanentError: it names nothing.
    """
    if isinstance(change, Event):
        payload = change.payload
    elif isinstance(change, KeyState):
        if change.value is None:
            return None
        payload = change.value
    else:
        raise PermanentError(f"deploy takes events and keys, not a change of kind {change.kind!r}")
    try:
        return " ".join(payload.decode("ascii").split())
    except UnicodeDecodeError as error:
        raise PermanentError("the payload is no reference: it is not ASCII") from error


def _order(event: Event) -> tuple[int, str]:
    return event.ltime, event.id
