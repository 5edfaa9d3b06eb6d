"""The man pages: agentd(1), and one for each command with its verbs, made by argparse-manpage.

What a page has beyond the command's help is here: FILES, ENVIRONMENT, EXIT STATUS and SEE ALSO.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Iterable, Mapping
from typing import Final

from argparse_manpage.manpage import Manpage

from agentd import __version__, cli
from agentd.commands import OWN
from agentd.commands.parser import DEFAULT, Parser
from agentd.commands.to_consul import SETTINGS

_FAILED: Final = "0 if all is well; 1 if it failed."
_WRONG: Final = "2 for wrong usage or a wrong configuration."
_FILES: Final = {
    str(DEFAULT): "the configuration",
    "/var/lib/agentd": "the journal: what was seen, what is owed, and what became of it",
    "/etc/nginx/agentd/current": "the generation of files that nginx includes",
    "/run/agentd": "the socket on which nginx answers with the generation that it serves",
}
_ABOUT: Final = """\
agentd runs on every load balancer, beside the local Consul agent: it watches events, services and keys, turns
each change into files that nginx includes, reloads nginx, proves that the new workers serve the new files,
and remembers what became of every change. Each command has a page of its own."""
_RELATED: Final = (
    ("run", "check", "status"),
    ("status", "history", "generations"),
    ("history", "replay", "fire"),
    ("generations", "rollback"),
    ("pause", "resume", "freeze", "thaw"),
    ("publish", "fire", "log", "rollout", "keys"),
    ("fleet", "publish", "log", "leave"),
    ("tickets", "rotate-tickets", "fleet"),
    ("rolling", "upstream", "nodes", "lock"),
    ("handlers", "check", "import-watches", "render"),
    ("render", "replay", "generations"),
    ("init", "example", "check"),
    ("blacklist", "history"),
)
"""Commands that a reader of one of them looks for next."""


def man_pages() -> dict[str, str]:
    """The text of each page, by its file name."""
    parser = cli.parser_of_all(OWN, complete=True)
    commands = _take_commands(parser)
    made = {"agentd.1": _top_page(parser, commands)}
    for name, command in commands.items():
        see = {other for group in _RELATED if name in group for other in group if other in commands}
        made[f"agentd-{name}.1"] = _command_page(command, sorted(see - {name}))
    return made


def _take_commands(parser: Parser) -> dict[str, Parser]:
    """Its commands or verbs, which have pages or sections of their own; the usage still names them."""
    parser.usage = " ".join(parser.format_usage().split()).removeprefix("usage: ").replace("%", "%%")
    found = dict(parser.verbs)
    for group in parser._action_groups:
        for action in list(group._group_actions):
            if isinstance(action, argparse._SubParsersAction):
                group._group_actions.remove(action)
                found |= action.choices
    return found


def _top_page(parser: Parser, commands: dict[str, Parser]) -> str:
    parser.description = _ABOUT
    page = _page(parser, "nginx load balancers in step with Consul")
    listed = (f".TP\n.BR agentd\\-{_roff(name)} (1)\n{_roff(one.summary)}" for name, one in commands.items())
    page.add_section("COMMANDS", "=", "\n".join(listed))
    _add_sections(page, parser, [f"agentd-{name}" for name in commands])
    return _text(page)


def _command_page(command: Parser, see: Iterable[str]) -> str:
    verbs = _take_commands(command)
    known = command._option_string_actions
    page = _page(command, command.summary)
    for verb in verbs.values():
        page.add_section(verb.prog.upper(), "=", _verb(verb, known))
        command.examples += [one for one in verb.examples if one not in command.examples]
    consul = any("--http-addr" in one._option_string_actions for one in (command, *verbs.values()))
    _add_sections(page, command, ["agentd", *(f"agentd-{name}" for name in see)], consul=consul)
    return _text(page)


def _page(parser: Parser, summary: str) -> Manpage:
    parser.epilog, epilog = None, parser.epilog
    dashed = parser.prog.replace(" ", "-")
    page = Manpage(
        parser,
        {
            "project_name": "agentd",
            "version": __version__,
            "date": _date(),
            "manual_title": "agentd",
            "description": summary,
        },
        format="single-commands-section",
    )
    page.prog = dashed
    if epilog:
        parser.description += f"\n\n{epilog}"
    return page


def _text(page: Manpage) -> str:
    """As argparse-manpage writes it, with a date that mandoc can read, and no text that begins a request."""
    header, rest = str(page).split("\n", 1)
    rest = re.sub(r"(?m)^(?='|\.[^\w\\])", r"\\&", rest)
    return f"{header.replace(_roff(page.date), page.date)}\n{rest}"


def _verb(verb: Parser, known: Mapping[str, object]) -> str:
    """The usage, and the arguments that the command does not have as well, as one section."""
    for group in verb._action_groups:
        group._group_actions = [
            one for one in group._group_actions if not known.keys() & set(one.option_strings)
        ]
    if verb.exit_status:
        verb.description = f"{verb.description}\n\nExit status: {verb.exit_status}"
    lines = str(_page(verb, verb.summary)).splitlines()
    return "\n".join(line.replace(".SH ", ".SS ") for line in lines[lines.index(".SH SYNOPSIS") + 1 :])


def _add_sections(page: Manpage, parser: Parser, see: Iterable[str], *, consul: bool = False) -> None:
    page.add_section("EXAMPLES", "=", ".EX\n" + "\n".join(map(_roff, parser.examples)) + "\n.EE")
    page.add_section("EXIT STATUS", "=", _roff(f"{parser.exit_status or _FAILED}\n{_WRONG}"))
    variables = {"AGENTD_CONFIG": f"the configuration file, unless --config names one (else {DEFAULT})"}
    if consul:
        variables |= {name: text for _, name, _, text in SETTINGS.values() if name}
        variables |= {"CONSUL_HTTP_TOKEN": "the ACL token itself"}
    page.add_section("ENVIRONMENT", "=", _list(variables))
    files = _FILES if parser.prog in ("agentd", "agentd run") else dict([*_FILES.items()][:1])
    page.add_section("FILES", "=", _list(files))
    page.add_section(
        "SEE ALSO", "=", ",\n".join(f".BR {_roff(name)} (1)" for name in see).replace(",\n.BR", " ,\n.BR")
    )


def _list(named: dict[str, str]) -> str:
    return "\n".join(f".TP\n.B {_roff(name)}\n{_roff(text)}" for name, text in named.items())


def _roff(text: str) -> str:
    r"""Text as roff prints it: no line of it is a request, and a hyphen stays one that can be pasted."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


def _date() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
