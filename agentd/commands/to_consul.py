"""How a command reaches Consul: by its options, the environment, or the configuration file, in this order.

Owns the options and variables of `consul` that agentd's commands accept, so that a command that only talks to
Consul works on any machine that has an agent (https://developer.hashicorp.com/consul/commands). The daemon
uses none of this. The credentials in the configuration file are sent only to the agent that it names.
"""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

from agentd.commands.argument_types import word
from agentd.commands.parser import Parser, config_is_given
from agentd.errors import ConfigError

if TYPE_CHECKING:
    from agentd.watch.client import ConsulClient
    from agentd.watch.options import ConsulOptions

# Field of ConsulOptions: flag, variable, metavar, help.
_OUTWAIT: Final = (
    5.0  # seconds for which a command waits while Consul limits requests; half the TTL of a lock
)
SETTINGS: Final = {
    "address": ("--http-addr", "CONSUL_HTTP_ADDR", "ADDR", "host:port, http(s)://host:port or unix:///path"),
    "token_file": ("--token-file", "CONSUL_HTTP_TOKEN_FILE", "FILE", "file that holds the ACL token"),
    "ca_file": ("--ca-file", "CONSUL_CACERT", "FILE", "CA certificate to verify the agent with"),
    "ca_path": ("--ca-path", "CONSUL_CAPATH", "DIR", "directory of CA certificates"),
    "cert_file": ("--client-cert", "CONSUL_CLIENT_CERT", "FILE", "client certificate"),
    "key_file": ("--client-key", "CONSUL_CLIENT_KEY", "FILE", "private key of the client certificate"),
    "tls_server_name": (
        "--tls-server-name",
        "CONSUL_TLS_SERVER_NAME",
        "NAME",
        "server name to expect in the agent's certificate",
    ),
    "datacenter": ("--datacenter", "", "DC", "datacenter to query (default: the agent's)"),
}
_CREDENTIALS: Final = ("token_file", "ca_file", "ca_path", "cert_file", "key_file", "tls_server_name")
_UNSUPPORTED: Final = {
    "CONSUL_HTTP_AUTH": "basic authentication",
    "CONSUL_NAMESPACE": "namespaces",
    "CONSUL_PARTITION": "admin partitions",
}
_TRUE: Final = ("1", "t", "true")
_FALSE: Final = ("0", "f", "false")


def add_consul_arguments(parser: Parser) -> None:
    """Add the options that say where Consul is."""
    group = parser.add_argument_group(
        "Consul",
        "Options override environment variables, and those override the `consul:` section of the"
        " configuration file. The file is optional. CONSUL_HTTP_TOKEN, CONSUL_HTTP_SSL and"
        " CONSUL_HTTP_SSL_VERIFY are honoured as well.",
    )
    for name, (flag, variable, metavar, text) in SETTINGS.items():
        value = f" (${variable})" if variable else ""
        group.add_argument(flag, dest=f"consul_{name}", type=word, metavar=metavar, help=text + value)


@contextmanager
def consul(arguments: Namespace) -> Iterator[ConsulClient]:
    """A client, closed at the end. Needs `add_consul_arguments`.

    Raises:
        ConfigError: what was given cannot be used.
        ConsulRefused: the token file or a TLS file cannot be used.
    """
    from agentd.watch.client import ConsulClient  # noqa: PLC0415 (brings py-consul, which parsing does not need)

    with closing(ConsulClient(consul_options(arguments))) as client:
        yield client


@contextmanager
def nothing_yet(done: str) -> Iterator[None]:
    """If Consul does not answer in the block, say that nothing was `done`, such as "published"."""
    from agentd.errors import ConsulUnavailable  # noqa: PLC0415 (as above)

    try:
        yield
    except ConsulUnavailable as error:
        raise ConsulUnavailable(f"{error}; nothing was {done}") from error


def consul_options(arguments: Namespace, environment: Mapping[str, str] = os.environ) -> ConsulOptions:
    """Where Consul is. Raises ConfigError."""
    _refuse_unsupported(environment)
    values = {name: _given(name, arguments, environment) for name in SETTINGS}
    values = {name: value for name, value in values.items() if value}
    if "address" in values:
        values["address"] = _with_scheme(values["address"], environment)
    filed = _filed(arguments, values.get("address"))
    token = None if values.get("token_file") else environment.get("CONSUL_HTTP_TOKEN") or None
    names = _names(arguments, values, filed)
    return _options(filed, values, names).typed(
        token=token,
        verify=_truth(environment, "CONSUL_HTTP_SSL_VERIFY", default=True),
        names=names | ({"token_file": "CONSUL_HTTP_TOKEN"} if token else {}),
        outwait=_OUTWAIT,
    )


