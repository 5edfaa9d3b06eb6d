"""Renders templates from the newest states of all its queries, and stages all files or none.

    on: [{service: api}, {keyprefix: maps/hosts}]

It keeps no states itself: agentd hands it the newest ones at each attempt. An error refuses the change and
leaves the files as they are. Templates are read at each attempt; a changed one is taken up at a reload.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from agentd.handler import Change, Context, Drift, Handler, HandlerOptions, PermanentError
from handlers.template.options import TemplateFile, TemplateOptions
from handlers.template.renderer import SHARED, Bounds
from handlers.template.sources import read_source
from handlers.template.templates import Template

__all__ = ["TemplateHandler"]

_FINGERPRINT: Final = 32  # hex digits


class TemplateHandler(Handler):
    """Renders files from templates with what Consul knows: services, keys, nodes and checks."""

    Options: ClassVar[type[HandlerOptions]] = TemplateOptions
    joint: ClassVar[bool] = True
    options: TemplateOptions

    def __init__(self, given: TemplateOptions) -> None:
        super().__init__(given)
        self._newest: tuple[int, ...] = ()
        self._changed = 0.0
        self._began: float | None = None  # unix time of the first change of a burst
        self._discreet = any(file.is_secret for file in given.files)

    @property
    def inputs(self) -> str:
        """Of the template files."""
        read = hashlib.sha256()
        for file in self.options.files:
            try:
                read.update(f"{len(text := self._template(file).text)} {text}".encode())
            except PermanentError as error:
                read.update(str(error).encode())
        return read.hexdigest()

    def initial(self, context: Context) -> None:
        """Render files that are not there if all states are here; otherwise say what is not rendered yet.

        On a new node nginx may load nothing without them: without these files, no others could be committed.
        """
        if all(context.files.read(file.path) is not None for file in self.options.files):
            return
        reason = "each item of `on` must have come first"
        if all(one.body is not None for one in context.states()):
            try:
                texts = self._rendered(context)
            except PermanentError as error:
                reason = str(error)
            else:
                self._stage(texts, context)
                return
        context.store["status"] = [{"part": "files", "trouble": f"not rendered yet: {reason}"}]

    def hold(self, now: float, context: Context) -> float:
        """Wait until nothing has changed for a while, so that a burst becomes one commit."""
        wait = self.options.wait
        if not wait.min:
            return 0.0
        newest = tuple(one.number for one in context.states())
        if newest != self._newest or now < self._changed:
            self._changed, self._newest = now, newest
            self._began = now if self._began is None else min(now, self._began)
        began = now if self._began is None else self._began
        return max(0.0, min(self._changed + wait.min, began + wait.longest) - now)

    def handle(self, change: Change, context: Context) -> None:
        """Nothing: `render` has all states."""

    def render(self, context: Context) -> None:
        """Render and stage every file.

        Raises:
            PermanentError: a template is wrong, or a state does not suit it.
        """
        self._began = None
        self._stage(self._rendered(context), context)

    def _rendered(self, context: Context) -> list[str]:
        """The content of each file. Raises as `render` does."""
        states = context.states()
        templates = [self._template(file) for file in self.options.files]
        bodies = [one.body for one in states]
        return SHARED.render(templates, [one.on for one in states], bodies, self._bounds(context))

    def _stage(self, texts: Sequence[str], context: Context) -> None:
        """Stage these files, and no other. Raises PermanentError if a path is another handler's."""
        context.store["status"] = [
            self._stage_one(file, text.encode(), context)
            for file, text in zip(self.options.files, texts, strict=True)
        ]
        context.store["gauges"] = {"template_files": len(texts), "template_bytes": sum(map(len, texts))}
        for path in set(context.files.paths()) - {file.path for file in self.options.files}:
            context.files.remove(path)

    def _stage_one(self, file: TemplateFile, data: bytes, context: Context) -> Mapping[str, Any]:
        """Stage one file. Returns what `agentd status` says of it: since when it is as it is."""
        told = {one["part"]: one.get("since") for one in context.store.get("status", ())}
        same = context.files.read(file.path) == data
        context.files.write(file.path, data, file.permissions, secret=file.is_secret)
        return {"part": file.path, "since": (same and told.get(file.path)) or context.now}

    def fingerprint(self, context: Context) -> str | None:
        """Of the files, but for secrets, of which it says only that they are there."""
        made = hashlib.sha256()
        for file in sorted(self.options.files, key=lambda one: one.path):
            data = context.files.read(file.path)
            if data is None:
                return None
            made.update(
                f"{file.path} {'secret' if file.is_secret else hashlib.sha256(data).hexdigest()}\n".encode()
            )
        return made.hexdigest()[:_FINGERPRINT]

    def preflight(self, context: Context) -> Sequence[Drift]:
        """Templates that cannot be read, or have mistakes; paths that are another handler's."""
        readable: dict[int, Template] = {}
        found = []
        for at, file in enumerate(self.options.files):
            try:
                readable[at] = self._template(file)
            except PermanentError as error:
                found.append(Drift(f"files.{at}.source", str(error)))
            try:
                context.files.write(file.path, b"", file.permissions)
            except PermanentError as error:
                found.append(Drift(f"files.{at}.path", str(error)))
        on = [one.on for one in context.states()]
        told = SHARED.mistakes(list(readable.values()), on, context.timeout)
        for at, texts in zip(readable, told, strict=True):
            part = "text" if self.options.files[at].source is None else "source"
            found += [Drift(f"files.{at}.{part}", text) for text in texts]
        return found

    def _bounds(self, context: Context) -> Bounds:
        limits = self.options.limits
        return Bounds(math.ceil(limits.cpu), limits.memory, limits.size, 0.9 * context.timeout)

    def _template(self, file: TemplateFile) -> Template:
        """Raises PermanentError if it cannot be read."""
        text = file.text if file.source is None else read_source(file.source)
        return Template(file.name, text or "", file.escape, self._discreet)
