"""Trust: whether the keys can be used, and what of the fleet's messages is accepted.

Where `trust:` is not configured, only what that means for what is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from agentd.commands.checks.finding import Finding
from agentd.config.load import Loaded, OnEvent
from agentd.errors import BadKey
from agentd.trust.configured import make_keyring, read_fleet_keys, read_signer
from agentd.trust.options import TrustOptions

_SUBJECT: Final = "trust"


def findings(loaded: Loaded) -> Iterator[Finding]:
    """Each key is read from its file, as the daemon and `agentd publish` do."""
    options = loaded.config.trust
    if options is None:
        yield from _untrusting(loaded)
        return
    problems = [*_fleet_keys(options)] or [*_signing_key(options)]
    yield from problems
    if not problems:
        yield Finding("ok", _SUBJECT, _described(options))
    yield from _required(options)
    yield from _silenced(loaded, options)
    yield from _without_payload(loaded, options)


def _untrusting(loaded: Loaded) -> Iterator[Finding]:
    """A fleet that runs so is in order; whoever asks should know it."""
    if _kept(loaded):
        text = (
            "whoever may write to the log, or fire an event, decides what this node does with what it keeps"
        )
        yield Finding("ok", _SUBJECT, f"{text}; `trust:` limits that to publishers (docs/trust.md)")


def _kept(loaded: Loaded, *, kept: bool = True) -> list[str]:
    """The events that are kept, or those that are not."""
    items = [on for one in loaded.handlers for on in one.entry.on]
    return sorted({on.event for on in items if isinstance(on, OnEvent) and bool(on.keep) is kept})


def _described(options: TrustOptions) -> str:
    sealed = f"sealed: {', '.join(options.seal)}" if options.seal else "nothing is sealed"
    return f"publishers: {', '.join(options.publishers) or 'none'}; {sealed}"


def _fleet_keys(options: TrustOptions) -> Iterator[Finding]:
    try:
        make_keyring(options, read_fleet_keys(options)).check()
    except BadKey as error:
        yield Finding("FAIL", _SUBJECT, str(error), "until it is right, agentd does not start or reload")


def _signing_key(options: TrustOptions) -> Iterator[Finding]:
    try:
        signer = read_signer(options)
    except BadKey as error:
        yield Finding("FAIL", _SUBJECT, str(error), "until it is right, `agentd publish` fails on this host")
        return
    if signer and not any(signer.key.public.text in one.key for one in options.publishers.values()):
        yield Finding(
            "FAIL",
            _SUBJECT,
            f"signing_key: {options.signing_key} belongs to no publisher in this file",
            f"add {signer.key.public.text} as a `key` of a publisher, here and on every node",
        )


def _required(options: TrustOptions) -> Iterator[Finding]:
    if options.require is None:
        text = "messages and events that nobody signed are accepted too"
        yield Finding("warn", _SUBJECT, text, "once every publisher signs, set `trust.require: signed`")


def _silenced(loaded: Loaded, options: TrustOptions) -> Iterator[Finding]:
    """Which kept names nobody can send any more."""
    for name in _kept(loaded):
        has_publisher = any(one.may_send(name) for one in options.publishers.values())
        if options.must_be_signed(name) and not has_publisher:
            text = f"no publisher may send {name!r}: all its messages are refused"
            yield Finding("FAIL", _SUBJECT, text, "add it to the `may` of a publisher")


def _without_payload(loaded: Loaded, options: TrustOptions) -> Iterator[Finding]:
    """Which events arrive only if they are empty, since nobody signs them."""
    for name in _kept(loaded, kept=False) if options.require else []:
        text = f"the event {name!r} is not kept: with `trust.require`, it is refused if it has a payload"
        advice = "if it needs one, keep it, and use `agentd publish`"
        yield Finding("warn", _SUBJECT, text, advice)
