"""Renders templates from the newest states of all its queries, and stages all files or none.

    on: [{service: api}, {keyprefix: maps/hosts}]

It keeps no states itself: agentd hands it the newest ones at each attempt. An error refuses the change and
leaves the files as they are. Templates are read at each attempt; a changed one is taken up at a reload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from agentd.handler import Change, Context, Drift, Handler, HandlerOptions, PermanentError
from handlers.template.options import TemplateFile, TemplateOptions
from handlers.template.rendering import Template, compiled, rendered
from handlers.template.sources import read_source
from handlers.template.values import TemplateError

__all__ = ["TemplateHandler"]

_FINGERPRINT: Final = 32  # hex digits


class TemplateHandler(Handler):
    """Renders files from templates with what Consul knows: services, keys, nodes and checks."""

    Options: ClassVar[type[HandlerOptions]] = TemplateOptions
    joint: ClassVar[bool] = True
    options: TemplateOptions

    def __init__(self, given: TemplateOptions) -> None:
        super().__init__(given)
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

    def handle(self, change: Change, context: Context) -> None:
        """Nothing: `render` has all states."""

    def render(self, context: Context) -> None:
        """Render and stage every file.

        Raises:
            PermanentError: a template is wrong, or a state does not suit it.
        """
        states = context.states()
        templates = [self._template(file) for file in self.options.files]
        on = [one.on for one in states]
        try:
            made = compiled(templates, on)
            texts = rendered(templates, made, on, [one.body for one in states], self.options.limits.size)
        except TemplateError as error:
            raise PermanentError(str(error)) from None
        for file, text in zip(self.options.files, texts, strict=True):
            context.files.write(file.path, text.encode(), file.permissions, secret=file.is_secret)
        for path in set(context.files.paths()) - {file.path for file in self.options.files}:
            context.files.remove(path)

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
        """Templates that cannot be read, or do not compile; paths that are another handler's."""
        return [
            drift for at, file in enumerate(self.options.files) for drift in self._doubts(at, file, context)
        ]

    def _doubts(self, at: int, file: TemplateFile, context: Context) -> Sequence[Drift]:
        on: list[Mapping[str, Any]] = [one.on for one in context.states()]
        found = []
        try:
            compiled([self._template(file)], on)
        except (PermanentError, TemplateError) as error:
            found.append(Drift(f"files.{at}.{'source' if file.source else 'text'}", str(error)))
        try:
            context.files.write(file.path, b"", file.permissions)
        except PermanentError as error:
            found.append(Drift(f"files.{at}.path", str(error)))
        return found

    def _template(self, file: TemplateFile) -> Template:
        """Raises PermanentError if it cannot be read."""
        text = file.text if file.source is None else read_source(file.source)
        return Template(file.name, text or "", file.escape, self._discreet)
