"""Runs a program for each change, as `consul watch` and the `watches` of a Consul agent do.

Owns the input of the program. On standard input it gets the same JSON as from `consul watch`: one line, an
event as a list of one. Its environment is clean, except for `CONSUL_INDEX`, as with `consul watch`, and

    AGENTD_HANDLER     name of the configured handler      AGENTD_CHANGE_ID   identifies this change
    AGENTD_QUERY       such as "event", "key:a/b"          AGENTD_GENERATION  the current generation
    AGENTD_KIND        event, key, service, ...            AGENTD_EVENT_NAME  for events only
    AGENTD_RUN         of this run alone, by which processes that it leaves behind are found

for a message of the fleet's log also

    AGENTD_MESSAGE     its number in the log               AGENTD_PUBLISHER   who published it, as they say
    AGENTD_ISSUED      when, in unix seconds               AGENTD_VIA         the node that heard it, or empty

and for an event that the log does not have yet, because it cannot be reached, AGENTD_PROVISIONAL=1. Once the
log has it, the program is not run again.

A program has side effects that staging cannot undo. Other changes are applied once; a program is started *at
least* once: again after an exit status other than 0 or a timeout, and again if agentd was killed before it
recorded the end. The end is recorded before the next program starts, and none starts while nothing can be
recorded, so a kill repeats one program at most. AGENTD_CHANGE_ID is the same each time, so a program that
must not repeat its work can remember it.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Final

from pydantic import Field, model_validator

from agentd.handler import (
    Background,
    Change,
    ChecksState,
    Context,
    Duration,
    Event,
    Handler,
    HandlerOptions,
    KeyPrefixState,
    KeyState,
    LimitOptions,
    ServiceState,
)

__all__ = ["Command", "standard_input"]

# What Consul's Go client, which `consul watch` uses, adds to the answers of the HTTP API (1.8.7).
_KEY: Final = {
    "Key": "", "CreateIndex": 0, "ModifyIndex": 0, "LockIndex": 0, "Flags": 0, "Value": None, "Session": "",
}  # fmt: skip
_EVENT: Final = {
    "ID": "", "Name": "", "Payload": None, "NodeFilter": "", "ServiceFilter": "", "TagFilter": "",
    "Version": 1, "LTime": 0,
}  # fmt: skip
_OURS: Final = frozenset({"Message", "Provisional"})  # which agentd adds to an event
_DEFINITION: Final = {
    "Interval": "0s", "Timeout": "0s", "DeregisterCriticalServiceAfter": "0s", "HTTP": "", "Header": None,
    "Method": "", "Body": "", "TLSSkipVerify": False, "TCP": "",
}  # fmt: skip
_GO_ESCAPES: Final = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


class Command(Handler):
    """Runs a program for each change, with the input that `consul watch` would give it."""

    class Options(HandlerOptions):
        """The program: `argv` or `shell`, its environment and its time limit."""

        argv: tuple[str, ...] | None = Field(
            None,
            min_length=1,
            description="The program and its arguments, run without a shell. Either this or `shell` is"
            " required.",
        )
        shell: str | None = Field(
            None, min_length=1, description="A command line for `/bin/sh -c`, instead of `argv`."
        )
        timeout: Duration | None = Field(
            None,
            description="Time limit of one run, after which its process group is killed. Unset: `timeout` of"
            " the entry.",
        )
        background: Background = Field(
            "keep",
            description="What becomes of processes that the program leaves behind when it ends: `keep` (as"
            " with `consul watch`) or `end`. Either way they are logged.",
        )
        retry_forever: bool = Field(
            default=False,
            description="Whether the newest state that failed is given to the program again, after its"
            " outcome, until it succeeds. Otherwise it runs at most `retry.attempts` times.",
        )
        limits: LimitOptions = Field(
            LimitOptions(),
            description="Limits on memory and processor time. None by default, since a service that the"
            " program starts would inherit them.",
        )
        env: dict[str, str] = Field(
            {}, description="Variables to add to the program's environment, which is otherwise clean."
        )

        @model_validator(mode="after")
        def _one(self) -> Command.Options:
            if (self.argv is None) == (self.shell is None):
                raise ValueError("give either `argv` (a list) or `shell` (a command line), not both")
            if any("\0" in word for word in (*self.command, *self.env, *self.env.values())):
                raise ValueError("a NUL character cannot be given to a program")
            return self

        @property
        def command(self) -> tuple[str, ...]:
            """The program and its arguments."""
            return self.argv or ("/bin/sh", "-c", self.shell or "")

    options: Options
    side_effects: ClassVar[bool] = True
    runs_once: ClassVar[bool] = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.converges = options.retry_forever

    def handle(self, change: Change, context: Context) -> None:
        """Run the program and wait for it to end.

        Raises:
            TemporaryError: it did not start, ran out of time, or exited with a status other than 0.
        """
        ended = context.run(
            self.options.command,
            stdin=standard_input(change),
            env={**self.options.env, **_environment(change, context)},
            timeout=self.options.timeout,
            limits=self.options.limits.limits,
            background=self.options.background,
        )
        if context.dry_run:  # nothing ran
            return
        # Neither the other arguments nor the output: both may contain secrets.
        context.log.info(
            "command.ran",
            program=self.options.command[0],
            duration=round(ended.duration, 4),
            output_bytes=len(ended.output),
        )


def standard_input(change: Change) -> bytes:
    """The JSON that `consul watch` gives to its handler, with Go's escapes and a final newline."""
    text = json.dumps(_shape(change), ensure_ascii=False, separators=(",", ":"))
    return (text.translate(_GO_ESCAPES) + "\n").encode(errors="replace")


def _shape(change: Change) -> Any:  # noqa: ANN401 (any JSON value)
    raw = change.raw
    match change:
        case Event():
            fired = {name: value for name, value in raw.items() if name not in _OURS}
            return [_EVENT | fired | {"Payload": raw.get("Payload") or None}]
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
        if change.provisional:
            given["AGENTD_PROVISIONAL"] = "1"
        if message := change.message:
            given["AGENTD_MESSAGE"] = str(message.num)
            given["AGENTD_PUBLISHER"] = message.publisher
            given["AGENTD_ISSUED"] = f"{message.issued:.3f}"
            given["AGENTD_VIA"] = message.via
    return {name: _environ(value) for name, value in given.items()}


def _event_index(event: Event) -> int:
    """The index of an event: the halves of its UUID, exclusive or (Consul's `IDToIndex`).

    The index of the answer belongs to its newest event, of whatever name, which a watch by name never sees.
    """
    digits = event.id.replace("-", "")
    try:
        return int(digits[:16], 16) ^ int(digits[16:], 16)
    except ValueError:  # not a UUID: not made by a Consul agent
        return event.message.num if event.message else event.index


def _environ(value: str) -> str:
    """Event names come from outside: replace what an environment variable cannot contain."""
    return value.replace("\0", "").encode(errors="replace").decode()
