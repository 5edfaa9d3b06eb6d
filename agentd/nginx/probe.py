"""The option `probe`: which of nginx's listeners are asked for their session ticket key.

Owns its grammar, "[except] ADDRESS:PORT [SERVER NAME]", and what an item selects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentd.nginx.tls_listeners import Question, address_of, is_askable, socket_name

_EXCEPT = "except"
_FORM = '"[except] ADDRESS:PORT [SERVER NAME]"'


class Probe:
    """The items of the option; None: every listener in nginx's files.

    Raises:
        ValueError: an item is not of the form; the text says which, and what to write.
    """

    def __init__(self, items: Sequence[str] | None) -> None:
        self._named: list[tuple[str, str]] = []
        self._excluded: set[tuple[str, str]] = set()
        self._all = items is None
        for item in items or ():
            words = item.split()
            without = words[:1] == [_EXCEPT]
            if without:
                words = words[1:]
            if not words or words[2:]:
                raise ValueError(f"{item!r} is not of the form {_FORM}")
            listener, name = socket_name(words[0]), "".join(words[1:])
            if without:
                self._excluded.add((listener, name))
            elif name and not is_askable(name):
                raise ValueError(f"{item!r}: {name!r} is not a name that a client can ask for")
            else:
                self._named.append((listener, name))
        self._all = self._all or bool(self._excluded and not self._named)

    def select(self, found: Sequence[Question]) -> list[Question]:
        """What to ask: of what was found in the files, or else what is named; without what is excluded."""
        wanted = found if self._all else [_named(listener, name, found) for listener, name in self._named]
        return [question for question in wanted if not self._excludes(question)]

    def _excludes(self, question: Question) -> bool:
        return any((question.listener, name) in self._excluded for name in ("", *question.names))


def _named(listener: str, name: str, found: Sequence[Question]) -> Question:
    """The question for an item, with what the files say about that socket or the wildcard it belongs to."""
    port = listener.rpartition(":")[2]
    wildcard = f"[::]:{port}" if listener.startswith("[") else f"*:{port}"
    of_socket = [one for one in found if one.listener == listener]
    known = of_socket or [one for one in found if one.listener == wildcard]
    exact = [one for one in known if name in one.names]
    facts = next(iter(exact or known), Question(listener))
    names, sni = ((name,), name) if name else (facts.names, facts.sni)
    address = facts.address if of_socket else address_of(listener)
    return replace(facts, listener=listener, names=names, sni=sni, address=address, unaskable="")
