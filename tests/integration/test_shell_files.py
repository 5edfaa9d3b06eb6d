"""The completions in bash, zsh and fish themselves, and the man pages before those who read them."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import pytest

from tests.servers.equipment import require

SCRIPT: Final = Path(__file__).resolve().parents[2] / "scripts" / "shell_files.py"
CONFIG: Final = """\
# handlers: {not: these}
consul:
  address: 127.0.0.1:8500
handlers:
  # the event: commented
  tickets:
    use: tls_ticket_keys
    on: [{event: rotate-keys, keep: latest}]
  "motd-2":
    use: command
    on:
      - event: "*"
      - event: 'deploy.web'   # quoted
      - key: site/event
  $(touch pwned):
    use: command
status:
  address: 127.0.0.1:9521
"""
SECONDS: Final = 60
PROMPT: Final = "type-now> "
_INTERACTIVE: Final = {
    "bash": (
        ("/bin/bash", "--norc", "--noprofile", "-i"),
        """\
bind 'set show-all-if-ambiguous on'
bind 'set completion-query-items 0'
bind 'set page-completions off'
bind 'set enable-bracketed-paste off'
source FILES/bash/agentd
""",
    ),
    "zsh": (
        ("/bin/zsh", "-f", "-i"),
        """\
fpath=(FILES/zsh $fpath)
autoload -Uz compinit
compinit -u -D
LISTMAX=10000
""",
    ),
}
"""How each is started, and told to list what it would complete, without a question."""


class Shell(Protocol):
    """A shell in which the completions are loaded."""

    def offered(self, line: str) -> set[str]:
        """The words that appear when Tab is pressed at the end of this line."""


class Typed:
    """bash or zsh, as a person uses it: on a terminal of its own."""

    def __init__(self, argv: tuple[str, ...], setup: str, completions: Path, directory: Path) -> None:
        self._pid, self._terminal = pty.fork()
        if not self._pid:
            os.chdir(directory)
            environment = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "TERM": "dumb", "PS1": PROMPT}
            os.execve(argv[0], argv, environment)  # noqa: S606 (the child of a fork)
        self._asked = 0
        self._read(PROMPT)
        self._send(setup.replace("FILES", str(completions)))
        self._until_told()

    def offered(self, line: str) -> set[str]:
        """What is on the screen after Tab, word by word."""
        self._send(f"{line}\t\x15")
        screen = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r|.\x08", "", self._until_told())
        return set(screen.partition(line)[2].split())

    def close(self) -> None:
        """End it."""
        os.close(self._terminal)
        os.waitpid(self._pid, 0)

    def _send(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def _until_told(self) -> str:
        """What it prints until it has done all that was typed."""
        self._asked += 1
        self._send(f"echo told-$(({self._asked}*1))-end\n")
        return self._read(f"told-{self._asked}-end", PROMPT).partition("echo told-")[0]

    def _read(self, *marks: str) -> str:
        """What it prints up to these marks: after its prompt it has the terminal, and Tab is for it."""
        seen, end = "", time.monotonic() + SECONDS
        while not re.search(".*".join(marks), seen, re.DOTALL):
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"the shell does not answer; it printed {seen!r}"
            seen += os.read(self._terminal, 65536).decode(errors="replace")
        return seen


class Fish:
    """fish says itself what it would offer."""

    def __init__(self, completions: Path, directory: Path) -> None:
        self._file, self._directory = completions / "fish" / "agentd.fish", directory

    def offered(self, line: str) -> set[str]:
        """The words, without what they mean."""
        script = "source $argv[1]; complete -C $argv[2]"
        done = subprocess.run(
            ["fish", "--no-config", "-c", script, str(self._file), line],
            check=True,
            capture_output=True,
            text=True,
            cwd=self._directory,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self._directory)},
            timeout=SECONDS,
        )
        assert done.stderr == ""
        return {row.partition("\t")[0] for row in done.stdout.splitlines()}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shell is: with a configuration file in it."""
    made = tmp_path_factory.mktemp("home")
    for name in ("lb.yaml", "kind=lb.yaml"):
        (made / name).write_text(CONFIG)
    return made


