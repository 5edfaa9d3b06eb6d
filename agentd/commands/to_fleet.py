"""How a command reaches what a fleet keeps in Consul: which fleet, and a client of its home datacenter.

The fleet is that of the configuration file, or `--fleet NAME` on a machine that has none. Only the sections
`fleet:` and `consul:` are read: what is wrong elsewhere in the file does not matter, and no handler is
imported.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agentd.commands.argument_types import checked
from agentd.commands.parser import Parser, config_is_given
from agentd.commands.to_consul import add_consul_arguments, consul_options
from agentd.config.sections import read_document
from agentd.errors import ConfigError

if TYPE_CHECKING:
    from agentd.config.yaml_document import Document
    from agentd.watch.client import ConsulClient

_NAME: Final = re.compile("[A-Za-z0-9_.-]{1,64}")
_NEEDED: Final = "1 to 64 of the characters A-Z a-z 0-9 _ . -"


class ReachedFleet(NamedTuple):
    """What `fleet` yields.

    Attributes:
        name: of the fleet.
        client: asks the datacenter in which the fleet is at home; closed at the end.
        document: the configuration file, None where there is none.
    """

    name: str
    client: ConsulClient
    document: Document | None


def add_fleet_arguments(parser: Parser) -> None:
    """Add the options that say which fleet, and where Consul is."""
    parser.add_argument(
        "--fleet",
        type=lambda text: checked(_checked, text),
        metavar="FLEET",
        help="name of the fleet (default: that of the configuration file)",
    )
    add_consul_arguments(parser)


@contextmanager
def fleet(arguments: Namespace) -> Iterator[ReachedFleet]:
    """The fleet, and a client that is closed at the end. Needs `add_fleet_arguments`.

    Raises:
        ConfigError: no fleet is named, or what was given cannot be used.
        ConsulRefused: the token file or a TLS file cannot be used.
    """
    document = _document(arguments)
    filed = _section(document)
    name = arguments.fleet or filed.get("name")
    if not name:
        raise ConfigError(
            ["no fleet is named: add `fleet: {name: NAME}` to the configuration file, or give --fleet NAME"]
        )
    options = consul_options(arguments)
    home = filed.get("datacenter") if name == filed.get("name") else None
    if home and not arguments.consul_datacenter:
        options = options.model_copy(update={"datacenter": home})

    from agentd.watch.client import ConsulClient  # noqa: PLC0415 (brings py-consul, which parsing does not need)

    with closing(ConsulClient(options)) as client:
        yield ReachedFleet(name, client, document)


def _document(arguments: Namespace) -> Document | None:
    """The configuration file; the default one need not exist."""
    if not config_is_given(arguments) and not arguments.config.exists():
        return None
    return read_document(arguments.config)


def _section(document: Document | None) -> Mapping[str, Any]:
    """The section `fleet:`, empty where there is none."""
    found = None if document is None else document.data.get("fleet")
    if document is None or found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ConfigError([document.problem(("fleet",), "a map is needed here")])
    for field in ("name", "datacenter"):
        value = found.get(field)
        if value is not None and not (isinstance(value, str) and _NAME.fullmatch(value)):
            raise ConfigError([document.problem(("fleet", field), f"a name is needed here: {_NEEDED}")])
    return found


def _checked(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"the name of a fleet is {_NEEDED}")
    return text
