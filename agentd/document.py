"""A YAML file as plain data, in which every value still knows its line.

YAML 1.2's booleans are used (only `true` and `false`), so that `on:` is a key and not the value True; a key
that stands twice in one map is an error instead of silently winning.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from agentd.errors import ConfigError

Path_ = Sequence[str | int]


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's booleans and without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 (PyYAML's signature)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("a key must be a word", key)
            if key.value in seen:
                raise _problem(f"{key.value!r} stands twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _problem(text: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


class Document:
    """One YAML file: `data` is its content, `line(path)` says where a value stands."""

    def __init__(self, text: str, name: str) -> None:
        """Parse `text`; `name` is what errors call the file.

        Raises:
            ConfigError: it is not YAML, or a key stands twice.
        """
        self.name = name
        try:
            self._root, self.data = _parse(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = f":{mark.line + 1}" if mark else ""
            raise ConfigError([f"{name}{at}: {error.problem}"]) from error
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError([f"{name}: {error}"]) from error
        except RecursionError as error:
            raise ConfigError([f"{name}: is nested too deeply"]) from error

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read and parse the file. Raises ConfigError, also when it cannot be read."""
        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
        except UnicodeDecodeError as error:
            raise ConfigError([f"{path}: is not UTF-8 text"]) from error

    def line(self, path: Path_) -> int:
        """The line, from 1, of the value at `path`, or of the deepest part of the path that exists."""
        node, line = self._root, 1
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            mark, node = found
            line = mark.line + 1
        return int(line)

    def problem(self, path: Path_, message: str) -> str:
        """One line for ConfigError: file, line, path and message."""
        where = ".".join(str(step) for step in path)
        return f"{self.name}:{self.line(path)}: {f'{where}: ' if where else ''}{message}"


def _parse(text: str) -> tuple[yaml.Node | None, Any]:
    """The tree of nodes, which know their lines, and the values."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        return root, loader.construct_document(root) if root else None
    finally:
        loader.dispose()


def _child(node: yaml.Node | None, step: str | int) -> tuple[yaml.Mark, yaml.Node] | None:
    """The mark and node of one step down: a key's own mark for a map, the item's for a list."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and 0 <= step < len(node.value):
        return node.value[step].start_mark, node.value[step]
    return None
