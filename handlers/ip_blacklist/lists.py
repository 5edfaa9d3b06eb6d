"""The named lists: each has separate files, replaced as a whole, so that a change leaves the others alone.

    blacklist/lists/NAME.plain          what the publisher says, one CIDR per line; `why` quotes it
    blacklist/lists/NAME.ipv4, .ipv6    what nginx reads, made from it

Owns these files and their records in the store. Whether a new version is accepted is up to `guards`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from agentd.handler import Context, Known, PermanentError, TaskContext, TemporaryError
from agentd.limits import Limits
from handlers.ip_blacklist import child, compile, guards  # noqa: A004 (what it does)
from handlers.ip_blacklist.compile import CompileJob, Report
from handlers.ip_blacklist.coverage import Coverage, Figures, Part
from handlers.ip_blacklist.exemptions import UNROUTED, Exemptions
from handlers.ip_blacklist.formats import Format
from handlers.ip_blacklist.geo import overlaps
from handlers.ip_blacklist.options import BlacklistOptions
from handlers.ip_blacklist.ranges import IPV4, IPV6, Block, Range, merge

MODE: Final = 0o640
"""Of every file: whoever may connect to nginx must not read who may not."""
FEED: Final = "feed"
"""Instead of the ID of an event, what loaded a list that was fetched on schedule."""
_PARTS: Final = {IPV4: "ipv4", IPV6: "ipv6"}
_MOST_REMOVED: Final = 10_000
_NOTHING_KNOWN: Final = Known()
_NONE: Final[Mapping[str, Version]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Loaded:
    """A named list in force.

    Attributes:
        reference: where it came from.
        change: the ID of the event that loaded it, or `FEED`.
        since: when, in unix seconds.
        form: the format of its `.plain` file.
        report: the figures of the whole list, the fields of `compile.Report`.
        overrode: the messages of guards that were overridden.
        holes: the exemptions that were cut out, as a fingerprint.
        removed: (width, first, last) of each block that a `remove` has cut out since.
    """

    reference: str
    change: str
    since: float
    form: Format
    report: Mapping[str, Any]
    overrode: Sequence[str] = ()
    holes: str = ""
    removed: Sequence[Sequence[int]] = field(default_factory=tuple)

    @property
    def entries(self) -> int:
        """The number of entries."""
        return int(self.report["entries"])


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a list that was fetched and compiled, and is not in force yet.

    Attributes:
        source: what was fetched; `directory` holds what was made of it.
        known: what its server said about it.
    """

    source: Path
    directory: Path
    report: Report
    known: Known


def path(name: str, part: str) -> str:
    """A file of a list: part is "plain", "ipv4" or "ipv6"."""
    return f"blacklist/lists/{name}.{part}"


