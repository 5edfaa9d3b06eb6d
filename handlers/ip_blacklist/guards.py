"""The guards: is a new version of a named list accepted? Each has a message, and a name for its metric.

A guard judges the compiled list against its options and against the version in force. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from agentd.handler import PermanentError
from handlers.ip_blacklist.compile import Report
from handlers.ip_blacklist.options import ListOptions

GUARDS: Final = (
    "never_block", "prefix", "count", "empty", "entries", "addresses", "growth", "shrinkage", "rejected",
)  # fmt: skip
"""The guards by the names used in their metrics: blacklist_refused_NAME."""
_SMALL: Final = 100  # entries; below it the ratio of two lists means nothing
_QUOTED: Final = 160


class Guarded(PermanentError):  # noqa: N818 (it says what happened)
    """A guard refused; nothing changed. `guards` holds the names of those that did."""

    def __init__(self, message: str, guards: tuple[str, ...]) -> None:
        super().__init__(message)
        self.guards = guards


def check(name: str, options: ListOptions, report: Report, last: int | None) -> dict[str, str]:
    """What the guards object to: guard -> message; empty if they accept the list.

    Args:
        name: of the list.
        options: its guards.
        report: the figures of the new version.
        last: number of entries of the version in force; None if there is none.
    """
    return {guard: f"list {name}: {why}" for guard, why in _objections(options, report, last)}


def refuse(found: Mapping[str, str]) -> None:
    """Raise Guarded if a guard objects."""
    if found:
        raise Guarded("; ".join(found.values()), tuple(found))


def _objections(options: ListOptions, report: Report, last: int | None) -> Iterator[tuple[str, str]]:
    if report.malformed:
        yield "count", f"not in the format {report.form}: {report.malformed}"
        return
    lines = report.entries + report.rejected
    if report.whole and report.declared is not None and report.declared != lines:
        yield "count", f"it declares {report.declared} entries but contains {lines}: it was cut short"
    if report.wide:
        shortest = f"shortest_ipv4 (/{options.shortest_ipv4}) or shortest_ipv6 (/{options.shortest_ipv6})"
        yield "prefix", f"prefixes shorter than {shortest}: {report.wide}, such as {_some(report.widest)}"
    if lines and report.rejected / lines > options.rejected:
        found = f"{report.rejected} of {lines} lines are not addresses, such as {_some(report.examples)}"
        yield "rejected", f"{found}: more than {options.rejected:.0%} (rejected)"
    yield from _sizes(options, report)
    if report.whole:
        yield from _changes(options, report.entries, last)


def _sizes(options: ListOptions, report: Report) -> Iterator[tuple[str, str]]:
    if report.entries == 0 and not options.empty:
        advice = "it is empty; set `empty: true` to accept that, or use `clear` to empty the list"
        yield "empty", "it has no address" if report.rejected else advice
    for guard, count, what, option in (
        ("entries", report.entries, "entries", "most_entries"),
        ("entries", report.ipv6_cidrs, "CIDRs that IPv6 ranges become", "most_entries"),
        ("addresses", report.ipv4_addresses, "IPv4 addresses", "most_addresses"),
        ("addresses", report.ipv6_networks, "IPv6 /64 networks", "most_networks"),
    ):
        if count > (most := getattr(options, option)):
            some = f"{count}" if report.whole else f"at least {count}"
            yield guard, f"{some} {what} are more than {option}, {most}"


def _changes(options: ListOptions, entries: int, last: int | None) -> Iterator[tuple[str, str]]:
    if last is None:
        return
    if entries > max(last, _SMALL) * options.growth:
        grown = f"it grew from {last} to {entries} entries"
        yield "growth", f"{grown}, more than {options.growth:g} times (growth)"
    if last >= _SMALL and entries < last * options.shrinkage:
        shrunk = f"it shrank from {last} to {entries} entries"
        yield "shrinkage", f"{shrunk}, below {options.shrinkage:.0%} (shrinkage)"


def _some(examples: Sequence[str]) -> str:
    return ", ".join(examples)[:_QUOTED]
