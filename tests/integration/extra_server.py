"""A handler that adds what a key says to `http {}`, as it stands."""

from __future__ import annotations

from agentd.handler import Change, Context, Handler, KeyState, PermanentError


class ExtraServer(Handler):
    """One file of nginx's configuration from one key."""

    def handle(self, change: Change, context: Context) -> None:
        """Write it, or remove it with the key."""
        if not isinstance(change, KeyState):
            raise PermanentError("only a key")
        if change.value is None:
            context.files.remove("extra/extra.conf")
        else:
            context.files.write("extra/extra.conf", change.value)