class Lists:
    """The named lists as one attempt sees them.

    Args:
        context: of the attempt.
        exemptions: what is never blocked.
        options: of the blacklist.
    """

    def __init__(self, context: Context, exemptions: Exemptions, options: BlacklistOptions) -> None:
        self._context = context
        self._exemptions = exemptions
        self._options = options.every_list
        self._limits = options.limits.limits
        self._coverage = Coverage(context, options)

    @property
    def _stored(self) -> MutableMapping[str, Any]:
        lists: MutableMapping[str, Any] = self._context.store.setdefault("lists", {})
        return lists

    def loaded(self) -> dict[str, Loaded]:
        """The lists in force, by name, sorted."""
        return {name: Loaded(**self._stored[name]) for name in sorted(self._stored)}

    def fetching(
        self, name: str, reference: str, known: Known = _NOTHING_KNOWN, *, force: bool = False
    ) -> Callable[[TaskContext], Version | None]:
        """The task that fetches and compiles a version of a list, `force` also one that is too long.

        It returns None if that is still the `known` one; it raises what the fetch and the compiler raise.
        """
        options, limits = self._options[name], self._limits
        job = self._job(name, options.format, (), None if force else options.most_entries)

        def fetch(context: TaskContext) -> Version | None:
            fetched = context.fetch.if_changed(reference, known)
            if fetched is None and known == _NOTHING_KNOWN:
                source = reference.partition("?")[0]
                raise TemporaryError(f"{source}: said to be unchanged although nothing is known of it")
            if fetched is None:
                return None
            report = _compile(context, job, fetched.path, context.scratch, limits)
            return Version(fetched.path, context.scratch, report, fetched.known)

        return fetch

    def judged(self, name: str, version: Version, reference: str, change: str, *, force: bool) -> Loaded:
        """The record of a version, if the guards accept it or are overridden; nothing is staged yet.

        Args:
            name: of the list.
            version: what was fetched.
            reference: where it came from.
            change: the ID of the event, or `FEED`.
            force: whether to override the guards.

        Raises:
            Guarded: they do not; the last good version stays.
        """
        last, report = self.loaded().get(name), version.report
        found = guards.check(name, self._options[name], report, last.entries if last else None)
        if not found and (why := self._coverage.objection(self.parts({name: version}))):
            found = {"addresses": f"list {name}: {why}"}
        if not force or report.malformed:  # a list that cannot be read cannot be forced
            guards.refuse(found)
        return Loaded(
            reference,
            change,
            since=self._context.now,
            form="plain" if report.form != "firehol" else "firehol",
            report=asdict(report),
            overrode=tuple(found.values()),
            holes=self._fingerprint(),
        )

    def replace(self, name: str, version: Version, loaded: Loaded) -> None:
        """Bring a version that was judged into force."""
        plain = version.directory / compile.PLAIN
        source = plain if plain.exists() else version.source
        self._context.files.write_file(path(name, "plain"), source, MODE)
        self._stage(name, version.directory)
        self._stored[name] = asdict(loaded)

    def parts(self, instead: Mapping[str, Version] = _NONE) -> list[Part]:
        """What each list covers that is in force, some of them in another version."""
        return [self._part(name, instead.get(name)) for name in sorted({*self.loaded(), *instead})]

    def _part(self, name: str, version: Version | None) -> Part:
        if version is None:
            loaded, files = self.loaded()[name], self._context.files
            told = f"{name} {loaded.since} {len(loaded.removed)} {loaded.holes}"
            figures = Figures(loaded.report["ipv4_addresses"], loaded.report["ipv6_networks"])
            return Part(told, figures, files.path(path(name, "ipv4")), files.path(path(name, "ipv6")))
        report, made = version.report, version.directory
        figures = Figures(report.ipv4_addresses, report.ipv6_networks)
        return Part(str(made), figures, made / compile.IPV4_RANGES, made / compile.IPV6_CIDRS)

    def clear(self, name: str) -> None:
        """Drop a list."""
        self._stored.pop(name, None)
        for part in ("plain", "ipv4", "ipv6"):
            self._context.files.remove(path(name, part))

    def remove(self, blocks: Collection[Block], spare: Collection[str] = ()) -> None:
        """Stop blocking every address of the blocks in all lists but some, until they are loaded again.

        Raises:
            PermanentError: there would be more of them for one list than is remembered.
        """
        for name, loaded in self.loaded().items() if blocks else ():
            if name in spare:
                continue
            files = {bits: self._context.files.path(path(name, part)) for bits, part in _PARTS.items()}
            gone = [one for one in blocks if (file := files[one.bits]) and overlaps(file, one)]
            removed = [*loaded.removed, *map(list, gone)]
            if len(removed) > _MOST_REMOVED:
                raise PermanentError(
                    f"list {name}: more than {_MOST_REMOVED} `remove` lines would be remembered for it:"
                    " `clear` it, or load one without these addresses"
                )
            if gone:
                self._render(name, replace(loaded, removed=removed))

    def restore(self, name: str) -> None:
        """Block again what was removed of a list."""
        loaded = self.loaded()[name]
        if loaded.removed:
            self._render(name, replace(loaded, removed=[]))

    def refresh(self) -> None:
        """Drop lists that are no longer configured; compile those again whose exemptions have changed."""
        for name, loaded in self.loaded().items():
            if name not in self._options:
                self.clear(name)
            elif loaded.holes != self._fingerprint():
                self._render(name, loaded)

    def _render(self, name: str, loaded: Loaded) -> None:
        source = self._context.files.path(path(name, "plain"))
        if source is None:
            raise PermanentError(f"list {name}: its source is missing; load it again")
        with tempfile.TemporaryDirectory(prefix="agentd-blacklist-") as made:
            job = self._job(name, loaded.form, loaded.removed, None)
            report = _compile(self._context, job, source, Path(made), self._limits)
            self._stage(name, Path(made))
        now = replace(loaded, report=asdict(report), holes=self._fingerprint())
        self._stored[name] = asdict(now)

    def _stage(self, name: str, directory: Path) -> None:
        files = self._context.files
        files.write_file(path(name, "ipv4"), directory / compile.IPV4_RANGES, MODE)
        files.write_file(path(name, "ipv6"), directory / compile.IPV6_CIDRS, MODE)

    def _job(
        self, name: str, form: Format | None, removed: Sequence[Sequence[int]], most: int | None
    ) -> CompileJob:
        """What is to be compiled, but for its files."""
        options = self._options[name]
        return CompileJob(
            source="",
            directory="",
            form=form,
            holes4=self._holes(IPV4, removed),
            holes6=self._holes(IPV6, removed),
            shortest=(options.shortest_ipv4, options.shortest_ipv6),
            unrouted=UNROUTED,
            most=most,
        )

    def _holes(self, bits: int, removed: Sequence[Sequence[int]]) -> list[Range]:
        gone = [(first, last) for width, first, last in removed if width == bits]
        return merge([*self._exemptions.ranges(bits), *gone])

    def _fingerprint(self) -> str:
        return json.dumps([self._exemptions.ranges(IPV4), self._exemptions.ranges(IPV6)])


def _compile(
    context: Context | TaskContext, job: CompileJob, source: Path, directory: Path, limits: Limits
) -> Report:
    """Compile a list into a directory. Raises what `child.run` raises."""
    child.run(context, replace(job, source=str(source), directory=str(directory)), [source], limits)
    return Report.read(directory)
