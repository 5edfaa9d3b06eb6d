"""The named lists: each has files of its own, replaced as a whole, so that a change leaves the others alone.

    blacklist/lists/NAME.plain          what the publisher says, one CIDR a line; `why` quotes it
    blacklist/lists/NAME.ipv4, .ipv6    what nginx reads, made from it

Owns these files and what the store says of them. Whether a list may come into force is `limits`' to say.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from agentd.handler import Context, PermanentError
from handlers.ip_blacklist import bulk, limits
from handlers.ip_blacklist.bulk import Job, Report
from handlers.ip_blacklist.formats import Format
from handlers.ip_blacklist.guards import UNROUTED, Guards
from handlers.ip_blacklist.limits import ListOptions
from handlers.ip_blacklist.lookup import overlaps
from handlers.ip_blacklist.ranges import IPV4, IPV6, Block, Range, merge
from handlers.ip_blacklist.union import UnionJob

_MODE: Final = 0o640
_INLINE: Final = 256 * 1024  # bytes; below it a program takes longer to start than to do the work


@dataclass(frozen=True, slots=True)
class Loaded:
    """A named list in force.

    Attributes:
        reference: where it came from.
        change: the ID of the event that loaded it, "feed" if it was fetched by schedule.
        since: when, in unix seconds.
        form: the format that its `.plain` file has.
        report: figures of the whole list, as `bulk.Report` says them.
        overrode: what guards said that were overridden.
        holes: what was taken out, as a fingerprint.
        removed: (bits, first, last) of what `remove` took out since.
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
        """How many entries it has."""
        return int(self.report["entries"])


def is_small(context: Context, files: Iterable[Path]) -> bool:
    """Whether the work on these files is done here. A dry run starts no program; it is one itself."""
    return context.dry_run or sum(file.stat().st_size for file in files) < _INLINE


def run_child(context: Context, kind: str, job: Job | UnionJob) -> None:
    """Have a program do the work. Raises TemporaryError if it fails."""
    argv = [sys.executable, "-I", "-m", "handlers.ip_blacklist.child", kind]
    context.run(argv, stdin=json.dumps(asdict(job)).encode())


def path(name: str, part: str) -> str:
    """A file of a list: part is "plain", "ipv4" or "ipv6"."""
    return f"blacklist/lists/{name}.{part}"


class Lists:
    """The named lists as one attempt sees them.

    Args:
        context: of the attempt.
        guards: what is never blocked.
        options: of each list.
    """

    def __init__(self, context: Context, guards: Guards, options: Mapping[str, ListOptions]) -> None:
        self._context = context
        self._guards = guards
        self._options = options

    @property
    def _stored(self) -> MutableMapping[str, Any]:
        lists: MutableMapping[str, Any] = self._context.store.setdefault("lists", {})
        return lists

    def loaded(self) -> dict[str, Loaded]:
        """Those in force, by name, sorted."""
        return {name: Loaded(**self._stored[name]) for name in sorted(self._stored)}

    def replace(self, name: str, source: Path, loaded: Loaded, form: Format | None, *, force: bool) -> Loaded:
        """Bring into force what was fetched, if the guards permit it or are overridden.

        Raises:
            Guarded: they do not; the last good one stays.
            TemporaryError: the program that compiles it failed.
        """
        last = self.loaded().get(name)
        options = self._options[name]
        with self._compiled(source, form or options.format, name, ()) as (directory, report):
            found = limits.check(name, options, report, last.entries if last else None)
            if not force or report.malformed:  # what cannot be read cannot be forced
                limits.refuse(found)
            plain = directory / bulk.PLAIN
            self._context.files.write_file(path(name, "plain"), plain if plain.exists() else source, _MODE)
            self._stage(name, directory)
        loaded = replace(
            loaded,
            form="plain" if report.form != "firehol" else "firehol",
            report=asdict(report),
            overrode=tuple(found.values()),
            holes=self._fingerprint(),
            removed=(),
        )
        self._stored[name] = asdict(loaded)
        return loaded

    def clear(self, name: str) -> None:
        """Drop a list."""
        self._stored.pop(name, None)
        for part in ("plain", "ipv4", "ipv6"):
            self._context.files.remove(path(name, part))

    def remove(self, block: Block) -> None:
        """Let every address of the block through, until the list is loaded again."""
        for name, loaded in self.loaded().items():
            file = self._context.files.path(path(name, "ipv4" if block.bits == IPV4 else "ipv6"))
            if file is not None and overlaps(file, block):
                self._render(name, replace(loaded, removed=[*loaded.removed, list(block)]))

    def refresh(self) -> None:
        """Drop those that are not configured any more; render those again whose exemptions changed."""
        for name, loaded in self.loaded().items():
            if name not in self._options:
                self.clear(name)
            elif loaded.holes != self._fingerprint():
                self._render(name, loaded)

    # ------------------------------------------------------------------ within

    def _render(self, name: str, loaded: Loaded) -> None:
        source = self._context.files.path(path(name, "plain"))
        if source is None:
            raise PermanentError(f"list {name}: its source is missing; load it again")
        with self._compiled(source, loaded.form, name, loaded.removed) as (directory, report):
            self._stage(name, directory)
        now = replace(loaded, report=asdict(report), holes=self._fingerprint())
        self._stored[name] = asdict(now)

    def _stage(self, name: str, directory: Path) -> None:
        files = self._context.files
        files.write_file(path(name, "ipv4"), directory / bulk.IPV4_RANGES, _MODE)
        files.write_file(path(name, "ipv6"), directory / bulk.IPV6_CIDRS, _MODE)

    @contextmanager
    def _compiled(
        self, source: Path, form: Format | None, name: str, removed: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Path, Report]]:
        options = self._options[name]
        with tempfile.TemporaryDirectory(prefix="agentd-blacklist-") as made:
            job = Job(
                source=str(source),
                directory=made,
                form=form,
                holes4=self._holes(IPV4, removed),
                holes6=self._holes(IPV6, removed),
                shortest=(options.shortest_ipv4, options.shortest_ipv6),
                exempt=UNROUTED,
            )
            yield Path(made), self._compile(job)

    def _compile(self, job: Job) -> Report:
        if is_small(self._context, [Path(job.source)]):
            return bulk.compile_list(job)
        run_child(self._context, "compile", job)
        return Report.read(Path(job.directory))

    def _holes(self, bits: int, removed: Sequence[Sequence[int]]) -> list[Range]:
        gone = [(first, last) for width, first, last in removed if width == bits]
        return merge([*self._guards.never(bits), *gone])

    def _fingerprint(self) -> str:
        return json.dumps([self._guards.never(IPV4), self._guards.never(IPV6)])
