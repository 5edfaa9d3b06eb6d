"""Each fenced block of the pages is claimed by a test, here or in tests/integration/test_docs_servers.py."""

from __future__ import annotations

import argparse
import configparser
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from agentd.cli import parser_of_all
from agentd.command import Parser
from agentd.commands import OWN
from agentd.config.load import load
from agentd.config.models import Config
from agentd.trust.keys import new_secret_key
from handlers.ip_blacklist.payload import parse_payload
from tests.pages import PAGES, ROOT, Block, blocks, of, prose, script, simple_commands

CLAIMED: Final = {
    "sh": "parsed here; run by the tests in RUN",
    "console": "parsed here; run by the tests in RUN",
    "yaml": "loaded here",
    "python": "run here",
    "toml": "loaded here",
    "json": "loaded here",
    "ini": "read here, as systemd reads it",
    "text": "here: a picture, the payload of an event, or words that agentd says",
    "hcl": "read here as rules of Consul's ACLs; services and checks are given to Consul",
    "nginx": "given to `nginx -t`",
    "haproxy": "given to `haproxy -c`",
    "nft": "given to `nft -c`",
    "consul-template": "test_docs_consul_template.py, by what the program itself made of it",
    "confd": "as consul-template's",
}
"""By language: who reads, loads or runs a block."""

COMMANDS: Final = "integration/test_docs_commands.py"
RUN: Final = {
    "README": ("integration/test_getting_started.py", "stranger.py"),
    "blacklists": (COMMANDS,),
    "coming-from": (COMMANDS, "unit/test_docs_coming_from.py"),
    "coming-from-consul-template": (COMMANDS,),
    "deploy": (COMMANDS,),
    "fleet": (COMMANDS,),
    "getting-started": ("integration/test_getting_started.py",),
    "installing": ("integration/test_wheel.py", "stranger.py"),
    "monitoring": (COMMANDS,),
    "operating": (COMMANDS,),
    "rollouts": ("integration/test_rollout_faults.py",),
    "status-page": (COMMANDS,),
    "tickets": (COMMANDS, "integration/test_tickets_page.py"),
    "troubleshooting": (COMMANDS,),
    "trust": ("integration/test_trust_runbooks.py",),
    "upstreams": (COMMANDS,),
    "writing-a-handler": ("integration/test_docs_handler.py", "stranger.py"),
}
"""By page: who runs its commands."""
NOT_RUN: Final = {
    "consul watch -type event -name deploy stretcher": "Stretcher is not agentd's",
    "ssh -N -L 9521:127.0.0.1:9521 lb1.example.org": "a tunnel to another machine",
    "apt-get install -y --no-install-recommends": "the machine has no network, and has pip already",
    "sudo apt-get install -y --no-install-recommends python3-pip": "likewise",
    "python3 -m pip install --require-hashes": "likewise",
    "rm -f /etc/systemd/system/agentd.service": "likewise: nothing can be installed in a virtual environment",
    "systemctl enable --now agentd-rotate-tickets.timer": "needs systemd and a fleet; it runs `--due`",
    "sha256sum dist/agentd_*.deb": "test_package.py builds twice, and compares all bytes",
    "scripts/demo": "runs for a person to see",
    "scripts/test": "runs this test",
}
"""Commands that no test runs as they stand, and why."""
HANDLERS: Final = {"any": {"use": "command", "options": {"argv": ["/bin/true"]}}}
PUBLIC: Final = {name: new_secret_key().public.text for name in ("OLD", "NEW", "OTHER", "KEY")}
PICTURE: Final = re.compile("[─│▶▼▲◀└┌┐┘├┤]|-->|<--")
NUMBERS: Final = {"NUM": "1790000000001", "N": "3", "M": "4"}
POLICY: Final = re.compile(
    r'(?:\w+(?: "[^"]*")? *\{\s*policy *= *"(?:read|write|list|deny)"\s*\})|acl *= *"\w+"'
)


def at(block: Block) -> str:
    """The name of a block's test."""
    return str(block)


def words(text: str) -> list[str]:
    """Its words in lower case."""
    return re.findall(r"[a-z0-9_.'-]+", text.lower())


@cache
def source() -> str:
    """Every word of the program's code, in order."""
    files = (*(ROOT / "agentd").rglob("*.py"), *(ROOT / "handlers").rglob("*.py"))
    return " ".join(word for file in sorted(files) for word in words(file.read_text()))


@cache
def the_parser() -> Parser:
    """The parser of the command line, with all commands."""
    return parser_of_all(OWN, complete=True)


def own_modules(page: Path) -> set[str]:
    """The commands that a page itself writes and packages."""
    points = [
        tomllib.loads(one.text).get("project", {}).get("entry-points", {}) for one in of("toml", page=page)
    ]
    return {name for one in points for name in one.get("agentd.commands", {})}


