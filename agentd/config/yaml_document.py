"""A YAML file as plain data, in which every value still knows its line.

YAML 1.2's booleans are used (only `true` and `false`), so that `on:` is a key and not the value True; a key
that is given twice in one map is an error instead of silently winning.

libyaml reads the text where PyYAML was built with it. Where it finds a fault, or is missing, PyYAML's own
parser reads it, so that errors are the same everywhere. The nodes are composed in Python in either case:
libyaml's own composer overflows the stack on deep nesting.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from agentd.errors import ConfigError

Path_ = Sequence[str | int]

_DEEPEST: Final = 100
"""Maps and lists within each other."""
_MOST_VALUES: Final = 1_000_000
"""Values of one file, each counted again wherever an alias repeats it."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class _Rules(Composer, SafeConstructor, Resolver):
    """How text becomes values, whichever parser reads it: YAML 1.2's booleans, and no deep nesting."""

    _depth = 0

    def __init__(self) -> None:
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401 (PyYAML's signature)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _problem(f"more than {_DEEPEST} levels of maps and lists", self.peek_event().start_mark)  # type: ignore[attr-defined] # the parser's
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Rules.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in Resolver.yaml_implicit_resolvers.items()
}
_Rules.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


class _PythonLoader(_Rules, yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        _Rules.__init__(self)


_LOADERS: list[Any] = [_PythonLoader]
"""Tried in turn until one finds no error; the errors of the last one are reported."""

if yaml.__with_libyaml__:
    from yaml._yaml import CParser

    class _LibyamlLoader(_Rules, CParser):
        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            _Rules.__init__(self)

    _LOADERS.insert(0, _LibyamlLoader)


class Document:
    """One YAML file: `data` is its content, `line(path)` says where a value is."""

    def __init__(self, text: str, name: str) -> None:
        """Parse `text`; `name` is what errors call the file.

        Raises:
            ConfigError: it is not YAML, a key is given twice, or its aliases repeat too much.
        """
        self.name = name
        try:
            self._root, self.data = _parse(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = f":{mark.line + 1}" if mark else ""
            raise ConfigError([f"{name}{at}: {error.problem}"]) from error
        except (yaml.YAMLError, ValueError) as error:
            told = str(error).partition(";")[0]  # without advice to programmers
            raise ConfigError([f"{name}: {told}"]) from error

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read and parse the file. Raises ConfigError, also when it cannot be read."""
        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError as error:
            advice = "create it (`agentd init`), or name another with --config"
            raise ConfigError([f"{path}: cannot be read: {error.strerror}; {advice}"]) from error
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
    *preferred, last = _LOADERS
    for loader in preferred:
        with suppress(yaml.YAMLError, ValueError):
            return _load(loader, text)
    return _load(last, text)


def _load(kind: Any, text: str) -> tuple[yaml.Node | None, Any]:  # noqa: ANN401 (one of `_LOADERS`)
    loader = kind(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, None
        _count(root, {})
        return root, loader.construct_document(root)
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, its aliases followed; `known` has those of the nodes seen so far.

    Raises:
        ConstructorError: too many, a node that contains itself, or a map's key that is given twice.
    """
    if id(node) in known:
        if not known[id(node)]:
            raise _problem("an alias to a value that contains it", node.start_mark)
        return known[id(node)]
    known[id(node)] = 0  # not known yet: meeting it again below itself is a circle
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        total = 1 + sum(_count(value, known) for _, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        total = 1 + sum(_count(item, known) for item in node.value)
    else:
        _check_text(node)
        total = 1
    if total > _MOST_VALUES:
        raise _problem(f"more than {_MOST_VALUES:,} values, aliases included", node.start_mark)
    known[id(node)] = total
    return total


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _problem("a key must be a plain name", key.start_mark)
        _check_text(key)
        if key.value in seen:
            raise _problem(f"{key.value!r} is given twice", key.start_mark)
        seen.add(key.value)


def _check_text(node: yaml.Node) -> None:
    r"""What "\0" and "\ud800" stand for is in no path, argument, address or header."""
    if "\0" in node.value or _SURROGATE.search(node.value):
        raise _problem("text must not contain NUL or surrogates", node.start_mark)


def _problem(text: str, mark: Any) -> yaml.constructor.ConstructorError:  # noqa: ANN401 (either parser's)
    return yaml.constructor.ConstructorError(None, None, text, mark)


def _child(node: yaml.Node | None, step: str | int) -> tuple[yaml.Mark, yaml.Node] | None:
    """The mark and node of one step down: a key's own mark for a map, the item's for a list."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and 0 <= step < len(node.value):
        return node.value[step].start_mark, node.value[step]
    return None
