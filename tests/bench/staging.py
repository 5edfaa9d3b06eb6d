"""Ten thousand files written in one attempt of a handler: what staging them takes, apart from the commit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from agentd.tree.tree import Tree
from tests.bench.rows import Row, p50, spread

WRITES = 10_000
_ROUNDS = 5


def rows(stack: ExitStack, directory: Path) -> Iterator[Row]:  # noqa: ARG001 (every bench has them)
    """Write them, with a mark after every hundred as between the changes of a batch."""
    tree = Tree(
        directory / "tree", keep=2, check=lambda _: None, stamp=lambda _: {}, mirror=None, prefix="agentd"
    )
    took = [_stage(tree) for _ in range(_ROUNDS)]
    yield Row(
        f"{WRITES} writes staged in one attempt, p50", "s", p50(took), "a number", None, 0.5, spread(took)
    )


def _stage(tree: Tree) -> float:
    stage = tree.stage("bench")
    began = time.perf_counter()
    for number in range(WRITES):
        stage.write(f"many/{number % 100}/{number}.conf", b"server 192.0.2.1:80;\n")
        if number % 100 == 0:
            stage.mark()
    took = time.perf_counter() - began
    assert len(stage.changed) == WRITES
    return took