def test_every_block_is_claimed() -> None:
    """A block in a language that no test knows is an example that nobody tries."""
    unclaimed = [f"{one}: {one.language or 'no language'}" for page in PAGES for one in blocks(page)]

    assert [one for one in unclaimed if one.rpartition(": ")[2] not in CLAIMED] == []


def test_every_page_with_commands_has_a_test_that_runs_them() -> None:
    """It names the page; and what is excused is still shown somewhere."""
    tests = ROOT / "tests"
    assert set(RUN) == {one.page.stem for one in of("sh", "console")}
    silent = [
        f"{file}: {page}"
        for page, files in RUN.items()
        for file in files
        if not re.search(rf"\b{page}\b", (tests / file).read_text())
    ]
    assert [one for one in silent if not one.endswith("README")] == []

    every = "\n".join(script(one) for one in of("sh", "console"))
    assert [one for one in NOT_RUN if not re.search(rf"(?m)^{re.escape(one)}", every)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_are_fenced(page: Path) -> None:
    """An indented block has no language, so no test could claim it; a list's own text is not one."""
    paragraphs = re.split(r"\n\s*\n", prose(page))
    before = ["", *paragraphs]
    found = [
        one
        for one, above in zip(paragraphs, before, strict=False)
        if re.match(r"\n*    \S", one) and not re.search(r"(?m)^ *([-*]|\d+\.) ", above)
    ]

    assert found == []


@pytest.mark.parametrize("block", of("yaml"), ids=at)
def test_yaml_is_accepted(block: Block, tmp_path: Path) -> None:
    """By the real models: a configuration, sections of one, or entries of `handlers`."""
    text = re.sub(r"k4\.public\.(\w+)\b(?![\w-])", lambda found: PUBLIC.get(found[1], found[0]), block.text)
    document = yaml.safe_load(text)
    if isinstance(document, list) or {"groups", "scrape_configs"} & set(document):
        return  # Prometheus's, which promtool checks
    if not set(document) & set(Config.model_fields):
        text = "handlers:\n" + re.sub("(?m)^", "  ", text)
    elif "handlers" not in document:
        text += f"\n{yaml.safe_dump({'handlers': HANDLERS})}"
    if "trust" in document:
        earlier = of("yaml", page=block.page)[: of("yaml", page=block.page).index(block)]
        text = _with_what_stays(text, earlier)
    for python in of("python", page=block.page):
        if named := re.match(r"# (\w+\.py)\n", python.text):
            (tmp_path / named[1]).write_text(python.text)
    file = tmp_path / "agentd.yaml"
    file.write_text(text.replace("/etc/agentd/handlers", str(tmp_path)))

    load(file)


def _with_what_stays(text: str, earlier: list[Block]) -> str:
    """A page that changes `trust:` shows only the lines that change."""
    trust: dict[str, Any] = {}
    for one in earlier:
        found = yaml.safe_load(one.text)
        trust |= found.get("trust", {}) if isinstance(found, dict) else {}
    document = yaml.safe_load(text.replace(" on:", ' "on":'))
    document["trust"] = trust | document["trust"]
    document.setdefault("fleet", {"name": "production"})
    made = yaml.safe_dump(document)
    return re.sub(r"k4\.public\.(\w+)\b(?![\w-])", lambda found: PUBLIC.get(found[1], found[0]), made)


@pytest.mark.parametrize("block", of("sh", "console"), ids=at)
def test_commands_parse(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `agentd` command of a script, with the parser that would parse it."""

    def fail(_parser: Parser, message: str) -> None:
        raise AssertionError(f"{block}: {argv}: {message}")

    monkeypatch.setattr(Parser, "error", fail)
    for argv in simple_commands(script(block)):
        program, *rest = argv
        if Path(program).name != "agentd" or (rest and rest[0] in own_modules(block.page)):
            continue
        rest = [NUMBERS.get(word, word) for word in rest]
        if {"--help", "--version"} & set(rest):
            known(rest)
        else:
            the_parser().parse_args(rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_exist(page: Path) -> None:
    """`agentd COMMAND --option`, wherever a sentence names it."""
    for found in re.findall(r"`(?:sudo )?agentd ([a-z][^`]*)`", prose(page)):
        argv = re.findall(r"[^\s,|]+", found.replace("\n", " ").partition(" -- ")[0])
        if argv[0] not in own_modules(page):
            known(argv)


def known(argv: list[str]) -> None:
    """Fail if a command, verb or option does not exist."""
    parser = the_parser()
    for word in argv:
        commands = next((one for one in parser._actions if isinstance(one, argparse._SubParsersAction)), None)
        choices = commands.choices if commands else parser.verbs
        if word == "...":
            return
        if word.startswith("-") and word not in {"-", "--"}:
            assert word.partition("=")[0].rstrip(")") in parser._option_string_actions, argv
        elif commands or word in choices:
            assert word in choices, argv
            parser = choices[word]


@pytest.mark.parametrize("block", of("sh", "console"), ids=at)
def test_files_that_commands_name_are_there(block: Block) -> None:
    """What a script takes out of the checkout exists."""
    for path in re.findall(r"(?<![\w./-])((?:config|systemd|scripts)/[\w./{},-]*\w)", script(block)):
        names = re.search(r"\{([^}]+)\}?", path)
        each = [path.replace(names[0], one) for one in names[1].split(",")] if names else [path]
        assert [one for one in each if not (ROOT / one).exists()] == []


def test_scripts_are_sound() -> None:
    """As shellcheck judges them, all at once."""
    tried = {str(one): script(one) for one in of("sh", "console")}
    # Of placeholders and files that a reader has.
    spared = "SC2086,SC2154,SC1091,SC2024,SC2034,SC2164,SC2046,SC2015,SC2038,SC1083"
    text = "".join(f"# {name}\n(\n{code}\n)\n" for name, code in tried.items())
    done = subprocess.run(
        ["shellcheck", "--shell=bash", f"--exclude={spared}", "--format=gcc", "-"],
        input=text, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    shown = [f"{line}: {text.splitlines()[int(line.split(':')[1]) - 1]}" for line in done.stdout.splitlines()]

    assert shown == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if of("python", page=page)], ids=lambda page: page.name
)
def test_python_runs(page: Path, tmp_path: Path) -> None:
    """Blocks that begin with `# FILE.py` are files, and their tests pass; all others compile."""
    for block in of("python", page=page):
        compile(block.text, str(block), "exec")
        if named := re.match(r"# ([\w/]+\.py)\n", block.text):
            (tmp_path / named[1]).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / named[1]).write_text(block.text)
    if not any(tmp_path.rglob("test_*.py")):
        return

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=append", "."],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("block", of("toml"), ids=at)
def test_entry_points_lead_to_what_the_page_writes(block: Block) -> None:
    """TOML is well-formed, and `MODULE:CLASS` of an entry point is in a block of Python on the page."""
    points = tomllib.loads(block.text).get("project", {}).get("entry-points", {})
    code = {one.text.splitlines()[0]: one.text for one in of("python", page=block.page)}
    for target in [target for group in points.values() for target in group.values()]:
        module, _, name = target.partition(":")
        found = next((text for first, text in code.items() if first == f"# {module}.py"), "")
        assert found, target
        assert f"class {name}(" in found if name else "def execute(" in found


@pytest.mark.parametrize("block", of("json"), ids=at)
def test_json_is_json(block: Block) -> None:
    """It can be read; what it means, the test of its page says."""
    json.loads(block.text)


@pytest.mark.parametrize("block", of("ini"), ids=at)
def test_drop_ins_set_what_a_unit_has(block: Block) -> None:
    """Sections and settings are systemd's, or fail2ban's."""
    reader = configparser.ConfigParser(strict=False, interpolation=None)
    reader.optionxform = str  # type: ignore[assignment,method-assign] # as its documentation has it
    reader.read_string(block.text)

    if any(key.startswith("action") for one in reader.sections() for key in reader[one]):
        return  # fail2ban's: test_docs_coming_from.py
    assert set(reader.sections()) <= {"Unit", "Service", "Install", "Timer"}
    assert all(re.fullmatch("([A-Z][A-Za-z]+)", key) for one in reader.sections() for key in reader[one])


@pytest.mark.parametrize("block", of("hcl"), ids=at)
def test_policies_have_consuls_form(block: Block) -> None:
    """Each rule has a kind, a name and a policy."""
    if re.search(r"(?m)^(services?|checks?) *[={]", block.text):
        return  # tests/integration/test_docs_servers.py gives it to Consul

    assert not POLICY.sub("", re.sub("(?m)#.*$", "", block.text)).strip()


@pytest.mark.parametrize("block", of("text"), ids=at)
def test_text_is_what_there_is(block: Block) -> None:
    """A picture; the payload of a blacklist's event; a form with placeholders; or words that agentd says."""
    if PICTURE.search(block.text) or re.search(r"\b[A-Z]{3,}\b", block.text):
        return
    if block.text.startswith(("replace\n", "add ", "load ")):
        parse_payload(block.text.encode(), lambda _one: None)
        return
    for line in block.text.splitlines():
        said = words(line)
        triples = [" ".join(said[one : one + 3]) for one in range(max(len(said) - 2, 1))]
        assert not said or any(one in source() for one in triples), line