@pytest.fixture(scope="module")
def files(directory: Path) -> Path:
    """The files that the package installs."""
    subprocess.run([sys.executable, SCRIPT, directory / "files"], check=True)
    return directory / "files"


@pytest.fixture(scope="module", params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, files: Path, directory: Path) -> Iterator[Shell]:
    """Each of the shells."""
    name: str = request.param
    require(name)
    if name == "fish":
        yield Fish(files / "completions", directory)
        return
    typed = Typed(*_INTERACTIVE[name], files / "completions", directory)
    yield typed
    typed.close()


@pytest.mark.parametrize(
    "line, offered, not_offered",
    [
        ("agentd hist", {"history"}, {"handlers"}),
        ("agentd ro", {"rollback", "rolling", "rollout", "rotate-tickets"}, {"replay"}),
        ("agentd fleet --w", {"--watch"}, {"--json"}),
        ("agentd --config lb.yaml fleet ", {"forget", "remove", "tickets", "motd-2"}, {"deploy.web"}),
        ("agentd fleet forget --g", {"--gone"}, {"--watch"}),
        ("agentd check --config l", {"lb.yaml"}, {"files/"}),
        ("agentd --config lb.yaml history --handler ", {"tickets", "motd-2"}, {"not", "address", "pwned"}),
        ("agentd --config=lb.yaml replay 3f2a --handler mo", {"motd-2"}, {"tickets"}),
        ("agentd --config lb.yaml fire ", {"rotate-keys", "deploy.web"}, {"commented", "*", "keep"}),
        ("agentd --config lb.yaml log ", {"rotate-keys", "deploy.web", "forget"}, {"tickets"}),
        ("agentd --config lb.yaml rollout abort d", {"deploy.web"}, {"rotate-keys"}),
        ("agentd --config kind=lb.yaml history --handler ", set(), {"pwned"}),  # bash splits it
        ("agentd --config missing.yaml history --handler ", set(), {"tickets"}),
        ("agentd keys generate ", {"publisher", "fleet"}, {"rotate"}),
        ("agentd publish --keep ", {"latest", "all"}, set()),
    ],
)  # fmt: skip
def test_what_tab_offers(
    shell: Shell, directory: Path, line: str, offered: set[str], not_offered: set[str]
) -> None:
    """Commands, verbs, options, files, choices, and names from the right configuration; nothing runs."""
    found = shell.offered(line)
    found |= {line.rsplit(" ", 1)[-1] + word for word in found}  # only the rest of a single one is printed
    assert offered <= found
    assert not not_offered & found
    assert not (directory / "pwned").exists()


def test_mandoc_finds_no_fault(files: Path) -> None:
    """Every man page is as mandoc wants it."""
    require("mandoc")
    pages = (files / "man" / "man1").iterdir()
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *pages], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_groff_finds_no_fault(files: Path) -> None:
    """Nor has groff anything to say about the three longest, which have all that the others have."""
    require("man")
    pages = sorted((files / "man" / "man1").iterdir(), key=lambda page: page.stat().st_size)[-3:]
    options = ["--warnings", "--encoding=UTF-8", "--troff-device=utf8", "--ditroff", "--local-file"]
    done = subprocess.run(["man", *options, *pages], check=True, capture_output=True, text=True)
    assert done.stderr == ""


def test_apropos_finds_each_man_page(files: Path) -> None:
    """The line that the index of man pages takes is there, and says what the command does."""
    require("man")
    pages = sorted((files / "man" / "man1").iterdir())
    done = subprocess.run(["lexgrog", *pages], check=True, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == len(pages)
    assert '"agentd-history - show which changes arrived' in done.stdout
