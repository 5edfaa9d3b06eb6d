"""The upstream as nginx reads it: the built-in text, or that of the operator's Jinja2 template.

The template is the operator's and may say anything; what it is given is checked. It runs in Jinja2's sandbox,
and a name that is not defined is an error. It reads the template's file and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agentd.handler import PermanentError
from handlers.nginx_upstream.servers import Server

PLACEHOLDER: Final = Server("127.0.0.1:1", down=True)
"""nginx refuses an upstream without servers; this one is never connected to, and the answer is a 502."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around the servers.

    Attributes:
        name: of the upstream, and of its zone.
        zone_size: in nginx's notation.
        method: a balancing directive such as "least_conn", or "".
        keepalive: idle connections kept by a worker; 0 for none.
        lua: whether `config/nginx/dynamic_upstream.lua` balances.
    """

    name: str
    zone_size: str = "1m"
    method: str = ""
    keepalive: int = 0
    lua: bool = False


def settled(servers: Sequence[Server], fallback: Sequence[Server], *, backups: bool = True) -> list[Server]:
    """The servers that an upstream can be made of.

    Where there are none the fallback takes their place, and then the placeholder. nginx refuses an upstream
    of backups alone, and backups at all with some balancing methods (`backups` is False): then they count as
    ordinary servers, or are left out.
    """
    chosen = list(servers or fallback or (PLACEHOLDER,))
    ordinary = [server for server in chosen if not server.backup]
    if not ordinary:
        return [replace(server, backup=False) for server in chosen]
    return chosen if backups else ordinary


def built_in(frame: Frame, servers: Sequence[Server]) -> bytes:
    """The upstream as a block, for http {} or stream {}."""
    lines = [f"zone {frame.name} {frame.zone_size};"] if not frame.lua else []
    lines += [f"{frame.method};"] if frame.method else []
    lines += [f"server {server.text()};" for server in servers]
    if frame.lua:
        lines.append(f'balancer_by_lua_block {{ require("dynamic_upstream").balance("{frame.name}") }}')
    lines += [f"keepalive {frame.keepalive};"] if frame.keepalive else []
    body = "".join(f"    {line}\n" for line in lines)
    return f"# Written by agentd.\nupstream {frame.name} {{\n{body}}}\n".encode()


def from_template(template: Path, frame: Frame, servers: Sequence[Server]) -> bytes:
    """What the template makes of `upstream` (a Frame) and `servers` (Servers; `text()` is a whole line's).

    Raises:
        PermanentError: it cannot be read or rendered, or Jinja2 is not installed.
    """
    try:
        from jinja2 import StrictUndefined, TemplateError  # noqa: PLC0415 (needed by whoever has a template)
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415 (as above)
    except ImportError as error:
        raise PermanentError("a template needs Jinja2: pip install 'agentd[template]'") from error
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # nginx's configuration is no HTML
    )
    try:
        made = environment.from_string(template.read_text(encoding="utf-8"))
        return made.render(upstream=frame, servers=list(servers)).encode()
    except OSError as error:
        raise PermanentError(f"the template cannot be read: {error}") from error
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise PermanentError(f"the template {template} fails: {type(error).__name__}: {error}") from error
