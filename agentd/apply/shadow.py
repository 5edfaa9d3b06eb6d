"""A shadow of nginx's configuration directory, in which `current` is another generation.

It owns the directory of symbolic links through which nginx sees a candidate in the place of the live tree.
It must not run nginx.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentd.apply import disk
from agentd.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Shadow:
    """The shadow of one configuration directory.

    Attributes:
        conf: nginx's main file, within the shadow.
        root: the shadow's own directory.
        real: what it is the shadow of.
        current: the tree's `current` within the shadow.
        generation: where that leads.
    """

    conf: Path
    root: Path
    real: Path
    current: Path
    generation: Path

    def real_names(self, text: str) -> str:
        """A message of nginx with real paths in the place of the shadow's."""
        return text.replace(str(self.current), str(self.generation)).replace(str(self.root), str(self.real))


@contextmanager
def shadow(conf: Path, tree: Path, generation: Path) -> Iterator[Shadow]:
    """Make a shadow, 0700 and removed afterwards, of the directory that holds `conf`.

    Args:
        conf: nginx's main configuration file; relative includes start from its directory.
        tree: the tree, anywhere below that directory.
        generation: what `current` is in the shadow.

    Raises:
        ConfigError: the tree lies elsewhere, so that nginx cannot include it by a relative path.
        OSError: the shadow cannot be made.
    """
    real = conf.parent
    if not tree.is_relative_to(real) or tree == real:
        raise ConfigError([f"tree.path: {tree} must lie below {real}, the directory of nginx.conf"])
    scratch = disk.Scratch(tree)
    try:
        within = tree.relative_to(real)
        _cast(real, scratch.path, within.parts)
        current = scratch.path / within / "current"
        current.symlink_to(generation)
        yield Shadow(scratch.path / conf.name, scratch.path, real, current, generation)
    finally:
        scratch.close()


def _cast(real: Path, image: Path, way: tuple[str, ...]) -> None:
    """Link all that is in `real` but the next step of the way to the tree, which becomes a directory."""
    step = way[0] if way else "current"
    for entry in real.iterdir():
        # Hidden names in the tree are other shadows and what a commit works on.
        if entry.name != step and not (not way and entry.name.startswith(".")):
            (image / entry.name).symlink_to(entry)
    if way:
        (image / step).mkdir()
        _cast(real / step, image / step, way[1:])
