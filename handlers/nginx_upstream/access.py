"""Who else can connect to a run-time interface, which has no authentication. Looks, and changes nothing.

nginx gives its unix sockets mode 0666, so the directory has to protect one; HAProxy sets the mode that its
configuration says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agentd import haproxy

_EVERYBODY: Final = "every user of this machine can connect to"


def doubt(place: str, *, nginx: bool) -> str:
    """Why everybody on this machine can use an interface, or nobody will, and what to do; "" if all is well.

    Args:
        place: as the option `interface` has it, such as "unix:/run/haproxy/admin.sock".
        nginx: whether nginx makes the socket, and not HAProxy.
    """
    scheme, _, rest = place.partition(":")
    if scheme != "unix":
        example = "see `agentd example nginx/dynamic-upstream.conf`"
        how = example if nginx else "`stats socket PATH mode 660 level admin`"
        return f"{_EVERYBODY} {place}, and set servers: use a unix socket instead ({how})"
    socket = Path(rest.partition(":")[0])
    return _doubt(socket) if nginx else haproxy.doubt(socket)


def _doubt(socket: Path) -> str:
    directory = socket.parent
    try:
        if not directory.is_dir():
            return (
                f"there is no directory {directory} for nginx's socket: `install -d -m 0750 {directory}`,"
                " at each boot (`agentd example systemd/agentd.tmpfiles`)"
            )
        if haproxy.is_passable(directory):
            return (
                f"{_EVERYBODY} {socket}, and set servers: give its directory mode 0750, or use a socket in"
                " another one that has"
            )
    except OSError as error:
        return f"agentd cannot tell who can connect to {socket}: {error.strerror}"
    return ""
