"""`agentd example`: lists the examples that come with agentd, prints one, or copies it to a directory.

An example is a file or a directory of config/examples. The rest of what comes with agentd can be had in the
same way: the annotated configuration, nginx includes, units, ACL policies.
"""

from __future__ import annotations

import ast
import json
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from agentd import shipped
from agentd.commands import argument_types
from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.errors import AgentdError
from agentd.handler_names import nearest
from agentd.tree import disk

_SPOKEN_FOR: Final = ("agentd.yaml", "nginx.conf")
"""Whose first comment says what a directory is for; else the Python file of the same name, else any file."""
_COMMENT: Final = re.compile(r"\s*(?:#|--)+ ?(.*)")
_SENTENCE: Final = re.compile(r"(.+?)(?:\.\s|[.:]?$)")


def add_arguments(parser: Parser) -> None:
    """Which example, and where to."""
    parser.add_example(
        "agentd example", "agentd example deploy", "agentd example application --to /etc/agentd/application"
    )
    parser.add_argument(
        "name",
        nargs="?",
        type=argument_types.word,
        metavar="NAME",
        help="an example, or NAME/FILE for one file of it (default: list all)",
    )
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="copy its files there; what is there already is never replaced"
    )


def execute(arguments: Namespace, output: Output) -> int:
    """List, print or copy."""
    every = catalogue(shipped.directory())
    if arguments.name is None:
        if arguments.to:
            raise AgentdError("name the example to copy: `agentd example` lists them")
        _list(every, output)
        return 0
    found = _find(arguments.name, every)
    files = files_of(found)
    if arguments.to:
        _copy(files, arguments.to, output)
    elif output.json:
        output.document({name: path.read_text() for name, path in files.items()})
    elif found.is_dir():
        rows = [(f"{arguments.name}/{name}", summary(one)) for name, one in files.items()]
        output.table(("FILE", "WHAT IT IS"), rows)
        output.line(f"Print one by its name, or copy all: agentd example {arguments.name} --to DIR", "dim")
    else:
        for line in found.read_text().splitlines():
            output.line(line)
    return 0


def catalogue(directory: Path) -> dict[str, Path]:
    """What there is by name, the examples first; `directory` is that of `shipped`."""
    config = directory / "config"
    found = {one.name: one for one in sorted((config / "examples").iterdir()) if one.name != "__pycache__"}
    found["agentd.yaml"] = config / "agentd.yaml"
    for group in sorted(config.iterdir()):
        if group.is_dir() and group.name not in ("examples", "requirements"):
            found |= {f"{group.name}/{name}": path for name, path in files_of(group).items()}
    return found | {f"systemd/{name}": path for name, path in files_of(directory / "systemd").items()}


def files_of(example: Path) -> dict[str, Path]:
    """Its files by their path within it; a file is its own."""
    if example.is_file():
        return {example.name: example}
    every = sorted(path for path in example.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(example)): path for path in every}


def _find(name: str, every: Mapping[str, Path]) -> Path:
    """By its name, without the suffix as well; a directory or a file of one. Raises AgentdError."""
    known = dict(every)
    for one, path in every.items():
        if path.is_dir():
            known |= {f"{one}/{file}": found for file, found in files_of(path).items()}
        else:
            known.setdefault(one.removesuffix(path.suffix), path)
        if "/" in one:  # all of its directory
            known.setdefault(one.partition("/")[0], path.parents[one.count("/") - 1])
    if name in known:
        return known[name]
    meant = nearest(name, known) or ";"
    raise AgentdError(f"there is no example {name!r}{meant} `agentd example` lists them")


def _list(every: Mapping[str, Path], output: Output) -> None:
    if output.json:
        output.document(
            [
                {"name": one, "summary": summary(path), "files": list(files_of(path))}
                for one, path in every.items()
            ]
        )
        return
    output.table(("NAME", "WHAT IT IS"), [(one, summary(path)) for one, path in every.items()])


def _copy(files: Mapping[str, Path], to: Path, output: Output) -> None:
    """All of them, or none if a file is in the way."""
    missing = {}
    for name, path in files.items():
        if not (to / name).is_symlink() and not (to / name).exists():
            missing[to / name] = path.read_bytes()
        elif not (to / name).is_file() or (to / name).read_bytes() != path.read_bytes():
            raise AgentdError(
                f"{to / name} exists and differs; nothing has been copied: move it away, or copy to another"
                " directory"
            )
    with disk.errors(f"copy to {to}"):
        for target, data in missing.items():
            disk.make_directory(target.parent)
            disk.write(target, data, 0o644)
    if output.json:
        output.document({"copied": sorted(map(str, missing))})
    for target in missing:
        output.line(f"copied  {target}")
    if len(missing) < len(files):
        same = len(files) - len(missing)
        output.line(f"{same} of {len(files)} files were there already, and are the same.")


# ---------------------------------------------------------------- one line each


def summary(example: Path) -> str:
    """What it is for, by the first sentence of its first comment; "" if there is none."""
    if example.is_dir():
        files = files_of(example)
        first = (*_SPOKEN_FOR, f"{example.name}.py", *files)
        return next(filter(None, (summary(files[name]) for name in first if name in files)), "")
    text = example.read_text()
    if example.suffix == ".json":
        return _titled(text)
    said = _docstring(text) if example.suffix == ".py" else " ".join(_comment(text))
    sentence = _SENTENCE.match(said)
    return sentence[1] if sentence else ""


def _comment(text: str) -> Iterator[str]:
    """The lines of the first paragraph of comments, up to one that introduces a list or an example."""
    begun = False
    for line in text.splitlines():
        found = _COMMENT.fullmatch(line)
        if found and found[1].strip():
            begun = True
            yield found[1].strip()
            if found[1].rstrip().endswith(":"):
                return
        elif begun or (line.strip() and not found):
            return


def _docstring(text: str) -> str:
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0].replace("\n", " ")


def _titled(text: str) -> str:
    value = json.loads(text)
    return str(value.get("title", "")) if isinstance(value, dict) else ""
