"""What may be typed for the commands that act on the fleet: nodes, upstream, rolling, lock."""

from __future__ import annotations

import argparse
from typing import Final

from agentd import words
from agentd.parser import Parser, add_common

_UPSTREAM: Final = {
    "list": "list the servers",
    "down": "take a server out of use",
    "up": "put a server back into use",
    "weight": "change a server's share of the requests",
}


def add_lock(parser: Parser) -> None:
    """Of `agentd lock`."""
    parser.takes_command = True
    parser.usage = (
        "%(prog)s [-h] [--config FILE] [--json] PREFIX [-n N] [--timeout T] [--verbose] -- COMMAND ..."
    )
    parser.add_argument(
        "prefix",
        type=words.prefix,
        metavar="PREFIX",
        help="where in Consul's KV store; PREFIX/.lock is the key",
    )
    parser.add_argument(
        "-n", type=words.count, default=1, metavar="N", help="how many may hold it at once (%(default)s)"
    )
    parser.add_argument(
        "--timeout",
        type=words.seconds,
        metavar="T",
        help="wait for the lock so long, such as 30s; 0 does not wait (for ever)",
    )
    parser.add_argument("--verbose", action="store_true", help="tell of each step on standard error")


def add_nodes(parser: Parser) -> None:
    """Of `agentd nodes`."""
    parser.add_argument("service", type=words.word, metavar="SERVICE", help="name of the service")
    parser.add_argument("--tag", type=words.word, metavar="T", help="only instances with this tag")
    parser.add_argument("--passing", action="store_true", help="only instances whose checks all pass")
    parser.add_argument("--plain", action="store_true", help="one address a line on a terminal as well")


def add_upstream(parser: Parser) -> None:
    """Of `agentd upstream`: an action, and what each action takes."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in _UPSTREAM.items():
        own = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        add_common(own, config=argparse.SUPPRESS, as_json=argparse.SUPPRESS)
        if name != "list":
            own.add_argument(
                "server", type=words.server, metavar="SERVER", help="IP address and port, 10.0.0.1:80"
            )
            own.add_argument(
                "--keep-going", action="store_true", help="change those that can be, and undo nothing"
            )
        if name == "weight":
            own.add_argument("weight", type=words.count, metavar="N", help="from 1 on")
        if name == "down":
            _add_least(own)
        _add_balancers(own)


def _add_balancers(parser: Parser) -> None:
    parser.add_argument(
        "--upstream",
        type=words.upstream_name,
        required=True,
        metavar="NAME",
        help="zone of the upstream in nginx",
    )
    parser.add_argument(
        "--on",
        type=words.word,
        required=True,
        metavar="SERVICE",
        help="service of the load balancers in Consul",
    )
    parser.add_argument(
        "--path", type=words.path, default="/dynamic", metavar="P", help="of their interface (%(default)s)"
    )
    parser.add_argument(
        "--timeout", type=words.patience, default=3.0, metavar="T", help="of each request to one of them (3s)"
    )
    parser.add_argument("--passing", action="store_true", help="leave out those whose checks do not all pass")


def _add_least(parser: Parser) -> None:
    parser.add_argument(
        "--min-servers",
        type=words.number,
        default=1,
        metavar="N",
        help="servers that must be left up on each load balancer (%(default)s)",
    )


def add_rolling(parser: Parser) -> None:
    """Of `agentd rolling`."""
    parser.takes_command = True
    parser.usage = (
        "%(prog)s [-h] --upstream NAME --on SERVICE --servers SERVICE [--batch N|N%%] [--max-failures K]"
        " [...] -- COMMAND {address}"
    )
    parser.epilog = "In the command {address}, {port} and {host} (the node's name) are the server's."
    _add_balancers(parser)
    _add_least(parser)
    parser.add_argument(
        "--servers",
        type=words.word,
        required=True,
        metavar="SERVICE",
        help="service of the servers in Consul",
    )
    parser.add_argument(
        "--batch", type=words.batch, default="1", metavar="N|N%", help="so many servers at a time (1)"
    )
    parser.add_argument(
        "--max-failures", type=words.number, default=0, metavar="K", help="go on after so many failures (0)"
    )
    parser.add_argument(
        "--command-timeout", type=words.seconds, default=3600.0, metavar="T", help="of the command (1h)"
    )
    parser.add_argument(
        "--wait", type=words.seconds, default=300.0, metavar="T", help="for Consul to say that it passes (5m)"
    )
    parser.add_argument(
        "--settle", type=words.seconds, default=0.0, metavar="T", help="so long it must have passed (0s)"
    )
    parser.add_argument(
        "--lock", type=words.prefix, metavar="PREFIX", help="lock and record in KV (agentd/rolling/NAME)"
    )
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on with one that did not end")
    earlier.add_argument("--restart", action="store_true", help="begin anew after one that did not end")
