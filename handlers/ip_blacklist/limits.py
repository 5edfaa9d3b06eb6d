"""The guards of a named list: what it may be, each with a message and a name of its own for the metrics.

A guard judges what a list would become against its options and against the list in force. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final

from pydantic import Field, model_validator

from agentd.handler import Duration, HandlerOptions, PermanentError
from handlers.ip_blacklist.bulk import Report
from handlers.ip_blacklist.formats import Format

GUARDS: Final = (
    "never_block", "prefix", "count", "empty", "entries", "addresses", "growth", "shrinkage", "rejected",
)  # fmt: skip
"""The guards by the names that their metrics have: blacklist_refused_NAME."""
NAME: Final = r"[a-z][a-z0-9_]{0,30}"
"""How a list may be called: it becomes part of a file's and a variable's name."""
_SMALL: Final = 100  # entries; below it the ratio of two lists means nothing
_SHOWN: Final = 160


class Guarded(PermanentError):  # noqa: N818 (it says what happened)
    """A guard refused; nothing changed. `guards` are their names."""

    def __init__(self, message: str, guards: tuple[str, ...]) -> None:
        super().__init__(message)
        self.guards = guards


class ListOptions(HandlerOptions):
    """One named list: where it comes from, and what it may be at most."""

    reference: str | None = Field(
        None,
        description="Where it is fetched from, such as https://HOST/PATH; sources.allow permits it.",
    )
    every: Annotated[Duration, Field(ge=1)] | None = Field(
        None, description="How often it is fetched, such as 1h; never by itself if this is not set."
    )
    format: Format | None = Field(
        None, description="plain, firehol, spamhaus or crowdsec; found out if this is not set."
    )
    shortest_ipv4: int = Field(8, ge=0, le=32, description="The shortest prefix of an IPv4 entry.")
    shortest_ipv6: int = Field(19, ge=0, le=64, description="The shortest prefix of an IPv6 entry.")
    most_entries: int = Field(2_000_000, ge=1, description="Most entries.")
    most_addresses: int = Field(
        2**29 + 2**28, ge=1, description="Most IPv4 addresses covered; what is never blocked does not count."
    )
    most_networks: int = Field(2**46, ge=1, description="Most IPv6 /64 networks covered.")
    growth: float = Field(
        10.0, ge=1, description="How many times as many entries as the last list (100 at least) it may have."
    )
    shrinkage: float = Field(
        0.5, ge=0, le=1, description="Which share of the last list's entries it must have, from 100 on."
    )
    rejected: float = Field(0.05, ge=0, le=1, description="Which share of its lines may be no address.")
    empty: bool = Field(
        False,  # noqa: FBT003 (pydantic's own signature)
        description="Whether it may be empty.",
    )

    @model_validator(mode="after")
    def _has_reference(self) -> ListOptions:
        if self.every is not None and self.reference is None:
            raise ValueError("`every` needs a `reference` to fetch")
        return self


def check(name: str, options: ListOptions, report: Report, last: int | None) -> dict[str, str]:
    """What the guards have against the list: guard -> message; empty if nothing.

    Args:
        name: of the list.
        options: its guards.
        report: what it would become.
        last: entries of the list in force; None if there is none.
    """
    return {guard: f"list {name}: {why}" for guard, why in _complaints(options, report, last)}


def refuse(found: Mapping[str, str]) -> None:
    """Raise Guarded if a guard has anything against it."""
    if found:
        raise Guarded("; ".join(found.values()), tuple(found))


def _complaints(options: ListOptions, report: Report, last: int | None) -> Iterator[tuple[str, str]]:
    if report.malformed:
        yield "count", f"not in the format {report.form}: {report.malformed}"
        return
    lines = report.entries + report.rejected
    if report.declared is not None and report.declared != lines:
        yield "count", f"it says that it has {report.declared} entries and has {lines}: it was cut short"
    if report.wide:
        yield (
            "prefix",
            (
                f"{report.wide} prefixes are shorter than /{options.shortest_ipv4} (IPv4) or"
                f" /{options.shortest_ipv6} (IPv6), such as {_some(report.widest)}"
            ),
        )
    if lines and report.rejected / lines > options.rejected:
        yield (
            "rejected",
            (
                f"{report.rejected} of {lines} lines are no address, more than {options.rejected:.0%},"
                f" such as {_some(report.examples)}"
            ),
        )
    yield from _sizes(options, report)
    yield from _changes(options, report.entries, last)


def _sizes(options: ListOptions, report: Report) -> Iterator[tuple[str, str]]:
    if report.entries == 0 and not options.empty:
        yield "empty", "it is empty; `empty: true` permits that, `clear` empties it"
    if report.entries > options.most_entries:
        yield "entries", f"{report.entries} entries are more than most_entries, {options.most_entries}"
    if report.ipv4_addresses > options.most_addresses:
        yield (
            "addresses",
            (f"{report.ipv4_addresses} IPv4 addresses, more than most_addresses, {options.most_addresses}"),
        )
    if report.ipv6_networks > options.most_networks:
        yield (
            "addresses",
            (f"{report.ipv6_networks} IPv6 /64 networks, more than most_networks, {options.most_networks}"),
        )


def _changes(options: ListOptions, entries: int, last: int | None) -> Iterator[tuple[str, str]]:
    if last is None:
        return
    if entries > max(last, _SMALL) * options.growth:
        yield "growth", f"from {last} to {entries} entries it grows more than {options.growth:g} times"
    if last >= _SMALL and entries < last * options.shrinkage:
        yield "shrinkage", f"from {last} to {entries} entries it keeps less than {options.shrinkage:.0%}"


def _some(examples: object) -> str:
    return ", ".join(str(one) for one in examples)[:_SHOWN] if isinstance(examples, list | tuple) else ""
