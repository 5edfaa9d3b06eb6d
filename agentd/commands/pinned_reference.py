"""A reference with the SHA-256 of what it refers to, so that every node applies the same bytes or none.

What is fetched to compute or verify it is what `sources:` of the configuration file allows, by its limits.
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from agentd.errors import AgentdError, HandlerError
from agentd.watch.options import ANSWER_TIME

if TYPE_CHECKING:
    from agentd.config.yaml_document import Document
    from agentd.sources.fetcher import Sources
    from agentd.sources.reference import Reference
    from agentd.watch.options import ConsulOptions


def pin(
    text: str,
    document: Document | None,
    consul: ConsulOptions,
    *,
    fetch: bool,
    seconds: float = math.inf,
) -> str:
    """The reference with its digest, as handlers take it: "SCHEME:... sha256:HEX".

    Args:
        text: a reference, with or without a digest.
        document: the configuration file, whose `sources:` says what may be fetched; None if there is none.
        consul: reads kv: references.
        fetch: whether a digest that was given is verified, where it can be.
        seconds: how long fetching may take, if that is less than what `sources:` allows.

    Raises:
        ConfigError: the section `sources:` is wrong.
        AgentdError: it is no reference; it has no digest and cannot be fetched here; or its digest differs.
    """
    from agentd.sources.reference import parse_reference  # noqa: PLC0415 (only a reference needs it)

    try:
        reference = parse_reference(text)
    except ValueError as error:
        raise AgentdError(f"--reference: {error}") from error
    with TemporaryDirectory(prefix="agentd-") as directory:
        hurried = consul.impatient(seconds) if seconds < ANSWER_TIME else consul
        sources = _sources(document, hurried, Path(directory))
        prevented = _prevented(sources, reference)
        if reference.digest and (prevented or not fetch):
            if prevented:
                sys.stderr.write(f"agentd: warning: its digest is not verified: {prevented}\n")
            return text.strip()
        if prevented:
            raise AgentdError(
                f"{prevented}; or give its digest, as in --reference '{reference.location} sha256:HEX'"
            )
        sha256 = _sha256(sources, text, seconds)
    return text.strip() if reference.digest else f"{text.strip()} sha256:{sha256}"


def _sources(document: Document | None, consul: ConsulOptions, directory: Path) -> Sources:
    from agentd.config.sections import read_section  # noqa: PLC0415 (as above)
    from agentd.sources.fetcher import Sources  # noqa: PLC0415 (as above)
    from agentd.sources.options import SourceOptions  # noqa: PLC0415 (as above)
    from agentd.watch.lookup import key_reader  # noqa: PLC0415 (as above)

    options = read_section(document, "sources", SourceOptions) if document else SourceOptions()
    return Sources(options, directory, key_reader(consul))


def _prevented(sources: Sources, reference: Reference) -> str:
    """Why it must not be fetched here; "" if it may."""
    try:
        sources.allowlist.check(reference.location)
    except HandlerError as error:
        return str(error)
    return ""


def _sha256(sources: Sources, text: str, seconds: float) -> str:
    """Fetch it, have its digest verified if it has one, and compute the SHA-256 of what was served."""
    import structlog  # noqa: PLC0415 (as above)

    from agentd.report import log  # noqa: PLC0415 (as above)
    from agentd.sources.fetcher import Fetcher  # noqa: PLC0415 (as above)

    log.configure("info")  # a long transfer tells how far it is
    with closing(sources.new_directory()) as room:
        end = time.monotonic() + min(seconds, sources.options.total_timeout)
        fetcher = Fetcher(sources, room, end, structlog.get_logger())
        try:
            with fetcher(text, expand=False).open("rb") as fetched:
                return hashlib.file_digest(fetched, "sha256").hexdigest()
        except HandlerError as error:
            raise AgentdError(f"not published: {error}") from error
