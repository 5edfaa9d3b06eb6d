"""What a handler under test may fetch: payloads in memory, by reference, under the daemon's rules.

Size, digest, compression and "unchanged" are handled as in the daemon; there is no allowlist and no network.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from pathlib import Path

from agentd.deadline import Deadline
from agentd.handler import Fetch, Fetched, Known, Log, PermanentError
from agentd.sources.download import Download
from agentd.sources.fetcher import read_reference
from agentd.sources.options import SourceOptions
from agentd.sources.unpack import announced, unpack


class Payloads(dict[str, bytes | Exception], Fetch):
    """Maps a reference without its digest to the bytes served there; an exception is raised instead.

    `fetched` lists the references fetched, in order.
    """

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self._log = log
        self._directory: Path | None = None

    def permitted(self, reference: str) -> None:
        """Only what cannot be a reference is refused."""
        read_reference(reference)

    def if_changed(
        self,
        reference: str,
        known: Known,
        *,
        max_size: int | None = None,
        expand: bool = True,
        digest: str | None = None,
        rate: float | None = None,  # noqa: ARG002 (memory is fast)
    ) -> Fetched | None:
        """See `agentd.handler.Fetch`."""
        found = read_reference(reference, digest)
        source, options = str(found.location), SourceOptions()
        self.fetched.append(reference)
        data = self.get(found.location.url, PermanentError(f"{source}: the test has no such payload"))
        if isinstance(data, Exception):
            raise data
        new = Known(etag=hashlib.sha256(data).hexdigest())
        if new == known:
            return None
        path = self._files() / f"{len(self.fetched):03}-{found.location.name}"
        limit = options.max_size if max_size is None else max_size
        with Download(path, source, max_size=limit, digest=found.digest) as download:
            download.write(data)
            download.verify()
        if expand:
            deadline = Deadline(source, 60.0, log=self._log)
            path = unpack(source, path, announced(found.location.name, ""), options.max_expanded, deadline)
        return Fetched(path, len(data), new)

    def _files(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="agentd-harness-"))
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory
