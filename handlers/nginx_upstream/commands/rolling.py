"""`agentd rolling`: deploys to servers batch by batch, each batch out of rotation meanwhile.

Owns the lock that keeps a second deployment away, the record for `--resume`, and what is printed at the end:
each server that was not put back up is named. The order of the steps is in `deployment`.
"""

from __future__ import annotations

import shutil
import sys
from argparse import Namespace
from dataclasses import asdict, replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Final

from agentd import command
from agentd.command import (
    AgentdError,
    Output,
    Parser,
    add_consul_arguments,
    checked,
    consul,
    number,
    prefix,
    run_stoppable,
    seconds,
    word,
)
from handlers.nginx_upstream.commands.arguments import (
    add_balancers,
    add_min_servers,
)
from handlers.nginx_upstream.commands.balancers import Balancers
from handlers.nginx_upstream.commands.catalogue import find_balancers, find_servers
from handlers.nginx_upstream.commands.deployer import CommandDeployer, Timing
from handlers.nginx_upstream.commands.deployment import (
    DeploymentLimits,
    RollingDeployment,
    parse_batch_size,
)
from handlers.nginx_upstream.commands.record import Record, RecordKey, digest_of

if TYPE_CHECKING:
    from agentd.command import ConsulClient, Instance

HELP: Final = "deploy to servers batch by batch, taking each batch out of rotation meanwhile"
_NOT_FOUND: Final = 127  # as a shell reports it


def add_arguments(parser: Parser) -> None:
    """The servers, the load balancers, and after `--` the command."""
    parser.add_example("agentd rolling --upstream app --on lb --servers web -- ./deploy.sh {address}")
    parser.add_exit_status("0 if every server is done; 1 if not.")
    parser.takes_command = True
    parser.usage = (
        "%(prog)s [options] --upstream NAME --on SERVICE --servers SERVICE\n"
        "                      -- COMMAND [{address} {port} {host}]"
    )
    parser.epilog = (
        "The command runs once per server. In it, {address}, {port} and {host} (the node's name) are"
        " replaced by those of the server."
    )
    add_balancers(parser)
    add_min_servers(parser)
    parser.add_argument(
        "--servers", type=word, required=True, metavar="SERVICE", help="Consul service to deploy to"
    )
    parser.add_argument(
        "--port",
        type=word,
        metavar="NAME",
        help="named port of the servers (default: the service's default port)",
    )
    parser.add_argument(
        "--batch",
        type=partial(checked, parse_batch_size),
        default="1",
        metavar="N|N%",
        help="servers per batch (default 1)",
    )
    parser.add_argument(
        "--max-failures",
        type=number,
        default=0,
        metavar="K",
        help="carry on after up to K failed servers (default 0)",
    )
    _add_times(parser)
    parser.add_argument(
        "--lock",
        type=prefix,
        metavar="PREFIX",
        help="KV path of the lock and of the record of progress (default agentd/rolling/NAME)",
    )
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="continue a deployment that did not finish")
    earlier.add_argument("--restart", action="store_true", help="start over after one that did not finish")
    add_consul_arguments(parser)


def _add_times(parser: Parser) -> None:
    parser.add_argument(
        "--command-timeout",
        type=seconds,
        default=3600.0,
        metavar="T",
        help="time limit for the command on each server (default 1h)",
    )
    parser.add_argument(
        "--wait",
        type=seconds,
        default=300.0,
        metavar="T",
        help="how long to wait for a server to pass its health checks (default 5m)",
    )
    parser.add_argument(
        "--settle",
        type=seconds,
        default=0.0,
        metavar="T",
        help="how long a server must stay healthy before it is put back (default 0s)",
    )


def execute(arguments: Namespace, output: Output) -> int:
    """Deploy; 0 if every server is done.

    Raises:
        LockNotAcquired: another deployment to this upstream is running.
        AgentdError: nothing can be started: why, and what to do.
    """
    if shutil.which(arguments.argv[0]) is None:
        sys.stderr.write(f"agentd: {arguments.argv[0]} cannot be found, or is not executable\n")
        return _NOT_FOUND
    return run_stoppable(lambda stop: _deploy(arguments, output, stop))


