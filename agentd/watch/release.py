"""What differs between releases of Consul, as far as it changes what a user of agentd may do.

Read in Consul's release notes and sources; a release is known by what its agent says of itself.
"""

from __future__ import annotations

import re
from typing import Final

SMALL_BODY: Final = 100
"""Bytes of payload that an agent which limits the body of an event takes, and so every agent."""
LARGEST_EVENT: Final = 512
"""Bytes of an event as it is encoded, which no agent exceeds (https://developer.hashicorp.com/consul/commands/event)."""
_ENCODING: Final = 96  # bytes that an encoded event has at least, besides its payload and twice its name
# CVE-2025-11375: https://github.com/hashicorp/consul/blob/v1.22.0/CHANGELOG.md
_LIMITS_BODY: Final = (1, 22, 0)
_LIMITS_BODY_TOO: Final = ((1, 21, 6), (1, 20, 8), (1, 18, 12))  # Enterprise
_LIMITS_REQUESTS: Final = (1, 14, 0)

Version = tuple[int, int, int]


def parse(version: str) -> Version | None:
    """The numbers of a version such as "1.21.6+ent"; None if it is none."""
    found = re.match(r"v?(\d{1,4})\.(\d{1,4})\.(\d{1,4})", version)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def limits_body(version: str) -> bool | None:
    """Whether the agent refuses an event whose payload has more than `SMALL_BODY` bytes; None if unknown."""
    numbers = parse(version)
    if numbers is None:
        return None
    patched = any(numbers[:2] == fixed[:2] and numbers >= fixed for fixed in _LIMITS_BODY_TOO)
    return numbers >= _LIMITS_BODY or (patched and "ent" in version)


def too_large(name: str, payload: int, version: str) -> str:
    """Why the agent would refuse an event of this name and number of bytes; "" if it would not.

    Args:
        name: the event's.
        payload: its size in bytes.
        version: of the agent; "" if it is not known.
    """
    if limits_body(version) and payload > SMALL_BODY:
        return f"the payload has {payload} bytes, and Consul {version} takes at most {SMALL_BODY}"
    encoded = payload + 2 * len(name.encode()) + _ENCODING
    if encoded > LARGEST_EVENT:
        return (
            f"the event would have at least {encoded} bytes with its name, {payload} of payload,"
            f" and Consul's limit is {LARGEST_EVENT}"
        )
    return ""


def changes(version: str) -> list[str]:
    """What this release asks of its users, one sentence each."""
    numbers = parse(version)
    told = []
    if limits_body(version):
        told.append(
            f"an event takes at most {SMALL_BODY} bytes of payload: fire a reference (kv:PATH) for more"
        )
    if numbers and numbers >= _LIMITS_BODY:
        told.append(
            "names of keys may need to consist of A-Z a-z 0-9 / _ . - only (disable_kv_key_validation)"
        )
    if numbers and numbers >= _LIMITS_REQUESTS:
        told.append("requests may be limited (limits.request_limits): agentd waits, and says so")
    return told
