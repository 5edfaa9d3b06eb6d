"""What the documentation says is checked where a program can check it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agentd.config.load import load
from agentd.trust.keys import new_secret_key
from tests.bench.__main__ import BENCHES
from tests.pages import PAGES, README, ROOT, anchors, links

REFERENCE = ROOT / "docs" / "configuration.md"
MOST_LINES = 130
HANDLERS = {"a": {"use": "command", "options": {"argv": ["/bin/true"]}}}


def test_the_reference_is_up_to_date() -> None:
    """docs/configuration.md is what the models say; otherwise the message names the script to run."""
    done = subprocess.run(
        [sys.executable, "scripts/reference.py", "--check"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


def test_every_field_has_a_description() -> None:
    """No row of the reference lacks its meaning."""
    rows = re.findall(r"(?m)^\| `.*\|$", REFERENCE.read_text())

    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == []


def test_the_readme_is_short() -> None:
    """The README is read in a few minutes; the rest is in docs/."""
    assert len(README.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    """Every link to a file, and to a heading in it, leads somewhere."""
    for target in links(page):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_the_readme_links_every_page() -> None:
    """A page that nothing leads to is not read."""
    linked = {target.partition("#")[0] for target in links(README)}

    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in linked] == []


@pytest.mark.parametrize("section", ["fleet", "trust"])
def test_sections_that_are_commented_out_are_accepted(section: str, tmp_path: Path) -> None:
    """Those of config/agentd.yaml, once somebody removes the signs."""
    found = re.search(rf"(?ms)^# {section}:.*?(?=^$)", (ROOT / "config" / "agentd.yaml").read_text())
    assert found
    text = re.sub("k4.public.KEY", lambda _: new_secret_key().public.text, re.sub("(?m)^# ", "", found[0]))
    more = {"handlers": HANDLERS} | ({} if section == "fleet" else {"fleet": {"name": "production"}})
    (tmp_path / "agentd.yaml").write_text(f"{text}\n{yaml.safe_dump(more)}")

    load(tmp_path / "agentd.yaml")


def test_figures_say_how_each_bench_takes_them() -> None:
    """A bench that the page does not describe gives figures that nobody can judge."""
    page = (ROOT / "docs" / "figures.md").read_text().replace("fleet-", "fleet_")

    assert [name for name in BENCHES if f"`{name}`" not in page] == []


def test_pictures_say_what_they_show() -> None:
    """Who cannot see a picture reads the same words on the page and in the picture; each picture is used."""
    used: dict[str, str] = {}
    for page in PAGES:
        for text, target in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", page.read_text()):
            used[Path(target).name] = text

    made = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
    assert [file.name for file in made if file.name not in used] == []
    assert all(used[file.name].strip(".") in " ".join(file.read_text().split()) for file in made)
    assert all(len(text) > 20 for text in used.values())
