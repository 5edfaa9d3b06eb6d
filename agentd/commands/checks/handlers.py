"""The configured handlers: what would go wrong at their first change, what is not in force, what is behind.

Each handler is asked in a dry run, so nothing is mended. What is read from the journal says more than the
handlers can: which states failed, which changes wait for a proof, and since when.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import structlog

from agentd.commands.checks.finding import Finding
from agentd.commands.node import dry_batch
from agentd.commands.output import moment
from agentd.config.load import ConfiguredHandler, Loaded
from agentd.config.sections import read_document
from agentd.config.yaml_document import Document
from agentd.configured_tree import open_tree
from agentd.errors import AgentdError, FormatError, HandlerError, JournalError
from agentd.handler import Drift, Handler, Verdict
from agentd.journal.commits import Commits
from agentd.journal.journal import Journal
from agentd.journal.schema import FORMAT, read_format
from agentd.journal.summary import summary
from agentd.nginx import canary
from agentd.report import log
from agentd.tree.tree import Tree

_RELOAD: Final = 5.0
_LOOK: Final = 0.1


def findings(loaded: Loaded) -> Iterator[Finding]:
    """The journal first, since what it holds says what each handler has committed."""
    log.configure("error")  # what a handler finds is told below
    document = read_document(loaded.path)
    file = loaded.config.state / "journal.db"
    try:
        found = read_format(file) if file.exists() else None
        if found not in (None, FORMAT):
            text = f"{file} has format {found}; the next start of agentd brings it to {FORMAT}"
            yield Finding("warn", "journal", text, "an earlier version of agentd cannot use it after that")
        journal = Journal(file) if found == FORMAT else None
    except (FormatError, JournalError) as error:
        yield Finding("FAIL", "journal", str(error), "move it away, and start agentd: it begins a new one")
        journal = None
    tree = open_tree(loaded.config)
    if journal is None:
        for handler in loaded.handlers:
            yield from _handler(loaded, document, tree, None, handler)
        return
    with closing(journal):
        waits = _await_proof(journal)
        if waits:
            listed = ", ".join(map(str, waits))
            many = len(waits) > 1
            text = (
                f"generations {listed} wait for their proof"
                if many
                else f"generation {listed} waits for its proof"
            )
            yield Finding("warn", "reload", text, "`agentd history` says why; what takes effect is unknown")
        for handler in loaded.handlers:
            yield from _handler(loaded, document, tree, journal, handler)
        yield from _behind(loaded, journal)


def _await_proof(journal: Journal) -> list[int]:
    """The generations that are not proved, after waiting a while for the reload that may be under way."""
    end = time.monotonic() + _RELOAD
    while (waits := journal.unproved()) and time.monotonic() < end:
        time.sleep(_LOOK)
    return waits


def _handler(
    loaded: Loaded, document: Document, tree: Tree, journal: Journal | None, configured: ConfiguredHandler
) -> Iterator[Finding]:
    """What one handler says of its options, and of what it committed."""
    subject = f"handler {configured.name}"
    asked = ["preflight"] if type(configured.build()).preflight is not Handler.preflight else []
    verifies = configured.type.verify is not Handler.verify
    if journal is not None and tree.current and verifies and not _is_early(configured, journal):
        asked.append("verify")
    well = True
    for question in asked:
        try:
            found = _ask(loaded, tree, journal, configured, question)
        except AgentdError as error:
            found = Verdict(drift=(Drift("", str(error)),))
        for one in found.drift:
            well = False
            place = ("handlers", configured.name, "options", *one.part.split("."))
            text = document.problem(place, one.reason) if question == "preflight" else _text(one)
            advice = (
                "fix that, or the option" if question == "preflight" else "`agentd status` says since when"
            )
            yield Finding("warn" if one.reload or one.warning else "FAIL", subject, text, advice)
        if found.unasked:
            well = False
            yield Finding("warn", subject, found.unasked)
    if well:
        said = "what it committed is in effect" if "verify" in asked else "options are fine"
        yield Finding("ok", subject, said)


def _is_early(configured: ConfiguredHandler, journal: Journal) -> bool:
    """Whether nginx may not have read yet what this handler would look for."""
    return Commits(journal).awaits_proof(configured.name) or (
        configured.type.proves and bool(journal.unproved())
    )


def _text(one: Drift) -> str:
    return f"not in effect: {one.part}: {one.reason}" if one.part else one.reason


def _ask(
    loaded: Loaded, tree: Tree, journal: Journal | None, configured: ConfiguredHandler, question: str
) -> Verdict:
    """One question to a handler, in a dry run.

    Raises:
        AgentdError: it cannot be asked, or answer.
    """
    store = journal.store(configured.name, configured.type.store_format) if journal else {}
    batch = dry_batch(loaded, tree, configured, store, journal)
    with closing(batch.stage):
        context = batch.context(time.time(), structlog.get_logger())
        handler = configured.build()
        try:
            if question == "preflight":
                return Verdict(drift=tuple(handler.preflight(context)))
            return handler.verify(context)
        except HandlerError:
            raise
        except Exception as error:
            raise HandlerError(f"bug in the handler: {type(error).__name__}: {error}") from error


def _behind(loaded: Loaded, journal: Journal) -> Iterator[Finding]:
    """Which handlers are behind, since when and why; what nginx's first reload cures is only a warning."""
    queries = {one.name: one.entry.sources for one in loaded.handlers}
    for name, one in summary(journal, list(queries), queries).items():
        behind = one["behind"]
        if behind is None or (one["drift"] and behind["reason"].startswith("not in effect")):
            continue  # the handler itself was asked above
        text = f"behind since {moment(behind['since'])}: {behind['reason']}"
        if one["waiting"] and not one["drift"] and _unread(loaded, journal):
            yield Finding("warn", f"handler {name}", text, "`systemctl reload nginx` once")
        else:
            yield Finding("FAIL", f"handler {name}", text, f"`agentd history --handler {name}` says more")


def _unread(loaded: Loaded, journal: Journal) -> bool:
    """Whether nginx has not read the include yet: nobody opened the canary's socket, so nothing is proved."""
    nginx = loaded.config.nginx
    try:
        return nginx is not None and bool(journal.unproved()) and not canary.opened(nginx.canary)
    except OSError:
        return False