def _options(
    filed: Mapping[str, Any], values: Mapping[str, str], sources: Mapping[str, str]
) -> ConsulOptions:
    """The section of the file, and over it what was typed or set. Raises ConfigError."""
    from agentd.section import plain  # noqa: PLC0415 (parsing does without)
    from agentd.watch.options import ConsulOptions  # noqa: PLC0415 (as above)

    given = {**filed, **values}
    if (options := plain(ConsulOptions, given)) is not None:
        return options
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 (slow)

    try:
        return TypeAdapter(ConsulOptions).validate_python(given)
    except ValidationError as error:
        problems = [
            _problem(detail["loc"], detail["msg"], sources) for detail in error.errors(include_input=False)
        ]
        raise ConfigError(problems) from error


def _given(name: str, arguments: Namespace, environment: Mapping[str, str]) -> str:
    """The value of the option, else of the environment variable; "" if neither is set."""
    variable = SETTINGS[name][1]
    return getattr(arguments, f"consul_{name}", None) or (environment.get(variable, "") if variable else "")


def _names(arguments: Namespace, values: Mapping[str, str], filed: Mapping[str, Any]) -> dict[str, str]:
    """What each field is called at its source; for a field that was not given, where it could be given.

    Fields from the file keep the name that they have there.
    """
    return {
        name: _source(name, arguments) if name in values else " or ".join(filter(None, SETTINGS[name][:2]))
        for name in SETTINGS
        if name in values or filed.get(name) is None
    }


def _source(name: str, arguments: Namespace) -> str:
    flag, variable = SETTINGS[name][:2]
    return flag if getattr(arguments, f"consul_{name}", None) else variable


def _filed(arguments: Namespace, address: str | None) -> Mapping[str, Any]:
    """The section of the configuration file, without its credentials if another agent is meant.

    The default file need not exist.
    """
    if not config_is_given(arguments) and not arguments.config.exists():
        return {}
    from agentd.config.sections import read_document, read_section  # noqa: PLC0415 (as above)
    from agentd.watch.options import ConsulOptions  # noqa: PLC0415 (as above)

    document = read_document(arguments.config)
    checked = read_section(document, "consul", ConsulOptions)
    filed: dict[str, Any] = dict(document.data.get("consul", {}))
    if address and _is_elsewhere(address, checked):
        return {name: value for name, value in filed.items() if name not in _CREDENTIALS}
    return filed


def _with_scheme(address: str, environment: Mapping[str, str]) -> str:
    tls = "://" not in address and _truth(environment, "CONSUL_HTTP_SSL", default=False)
    return f"https://{address}" if tls else address


def _is_elsewhere(address: str, filed: ConsulOptions) -> bool:
    """Whether that is a different agent from the one in the configuration file."""
    from agentd.watch.options import parse_address  # noqa: PLC0415 (as above)

    try:
        return parse_address(address) != filed.endpoint
    except ValueError:  # it will be reported
        return True


def _refuse_unsupported(environment: Mapping[str, str]) -> None:
    problems = [
        f"{name} is set, and agentd does not support {what}: unset it"
        for name, what in _UNSUPPORTED.items()
        if environment.get(name) not in (None, "", "default")
    ]
    if problems:
        raise ConfigError(problems)


def _truth(environment: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = environment.get(name, "").lower()
    if text not in ("", *_TRUE, *_FALSE):
        raise ConfigError([f"{name} must be true or false"])
    return text in _TRUE if text else default


def _problem(place: tuple[int | str, ...], message: str, sources: Mapping[str, str]) -> str:
    """A mistake, in terms of the names that the person who made it used."""
    text = message.removeprefix("Value error, ")
    if place:
        return f"{sources.get(str(place[0]), place[0])}: {text}"
    # What is a word as well stays one where nothing was given.
    named = {name: said for name, said in sources.items() if "_" in name or " or " not in said}
    return re.sub(r"\w+", lambda found: named.get(found[0], found[0]), text)
