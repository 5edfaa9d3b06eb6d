"""ipset: two hash:net sets, agentd4 and agentd6, filled beside the ones in use and put in their place.

Owns the batch in the tree, how it gets into the kernel, and how the kernel's sets are read back. A set cannot
grow beyond the size that it was created with, so every load makes a new one; rules name a set, and go on with
the new one. Imports nothing of agentd but its errors: the child uses it as well.

Source: ipset(8)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentd.errors import TemporaryError
from handlers.ip_blacklist.program import ask, failure

if TYPE_CHECKING:
    from agentd.handler import Context

SETS: Final = {"agentd4": "hash:net inet", "agentd6": "hash:net inet6"}
"""The names of the sets, and of which kind each is."""
_ROOM: Final = 65536  # the least number of elements that a set has room for
_HEADERS: Final = 1_048_576  # bytes: of all sets of a machine, ours and others'
_MISSING: Final = "does not exist"
_HEADER: Final = re.compile(
    r"^Name: (\S+)\nType: (\S+)\n(?:(?!Name: |Header:)[^\n]+\n)*Header:(?: family (\S+)(?=\s))?[^\n]*\n"
    r"(?:(?!Name: |References: )[^\n]+\n)*References: (\d+)$",
    re.MULTILINE,
)


def batch(ipv4: Sequence[str], ipv6: Sequence[str]) -> Iterator[str]:
    """The lines for `ipset restore`: both sets, each under its name with `_new`."""
    for (name, kind), members in zip(SETS.items(), (ipv4, ipv6), strict=True):
        room = max(_ROOM, 1 << len(members).bit_length())
        yield f"create {name}_new {kind.replace(' ', ' family ')} maxelem {room}\n"
        yield from (f"add {name}_new {member}\n" for member in members)


def load(program: str, file: Path, context: Context) -> None:
    """Fill new sets and put each in the place of the one in use, in one step.

    Raises:
        TemporaryError: the kernel refuses, or a set of the same name is of another kind and in use.
    """
    here = _listed(program, context)
    before = [f"destroy {name}_new" for name in SETS if f"{name}_new" in here]  # what a failed attempt left
    after = []
    for name, kind in SETS.items():
        found, references = here.get(name, ("", 0))
        if found == kind:
            after += [f"swap {name}_new {name}", f"destroy {name}_new"]
            continue
        if references:
            raise TemporaryError(
                f"ipset {name} is in use and was made by hand as {found}, so {kind} cannot take its place:"
                f" delete the rules that use it, and run `ipset destroy {name}`"
            )
        before += [f"destroy {name}"] if found else []
        after.append(f"rename {name}_new {name}")
    _restore(program, before, context)
    context.run([program, "restore", "-f", str(file)])
    _restore(program, after, context)


def _restore(program: str, commands: Sequence[str], context: Context) -> None:
    if commands:
        context.run([program, "restore"], stdin="".join(f"{one}\n" for one in commands).encode())


def _listed(program: str, context: Context) -> dict[str, tuple[str, int]]:
    """Every set of this machine: its name -> its kind, and how many rules use it."""
    text = context.run([program, "list", "-t"], keep=_HEADERS, read_only=True).output.decode(errors="replace")
    return {
        name: (f"{kind} {family}".strip(), int(references))
        for name, kind, family, references in _HEADER.findall(text)
    }


def expected(file: Path) -> dict[str, set[str]]:
    """What the batch puts into each set. Raises OSError."""
    found: dict[str, set[str]] = {name: set() for name in SETS}
    with file.open(encoding="ascii") as lines:
        for line in lines:
            verb, name, member = line.rstrip("\n").split(" ", 2)
            if verb == "add":
                found[name.removesuffix("_new")].add(member)
    return found


def present(program: str, name: str) -> set[str] | None:
    """What a set of the kernel has; None if there is none of its kind.

    An entry with a word after it, such as `nomatch`, is not the entry without it.

    Raises:
        TemporaryError: it cannot be read.
    """
    done = ask([program, "save", name])
    if done.returncode:
        if _MISSING in done.stderr:
            return None
        raise failure(done)
    head, _, rest = done.stdout.partition("\n")
    if not head.startswith(f"create {name} {SETS[name].replace(' ', ' family ')} "):
        return None
    start = len(f"add {name} ")
    return {line[start:] for line in rest.splitlines()}


def holds(program: str, name: str, address: str) -> bool:
    """Whether a set has an entry for an address.

    Raises:
        TemporaryError: it cannot be asked.
    """
    done = ask([program, "test", name, address])
    if done.returncode and "is NOT in set" not in done.stderr and _MISSING not in done.stderr:
        raise failure(done)
    return done.returncode == 0
