"""Runs a program for a change: what `consul watch` and the `watches` of a Consul agent did, unchanged.

Owns the shape of what the program is given. On standard input that is the JSON of `consul watch`: one line,
an event as a list of one. The environment is a clean one with `CONSUL_INDEX`, as there, and

    AGENTD_HANDLER     name of the configured handler      AGENTD_CHANGE_ID   tells this change from others
    AGENTD_QUERY       such as "event", "key:a/b"          AGENTD_GENERATION  the generation that is current
    AGENTD_KIND        event, key, service, ...            AGENTD_EVENT_NAME  for events only

A process is a side effect that no staging undoes. Other changes are applied once; a program is started *at
least* once: again after an exit status other than 0 or a time-out, and again when agentd was killed before
it noted the end. AGENTD_CHANGE_ID is the same each time; a program that must not repeat itself keeps it.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import Field, model_validator

from agentd.handler import (
    Change,
    ChecksState,
    Context,
    Duration,
    Event,
    Handler,
    HandlerOptions,
    KeyPrefixState,
    KeyState,
    ServiceState,
)

__all__ = ["Command", "standard_input"]

# What Consul's Go client, which `consul watch` uses, adds to the answers of the HTTP API (1.8.7).
_KEY: Final = {
    "Key": "", "CreateIndex": 0, "ModifyIndex": 0, "LockIndex": 0, "Flags": 0, "Value": None, "Session": "",
}  # fmt: skip
_DEFINITION: Final = {
    "Interval": "0s", "Timeout": "0s", "DeregisterCriticalServiceAfter": "0s", "HTTP": "", "Header": None,
    "Method": "", "Body": "", "TLSSkipVerify": False, "TCP": "",
}  # fmt: skip
_GO_ESCAPES: Final = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


class Command(Handler):
    """One program, started once for each change."""

    class Options(HandlerOptions):
        """The options of one entry: `argv` or `shell`, and what surrounds the program."""

        argv: tuple[str, ...] | None = Field(
            None, min_length=1, description="The program and its arguments; no shell looks at them."
        )
        shell: str | None = Field(
            None, min_length=1, description="A command line for `/bin/sh -c`, in place of `argv`."
        )
        timeout: Duration | None = Field(
            None, description="Time limit of one run; then its process group is ended. Unset: the attempt's."
        )
        env: dict[str, str] = Field({}, description="Variables to add to the program's clean environment.")

        @model_validator(mode="after")
        def _one(self) -> Command.Options:
            if (self.argv is None) == (self.shell is None):
                raise ValueError("give `argv` (a list) or `shell` (a command line), and not both")
            if any("\0" in word for word in (*self.command, *self.env, *self.env.values())):
                raise ValueError("a NUL character cannot be given to a program")
            return self

        @property
        def command(self) -> tuple[str, ...]:
            """What is run."""
            return self.argv or ("/bin/sh", "-c", self.shell or "")

    options: Options

    def handle(self, change: Change, context: Context) -> None:
        """Run the program and wait for its end.

        Raises:
            TemporaryError: it did not start, ran out of time, or its exit status was not 0.
        """
        ended = context.run(
            self.options.command,
            stdin=standard_input(change),
            env={**self.options.env, **_environment(change, context)},
            timeout=self.options.timeout,
        )
        if context.dry_run:  # nothing ran
            return
        # Neither the other arguments nor the output: both may hold what must not be logged.
        context.log.info(
            "command.ran",
            program=self.options.command[0],
            duration=round(ended.duration, 4),
            output_bytes=len(ended.output),
        )


def standard_input(change: Change) -> bytes:
    """The JSON that `consul watch` gives its handler, with Go's escapes, ended by a line feed."""
    text = json.dumps(_shape(change), ensure_ascii=False, separators=(",", ":"))
    return (text.translate(_GO_ESCAPES) + "\n").encode(errors="replace")


def _shape(change: Change) -> Any:  # noqa: ANN401 (any JSON value)
    raw = change.raw
    match change:
        case Event():
            return [raw]
        case KeyState():
            return None if raw is None else _KEY | raw
        case KeyPrefixState():
            return [_KEY | pair for pair in raw] if raw else None
        case ServiceState():
            return [entry | {"Checks": _checks(entry.get("Checks"))} for entry in raw]
        case ChecksState():
            return _checks(raw)
        case _:
            return raw


def _checks(raw: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    if raw is None:
        return None
    return [check | {"Definition": _DEFINITION | (check.get("Definition") or {})} for check in raw]


def _environment(change: Change, context: Context) -> dict[str, str]:
    given = {
        "CONSUL_INDEX": str(_event_index(change) if isinstance(change, Event) else change.index),
        "AGENTD_HANDLER": context.handler,
        "AGENTD_QUERY": change.query,
        "AGENTD_KIND": change.kind,
        "AGENTD_CHANGE_ID": change.id,
        "AGENTD_GENERATION": str(context.generation),
    }
    if isinstance(change, Event):
        given["AGENTD_EVENT_NAME"] = change.name
    return {name: _environ(value) for name, value in given.items()}


def _event_index(event: Event) -> int:
    """The index of an event: the halves of its UUID, exclusive or (Consul's `IDToIndex`).

    The index of the answer belongs to its newest event, of whatever name, which a watch by name never sees.
    """
    digits = event.id.replace("-", "")
    try:
        return int(digits[:16], 16) ^ int(digits[16:], 16)
    except ValueError:  # not a UUID: an event that no agent made
        return event.index


def _environ(value: str) -> str:
    """Names of events come from outside: take out what the environment of a process cannot hold."""
    return value.replace("\0", "").encode(errors="replace").decode()
