"""The pages that a person reads, README.md and docs/*.md: their blocks, headings, links and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
PAGES: Final = (README, *sorted((ROOT / "docs").glob("*.md")))

_FENCE: Final = re.compile(r"^( *)(```+)([^`\n]*)$")
_HERE: Final = re.compile(r"<<-?'?(\w+)'?")
_SEPARATORS: Final = frozenset({"|", "||", "&&", ";", "&", "(", ")", ";;", "{", "}"})
_BEFORE: Final = frozenset({"if", "then", "else", "do", "while", "until", "!", "sudo", "time", "exec"})
"""Words of the shell, and programs, after which a command begins."""


class Block(NamedTuple):
    """One fenced block.

    Attributes:
        page: where it is.
        line: number of its first line.
        language: the first word after the fence.
        text: what is between the fences, without the fence's indentation.
    """

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        """Where it is, as an editor takes it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


class Command(NamedTuple):
    """A command in a block of `console`, and what the page says that it prints."""

    line: str
    output: str


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    """The fenced blocks of a page, in order."""
    made: list[Block] = []
    fence, indent, language, first, lines = "", "", "", 0, [""]
    for number, line in enumerate(page.read_text().splitlines(), 1):
        found = _FENCE.match(line)
        if fence and found and found[2] == fence and not found[3]:
            made.append(Block(page, first, language, "".join(lines)))
            fence = ""
        elif fence:
            lines.append(line.removeprefix(indent) + "\n")
        elif found:
            indent, fence, first, lines = found[1], found[2], number + 1, []
            language = (found[3].split() or [""])[0]
    assert not fence, f"{page.name}:{first}: the block has no end"
    return tuple(made)


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"(?ms)^( *)(```+)[^`\n]*\n.*?^\1\2$", "", page.read_text())


def of(*languages: str, page: Path | None = None) -> list[Block]:
    """The blocks of some languages, on all pages or one."""
    return [one for at in ([page] if page else PAGES) for one in blocks(at) if one.language in languages]


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings can be linked."""
    titles = re.findall(r"(?m)^#+ (.+)$", prose(page))
    return {re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    """What a page links to, as it is written."""
    return re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", prose(page))


def dialogue(text: str) -> list[Command]:
    """The commands of a `console` block with what each prints; a prompt is `$ ` or `# `."""
    made: list[Command] = []
    for line in text.splitlines():
        last = made[-1] if made else Command("", "")
        if (here := _HERE.search(last.line)) and f"\n{here[1]}" not in last.line:
            made[-1] = Command(f"{last.line}\n{line}", "")
        elif line.startswith(("$ ", "# ")):
            made.append(Command(line[2:], ""))
        elif last.line.endswith("\\") and not last.output:
            made[-1] = Command(f"{last.line}\n{line}", "")
        else:
            assert made, f"what prints {line!r}?"
            made[-1] = Command(last.line, f"{last.output}{line}\n")
    return made


def script(block: Block) -> str:
    """The commands of a block of `sh` or `console`, as a shell takes them."""
    if block.language == "sh":
        return block.text
    return "".join(f"{one.line}\n" for one in dialogue(block.text))


def simple_commands(text: str) -> Iterator[list[str]]:
    """The words of each command in a script, from the program on; without redirections."""
    joined = re.sub(
        rf"{_HERE.pattern}.*?\n.*?^\1$", "", text.replace("\\\n", " "), flags=re.DOTALL | re.MULTILINE
    )
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
        lexer.whitespace_split = True
        for ends, words in groupby(lexer, lambda word: word in _SEPARATORS):
            if not ends and (found := _program(list(words))):
                yield found


def _program(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if re.fullmatch(r"[<>&]+", word):
            next(rest, None)
        elif kept or not (word in _BEFORE or re.match(r"\w+=", word)):
            kept.append(word)
    return kept
