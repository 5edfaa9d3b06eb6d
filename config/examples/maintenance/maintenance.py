# ruff: noqa: INP001 (one file, as it would be in a directory that `handlers_path` names)
"""A maintenance page for the whole fleet, switched by one key in Consul's KV store.

    agentd maintenance on "Back at 14:00."      every node answers 503 with this text
    agentd maintenance off                      every node serves again

The command is in `maintenance_command.py`; `consul kv put site/maintenance TEXT` does the same. Copy this
file to a directory of your own, and in agentd.yaml:

    handlers_path: [/etc/agentd/handlers]
    handlers:
      maintenance:
        use: maintenance:Maintenance
        on: [{key: site/maintenance}]
        notify: [nginx-reload]

In each server of nginx: `if ($maintenance) { return 503 $maintenance; }`.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from agentd.handler import Change, Context, Handler, HandlerOptions, KeyState, PermanentError

_INCLUDE: Final = "maintenance/maintenance.conf"
_LONGEST: Final = 500


class Maintenance(Handler):
    """Sets an nginx variable to the text of a key, and to nothing while the key does not exist."""

    class Options(HandlerOptions):
        """The name of nginx's variable."""

        variable: str = Field(
            "maintenance",
            pattern=r"^[a-z][a-z0-9_]{0,30}$",
            description="The nginx variable that contains the text; empty while the site is open.",
        )

    options: Options

    def initial(self, context: Context) -> None:
        """Define the variable before the first change arrives; a text that is there already stays."""
        if context.files.read(_INCLUDE) is None:
            self._stage("", context)

    def handle(self, change: Change, context: Context) -> None:
        """Stage the text, or refuse one that nginx could mistake for configuration."""
        if not isinstance(change, KeyState):
            raise PermanentError(f"maintenance handles keys, not {change.kind!r}")
        try:
            text = (change.value or b"").decode().strip()
        except UnicodeDecodeError as error:
            raise PermanentError("the text is not UTF-8") from error
        # In a quoted string these would end it, escape something, or name a variable.
        if len(text) > _LONGEST or not text.isprintable() or set(text) & set('"\\$'):
            raise PermanentError(
                f'must be one printable line of at most {_LONGEST} characters, without " \\ $'
            )
        self._stage(text, context)

    def _stage(self, text: str, context: Context) -> None:
        include = f'map "" ${self.options.variable} {{\n    default "{text}";\n}}\n'
        context.files.write(_INCLUDE, include.encode())
