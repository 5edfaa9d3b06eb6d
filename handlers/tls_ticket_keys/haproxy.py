"""Brings the ring into a HAProxy that runs, over its run-time socket, and finds out whether it has it.

Owns the dialogue with HAProxy and what it means. Answers contain keys, so
none is ever quoted. Which keys HAProxy is to have, and in what order they are pushed, is up to `slots`.

Source: HAProxy's management guide, "show tls-keys", "set ssl tls-key", "show cli sockets"
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from agentd import haproxy
from agentd.errors import HandlerError, PermanentError
from agentd.handler import Context, Drift, Verdict
from agentd.http import ConnectError, ExchangeError
from agentd.nginx.handshake import NotProvableError, client, encrypting_key
from agentd.nginx.probe import Probe
from agentd.nginx.ticket_keys import EACH, TOTAL, shown
from agentd.nginx.tls_listeners import Question
from handlers.tls_ticket_keys.haproxy_options import FILE, HAProxyOptions
from handlers.tls_ticket_keys.payload import NAME_SIZE
from handlers.tls_ticket_keys.slots import MOST, Slots, Window

_SLOTS: Final = 3
_LARGEST: Final = 65_536  # bytes of an answer
_HEAD: Final = "# id (file)"
_REFERENCE: Final = re.compile(
    r"^[0-9]+ \((/(?:(?![();\\])[!-~])+)\)$", re.MULTILINE
)  # it becomes a part of commands
_KEY: Final = re.compile(r"^[0-9]+\.[0-9]+ ([A-Za-z0-9+/=]+)$", re.MULTILINE)
_SOCKET: Final = re.compile(r"^((?:unix|abns|ipv4|ipv6)@\S+) ", re.MULTILINE)
_TAKEN: Final = "TLS ticket key updated!"


class HAProxy:
    """The HAProxy of this node.

    Args:
        options: where it is, and what is asked.
    """

    def __init__(self, options: HAProxyOptions) -> None:
        self._options = options
        self._questions = Probe(options.probe).select([])
        self._held: Slots | None = None

    most: Final = MOST
    """Keys of the fleet's ring that it can hold."""

    @property
    def session_timeout(self) -> int:
        """Seconds for which it lets a session be resumed."""
        return math.ceil(self._options.session_timeout)

    def verdict(self, slots: Slots, context: Context) -> Verdict:
        """Whether it has the keys; what can be set at run time is set, if drift may be mended.

        Only what it had once, for this very ring, counts as drift that was mended.
        """
        part = f"HAProxy at {self._options.socket}"
        file = _named(context)
        try:
            pushed = self._settle(slots, file, context)
            drift, unasked = self._ask_listeners(slots, file)
        except HandlerError as error:
            return Verdict(drift=(Drift(part, str(error)),))
        lost, self._held = pushed and self._held == slots, slots
        mended = (Drift(part, "it did not have the ring's keys any more"),) if lost else ()
        return Verdict(tuple(drift), mended, "; ".join(unasked))

    def doubts(self) -> Iterator[str]:
        """Why it cannot be asked, or who else can read the keys: on any of its sockets, if it answers."""
        answer = ""
        try:
            answer = self._tell("show cli sockets")
        except HandlerError as error:
            yield f"{error}: start HAProxy, or correct the path of its `stats socket`"
        for place in sorted({self._options.socket, *map(_place, _SOCKET.findall(answer))}):
            kind, _, path = place.partition(":")
            if kind != "unix":
                yield (
                    f"every user of this machine can connect to HAProxy's socket {place}, and read the ticket"
                    " keys there: use a unix socket instead (`stats socket PATH mode 660 level admin`)"
                )
            elif doubt := haproxy.doubt(Path(path)) or haproxy.impostor(Path(path)):
                yield f"the ticket keys can be read by others: {doubt}"

    # ------------------------------------------------------------------ what it has

    def _settle(self, slots: Slots, file: Path, context: Context) -> int:
        """Push what is missing, if drift may be mended. Returns the number of keys pushed.

        Raises:
            TemporaryError: it does not answer.
            PermanentError: it does not have the keys, and why.
        """
        count = 0
        for name in self._references(file):
            if pushed := self._fill(name, slots, mend=context.mend and not context.dry_run):
                context.log.info("ticket_keys.pushed", socket=self._options.socket, keys=pushed)
                count += pushed
        if slots.misfit:
            raise PermanentError(
                f"the next key has {len(slots.waiting[0])} bytes and the one that encrypts"
                f" {len(slots.encrypting)}, and HAProxy holds keys of one length only: it cannot resume"
                " sessions of the next one until that encrypts and HAProxy is reloaded; a rotation goes on"
                " with `agentd rotate-tickets --without NODE`"
            )
        return count

    def _fill(self, name: str, slots: Slots, *, mend: bool) -> int:
        """Push what is missing in the keys that were loaded from a file, and look again."""
        count = 0
        for last in (False, False, True):  # a reload may come between what is seen and what is pushed
            window = self._window(name)
            if slots.held_by(window):
                break
            pushes = slots.pushes(window)
            if pushes is None:
                raise PermanentError(f"it runs with other keys than {name} has: reload HAProxy")
            if not mend:
                raise PermanentError(f"it does not have the ring's keys: {len(pushes)} have to be pushed")
            if last:
                raise PermanentError("it does not have the keys that it took: does another program set them?")
            self._push(name, pushes)
            count += len(pushes)
        return count

    def _references(self, file: Path) -> list[str]:
        """The names under which it knows the file."""
        answer = self._tell("show tls-keys")
        if not answer.startswith(_HEAD):
            raise PermanentError(
                "it does not list its ticket keys: is this HAProxy, and was it built with TLS?"
            )
        same = [name for name in _REFERENCE.findall(answer) if _is_same(Path(name), file)]
        if not same:
            raise PermanentError(
                f"none of its `bind` lines loads the ring: add `tls-ticket-keys {file}`, and reload it"
            )
        return same

    def _window(self, name: str) -> Window:
        answer = self._tell(f"show tls-keys {name}")
        try:
            keys = [base64.b64decode(key, validate=True) for key in _KEY.findall(answer)]
        except binascii.Error:
            keys = []
        if len(keys) != _SLOTS:
            raise PermanentError(
                f"its answer has {len(keys)} ticket keys instead of {_SLOTS}: is this HAProxy?"
            )
        return keys[0], keys[1], keys[2]

    def _push(self, name: str, keys: Sequence[bytes]) -> None:
        """Set them in one go, so that what encrypts on the way does so for microseconds."""
        if why := haproxy.impostor(Path(self._options.socket.partition(":")[2])):
            raise PermanentError(f"no key was sent: {why}")
        commands = [f"set ssl tls-key {name} {base64.b64encode(key).decode()}" for key in keys]
        answer = self._tell(";".join(commands))
        if answer.count(_TAKEN) != len(keys):
            denied = "Permission denied" in answer
            raise PermanentError(
                "HAProxy denied permission: the socket needs `level admin`"
                if denied
                else "HAProxy did not take a ticket key"
            )

    def _tell(self, commands: str) -> str:
        return haproxy.ask(self._options.socket, commands, self._options.timeout, largest=_LARGEST)

    # ------------------------------------------------------------------ what clients see

    def _ask_listeners(self, slots: Slots, file: Path) -> tuple[list[Drift], list[str]]:
        """What its listeners encrypt with: where it is another key, and what cannot be asked."""
        if not self._questions:
            return [], ["no TLS listener of HAProxy was asked: `haproxy.probe` names none"]
        drift: list[Drift] = []
        unasked: list[str] = []
        end = time.monotonic() + TOTAL
        for number, question in enumerate(self._questions):
            left = end - time.monotonic()
            if left <= 0:
                unasked.append(f"{len(self._questions) - number} listeners of HAProxy were not asked")
                break
            try:
                if wrong := _wrong(question, slots.encrypting[:NAME_SIZE], file, min(EACH, left)):
                    drift.append(Drift(f"HAProxy {question.part}", wrong))
            except NotProvableError as error:
                unasked.append(f"not provable: HAProxy {question.part}: {error}")
        return drift, unasked


