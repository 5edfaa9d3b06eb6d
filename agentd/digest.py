"""What may be shown of a secret: its length, and the beginning of its SHA-256."""

from __future__ import annotations

import hashlib


def digest(data: bytes) -> str:
    """What may be shown of `data`, such as "48 bytes sha256:1a2b3c4d"."""
    return f"{len(data)} bytes sha256:{hashlib.sha256(data).hexdigest()[:8]}"
