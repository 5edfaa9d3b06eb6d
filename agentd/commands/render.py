"""`agentd render`: prints the files that a configured handler would write now, and commits nothing.

The states that its `on:` names are read from Consul here, whether or not the daemon runs, and judged as the
daemon judges them. Whatever else the handler takes (events, notifications) is left out.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from agentd.commands import argument_types
from agentd.commands.file_difference import print_difference
from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.commands.to_consul import add_consul_arguments, consul_options
from agentd.errors import AgentdError, ConfigError
from agentd.printable import printable, printable_lines

if TYPE_CHECKING:
    from agentd.commands.rendering import File, Rendered
    from agentd.config.load import ConfiguredHandler, Loaded
    from agentd.watch.query import Query

_PAUSE: Final = 1.0  # seconds between two renders


def add_arguments(parser: Parser) -> None:
    """Which entry of the configuration, and what to print of it."""
    parser.add_example(
        "sudo agentd render hosts",
        "sudo agentd render hosts --once --diff",
        "sudo agentd render hosts --file maps/hosts.map > hosts.map",
    )
    parser.add_exit_status("0 if the handler would take what Consul has; 1 if it would not.")
    parser.add_argument(
        "entry", type=argument_types.word, metavar="ENTRY", help="its name below `handlers:` in the file"
    )
    parser.add_argument("--once", action="store_true", help="end after the first; else print at each change")
    parser.add_argument(
        "--file",
        type=argument_types.word,
        metavar="PATH",
        help="print only this file of the tree, once, as it would be written",
    )
    parser.add_argument(
        "--diff", action="store_true", help="print how the files differ from those of the current generation"
    )
    parser.add_argument(
        "--timeout",
        type=argument_types.some_seconds,
        default=10.0,
        metavar="T",
        help="how long Consul may take for all answers, with --once or --file (default 10s)",
    )
    add_consul_arguments(parser)


def execute(arguments: Namespace, output: Output) -> int:
    """Print it; 1 if the handler would not take what Consul has."""
    from agentd.commands.current_states import StateWatch, ask  # noqa: PLC0415 (parsing does without)
    from agentd.commands.rendering import render  # noqa: PLC0415 (as above)
    from agentd.config.load import load  # noqa: PLC0415 (as above)
    from agentd.report import log  # noqa: PLC0415 (as above)

    loaded = load(arguments.config)
    configured = _entry(loaded, arguments.entry)
    queries = _queries(configured)
    options = consul_options(arguments)
    log.configure("warning")
    if arguments.once or arguments.file:
        rendered = render(loaded, configured, ask(options, queries, arguments.timeout))
        _print(rendered, arguments, output)
        return int(not rendered.fine)
    before = None
    with StateWatch(options, queries) as watch:
        for states in watch.turns():
            try:
                rendered = render(loaded, configured, states)
            except AgentdError as error:  # the next change may mend it
                _complain(str(error))
                continue
            if rendered != before:
                _print(rendered, arguments, output)
                sys.stdout.flush()
            before = rendered
            time.sleep(_PAUSE)
    return 0


def _entry(loaded: Loaded, name: str) -> ConfiguredHandler:
    for configured in loaded.handlers:
        if configured.name == name:
            return configured
    known = ", ".join(one.name for one in loaded.handlers if _states(one)) or "none that takes states"
    raise ConfigError([f"there is no handler {name!r} in {loaded.path} (it has {known})"])


def _states(configured: ConfiguredHandler) -> list[Query]:
    from agentd.config.triggers import OnEvent  # noqa: PLC0415 (parsing does without)

    return [on.query() for on in configured.entry.on if not isinstance(on, OnEvent)]


def _queries(configured: ConfiguredHandler) -> list[Query]:
    """What to ask Consul for, each query once. Raises ConfigError if that is nothing."""
    if queries := list(dict.fromkeys(_states(configured))):
        return queries
    if not configured.entry.on:
        raise ConfigError([f"{configured.name} has no `on:`: nothing in Consul decides what it writes"])
    advice = "`agentd replay ID --dry-run` shows what one would change, and `agentd history` lists the IDs"
    raise ConfigError([f"{configured.name} takes only events: {advice}"])


# ---------------------------------------------------------------- printing


def _print(rendered: Rendered, arguments: Namespace, output: Output) -> None:
    """Print one render.

    Raises:
        AgentdError: it was refused, or the file that was asked for is not there or must not be shown.
    """
    for query, why in rendered.held.items():
        _complain(f"{query}: {why}")
    if not rendered.fine:
        _complain(f"{arguments.entry}: would be {rendered.outcome}: {rendered.reason}")
    files = [_chosen(rendered, arguments)] if arguments.file and rendered.fine else rendered.files
    if output.json:
        _print_json(rendered, files, arguments, output)
    elif arguments.file and not arguments.diff and rendered.fine:
        _print_alone(files[0])
    elif rendered.fine:
        for file in files:
            _print_file(file, rendered.generation, output, diff=arguments.diff)
        if not files:
            output.line(f"{arguments.entry} would write no file")
        for program in rendered.would_run:
            output.line(f"would run {program}")


def _complain(text: str) -> None:
    for line in text.splitlines():
        sys.stderr.write(f"agentd: {printable(line)}\n")


def _chosen(rendered: Rendered, arguments: Namespace) -> File:
    for file in rendered.files:
        if file.told["path"] == arguments.file:
            return file
    paths = ", ".join(file.told["path"] for file in rendered.files) or "no file"
    raise AgentdError(f"{arguments.entry} does not write {arguments.file!r}: it writes {paths}")


def _print_json(rendered: Rendered, files: Sequence[File], arguments: Namespace, output: Output) -> None:
    document = {
        "handler": arguments.entry,
        "outcome": rendered.outcome,
        "reason": rendered.reason,
        "generation": rendered.generation,
        "files": [{**file.told, "content": file.text} for file in files],
        "would_run": list(rendered.would_run),
        "held": rendered.held,
    }
    output.document(document, lines=not (arguments.once or arguments.file))


def _print_alone(file: File) -> None:
    """The bytes as they are, but not to a terminal: whoever writes keys would steer it."""
    path, mode = file.told["path"], file.told["mode"]
    if file.told["status"] == "removed":
        raise AgentdError(f"{path} would be removed")
    if file.content is None:
        raise AgentdError(f"{path} (mode {mode}) is not shown, as it may be secret: {file.told['after']}")
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(file.content)
        return
    if file.text is None:
        raise AgentdError(f"{path} is not text ({file.told['after']}): redirect it to a file")
    sys.stdout.write(printable_lines(file.text.expandtabs()))


def _print_file(file: File, generation: int, output: Output, *, diff: bool) -> None:
    told = file.told
    compared = {
        "new": "new",
        "changed": f"differs from generation {generation}",
        "unchanged": f"as in generation {generation}",
        "removed": "would be removed",
    }[told["status"]]
    output.line(f"==> {told['path']} (mode {told['mode']}): {compared} <==", "bold")
    if diff:
        if told["status"] != "unchanged":
            print_difference(told, output)
    elif file.text is not None:
        for line in file.text.splitlines():
            output.line(line.expandtabs())
    elif told["status"] != "removed":
        kind = "not shown, as it may be secret" if file.content is None else "not text"
        output.line(f"  {kind}: {told['after']}")
