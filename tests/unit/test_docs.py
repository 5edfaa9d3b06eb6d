"""What the documentation says is checked where a program can check it."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest
import yaml

from agentd.cli import main
from agentd.command import Parser
from agentd.config.load import load
from agentd.trust.keys import new_secret_key

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "configuration.md"
GUIDE = ROOT / "docs" / "writing-a-handler.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MOST_LINES = 120
HANDLERS = {"a": {"use": "command", "options": {"argv": ["/bin/true"]}}}
PUBLIC = {name: new_secret_key().public.text for name in ("OLD", "NEW", "OTHER")}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", page.read_text())


def with_keys(block: str) -> str:
    """The block with valid public keys where the page has OLD, NEW and OTHER."""
    return re.sub(r"k4\.public\.(OLD|NEW|OTHER)\b", lambda found: PUBLIC[found[1]], block)


def commands() -> Iterator[str]:
    """Every `agentd` command line that the pages show, without comments."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.splitlines():
                if found := re.search(r"(?:^|\| |&& )(agentd [^#|&]+)", line):
                    yield found[1].strip()


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings can be linked."""
    titles = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-") for title in titles}


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
    assert len(PAGES[0].read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    """Every link to a file, and to a heading in it, leads somewhere."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configurations_are_accepted(page: Path, tmp_path: Path) -> None:
    """Each block of YAML is a whole configuration, the entries of `handlers`, or lines of `trust:`."""
    (tmp_path / "motd.py").write_text(blocks(GUIDE, "python")[0])
    trust: dict[str, object] = {}
    for block in blocks(page, "yaml"):
        text = block if "\nhandlers:" in f"\n{block}" else "handlers:\n" + indent(block, "  ")
        if block.startswith("trust:"):
            trust |= yaml.safe_load(with_keys(block))["trust"]
            text = yaml.safe_dump({"fleet": {"name": "production"}, "trust": trust, "handlers": HANDLERS})
        file = tmp_path / "agentd.yaml"
        file.write_text(text.replace("/etc/agentd/handlers", str(tmp_path)))

        load(file)


@pytest.mark.parametrize("section", ["fleet", "trust"])
def test_sections_that_are_commented_out_are_accepted(section: str, tmp_path: Path) -> None:
    """Those of config/agentd.yaml, once somebody removes the signs."""
    found = re.search(rf"(?ms)^# {section}:.*?(?=^$)", (ROOT / "config" / "agentd.yaml").read_text())
    assert found
    text = re.sub("k4.public.KEY", lambda _: new_secret_key().public.text, re.sub("(?m)^# ", "", found[0]))
    more = {"handlers": HANDLERS} | ({} if section == "fleet" else {"fleet": {"name": "production"}})
    (tmp_path / "agentd.yaml").write_text(f"{text}\n{yaml.safe_dump(more)}")

    load(tmp_path / "agentd.yaml")


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that a page shows has help, and the help names the options that are used."""
    words = command.partition(" -- ")[0].split()[1:]
    verbs = [word for word in words[:2] if re.fullmatch(r"[a-z-]+", word) and not word.startswith("-")]

    with pytest.raises(SystemExit) as ended:
        main([*verbs, "--help"])

    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert [word for word in words if word.startswith("--") and word not in shown] == []


def test_the_handler_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler that the guide writes passes its tests, and its command takes its arguments."""
    for block in blocks(GUIDE, "python"):
        (tmp_path / block.splitlines()[0].removeprefix("# ")).write_text(block)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=append", "."],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout
    monkeypatch.syspath_prepend(tmp_path)
    parser = Parser()
    command = importlib.import_module("motd_command")
    command.add_arguments(parser)
    assert parser.parse_args(["Welcome."]).text == "Welcome."
