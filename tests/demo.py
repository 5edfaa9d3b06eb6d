"""The demonstration: three Consul agents, three nginx, three agentd, and the events an operator fires.

Every line it prints is read from the running servers; a step that does not happen ends it with status 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.servers.fleet import BLACKLIST_EVENT, TICKET_EVENT, Node, main_job, start_fleet
from tests.servers.tls import TLS12, TLS13, Certificate, TLSClient, make_certificate
from tests.servers.waiting import wait_until

PROMOTE_AFTER = "3s"
BLOCKED, NEIGHBOUR, MISSED = "198.51.100.7", "198.51.100.8", "203.0.113.7"
FLEET = {"fleet": {"name": "demo"}}
FIRE_KEY = f'consul event -name={TICKET_EVENT} "$(openssl rand 48 | base64)"'
FIRE_BLOCK = f'consul event -name={BLACKLIST_EVENT} "add {BLOCKED} 10m"'
FIRE_MISSED = FIRE_BLOCK.replace(BLOCKED, MISSED)


class StepFailedError(Exception):
    """What should have happened did not."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the fleet running until Ctrl-C")
    keep = parser.parse_args(arguments).keep
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentd-demo-")))
        try:
            show(stack, directory)
        except (StepFailedError, TimeoutError, OSError, RuntimeError) as error:
            print(f"\nFAILED: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return 130
        print(f"\nAll of it happened, in {time.monotonic() - began:.0f} s.")
        if keep:
            wait_for_interrupt(directory)
    print("Everything is stopped.")
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def show(stack: ExitStack, directory: Path) -> None:
    """All steps in order."""
    certificate = make_certificate(directory)
    step("Start three nodes: a Consul agent, agentd and an nginx with TLS on each")
    handlers = main_job(promote_after=PROMOTE_AFTER, kept=True)
    nodes = start_fleet(stack, directory, certificate, 3, handlers, FLEET)
    table(
        ("node", "consul", "agentd", "nginx", "https", "generation", "ticket keys"),
        [
            (
                node.name, f"pid {node.consul.process.pid}", f"pid {node.agentd.process.pid}",
                f"pid {node.nginx.master}", f"{node.nginx.address}:{node.nginx.tls_port}",
                node.generation, keys(node),
            )
            for node in nodes
        ],
    )  # fmt: skip
    say("Every node started with its own random key, so no session can move between nodes yet:")
    travel(certificate, nodes, expect=False)

    step("Rotate: the first key that all nodes share")
    rotate(nodes)
    step("Begin sessions on node1, rotate again, and resume them on node2")
    clients = begin(certificate, nodes[0])
    rotate(nodes)
    resume(clients, nodes[1])

    step(f"Block {BLOCKED} for ten minutes")
    block(nodes)

    step(f"Block {MISSED} while node3 is down: its agentd, and its Consul agent")
    catch_up(nodes)

    step("What the nodes remember: agentd history on node3")
    print(indent(run_agentd(nodes[2], "history")))
    names = {path.name for node in nodes for path in (node.nginx.tree / "current").iterdir()}
    say(f"One directory per generation, nothing half-written: {', '.join(sorted(names))}")
    for node in nodes:
        commands(directory, node)


# -- the steps


def rotate(nodes: list[Node]) -> None:
    """Fire one key and wait until every node encrypts with it."""
    before = {node.name: (keys(node), node.nginx.workers(), node.generation) for node in nodes}
    old_first = {node.name: node.tickets()[0].name for node in nodes}
    fire(nodes[0], FIRE_KEY)
    wait_until(
        lambda: all(len(node.tickets()) > len(before[node.name][0].split()) for node in nodes),
        "the key to arrive",
    )
    say("It arrived on every node; at first it only decrypts, until every node has had time to get it:")
    say("  " + "; ".join(f"{node.name} {keys(node)}" for node in nodes))
    wait_until(
        lambda: all(node.tickets()[0].name != old_first[node.name] for node in nodes),
        "the key to encrypt",
        seconds=30,
    )
    for node in nodes:
        wait_until(partial(proved, node), f"the proof of generation {node.generation} on {node.name}")
    table(
        ("node", "generation", "keys before (first encrypts)", "keys after", "old workers", "new workers"),
        [
            (
                node.name, f"{before[node.name][2]} -> {node.generation}", before[node.name][0], keys(node),
                pids(before[node.name][1]), pids(node.nginx.workers()),
            )
            for node in nodes
        ],
    )  # fmt: skip
    if len({node.tickets()[0].name for node in nodes}) != 1:
        raise StepFailedError("the nodes encrypt with different keys")


def refuses(node: Node, address: str = BLOCKED) -> bool:
    """Whether the node refuses the blocked address."""
    return node.nginx.get(client=address)[0] == 403


def proved(node: Node) -> bool:
    """Whether nginx runs the current generation, with new workers only, and the journal says so."""
    return run_canary(node) == str(node.generation) and all(entry["outcome"] for entry in node.history())


def travel(certificate: Certificate, nodes: list[Node], *, expect: bool) -> None:
    """A session begun on the first node, offered to the second."""
    for version in (TLS12, TLS13):
        client = TLSClient(certificate, version)
        client.connect(nodes[0].nginx.address, nodes[0].nginx.tls_port)
        answer = client.connect(nodes[1].nginx.address, nodes[1].nginx.tls_port)
        say(f"  {answer.version}: begun on node1, {'resumed' if answer.resumed else 'not resumed'} on node2")
        if answer.resumed is not expect:
            raise StepFailedError(f"{answer.version}: resumed is {answer.resumed}")


def begin(certificate: Certificate, node: Node) -> list[TLSClient]:
    """A TLS 1.2 and a TLS 1.3 session."""
    clients = [TLSClient(certificate, version) for version in (TLS12, TLS13)]
    for client in clients:
        answer = client.connect(node.nginx.address, node.nginx.tls_port)
        say(f"  {answer.version}: session begun on {node.name}, ticket good for {answer.lifetime} s")
    return clients


def resume(clients: list[TLSClient], node: Node) -> None:
    """Offer the sessions to another node."""
    for client in clients:
        answer = client.connect(node.nginx.address, node.nginx.tls_port)
        across = "resumed" if answer.resumed else "NOT resumed"
        say(f"  {answer.version}: {across} on {node.name}, across the rotation")
        if not answer.resumed:
            raise StepFailedError(f"{answer.version}: the session did not survive the rotation")


def block(nodes: list[Node]) -> None:
    """Block one address and show that it, and only it, is refused."""
    before = {node.name: node.nginx.get(client=BLOCKED)[0] for node in nodes}
    fire(nodes[0], FIRE_BLOCK)
    for node in nodes:
        wait_until(partial(refuses, node), f"{node.name} to refuse {BLOCKED}")
        wait_until(
            partial(proved, node), f"old workers of {node.name} to leave"
        )  # till then they answer, too
    rows = [
        (node.name, before[node.name], node.nginx.get(client=BLOCKED)[0], node.nginx.get(client=NEIGHBOUR)[0])
        for node in nodes
    ]
    table(("node", f"{BLOCKED} before", f"{BLOCKED} after", f"{NEIGHBOUR} after"), rows)
    if any(row[1:] != (200, 403, 200) for row in rows):
        raise StepFailedError(f"expected 200, 403 and 200 on every node, got {rows}")


def catch_up(nodes: list[Node]) -> None:
    """Fire while one node hears nothing, and show that it has it when it is back."""
    first, *_, away = nodes
    wait_until(lambda: confirmed(first) == len(nodes), "all nodes to confirm", seconds=60)
    away.agentd.stop()
    away.consul.stop()
    fire(first, FIRE_MISSED)
    wait_until(lambda: confirmed(first) == len(nodes) - 1, "the others to confirm", seconds=60)
    table(("node", f"{MISSED} now"), [(one.name, one.nginx.get(client=MISSED)[0]) for one in nodes])
    if refuses(away, MISSED):
        raise StepFailedError(f"{away.name} refuses {MISSED} without having heard of it")
    who_runs_what(first, 1)
    away.consul.start()
    away.agentd.start()
    wait_until(partial(refuses, away, MISSED), f"{away.name} to refuse {MISSED}", seconds=60)
    wait_until(lambda: first.agentd.command("fleet").returncode == 0, "the nodes to agree", seconds=60)
    say(f"{away.name} is back, and refuses {MISSED} as well:")
    who_runs_what(first, 0)


# -- pieces


def confirmed(node: Node) -> int:
    """How many nodes acknowledge that the newest message of the blacklist is in force."""
    found = json.loads(node.agentd.command("fleet", "--json").stdout or "{}")
    (name,) = found.get("names") or [{}]
    return sum(one["nodes"] for one in name.get("live", ()) if one["num"] == name["newest"])


def who_runs_what(node: Node, status: int) -> None:
    """Show `agentd fleet`, which ends with 1 while nodes differ."""
    done = node.agentd.command("fleet")
    print(f"\n  $ agentd fleet\n{indent(done.stdout + done.stderr)}")
    if done.returncode != status:
        raise StepFailedError(f"agentd fleet: exit status {done.returncode}")


def fire(node: Node, command: str) -> None:
    """Run the operator's command as it stands, in a shell."""
    print(f"\n  $ {command}")
    done = subprocess.run(
        ["bash", "-c", command],
        env={"PATH": os.environ["PATH"], **node.consul.environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    print(indent(done.stdout + done.stderr))
    if done.returncode:
        raise StepFailedError(f"exit status {done.returncode}")


def run_agentd(node: Node, *arguments: str) -> str:
    """Run an agentd command against the node."""
    done = node.agentd.command(*arguments)
    if done.returncode:
        raise StepFailedError(f"agentd {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def run_canary(node: Node) -> str:
    """The generation that the node's canary answers with."""
    done = subprocess.run(
        ["curl", "-s", "--max-time", "5", "--unix-socket", str(node.nginx.canary), "http://localhost/generation"],
        capture_output=True, text=True, timeout=10, check=False,
    )  # fmt: skip
    return done.stdout.partition(" ")[0]


def keys(node: Node) -> str:
    """The node's ticket keys as short digests, the encrypting one first."""
    return " ".join(hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in node.tickets())


def pids(values: set[int]) -> str:
    """Process ids, sorted."""
    return " ".join(str(pid) for pid in sorted(values))


def step(text: str) -> None:
    """A heading."""
    print(f"\n\N{BLACK RIGHT-POINTING TRIANGLE} {text}", flush=True)


def say(text: str) -> None:
    """A sentence."""
    print(f"  {text}", flush=True)


def indent(text: str) -> str:
    """Two columns to the right."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns."""
    lines = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    for line in lines:
        print(
            "    " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def commands(directory: Path, node: Node) -> None:
    """Write what to try on this node into a file that a shell can source."""
    lines = [f"export {name}={value}" for name, value in node.consul.environment.items()]
    lines += [f"export AGENTD_CONFIG={node.configuration}", f"export PATH={os.environ['PATH']}"]
    (directory / f"{node.name}.env").write_text("\n".join(lines) + "\n")


def wait_for_interrupt(directory: Path) -> None:
    """Leave everything running until Ctrl-C or SIGTERM."""
    print(
        f"""
The fleet is running. In another shell:

    . {directory}/node1.env
    {FIRE_KEY}
    {FIRE_BLOCK.replace(BLOCKED, "203.0.113.9")}
    agentd status
    agentd fleet --watch
    agentd publish {BLACKLIST_EVENT} "add 203.0.113.10 10m" --wait
    agentd history
    agentd generations
    agentd rollback; agentd resume
    agentd check
    consul event -name={TICKET_EVENT} "not a key"; sleep 1; agentd history --limit 3

For node2 and node3, read {directory}/node2.env or {directory}/node3.env instead.
Ctrl-C stops everything.""",
        flush=True,
    )
    wait: Callable[[], None] = signal.pause
    try:
        wait()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    sys.exit(main())
