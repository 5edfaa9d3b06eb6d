"""How a command reaches a fleet's data in Consul: which fleet, and a client for its home datacenter.

The fleet is the one in the configuration file, or `--fleet NAME` on a machine without that file. Only the
sections `fleet:`, `consul:` and, where needed, `trust:` are read: mistakes elsewhere in the file do not
matter, and no handler is imported.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from agentd.commands.argument_types import checked
from agentd.commands.parser import Parser, config_is_given
from agentd.commands.to_consul import add_consul_arguments, consul_options
from agentd.errors import ConfigError
from agentd.values import parse_fleet_name

if TYPE_CHECKING:
    from agentd.config.yaml_document import Document
    from agentd.fleet.options import FleetOptions
    from agentd.trust.options import TrustOptions
    from agentd.watch.client import ConsulClient


class ReachedFleet(NamedTuple):
    """What `fleet` yields.

    Attributes:
        name: of the fleet.
        client: a client for the fleet's home datacenter; closed at the end.
        options: the section `fleet:` of the configuration file, if it is for this fleet; otherwise None.
        document: the configuration file; None where there is none.
    """

    name: str
    client: ConsulClient
    options: FleetOptions | None
    document: Document | None

    def trust(self) -> TrustOptions | None:
        """The section `trust:`; None if there is none for this fleet. Raises ConfigError if it is wrong."""
        return _trust(self.document) if self.options else None


def add_fleet_arguments(parser: Parser) -> None:
    """Add the options for the fleet and for reaching Consul."""
    parser.add_argument(
        "--fleet",
        type=lambda text: checked(parse_fleet_name, text),
        metavar="FLEET",
        help="name of the fleet (default: the one in the configuration file)",
    )
    add_consul_arguments(parser)


@contextmanager
def fleet(arguments: Namespace) -> Iterator[ReachedFleet]:
    """The fleet, with a client that is closed at the end. Needs `add_fleet_arguments`.

    Raises:
        ConfigError: no fleet is named, or what was given cannot be used.
        ConsulRefused: the token file or a TLS file cannot be used.
    """
    document = _document(arguments)
    filed = _section(document)
    if arguments.fleet and filed and filed.name != arguments.fleet:
        filed = None
    name = arguments.fleet or (filed.name if filed else "")
    if not name:
        raise ConfigError(
            ["which fleet? Add `fleet: {name: NAME}` to the configuration file, or pass --fleet NAME"]
        )
    options = consul_options(arguments)
    if filed and filed.datacenter and not arguments.consul_datacenter:
        options = options.at(filed.datacenter)

    from agentd.watch.client import ConsulClient  # noqa: PLC0415 (brings py-consul, which parsing does not need)

    with closing(ConsulClient(options)) as client:
        yield ReachedFleet(name, client, filed, document)


def trust_here(arguments: Namespace) -> TrustOptions | None:
    """The section `trust:` of the configuration file, for a command that does not reach the fleet.

    None if there is none, or if `--fleet` names another fleet than the file. Needs `add_fleet_arguments`.

    Raises:
        ConfigError: it is wrong.
    """
    document = _document(arguments)
    filed = _section(document)
    if filed is None or arguments.fleet not in (None, filed.name):
        return None
    return _trust(document)


def _trust(document: Document | None) -> TrustOptions | None:
    if document is None or document.data.get("trust") is None:
        return None
    from agentd.config.sections import read_section  # noqa: PLC0415 (brings pydantic)
    from agentd.trust.options import TrustOptions  # noqa: PLC0415 (as above)

    return read_section(document, "trust", TrustOptions)


def _document(arguments: Namespace) -> Document | None:
    """The configuration file; the default one need not exist."""
    if not config_is_given(arguments) and not arguments.config.exists():
        return None
    from agentd.config.sections import read_document  # noqa: PLC0415 (as above)

    return read_document(arguments.config)


def _section(document: Document | None) -> FleetOptions | None:
    """The section `fleet:`, None where there is none."""
    if document is None or document.data.get("fleet") is None:
        return None
    from agentd.config.sections import read_section  # noqa: PLC0415 (as above)
    from agentd.fleet.options import FleetOptions  # noqa: PLC0415 (as above)

    return read_section(document, "fleet", FleetOptions)
