"""What a handler under test may fetch: payloads in memory, by reference, under the daemon's rules.

Size, digest, packing and "still the same" are judged as in the daemon; there is no fence, and no network.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from pathlib import Path

from agentd.apply.sources.allowance import Allowance
from agentd.apply.sources.expand import expand as unpack
from agentd.apply.sources.expand import packing
from agentd.apply.sources.sink import Sink
from agentd.handler import Fetched, Known, Log, PermanentError
from agentd.reference import Reference, parse_digest, parse_reference
from agentd.source_options import SourceOptions


class Payloads(dict[str, bytes | Exception]):
    """Maps a reference without its digest to the bytes served there; an exception is raised instead.

    Implements `agentd.handler.Fetch`. `fetched` lists the references that were asked for, in order.
    """

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self._log = log
        self._directory: Path | None = None

    def __call__(
        self,
        reference: str,
        *,
        max_size: int | None = None,
        expand: bool = True,
        digest: str | None = None,
        rate: float | None = None,  # noqa: ARG002 (memory is fast)
    ) -> Path:
        """See `agentd.handler.Fetch`."""
        fetched = self._fetch(reference, Known(), max_size, digest, expand=expand)
        assert fetched is not None  # noqa: S101 (nothing was known)
        return fetched.path

    def if_changed(
        self,
        reference: str,
        known: Known,
        *,
        max_size: int | None = None,
        expand: bool = True,
        rate: float | None = None,  # noqa: ARG002 (as above)
    ) -> Fetched | None:
        """See `agentd.handler.Fetch`."""
        return self._fetch(reference, known, max_size, None, expand=expand)

    def _fetch(
        self, text: str, known: Known, max_size: int | None, digest: str | None, *, expand: bool
    ) -> Fetched | None:
        reference = _parse(text, digest)
        source, options = str(reference.location), SourceOptions()
        self.fetched.append(text)
        data = self.get(reference.location.url, PermanentError(f"{source}: no such payload on the bench"))
        if isinstance(data, Exception):
            raise data
        new = Known(etag=hashlib.sha256(data).hexdigest())
        if new == known:
            return None
        path = self._room() / f"{len(self.fetched):03}-{reference.location.name}"
        limit = options.max_size if max_size is None else max_size
        with Sink(path, source, max_size=limit, digest=reference.digest) as sink:
            sink.write(data)
            sink.verify()
        kind = packing(reference.location.name, "") if expand else ""
        if kind:
            allowance = Allowance(source, 60.0, log=self._log)
            path = unpack(source, path, kind, options.max_expanded, allowance)
        return Fetched(path, len(data), new)

    def _room(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="agentd-bench-"))
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory


def _parse(text: str, digest: str | None) -> Reference:
    try:
        reference = parse_reference(text)
        return Reference(reference.location, parse_digest(digest)) if digest else reference
    except ValueError as error:
        raise PermanentError(f"not a usable reference: {error}") from error
