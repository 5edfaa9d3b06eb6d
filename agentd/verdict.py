"""What a handler finds outside the tree when it verifies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Drift:
    """Something outside the tree that is not as the handler's files say.

    Attributes:
        part: what it is about, such as "127.0.0.1:443 (www.example.org)" or "ipset agentd4".
        reason: what was found there, where it comes from (FILE:LINE if known), and what to do about it.
        reload: whether nginx's next reload cures it, so that `agentd check` only warns.
        warning: whether `agentd check` only warns, since nothing fails, but somebody should know.
    """

    part: str
    reason: str
    reload: bool = False
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `Handler.verify` found.

    Attributes:
        drift: what does not hold now. A change is not applied as long as there is any.
        mended: what did not hold and was restored by this very call.
        unasked: a sentence about what cannot be asked here, such as "no listener offers TLS 1.2"; outcomes
            quote it. "" if all of it was asked.
        gauges: name -> number of what was found, which become metrics as those in the store do.
    """

    drift: tuple[Drift, ...] = ()
    mended: tuple[Drift, ...] = ()
    unasked: str = ""
    gauges: Mapping[str, float] = field(default_factory=dict)
