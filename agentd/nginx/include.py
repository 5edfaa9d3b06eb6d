"""`agentd.conf`, the one file of a generation that nginx.conf includes; it knows the generation's number.

It includes what the handlers staged for `http {}`, and defines the canary: a server on a unix socket that
answers with the number of the generation that the answering worker runs, and the worker's pid.
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
        return 200 "{generation} $pid";
    }}
}}
""".encode()
