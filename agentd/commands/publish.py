"""`agentd publish`: writes a message to the fleet's log, without an event, from any host.

Owns what may be typed together; `publication.py` owns what is refused before anything is written.
Never prints the payload.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from agentd.commands import argument_types, rollout_steps
from agentd.commands.output import Output
from agentd.commands.parser import Parser
from agentd.commands.payload import add_payload_arguments, read_payload
from agentd.commands.publication import Publication
from agentd.commands.target import add_target_arguments, check_target
from agentd.commands.to_consul import nothing_yet
from agentd.commands.to_fleet import add_fleet_arguments, fleet
from agentd.commands.wait_for_fleet import FleetWait, add_wait_for_fleet
from agentd.errors import AgentdError, ConfigError
from agentd.trust.pattern import FREEZE

_PAUSE: Final = 30.0  # seconds between two steps


def add_arguments(parser: Parser) -> None:
    """Add the options for the name, the payload, the nodes it is for, and its validity."""
    parser.add_example(
        'agentd publish ip-blacklist "add 192.0.2.7 10m"',
        "agentd publish deploy --reference https://builds.example/site.tar.gz --node '^web'",
        "agentd publish deploy --again 1790000000000",
        "agentd publish deploy --file site.txt --canary 1 --steps 10%,50%,100% --pause 5m",
    )
    parser.add_exit_status(
        "0 if it was published, with --wait or --canary once it is in force on enough nodes; 1 if not, or if"
        " a handler here would not take it."
    )
    parser.usage = "%(prog)s [options] NAME [PAYLOAD]"
    parser.add_argument(
        "name",
        type=argument_types.kept_name,
        metavar="NAME",
        help="name of the event, as in `on:` of a handler",
    )
    add_payload_arguments(parser)
    parser.add_argument(
        "--reference",
        type=argument_types.word,
        metavar="R",
        help="publish a reference (kv:, file:, http(s):, s3:, gs:) as `R sha256:HEX`; R is fetched to compute"
        " or verify the digest if `sources.allow` in the configuration file permits it",
    )
    parser.add_argument(
        "--again",
        type=argument_types.message_number,
        metavar="NUM",
        help="publish an earlier message again; `agentd log` shows its number",
    )
    add_target_arguments(parser)
    parser.add_argument(
        "--ttl",
        type=argument_types.some_seconds,
        metavar="T",
        help="how long the message is valid, such as 10m (default: for good)",
    )
    parser.add_argument(
        "--snapshot",
        action="store_true",
        help="the payload replaces all earlier messages of the name, which are then dropped",
    )
    parser.add_argument(
        "--keep",
        choices=("latest", "all"),
        help="for a new name: keep only the latest message, or all that have not expired",
    )
    parser.add_argument(
        "--no-dry-run",
        action="store_true",
        help="do not try the message on the handlers here first, nor fetch a reference whose digest is given",
    )
    _add_steps(parser)
    add_wait_for_fleet(parser)
    add_fleet_arguments(parser)


def _add_steps(parser: Parser) -> None:
    group = parser.add_argument_group(
        "Rollout",
        "With --canary, the payload reaches the nodes step by step: a step follows once all nodes that have"
        " been admitted have it in force, and the last is for all. The same command again goes on where it"
        " ended; `agentd rollout` shows and aborts it. --timeout is that of each step.",
    )
    group.add_argument(
        "--canary",
        type=rollout_steps.canary,
        metavar="N|TAG|NODE,...",
        help="who is first: a number of nodes, the nodes with a service that has this tag, or these nodes;"
        " count:N, tag:TAG and node:NODE,... say which is meant",
    )
    default = ",".join(f"{one}%%" for one in rollout_steps.STEPS)
    group.add_argument(
        "--steps",
        type=rollout_steps.percentages,
        metavar="P,...",
        help=f"then these shares of the nodes, rounded up (default {default})",
    )
    group.add_argument(
        "--pause",
        type=argument_types.seconds,
        metavar="T",
        help=f"let this time pass between a step's confirmation and the next step (default {_PAUSE:g}s)",
    )
    group.add_argument(
        "--max-failures",
        type=argument_types.number,
        metavar="K",
        help="go on although up to K nodes refuse it, or fail (default 0)",
    )


def execute(arguments: Namespace, output: Output) -> int:
    """Try the message here, write it, and print its name and number; with `--wait` also the fleet's progress.

    Raises:
        ConfigError: the options contradict each other, or the configuration is invalid.
        AgentdError: the message is not published; the text says why.
        ConsulUnavailable: there was no answer; the message may have been written.
    """
    from agentd.commands.upkeep import upkeep  # noqa: PLC0415 (parsing does without)
    from agentd.fleet.envelope import LARGEST_BODY  # noqa: PLC0415 (as above)

    _check(arguments)
    typed = None if arguments.reference or arguments.again else _typed(arguments)
    if arguments.canary:
        from agentd.commands.rollout_run import publish_in_steps  # noqa: PLC0415 (as above)

        return publish_in_steps(arguments, typed, output)
    with fleet(arguments) as reached:
        wait = FleetWait(reached.name, reached.client, arguments.name, arguments) if arguments.wait else None
        if wait is not None:
            with nothing_yet("published"):
                wait.begin()
        publication = Publication(arguments, reached)
        prepared = publication.prepare(typed)
        told = publication.told(prepared, publication.write(prepared))
        output.line(f"{told['name']} {told['num']}")
        enough = True
        if wait is not None:
            enough = wait.conclude(lambda: wait.published(told["num"]), told, output)
        if output.json:
            output.document(told)
        upkeep(reached, swept=told["bytes"] > LARGEST_BODY)
    return int(not enough)


def _check(arguments: Namespace) -> None:
    """Raises ConfigError if options contradict each other."""
    check_target(arguments)
    if arguments.name == FREEZE:  # it would replace the freeze that is in force
        raise ConfigError([f"{FREEZE!r} is reserved: use `agentd freeze` and `agentd thaw`"])
    if arguments.again and (arguments.node or arguments.service or arguments.snapshot):
        raise ConfigError(
            ["--again publishes a message unchanged: leave out --node, --service, --tag and --snapshot"]
        )
    _check_steps(arguments)
    given = [arguments.payload, arguments.file, arguments.reference, arguments.again]
    if sum(one is not None for one in given) > 1:
        raise ConfigError(["give one of PAYLOAD, --file, --reference and --again"])


def _check_steps(arguments: Namespace) -> None:
    if arguments.canary:
        if arguments.node or arguments.service or arguments.snapshot or arguments.ttl:
            problem = (
                "in the end a rollout is for all nodes, and for good: leave out --node, --service, --tag,"
                " --snapshot and --ttl, or --canary"
            )
            raise ConfigError([problem])
        if arguments.quorum < 1:
            raise ConfigError(["with --canary, give --max-failures instead of --quorum"])
    elif (arguments.steps, arguments.pause, arguments.max_failures) != (None, None, None):
        raise ConfigError(["--steps, --pause and --max-failures are for a rollout: give --canary as well"])
    arguments.steps = arguments.steps or rollout_steps.STEPS
    arguments.pause = _PAUSE if arguments.pause is None else arguments.pause
    arguments.max_failures = arguments.max_failures or 0


def _typed(arguments: Namespace) -> bytes:
    from agentd.fleet.envelope import LARGEST  # noqa: PLC0415 (parsing does without)

    payload = read_payload(arguments, LARGEST)
    if len(payload) > LARGEST:
        raise AgentdError(
            f"the payload is longer than {LARGEST} bytes, the most that Consul stores in one key: put it"
            " where the nodes can fetch it, and publish a --reference, if the handler accepts one"
        )
    return payload
