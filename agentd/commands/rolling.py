"""`agentd rolling`: a deployment to one server (or batch) after the other, each out of use meanwhile.

Owns the lock that keeps a second one away, the record that another can go on with, and what is said at the
end: each server that was not put back is named. The order of things is `fleet/rolling.py`'s.
"""

from __future__ import annotations

import shutil
import sys
from argparse import Namespace
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from threading import Event
from typing import Final

from agentd.commands.balancing import find_balancers, instances_of
from agentd.commands.crew import DeployCrew, Patience, servers_among
from agentd.commands.output import Output
from agentd.commands.progress_bar import ProgressBar
from agentd.commands.stoppable import run_stoppable
from agentd.config import load
from agentd.errors import AgentdError
from agentd.fleet.balancers import Balancers
from agentd.fleet.instances import Instance
from agentd.fleet.lock import Lock
from agentd.fleet.rolling import Limits, Rolling
from agentd.fleet.rolling_record import Record, RecordKey, digest_of
from agentd.fleet.store import ConsulStore
from agentd.watch.client import ConsulClient

_NOT_FOUND: Final = 127  # as a shell says it


def execute(arguments: Namespace, output: Output) -> int:
    """Deploy; 0 if every server is done.

    Raises:
        LockNotAcquired: another rolling of this upstream is under way.
        AgentdError: nothing can be begun: why, and what to do.
    """
    if shutil.which(arguments.argv[0]) is None:
        sys.stderr.write(f"agentd: {arguments.argv[0]} cannot be found, or is no program\n")
        return _NOT_FOUND
    return run_stoppable(lambda stop: _locked(arguments, output, stop))


def _locked(arguments: Namespace, output: Output, stop: Event) -> int:
    options = load(arguments.config).config.consul
    with closing(ConsulClient(options)) as client:
        lock = Lock(client, arguments.lock or f"agentd/rolling/{arguments.upstream}", timeout=0.0)
        lock.on_lost = partial(_lost, stop)
        interfaces = find_balancers(client, arguments)
        servers = servers_among(instances_of(client, arguments.servers))
        if not servers:
            raise AgentdError(f"Consul knows no service {arguments.servers!r}: nothing to deploy to")
        with lock:
            key = RecordKey(ConsulStore(client), lock)
            record = _begin(key.read(), arguments)
            bar = ProgressBar(sys.stderr, len(servers), len({*record.done} & {*servers}), as_json=output.json)
            rolling = Rolling(
                list(servers),
                Limits(arguments.batch, arguments.max_failures, arguments.min_servers),
                Balancers(interfaces),
                _crew(arguments, client, servers, stop, redirect=output.json),
                save=key.write,
                tell=bar.tell,
                stop=stop,
            )
            try:
                rolling.run(record)
            finally:
                bar.finish()
                _print(rolling, output)
                _name_in_hand(rolling, arguments)
            if not _unfinished(rolling):
                key.delete()
    return _judge(rolling)


def _begin(left: Record | None, arguments: Namespace) -> Record:
    """The record to begin with: a new one, or the one to go on with."""
    fresh = Record(arguments.servers, digest_of(arguments.argv))
    if left is None:
        return fresh
    state = f"{len(left.done)} done, in hand: {', '.join(left.in_hand) or 'none'}"
    if arguments.restart:  # those in hand are ours to put up all the same
        return replace(fresh, in_hand=left.in_hand)
    if not arguments.resume:
        raise AgentdError(
            f"an earlier rolling of {arguments.upstream} did not end ({state}):"
            " --resume goes on with it, --restart begins anew"
        )
    if (left.servers, left.command) != (fresh.servers, fresh.command):
        raise AgentdError(
            f"the rolling that did not end ({state}) was of other servers or another command:"
            " --resume takes the same ones, --restart begins anew"
        )
    return left


def _crew(
    arguments: Namespace, client: ConsulClient, servers: dict[str, Instance], stop: Event, *, redirect: bool
) -> DeployCrew:
    return DeployCrew(
        client.options,
        arguments.servers,
        arguments.argv,
        servers,
        patience=Patience(arguments.command_timeout, arguments.wait, arguments.settle),
        redirect=redirect,
        stop=stop,
    )


def _unfinished(rolling: Rolling) -> list[str]:
    return [server for server in rolling.servers if server not in rolling.record.done]


def _print(rolling: Rolling, output: Output) -> None:
    record = rolling.record
    if output.json:
        values = asdict(record)
        del values["command"]
        output.document({**values, "left": _unfinished(rolling), "reasons": rolling.reasons})
        return
    for server in rolling.servers:
        state = "done" if server in record.done else "failed" if server in record.failed else "not begun"
        if server in record.in_hand:
            state += ", DOWN"
        reason = rolling.reasons.get(server)
        output.line(f"{server} {state}{f': {reason}' if reason else ''}")


def _name_in_hand(rolling: Rolling, arguments: Namespace) -> None:
    """Whatever ended it: each server that was not put back is named, with what puts it back."""
    for server in rolling.record.in_hand:
        sys.stderr.write(
            f"agentd: {server} may be down: `agentd upstream up {server} --upstream {arguments.upstream}"
            f" --on {arguments.on}` puts it back\n"
        )


def _judge(rolling: Rolling) -> int:
    if whole := rolling.reasons.get(""):
        sys.stderr.write(f"agentd: {whole}\n")
    if left := _unfinished(rolling):
        count = f"{len(left)} of {len(rolling.servers)} servers are not done"
        sys.stderr.write(f"agentd: {count}; go on with --resume\n")
    return int(bool(left))


def _lost(stop: Event, reason: str) -> None:
    sys.stderr.write(f"agentd: the lock was lost: {reason}; ending the command\n")
    stop.set()
