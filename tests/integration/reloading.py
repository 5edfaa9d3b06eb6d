"""A node whose tree is written by hand, for tests of nginx_reload on a real nginx."""

from __future__ import annotations

import time
from typing import Final

from agentd.handler import NginxOptions, TemporaryError
from agentd.nginx import canary
from agentd.nginx.include import render
from agentd.testing import HandlerHarness, notification
from handlers.nginx_reload import NginxReload
from tests.servers.nginx import Nginx
from tests.servers.waiting import PATIENCE

_SLOW: Final = "not answer; end a worker that hangs"


class Node:
    """One nginx, its tree written by hand, and the handler under test."""

    def __init__(self, nginx: Nginx) -> None:
        self.nginx = nginx
        self.options = NginxOptions.model_validate(nginx.agentd_section)
        self.harness = HandlerHarness(NginxReload, {"deadline": "30s"}, nginx=self.options)
        self.flip(1)

    def flip(self, generation: int, extra: str = "") -> None:
        """Make a generation current, as a commit does; `extra` joins its agentd.conf."""
        tree, name = self.nginx.tree, f"generations/{generation:06d}"
        (tree / name).mkdir(parents=True, exist_ok=True)
        (tree / name / "agentd.conf").write_bytes(render(generation, self.options, "agentd") + extra.encode())
        (tree / "new").symlink_to(name)
        (tree / "new").rename(tree / "current")
        self.harness.generation = generation

    def notify(self, *generations: int, rollback: bool = False) -> None:
        """Tell the handler of these generations as one batch.

        As the engine does, again while a worker does not answer that nobody has stopped: it is only slow.
        """
        changes = [notification(number, "keys", rollback=rollback) for number in generations]
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.harness.handle(*changes)
            except TemporaryError as error:
                if _SLOW not in str(error) or time.monotonic() > end:
                    raise
            else:
                return

    @property
    def serving(self) -> str:
        """What the canary answers."""
        return canary.ask(self.options.canary).generation

    @property
    def logged(self) -> list[str]:
        """The names of the events logged, but for other nginx: other tests may run one meanwhile."""
        return [line.event for line in self.harness.log if line.event != "nginx.others"]
