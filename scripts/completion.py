"""The completions for bash, zsh and fish, made by shtab, and the names that only the configuration knows.

A name of a configured handler or of an event is read from the YAML by the awk program below, not by agentd:
that takes 2 ms instead of half a second, and works for a user who may read nothing else. It knows the usual
block style, finds less in any other, and never offers a word that a shell could expand.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import shtab

from agentd import cli
from agentd.commands import OWN
from agentd.commands.parser import DEFAULT, Parser

_FILES: Final = {"bash": "bash/agentd", "zsh": "zsh/_agentd", "fish": "fish/agentd.fish"}
_EVENTS: Final = (
    "agentd fire",
    "agentd publish",
    "agentd log",
    "agentd log forget",
    "agentd rollout status",
    "agentd rollout abort",
    "agentd rotate-tickets",
    "agentd keys resign",
)
"""The commands whose first argument is the name of an event."""
_HANDLERS: Final = ("agentd handlers", "agentd render")
"""Those whose first argument is the name of a handler, and whose metavar does not say so."""

# Not quoted by ', so that each shell can put it between those.
_AWK: Final = r"""
function name(text) {
  if (match(text, /[A-Za-z0-9_][A-Za-z0-9_.-]*/)) print substr(text, RSTART, RLENGTH)
}
kind == "handlers" && /^[^ #]/ { inside = /^handlers:/; width = 0; next }
kind == "handlers" && inside && match($0, /^ +[^ #-]/) && /:/ {
  if (!width) width = RLENGTH
  if (RLENGTH == width) name($0)
}
kind == "events" && match($0, /^[^#]*[ {,-]event: *["\047]?[A-Za-z0-9_]/) {
  name(substr($0, RSTART + RLENGTH - 1))
}
"""

# The words before the cursor name the file, as agentd itself would find it.
_POSIX_NAMES: Final = f"""
_agentd_names() {{
  local kind=$1 file=${{AGENTD_CONFIG:-{DEFAULT}}} before='' word
  shift
  for word in "$@"; do
    if [[ $word == = ]]; then continue; fi # bash makes three words of --config=FILE
    if [[ $before == --config ]]; then file=$word; fi
    if [[ $word == --config=* ]]; then file=${{word#--config=}}; fi
    before=$word
  done
  [[ -f $file && -r $file ]] && awk -v kind="$kind" '{_AWK}' <"$file" 2>/dev/null | sort -u
}}
"""
_PREAMBLES: Final = {
    "bash": _POSIX_NAMES
    + "".join(
        f"""
_agentd_{kind}() {{
  compgen -W "$(_agentd_names {kind} "${{COMP_WORDS[@]:0:COMP_CWORD}}")" -- "$1"
}}
"""
        for kind in ("handlers", "events")
    ),
    "zsh": _POSIX_NAMES
    + "".join(
        f"""
_agentd_{kind}() {{
  local -a found=(${{(f)"$(_agentd_names {kind} ${{(Q)${{(z)LBUFFER}}}})"}})
  compadd -a found
}}
"""
        for kind in ("handlers", "events")
    ),
    "fish": f"""
function _agentd_names --argument-names kind
  set -l file {DEFAULT}
  set -q AGENTD_CONFIG; and test -n "$AGENTD_CONFIG"; and set file $AGENTD_CONFIG
  set -l before
  for word in (commandline -opc)
    test "$before" = --config; and set file $word
    string match -q -- '--config=*' $word; and set file (string replace -- --config= '' $word)
    set before $word
  end
  test -f "$file" -a -r "$file"
  and awk -v kind=$kind '{_AWK.replace(chr(92), chr(92) * 2)}' <$file 2>/dev/null | sort -u
end
""",
}

# For a command, as "agentd_log", and a kind: the names that stand where its verbs do as well.
_BESIDE: Final[dict[str, Callable[[str, str], str]]] = {
    "bash": lambda command, kind: f"_shtab_{command}_pos_0_COMPGEN=_agentd_{kind}\n",
    "zsh": lambda command, kind: (
        f"""
functions[_{command}_verbs]=$functions[_shtab_{command}_commands]
_shtab_{command}_commands() {{
  _{command}_verbs
  _agentd_{kind}
}}
"""
    ),
    "fish": lambda command, kind: (
        f"complete -c agentd -n '_shtab_agentd_using {command.partition('_')[2]}; and test"
        f" $_shtab_agentd_npos -eq 0' -ka '(_agentd_names {kind})'\n"
    ),
}


def completions() -> dict[str, str]:
    """The text of each file, by its path below `completions`."""
    made = {}
    for shell, path in _FILES.items():
        parser = cli.parser_of_all(OWN, complete=True)
        beside: dict[str, str] = {}
        _prepare(parser, beside)
        before, after = _PREAMBLES[shell], "".join(_BESIDE[shell](*one) for one in beside.items())
        if shell == "zsh":  # the end of its file completes the first time
            before, after = before + after, ""
        text = shtab.complete(parser, shell, preamble=before).rstrip()
        if shell == "zsh":  # it takes --option=VALUE as well
            text = re.sub(r'^(  "--[\w-]+)(\[.*\]:)', r"\1=\2", text, flags=re.MULTILINE)
        made[path] = f"{text}\n{after}"
    return made


def _prepare(parser: Parser, beside: dict[str, str]) -> None:
    """Say how each argument is completed, and make the verbs what shtab takes for such.

    shtab has either verbs or names at one place: `beside` is given those commands, as words joined by "_",
    that have both, with the kind of name.
    """
    if parser.verbs:
        _add_verbs(parser, beside)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _prepare(below, beside)
        elif not action.choices and (how := _how(action, parser.prog)):
            action.complete = how


def _add_verbs(parser: Parser, beside: dict[str, str]) -> None:
    for action in [one for one in parser._actions if not one.option_strings]:
        parser._actions.remove(action)
        if kind := _kind(action, parser.prog):
            beside[parser.prog.replace(" ", "_")] = kind
    verbs = parser.add_subparsers(metavar="VERB")
    for name, verb in parser.verbs.items():
        options = {"help": verb.summary, "description": verb.description, "add_help": False}
        verbs.add_parser(name, parents=[verb], **options).prog = verb.prog


def _how(action: argparse.Action, prog: str) -> dict[str, str] | None:
    if action.metavar == "FILE" or (action.type is Path and action.metavar != "DIR"):
        return shtab.FILE
    if action.metavar == "DIR":
        return shtab.DIRECTORY
    kind = _kind(action, prog)
    names = f"_agentd_{kind}"
    return {"bash": names, "zsh": names, "fish": f"(_agentd_names {kind})"} if kind else None


def _kind(action: argparse.Action, prog: str) -> str:
    """Which names of the configuration it takes: those of handlers, of events, or none of them ("")."""
    if action.metavar == "HANDLER" or (not action.option_strings and prog in _HANDLERS):
        return "handlers"
    return "events" if not action.option_strings and action.metavar == "NAME" and prog in _EVENTS else ""