def _wrong(question: Question, name: bytes, file: Path, timeout: float) -> str:
    """What is wrong with a listener; "" if it encrypts with the key of this name."""
    if question.address is None:
        raise NotProvableError("it has no address to connect to")
    try:
        found = encrypting_key(question.address, client(), sni=question.sni, timeout=timeout)
    except ConnectError as error:
        return f"cannot connect: {error}; correct `haproxy.probe`, or see HAProxy's log"
    except ExchangeError as error:
        return f"the TLS handshake failed: {error}"
    if found is None:
        return "it sends no session ticket: remove `no-tls-tickets` from its `bind` line, and reload HAProxy"
    if found != name:
        return (
            f"it encrypts with another key ({shown(found)} instead of {shown(name)}): add `tls-ticket-keys"
            f" {file}` to its `bind` line, and reload HAProxy"
        )
    return ""


def _named(context: Context) -> Path:
    """The file as HAProxy's configuration has it, through `current`."""
    named = context.nginx.conf.parent / context.files.reference(FILE)
    if not named.exists() and (found := context.files.path(FILE)):  # nginx: null
        for parent in found.parents:
            if parent.name == "generations":
                return parent.with_name("current") / FILE
    return named


def _is_same(name: Path, file: Path) -> bool:
    """Whether both go through the same `current`, however it is reached."""
    root = len(Path(FILE).parts)  # the place of `current`
    if name.parts[-root - 1 :] != file.parts[-root - 1 :]:
        return False
    try:
        return name.parents[root].samefile(file.parents[root])
    except OSError:
        return False


def _place(listed: str) -> str:
    """A socket of `show cli sockets` ("unix@/run/admin.sock", "ipv4@127.0.0.1:9999") as the option has it."""
    kind, _, place = listed.partition("@")
    return f"{'tcp' if kind.startswith('ip') else kind}:{place}"
