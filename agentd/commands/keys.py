"""`agentd keys`: generate, show and rotate the keys that sign and seal messages; `keys_resign.py` uses them.

Owns what an operator is told to do next. No key is ever printed but the public one of a publisher.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentd.commands import argument_types
from agentd.commands.output import Output
from agentd.commands.parser import Parser, add_command
from agentd.commands.to_fleet import add_fleet_arguments
from agentd.errors import BadKey, ConfigError

if TYPE_CHECKING:
    from agentd.trust.keys import FleetKey, SecretKey

DIRECTORY: Final = Path("/etc/agentd/keys")
"""Where keys are kept unless another directory is named."""

_SUFFIX: Final = ".key"
_NUMBERED: Final = re.compile(r"(.+?)(?:-([1-9][0-9]{0,5}))?")
_KINDS: Final = ("publisher", "fleet")


def add_arguments(parser: Parser) -> None:
    """What to do with which key."""
    parser.add_example("sudo agentd keys generate publisher ops", "sudo agentd keys show")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    generate = add_command(verbs, "generate", "make a new key, in a file that only its owner can read")
    generate.add_example("sudo agentd keys generate publisher ops", "sudo agentd keys generate fleet")
    generate.add_argument(
        "kind", choices=_KINDS, help="publisher: signs messages. fleet: encrypts and decrypts payloads"
    )
    generate.add_argument(
        "name", nargs="?", type=argument_types.word, metavar="NAME", help="of the publisher (default: fleet)"
    )
    show = add_command(verbs, "show", "list keys with their IDs, and the public keys of publishers")
    show.add_example("sudo agentd keys show")
    show.add_argument("files", nargs="*", type=Path, metavar="FILE", help="only these (default: all)")
    rotate = add_command(verbs, "rotate", "make the key that replaces another one, and list what to do then")
    rotate.add_example("sudo agentd keys rotate /etc/agentd/keys/ops.key")
    rotate.add_argument("file", type=Path, metavar="FILE", help="of the key to replace")
    resign = add_command(verbs, "resign", "sign and encrypt what is in force with the keys of today")
    resign.add_example("sudo agentd keys resign", "sudo agentd keys resign deploy")
    resign.add_argument(
        "names",
        nargs="*",
        type=argument_types.word,
        metavar="NAME",
        help="only these (default: all that the publisher may send)",
    )
    add_fleet_arguments(resign)
    for verb in (generate, show):
        verb.add_argument(
            "--directory",
            type=Path,
            default=DIRECTORY,
            metavar="DIR",
            help="where the keys are (default %(default)s)",
        )


def execute(arguments: Namespace, output: Output) -> int:
    """Make, show or use keys; 1 if one that is shown cannot be used, or if something is not signed again.

    Raises:
        BadKey: a key cannot be read or written, or there is one already.
        AgentdError: nothing can be signed here; the text says why.
    """
    if arguments.verb == "resign":
        from agentd.commands.keys_resign import resign  # noqa: PLC0415 (parsing does without)

        return resign(arguments.names, arguments, output)
    if arguments.verb == "show":
        return _show(arguments.files or _keys_in(arguments.directory), output)
    if arguments.verb == "rotate":
        return _rotate(arguments.file, output)
    return _generate(arguments.kind, arguments.name, arguments.directory, output)


# ---------------------------------------------------------------- generate


def _generate(kind: str, name: str | None, directory: Path, output: Output) -> int:
    from agentd.trust.key_files import write_key  # noqa: PLC0415 (parsing does without)
    from agentd.trust.keys import new_fleet_key, new_secret_key  # noqa: PLC0415 (as above)
    from agentd.values import is_fleet_name  # noqa: PLC0415 (as above)

    if name is None and kind == "publisher":
        raise ConfigError(["name the publisher: `agentd keys generate publisher NAME`"])
    name = name or "fleet"
    if not is_fleet_name(name):
        raise ConfigError(
            [f"the name {name!r} must have 1 to 64 of A-Za-z0-9_.- and begin with one of A-Za-z0-9"]
        )
    path = directory / f"{name}{_SUFFIX}"
    key = new_secret_key() if kind == "publisher" else new_fleet_key()
    write_key(path, key)
    _tell(path, key, _after_publisher(name, path, key) if kind == "publisher" else _after_fleet(path), output)
    return 0


def _tell(path: Path, key: SecretKey | FleetKey, steps: Sequence[str], output: Output) -> None:
    if output.json:
        output.document(_described(path, key))
        return
    output.line(f"{path}: the new key {key.kid}")
    for line in ("", *steps):
        output.line(line)


def _after_publisher(name: str, path: Path, key: SecretKey | FleetKey) -> list[str]:
    return [
        "On every node, in agentd.yaml:",
        "  trust:",
        "    publishers:",
        f"      {name}: {{key: {_public(key)}, may: [NAME]}}",
        "On this host alone, where the file stays:",
        "  trust:",
        f"    signing_key: {path}",
        "Keep a copy of the file where only you can reach it; without it, the publisher needs a new key.",
    ]


def _after_fleet(path: Path) -> list[str]:
    return [
        "Copy the file to every node, and to every host that publishes; mode 0600. There, in agentd.yaml:",
        "  trust:",
        "    seal: [NAME]",
        f"    fleet_keys: [{path}]",
        "Keep a copy where only you can reach it: without it, nobody can read what was sealed.",
    ]


# ---------------------------------------------------------------- show


def _keys_in(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.name.endswith(_SUFFIX))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadKey(f"{directory} cannot be read: {error.strerror or error}") from error


def _show(files: Sequence[Path], output: Output) -> int:
    from agentd.trust.key_files import read_key  # noqa: PLC0415 (parsing does without)

    rows: list[dict[str, str | None]] = []
    wrong: list[dict[str, str]] = []
    for path in files:
        try:
            rows.append(_described(path, read_key(str(path.absolute()))))
        except BadKey as error:
            wrong.append({"file": str(path), "unusable": str(error)})
    if output.json:
        output.document([*rows, *wrong])
        return bool(wrong)
    cells = [(one["file"], one["kind"], one["id"], one["public"]) for one in rows]
    empty = "" if wrong else "There are no keys: `agentd keys generate --help`."
    output.table(("FILE", "KIND", "ID", "PUBLIC KEY"), cells, empty=empty)
    for one in wrong:
        output.line(f"unusable: {one['unusable']}", "red")
    return bool(wrong)


def _described(path: Path, key: SecretKey | FleetKey) -> dict[str, str | None]:
    public = _public(key)
    return {"file": str(path), "kind": "publisher" if public else "fleet", "id": key.kid, "public": public}


def _public(key: SecretKey | FleetKey) -> str | None:
    from agentd.trust.keys import SecretKey  # noqa: PLC0415 (parsing does without)

    return key.public.text if isinstance(key, SecretKey) else None


# ---------------------------------------------------------------- rotate


def _rotate(old: Path, output: Output) -> int:
    from agentd.trust.key_files import read_key, write_key  # noqa: PLC0415 (parsing does without)
    from agentd.trust.keys import SecretKey, new_fleet_key, new_secret_key  # noqa: PLC0415 (as above)

    replaced = read_key(str(old.absolute()))
    new = next(_successors(old))
    key = new_secret_key() if isinstance(replaced, SecretKey) else new_fleet_key()
    write_key(new, key)
    if isinstance(replaced, SecretKey):
        steps = _publisher_steps(old, new, replaced, key)
    else:
        steps = _fleet_steps(old, new)
    _tell(new, key, steps, output)
    return 0


def _successors(old: Path) -> Iterator[Path]:
    """The next free names: ops.key, ops-2.key, ops-3.key."""
    found = _NUMBERED.fullmatch(old.name.removesuffix(_SUFFIX))
    base, number = (found[1], int(found[2] or 1)) if found else (old.name, 1)
    while True:
        number += 1
        path = old.with_name(f"{base}-{number}{_SUFFIX}")
        if not path.exists():
            yield path


def _publisher_steps(old: Path, new: Path, replaced: SecretKey, key: SecretKey | FleetKey) -> list[str]:
    return [
        "1. On every node, believe both, and reload agentd:",
        f"     key: [{replaced.public.text},",
        f"           {_public(key)}]",
        "2. On the hosts that publish:",
        f"     signing_key: {new}",
        "3. Once `agentd fleet` shows that all nodes are reloaded, send what is in force with the new key:",
        "     agentd keys resign",
        "4. On every node, believe the new key alone, and reload agentd.",
        f"5. Delete {old} and every copy of it.",
        "If the old key has leaked, begin with step 4, and publish again what is to be in force.",
    ]


def _fleet_steps(old: Path, new: Path) -> list[str]:
    return [
        f"1. Copy {new} to every node, and to every host that publishes; mode 0600.",
        "2. There, decrypt with both, still encrypt with the old one, and reload agentd:",
        f"     fleet_keys: [{old}, {new}]",
        "3. Once `agentd fleet` shows that all nodes are reloaded, encrypt with the new one, and reload:",
        f"     fleet_keys: [{new}, {old}]",
        "4. Where the publisher's key is, send what is in force under the new one:",
        "     agentd keys resign",
        "5. Once all nodes have that, remove the old one everywhere, and reload:",
        f"     fleet_keys: [{new}]",
        f"6. Delete {old} and every copy of it: it opens what Consul's older snapshots contain.",
        "If the old key has leaked, replace what was sealed with it, too: session ticket keys, passwords.",
    ]