def _deploy(arguments: Namespace, output: Output, stop: Event) -> int:
    with consul(arguments) as client:
        lock = command.Lock(client, arguments.lock or f"agentd/rolling/{arguments.upstream}", timeout=0.0)
        lock.on_lost = partial(_lost, stop)
        interfaces, refused = find_balancers(client, arguments)
        servers, left_out = find_servers(client, arguments)
        with lock:
            key = RecordKey(command.ConsulStore(client), lock)
            record = _begin(key.read(), arguments)
            bar = command.ProgressBar(
                sys.stderr, len(servers), len({*record.done} & {*servers}), as_json=output.json
            )
            deployment = RollingDeployment(
                list(servers),
                DeploymentLimits(arguments.batch, arguments.max_failures, arguments.min_servers),
                Balancers(interfaces),
                _deployer(arguments, client, servers, stop, redirect=output.json),
                save=key.write,
                report=bar.tell,
                stop=stop,
            )
            try:
                deployment.run(record)
            finally:
                bar.finish()
                _print(deployment, output)
                _name_taken_down(deployment, arguments)
            if not _unfinished(deployment):
                key.delete()
    return max(_judge(deployment), int(refused + left_out > 0))


def _begin(left: Record | None, arguments: Namespace) -> Record:
    """The record to begin with: a new one, or the one to resume from."""
    fresh = Record(arguments.servers, digest_of(arguments.argv))
    if left is None:
        return fresh
    state = f"{len(left.done)} done, taken down: {', '.join(left.taken_down) or 'none'}"
    if arguments.restart:  # whatever was taken down is still ours to put back up
        return replace(fresh, taken_down=left.taken_down)
    if not arguments.resume:
        raise AgentdError(
            f"an earlier rolling deployment to {arguments.upstream} did not finish ({state}):"
            " --resume continues it, --restart starts over"
        )
    if (left.servers, left.command) != (fresh.servers, fresh.command):
        raise AgentdError(
            f"the rolling deployment that did not finish ({state}) had different servers or a different"
            " command: --resume needs the same ones, --restart starts over"
        )
    return left


def _deployer(
    arguments: Namespace, client: ConsulClient, servers: dict[str, Instance], stop: Event, *, redirect: bool
) -> CommandDeployer:
    return CommandDeployer(
        client.options,
        arguments.servers,
        arguments.argv,
        servers,
        port=arguments.port or "",
        timing=Timing(arguments.command_timeout, arguments.wait, arguments.settle),
        redirect=redirect,
        stop=stop,
    )


def _unfinished(deployment: RollingDeployment) -> list[str]:
    return [server for server in deployment.servers if server not in deployment.record.done]


def _print(deployment: RollingDeployment, output: Output) -> None:
    record = deployment.record
    if output.json:
        values = asdict(record)
        del values["command"]
        output.document({**values, "left": _unfinished(deployment), "reasons": deployment.reasons})
        return
    for server in deployment.servers:
        state = "done" if server in record.done else "failed" if server in record.failed else "not started"
        if server in record.taken_down:
            state += ", DOWN"
        reason = deployment.reasons.get(server)
        output.line(f"{server} {state}{f': {reason}' if reason else ''}")


def _name_taken_down(deployment: RollingDeployment, arguments: Namespace) -> None:
    """Name each server that was not put back up, whatever the reason, and the command that does it."""
    for server in deployment.record.taken_down:
        sys.stderr.write(
            f"agentd: {server} may be down; to put it back up, run `agentd upstream up {server}"
            f" --upstream {arguments.upstream} --on {arguments.on}`\n"
        )


def _judge(deployment: RollingDeployment) -> int:
    if whole := deployment.reasons.get(""):
        sys.stderr.write(f"agentd: {whole}\n")
    if left := _unfinished(deployment):
        count = f"{len(left)} of {len(deployment.servers)} servers have not been deployed"
        sys.stderr.write(f"agentd: {count}; continue with --resume\n")
    return int(bool(left))


def _lost(stop: Event, reason: str) -> None:
    sys.stderr.write(f"agentd: the lock was lost: {reason}; ending the command\n")
    stop.set()
