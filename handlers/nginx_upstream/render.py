"""The upstream as nginx reads it: the built-in block, or what the operator's Jinja2 template makes.

The template is the operator's and may say anything; what it is given is checked. It runs in Jinja2's sandbox,
and an undefined name is an error. Reads the template's file and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agentd.handler import PermanentError
from handlers.nginx_upstream.server import Server

PLACEHOLDER: Final = Server("127.0.0.1:1", down=True)
"""nginx refuses an upstream without servers; this one is never connected to: clients get a 502."""


@dataclass(frozen=True, slots=True)
class Block:
    """The upstream block, apart from its servers.

    Attributes:
        name: of the upstream, and of its zone.
        zone_size: in nginx's notation.
        method: a balancing directive such as "least_conn", or "".
        keepalive: idle connections that each worker keeps; 0 for none.
        lua: whether `config/nginx/dynamic_upstream.lua` balances.
    """

    name: str
    zone_size: str = "1m"
    method: str = ""
    keepalive: int = 0
    lua: bool = False


def usable(servers: Sequence[Server], fallback: Sequence[Server], *, backups: bool = True) -> list[Server]:
    """The servers of an upstream that nginx accepts.

    If there are none, the fallback is used, else the placeholder. nginx refuses an upstream of backups alone:
    then they become ordinary servers. With some balancing methods (`backups` is False) it refuses any: then
    they are left out.
    """
    chosen = list(servers or fallback or (PLACEHOLDER,))
    ordinary = [server for server in chosen if not server.backup]
    if not ordinary:
        return [replace(server, backup=False) for server in chosen]
    return chosen if backups else ordinary


def built_in(block: Block, servers: Sequence[Server]) -> bytes:
    """The whole block, for http {} or stream {}."""
    lines = [f"zone {block.name} {block.zone_size};"] if not block.lua else []
    lines += [f"{block.method};"] if block.method else []
    lines += [f"server {server.text()};" for server in servers]
    if block.lua:
        lines.append(f'balancer_by_lua_block {{ require("dynamic_upstream").balance("{block.name}") }}')
    lines += [f"keepalive {block.keepalive};"] if block.keepalive else []
    body = "".join(f"    {line}\n" for line in lines)
    return f"# Written by agentd.\nupstream {block.name} {{\n{body}}}\n".encode()


def from_template(template: Path, block: Block, servers: Sequence[Server]) -> bytes:
    """Render the template with `upstream` (a Block) and `servers` (Servers; `text()` is what nginx takes).

    Raises:
        PermanentError: it cannot be read or rendered, or Jinja2 is not installed.
    """
    try:
        from jinja2 import StrictUndefined, TemplateError  # noqa: PLC0415 (only a template needs it)
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415 (as above)
    except ImportError as error:
        raise PermanentError(
            "a template needs Jinja2: install what config/requirements/template.txt lists"
            " (docs/installing.md)"
        ) from error
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # nginx's configuration is not HTML
    )
    try:
        made = environment.from_string(template.read_text(encoding="utf-8"))
        return made.render(upstream=block, servers=list(servers)).encode()
    except OSError as error:
        raise PermanentError(f"the template cannot be read: {error}") from error
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise PermanentError(f"the template {template} fails: {type(error).__name__}: {error}") from error
