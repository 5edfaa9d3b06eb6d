"""Asks nginx on its listeners which session ticket key encrypts, and judges the answers.

Owns how many handshakes are made, how long all of them may take, and the sentences about what they showed. A
key's name is public, but a sentence only has the beginning of its SHA-256.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentd.nginx.handshake import NotProvableError, client, encrypting_key
from agentd.nginx.tls_listeners import Question
from agentd.wire import Clock, ConnectError, ExchangeError, Timeouts, UnixAddress, connect

if TYPE_CHECKING:
    from ssl import SSLContext

MOST: Final = 64
"""Handshakes in one look."""
TOTAL: Final = 15.0
"""Seconds for all of them."""
EACH: Final = 5.0
"""Seconds for one of them."""

_QUOTED: Final = 3  # sentences


@dataclass(frozen=True, slots=True)
class Wrong:
    """A listener that does not encrypt with the key.

    Attributes:
        question: what was asked.
        found: what was found, as a sentence without its subject.
        advice: what to do.
        reload: whether nginx's files are right, so that a reload cures it.
    """

    question: Question
    found: str
    advice: str
    reload: bool

    @property
    def reason(self) -> str:
        """All of it, in one sentence."""
        return f"{self.found}; {self.advice}"


@dataclass(slots=True)
class Findings:
    """What all handshakes showed.

    Attributes:
        right: how many listeners encrypt with the key.
        wrong: those that do not.
        unasked: sentences about those that could not be asked.
    """

    right: int = 0
    wrong: list[Wrong] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)

    def not_asked(self) -> str:
        """The sentences in one, or ""."""
        more = len(self.unasked) - _QUOTED
        return "; ".join(self.unasked[:_QUOTED]) + (f"; and {more} more" if more > 0 else "")


def ask_all(
    questions: Sequence[Question], ring: Sequence[bytes], canary: Path, *, total: float = TOTAL
) -> Findings:
    """Ask which key encrypts.

    Args:
        questions: only the first `MOST` are asked.
        ring: the names of the tree's keys; the first is to encrypt.
        canary: the unix socket on which nginx answers if it runs.
        total: seconds.
    """
    findings, end = Findings(), time.monotonic() + total
    context = client()
    refused: list[Wrong] = []
    answered = False
    for number, question in enumerate(questions):
        left = end - time.monotonic()
        if number == MOST or left <= 0:
            limit = f"at most {MOST}" if number == MOST else f"{total:g} s"
            findings.unasked.append(f"{len(questions) - number} more listeners were not asked ({limit})")
            break
        try:
            name = _ask(question, context, min(EACH, left))
        except NotProvableError as error:
            if question.off or question.own:
                findings.wrong.append(_written(question))
            else:
                findings.unasked.append(f"not provable: {question.part}: {error}")
        except ConnectError as error:
            refused.append(_unreachable(question, error))
        except ExchangeError as error:
            advice = "see nginx's error log, or exclude the listener in `probe`"
            answered = True
            findings.wrong.append(Wrong(question, f"the TLS handshake failed: {error}", advice, reload=False))
        else:
            answered = True
            if name == ring[0]:
                findings.right += 1
            else:
                findings.wrong.append(_judge(question, name, ring))
    if refused and not answered and not _accepts(canary):
        nobody = (
            f"nothing answers at {refused[0].question.part} or on {canary}, so nginx does not seem to run"
        )
        findings.unasked = [f"nobody was asked which ticket key encrypts: {nobody}"]
        findings.wrong = []
        return findings
    findings.wrong += refused
    return findings


def shown(name: bytes) -> str:
    """What messages have of a key's name."""
    return f"sha256:{hashlib.sha256(name).hexdigest()[:8]}"


def _ask(question: Question, context: SSLContext, timeout: float) -> bytes | None:
    if question.address is None:
        raise NotProvableError(f"{question.unaskable}; name an address, or a server name, in `probe`")
    return encrypting_key(
        question.address,
        context,
        sni=question.sni,
        proxy_protocol=question.proxy_protocol,
        timeout=timeout,
    )


def _accepts(canary: Path) -> bool:
    try:
        connect(UnixAddress(str(canary)), Clock(Timeouts(total=1.0))).close()
    except ExchangeError:
        return False
    return True


# ---------------------------------------------------------------- what it means


def _judge(question: Question, name: bytes | None, ring: Sequence[bytes]) -> Wrong:
    if name is None:
        found = "nginx sends no session ticket"
        if question.off:
            return _because(question, found, question.off)
        return Wrong(question, f"{found}, though its files turn them on", "reload nginx", reload=True)
    if name in ring:
        found = f"nginx encrypts with key {ring.index(name) + 1} of the ring, not with the first"
        advice = "it has not loaded the current generation: reload nginx, and see its error log"
        return Wrong(question, found, advice, reload=True)
    found = f"nginx encrypts with another key ({shown(name)} instead of {shown(ring[0])})"
    if question.own:
        return _because(question, found, question.own)
    advice = "its files have no such key: reload nginx, and see its error log"
    return Wrong(question, found, advice, reload=True)


def _written(question: Question) -> Wrong:
    """No handshake can show it, but the files do."""
    found = "by nginx's files it sends no session ticket"
    if question.off:
        return _because(question, found, question.off)
    return _because(question, "by nginx's files the tree's key does not encrypt", question.own)


def _because(question: Question, found: str, cause: str) -> Wrong:
    advice = f"remove that and reload nginx, or exclude it in `probe`: except {question.item}"
    return Wrong(question, f"{found} ({cause})", advice, reload=False)


def _unreachable(question: Question, error: ConnectError) -> Wrong:
    if question.place:
        advice = f"{question.place} says that it listens: reload nginx, and see its error log"
    else:
        advice = "nothing in nginx's files listens there: correct `probe`"
    return Wrong(question, f"cannot connect: {error}", advice, reload=bool(question.place))
