"""`agentd.conf`, the file of a generation that knows its number, and the only one that nginx must include.

It includes what the handlers staged for `http {}`, and holds the generation canary: a server on a unix socket
that answers the number of the generation that the answering worker runs.
"""

from __future__ import annotations

from agentd.options import NginxOptions

NAME = "agentd.conf"


def render(generation: int, nginx: NginxOptions, prefix: str) -> bytes:
    """The file's content; `prefix` is the tree's path relative to nginx's configuration directory."""
    return f"""\
# Written by agentd, new in every generation. Include it once, in http {{}}:
#     include {prefix}/current/{NAME};
include {prefix}/current/*/*.conf;

server {{
    listen unix:{nginx.canary};
    access_log off;
    location = /generation {{
        default_type text/plain;
        return 200 "{generation}";
    }}
}}
""".encode()
