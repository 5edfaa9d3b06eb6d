"""`deploy`: the plug-in. A change names a manifest, which names an archive and the directory it goes to.

It owns what is allowed, what is remembered (`store["deployed"]`: `dest` -> what is in place;
`store["messages"]`: name -> the newest message of the fleet's log, and the `dest` that it was for), and which
of several changes counts. A deploy is a side effect that cannot be rolled back with the tree, so it happens
*at least* once: again if agentd was killed before it recorded the end. Then `dest` is swapped and the
commands run once more, with the same AGENTD_CHANGE_ID.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from agentd.handler import Change, Context, Drift, Event, Handler, HandlerError, KeyState, PermanentError
from handlers.deploy.deployment import Deployed, Deployment
from handlers.deploy.manifest import (
    LARGEST,
    Commands,
    DeployManifest,
    LoadedManifest,
    RefusedManifestError,
    read_manifest,
)
from handlers.deploy.options import DeployOptions
from handlers.deploy.place import Place
from handlers.deploy.swap import BusyError, left_behind, recover

_LATE: Final = 600.0
"""Seconds after a deploy in which an event fired before it may still arrive, by gossip."""

_MOST_DEPLOYED: Final = 200
_FINGERPRINT: Final = 32  # hex digits
_ADVICE: Final = "whoever can forge it can deploy another archive; give a sha256 or sha512"


class Deploy(Handler):
    """Deploys an archive to a directory, with commands around it, as a Stretcher manifest says."""

    Options = DeployOptions
    options: DeployOptions
    side_effects: ClassVar[bool] = True

    def __init__(self, options: DeployOptions) -> None:
        super().__init__(options)
        self._start: float | None = None
        self._manifests: dict[str, LoadedManifest] = {}

    def initial(self, context: Context) -> None:
        """Undo a deploy that was cut short when agentd was killed; its change is handled again."""
        done: set[tuple[int, int]] = set()
        for dest, place in self.options.places():
            if isinstance(place, FileNotFoundError):
                continue
            if isinstance(place, Exception):
                context.log.warning("deploy.not_undone", dest=dest, reason=str(place))
                continue
            with place:
                found = os.fstat(place.parent)
                if (found.st_dev, found.st_ino) not in done:
                    done.add((found.st_dev, found.st_ino))
                    self._undo(place, context)

    def _undo(self, place: Place, context: Context) -> None:
        """Undo what was cut short in the parent of `place`."""
        for name in left_behind(place):
            with place.beside(name) as dest:
                try:
                    if recover(dest):
                        context.log.warning("deploy.undone", dest=str(dest.path))
                except BusyError:
                    context.log.info("deploy.busy", dest=str(dest.path))
                except OSError as error:  # the reason is logged; the start is not held up
                    context.log.warning("deploy.not_undone", dest=str(dest.path), reason=str(error))

    def preflight(self, context: Context) -> Sequence[Drift]:  # noqa: ARG002 (the interface)
        """The parent directories through which somebody else could redirect a deploy."""
        found = []
        for dest, place in self.options.places():
            if isinstance(place, Place):
                place.close()
            elif isinstance(place, PermanentError):
                found.append(Drift("dests", f"{dest}: {place}"))
        return found

    def hold(self, now: float, context: Context) -> float:  # noqa: ARG002 (the interface)
        """Hold back what is waiting, for the random delay."""
        if self._start is None:
            self._start = now + random.uniform(0.0, self.options.random_delay)  # noqa: S311 (it spreads load)
        return min(max(0.0, self._start - now), self.options.random_delay)

    def superseded(self, waiting: Sequence[Event], context: Context) -> Mapping[str, str]:
        """Of the events for one `dest` the newest counts, by Lamport time and ID, even if it came first.

        Of the messages of the fleet's log it is the one with the highest number. An event that was only heard
        has no place among them: it was applied before the log had it, or its name is not kept.
        """
        known, self._manifests = self._manifests, {}
        newest: dict[tuple[str, bool], Event] = {}
        void: dict[str, str] = {}
        for event in sorted(waiting, key=lambda event: event.order, reverse=True):
            target = self._target(event, known, context)
            kind = target, event.message is not None
            if kind in newest:
                void[event.id] = newest[kind].id
            elif target:
                newest[kind] = event
        for (target, _), event in newest.items():
            if later := self._deployed_later(target, event, context):
                void[event.id] = later
        return void

    def handle(self, change: Change, context: Context) -> None:
        """Deploy what the change names, unless it is in place already.

        Raises:
            PermanentError: the manifest or the archive cannot be used, or is not allowed.
            TemporaryError: something cannot be fetched now, or a command failed.
        """
        self._start = None
        reference = _reference(change)
        if reference is None:
            return
        try:
            read = self._manifests.pop(_key(change), None) or self._read(reference, context)
        except RefusedManifestError as error:
            manifest = DeployManifest(commands=Commands(failure=error.failure))
            Deployment(manifest, self.options, context, change.id).failed(error)
            raise
        deployment = Deployment(read.manifest, self.options, context, change.id)
        with deployment.failing():
            if self._in_place(read, context):
                self._note_message(change, read, context)
                return
        deployed = deployment.run()
        if deployed is not None:
            self._remember(change, read, deployed, context)

    # ------------------------------------------------------------------ the manifest

    def _read(self, reference: str, context: Context) -> LoadedManifest:
        if self.options.require_digest and " sha" not in reference:
            raise PermanentError(
                "the payload must give the manifest's digest: URL sha256:HEX (require_digest)"
            )
        data = context.fetch(reference, max_size=LARGEST).read_bytes()
        read = read_manifest(data, self.options.environment())
        if read.unknown:
            context.log.warning("deploy.unknown_fields", fields=list(read.unknown))
        if read.twice:
            context.log.warning("deploy.fields_given_twice", fields=list(read.twice))
        if read.manifest.weak:
            context.log.warning("deploy.weak_checksum", algorithm=read.manifest.weak, advice=_ADVICE)
        if read.manifest == DeployManifest():
            context.log.warning("deploy.empty_manifest", advice="it has neither `src` nor `commands`")
        return read

    # ------------------------------------------------------------------ which one counts

    def _target(self, event: Event, known: Mapping[str, LoadedManifest], context: Context) -> str:
        """The `dest` that an event asks for; "" if there is none, or it cannot be read now."""
        try:
            reference = _reference(event)
            read = known.get(_key(event)) or (self._read(reference, context) if reference else None)
        except HandlerError:  # `handle` reports it
            return ""
        if read is None:
            return ""
        self._manifests[_key(event)] = read
        return read.manifest.target

    def _deployed_later(self, target: str, event: Event, context: Context) -> str:
        """The ID of an event fired after this one that was deployed a moment ago; "" for none."""
        last = context.store.get("deployed", {}).get(target)
        if last is None or last["order"] is None or not 0 <= context.now - last["at"] <= _LATE:
            return ""
        if bool(last.get("message")) != (event.message is not None):
            return ""
        order = tuple([event.epoch, *last["order"]][-len(event.order) :])  # as epochs were not stored once
        return str(last["id"]) if order > event.order else ""

    # ------------------------------------------------------------------ what is in place

    def _in_place(self, read: LoadedManifest, context: Context) -> bool:
        """Whether what the manifest says is in place already.

        Raises:
            PermanentError: the configuration does not allow it.
        """
        manifest = read.manifest
        if not self.options.allows(manifest.commands.every):
            raise PermanentError("the manifest runs commands that the option `allow_commands` does not allow")
        if not manifest.src:
            return False
        try:
            with self.options.place(manifest.target) as place:
                found = place.lstat()
        except FileNotFoundError:  # `pre` may make it
            return False
        last = context.store.get("deployed", {}).get(manifest.target)
        if last is None or self.options.redeploy or last["manifest"] != read.digest or found is None:
            return False
        if [found.st_dev, found.st_ino] != last["inode"]:
            return False
        context.log.info("deploy.in_place", dest=manifest.target, manifest=read.digest[:8])
        return True

    def _remember(self, change: Change, read: LoadedManifest, deployed: Deployed, context: Context) -> None:
        now = {
            "id": change.id,
            "order": list(change.order) if isinstance(change, Event) else None,
            "at": context.now,
            "manifest": read.digest,
            "source": read.source,
            "inode": [deployed.device, deployed.inode],
        }
        if isinstance(change, Event) and change.message:
            now["message"] = True
        every = context.store.get("deployed", {}) | {read.manifest.target: now}
        newest = sorted(every, key=lambda target: every[target]["at"])[-_MOST_DEPLOYED:]
        context.store["deployed"] = {target: every[target] for target in newest}
        self._note_message(change, read, context)
        context.store["gauges"] = {
            "deploy_timestamp_seconds": context.now,
            "deploy_entries": deployed.entries,
            "deploy_bytes": deployed.size,
            "deploy_weak_checksum": int(bool(read.manifest.weak)),
        }
        context.log.info(
            "deploy.done", dest=read.manifest.target, entries=deployed.entries, bytes=deployed.size
        )

    def _note_message(self, change: Change, read: LoadedManifest, context: Context) -> None:
        """Note for which `dest` the newest message of a name was."""
        if isinstance(change, Event) and change.message and read.manifest.target:
            noted = context.store.get("messages", {})
            if change.message.num >= noted.get(change.name, [0])[0]:
                context.store["messages"] = noted | {change.name: [change.message.num, read.manifest.target]}

    # ------------------------------------------------------------------ what other nodes should have as well

    def fingerprint(self, context: Context) -> str | None:
        """Of the manifests in place where the newest message of each name put one.

        What was deployed before the fleet had a log, and what older messages were for, a joiner never gets;
        and where the manifest's variables lead may be a node's own.
        """
        deployed = context.store.get("deployed", {})
        found = [
            [name, deployed.get(target, {}).get("source", "")]
            for name, (_, target) in sorted(context.store.get("messages", {}).items())
        ]
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:_FINGERPRINT] if found else None


def _key(change: Change) -> str:
    """What names a change both while it waits and when it is handled: of a message only the ID may differ."""
    return f"{change.query}:{change.index}" if isinstance(change, Event) and change.message else change.id


def _reference(change: Change) -> str | None:
    """The reference in the change; None for a key that was deleted.

    Raises:
        PermanentError: there is none.
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
        raise PermanentError("the payload is not a reference: it is not ASCII") from error
