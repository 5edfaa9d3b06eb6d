"""Whether the committed key encrypts on nginx's listeners, in the words of a verdict.

Reads nginx's files when they have changed since the last time, and keeps of them only what to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentd.handler import Drift, NginxOptions, Verdict
from agentd.nginx.files import NginxFiles, Snapshot
from agentd.nginx.probe import Probe
from agentd.nginx.ticket_keys import ask_all
from agentd.nginx.tls_listeners import DIRECTIVES, Question, questions


class Listeners:
    """The listeners that are asked.

    Args:
        probe: the option; see `Probe`.
    """

    def __init__(self, probe: Sequence[str] | None) -> None:
        self._probe = Probe(probe)
        self._snapshot: Snapshot | None = None
        self._questions: list[Question] = []
        self._problems: list[str] = []

    def verdict(self, ring: Sequence[bytes], tree: Path, nginx: NginxOptions) -> Verdict:
        """Ask them all.

        Args:
            ring: the names of the keys, the encrypting one first.
            tree: the directory of the current generation, as nginx's files name it.
            nginx: the nginx of this node.
        """
        self._read(nginx.conf, tree)
        unread = f"part of nginx's files was not read ({self._problems[0]})" if self._problems else ""
        if not self._questions:
            nobody = "no TLS listener was asked which ticket key encrypts: "
            return Verdict(unasked=nobody + (unread or "nginx's files and `probe` name none"))
        found = ask_all(self._questions, ring, nginx.canary)
        drift = tuple(Drift(wrong.question.part, wrong.reason, wrong.reload) for wrong in found.wrong)
        return Verdict(drift=drift, unasked="; ".join(filter(None, (found.not_asked(), unread))))

    def _read(self, conf: Path, tree: Path) -> None:
        if self._snapshot is not None and self._snapshot.holds():
            return
        files = NginxFiles(conf, DIRECTIVES)
        self._questions = self._probe.select(questions(files, tree))
        self._problems = files.problems[:1]
        self._snapshot = files.snapshot()
