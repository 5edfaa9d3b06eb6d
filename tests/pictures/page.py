"""Photographs the pages in Chromium: on a desk and on a phone, light and dark.

python -m tests.pictures.page docs/pictures
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from agentd.heartbeat import Heartbeats
from agentd.options import StatusOptions
from agentd.report.metrics import Metrics
from agentd.report.status import Status
from tests.pictures import example
from tests.servers.equipment import IS_ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from agentd.fleet.reading import Reading

CHROMIUM: Final = "/usr/bin/chromium"
_TALLEST: Final = 1100  # pixels of a picture
WIDTHS: Final = {"wide": 1280, "phone": 390}
_SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
_WORDS: Final = """usage: python -m tests.pictures.page DIRECTORY"""


@contextmanager
def serving(
    state: Callable[[], Mapping[str, Any]],
    recent: Callable[[], Sequence[Mapping[str, Any]]],
    reading: Callable[[], Reading | None],
    **options: Any,  # noqa: ANN401 (fields of the section `status:`)
) -> Iterator[Status]:
    """A listener with those pages, on a free port of loopback."""
    status = Status(
        StatusOptions(**{"address": "127.0.0.1:0", **options}),
        Heartbeats(),
        Metrics(list),
        not_ready=tuple,
        behind=tuple,
        snapshot=state,
        recent=recent,
        reading=reading,
    )
    status.start()
    try:
        yield status
    finally:
        status.stop()


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 (only where Chromium is)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if IS_ROOT else []
        )
        yield browser
        browser.close()


def take(directory: Path) -> list[Path]:
    """Write the pictures into that directory, and return their files."""
    now = time.time()
    directory.mkdir(parents=True, exist_ok=True)
    pages = {"page-node": "/", "page-fleet": "/fleet"}
    taken = []
    with (
        chromium() as browser,
        serving(
            lambda: example.state(now), lambda: example.recent(now), lambda: example.reading(now)
        ) as status,
    ):
        assert status.address is not None
        for name, path in pages.items():
            for size, width in WIDTHS.items():
                for scheme in _SCHEMES:
                    file = directory / f"{name}-{size}-{scheme}.png"
                    with browser.new_context(
                        viewport={"width": width, "height": 800}, color_scheme=scheme
                    ) as context:
                        page = context.new_page()
                        page.goto(f"http://127.0.0.1:{status.address[1]}{path}")
                        height = min(_TALLEST, page.evaluate("document.documentElement.scrollHeight"))
                        page.screenshot(
                            path=file,
                            full_page=True,
                            clip={"x": 0, "y": 0, "width": width, "height": height},
                        )
                    taken.append(file)
    return taken


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(_WORDS)
    take(Path(sys.argv[1]))
