"""The completions for bash, zsh and fish, made by shtab, and the names that only the configuration knows.

A name of a configured handler or of an event is read from the YAML by the awk program below, not by agentd:
that takes 2 ms instead of half a second, and works for a user who may read nothing else. It knows the usual
block style, finds less in any other, and never offers a word that a shell could expand.
"""

from __future__ import annotations

import argparse
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
_HANDLERS: Final = ("agentd handlers",)
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
    if [[ $before == --config ]]; then file=$word; fi
    if [[ $word == --config=* ]]; then file=${{word#--config=}}; fi
    before=$word
  done
  [[ -f $file && -r $file ]] && awk -v kind="$kind" '{_AWK}' "$file" 2>/dev/null | sort -u
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
  local -a found=(${{(f)"$(_agentd_names {kind} ${{(Q)words[1,CURRENT-1]}})"}})
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
  and awk -v kind=$kind '{_AWK.replace(chr(92), chr(92) * 2)}' $file 2>/dev/null | sort -u
end
""",
}


def completions() -> dict[str, str]:
    """The text of each file, by its path below `completions`."""
    made = {}
    for shell, path in _FILES.items():
        parser = cli.parser_of_all(OWN, complete=True)
        _prepare(parser)
        made[path] = shtab.complete(parser, shell, preamble=_PREAMBLES[shell]).rstrip() + "\n"
    return made


def _prepare(parser: Parser) -> None:
    """Say how each argument is completed, and make the verbs what shtab takes for such."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _prepare(below)
        elif not action.choices and (how := _how(action, parser.prog)):
            action.complete = how
    if parser.verbs:
        _add_verbs(parser)


def _add_verbs(parser: Parser) -> None:
    verbs = parser.add_subparsers(metavar="VERB")
    for name, verb in parser.verbs.items():
        _prepare(verb)
        made = verbs.add_parser(
            name, help=verb.summary, description=verb.description, parents=[verb], add_help=False
        )
        made.prog = verb.prog


def _how(action: argparse.Action, prog: str) -> dict[str, str] | None:
    if action.metavar == "FILE" or (action.type is Path and action.metavar != "DIR"):
        return shtab.FILE
    if action.metavar == "DIR":
        return shtab.DIRECTORY
    if action.metavar in ("H", "HANDLER") or (not action.option_strings and prog in _HANDLERS):
        return _names("handlers")
    if not action.option_strings and action.metavar == "NAME" and prog in _EVENTS:
        return _names("events")
    return None


def _names(kind: str) -> dict[str, str]:
    return {"bash": f"_agentd_{kind}", "zsh": f"_agentd_{kind}", "fish": f"(_agentd_names {kind})"}
