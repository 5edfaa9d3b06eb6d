# ruff: noqa: INP001 (one file, as it would lie in a directory of your own that PYTHONPATH names)
"""A maintenance page for the whole fleet, switched by one key of Consul's KV store.

    consul kv put site/maintenance "Back at 14:00."       every node answers 503 with this text
    consul kv delete site/maintenance                     every node serves again

In agentd.yaml:

    handlers:
      maintenance:
        use: maintenance:Maintenance
        on: [{key: site/maintenance}]
        notify: [nginx]

In each server of nginx: `if ($maintenance) { return 503 $maintenance; }`.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from agentd.handler import Change, Context, Handler, HandlerOptions, KeyState, PermanentError

_INCLUDE: Final = "maintenance/maintenance.conf"
_LONGEST: Final = 500


class Maintenance(Handler):
    """Sets an nginx variable to the key's text, and to nothing while there is no such key."""

    class Options(HandlerOptions):
        """How nginx's variable is called."""

        variable: str = Field(
            "maintenance",
            pattern=r"^[a-z][a-z0-9_]{0,30}$",
            description="The nginx variable that holds the text; empty while the site is open.",
        )

    options: Options

    def initial(self, context: Context) -> None:
        """Nginx must know the variable before the first change came; what is there already stays."""
        if context.files.read(_INCLUDE) is None:
            self._stage("", context)

    def handle(self, change: Change, context: Context) -> None:
        """Stage the text, or refuse one that nginx could take for configuration."""
        if not isinstance(change, KeyState):
            raise PermanentError(f"maintenance takes a key, not a change of kind {change.kind!r}")
        try:
            text = (change.value or b"").decode().strip()
        except UnicodeDecodeError as error:
            raise PermanentError("the text is not UTF-8") from error
        # In a quoted string these would end it, escape, or name a variable.
        if len(text) > _LONGEST or not text.isprintable() or set(text) & set('"\\$'):
            raise PermanentError(
                f'one printable line of at most {_LONGEST} characters without " \\ $ is needed'
            )
        self._stage(text, context)

    def _stage(self, text: str, context: Context) -> None:
        include = f'map "" ${self.options.variable} {{\n    default "{text}";\n}}\n'
        context.files.write(_INCLUDE, include.encode())
