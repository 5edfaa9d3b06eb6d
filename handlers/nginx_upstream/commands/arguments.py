"""The arguments that both commands take."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from functools import partial
from typing import Final

from agentd.command import Parser, checked, number, seconds, word
from handlers.nginx_upstream.hosts import Network, parse_network
from handlers.nginx_upstream.interface import check_zone

_LONGEST: Final = 60.0  # seconds for an answer of a load balancer
# It is sent without any escaping.
_PATH: Final = re.compile(r"/[A-Za-z0-9_./~-]{0,200}")


def add_balancers(parser: Parser) -> None:
    """Add the arguments that name an upstream and its load balancers."""
    parser.add_argument(
        "--upstream",
        type=partial(checked, check_zone),
        required=True,
        metavar="NAME",
        help="name of the upstream's zone in nginx",
    )
    parser.add_argument(
        "--on", type=word, required=True, metavar="SERVICE", help="Consul service of the load balancers"
    )
    parser.add_argument(
        "--on-port",
        type=word,
        metavar="NAME",
        help="named port of the load balancers' interface (default: the service's default port)",
    )
    parser.add_argument(
        "--path",
        type=_path,
        default="/dynamic",
        metavar="P",
        help="URL path of the dynamic-upstream interface (default %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=_timeout,
        default=3.0,
        metavar="T",
        help="time limit for each request to a load balancer (default 3s)",
    )
    parser.add_argument(
        "--passing", action="store_true", help="skip load balancers whose health checks are not all passing"
    )
    _add_networks(parser)


def _add_networks(parser: Parser) -> None:
    parser.add_argument(
        "--networks",
        type=partial(checked, _networks),
        default=(),
        metavar="CIDR[,...]",
        help="where load balancers and servers may be, and nowhere else (default: anywhere but loopback,"
        " link-local and other special addresses)",
    )


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(parse_network(one) for one in text.split(","))


def add_min_servers(parser: Parser) -> None:
    """Add `--min-servers`."""
    parser.add_argument(
        "--min-servers",
        type=number,
        default=1,
        metavar="N",
        help="servers that must stay up on each load balancer (default %(default)s)",
    )


def _path(text: str) -> str:
    if not _PATH.fullmatch(text):
        raise ArgumentTypeError("give a path such as /dynamic")
    return text


def _timeout(text: str) -> float:
    given = seconds(text)
    if not 0 < given <= _LONGEST:
        raise ArgumentTypeError("give more than 0 and at most 60 seconds, such as 3s")
    return given
