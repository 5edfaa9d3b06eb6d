"""Checks whether something holds back what is new here: a pause of handlers, or a freeze of the fleet."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing

from agentd.commands.checks.finding import Finding
from agentd.commands.output import universal
from agentd.commands.signing import Signing
from agentd.config.load import Loaded
from agentd.errors import BadKey, ConsulError, FleetError
from agentd.fleet.freeze import read_freeze
from agentd.fleet.keys import Keys
from agentd.fleet.kv import ConsulKV
from agentd.fleet.reader import Reader
from agentd.journal.pauses import EVERY, Pauses
from agentd.trust.configured import make_keyring
from agentd.watch.client import ConsulClient


def findings(loaded: Loaded) -> Iterator[Finding]:
    """Nothing if nothing is held back."""
    yield from _paused(loaded)
    yield from _frozen(loaded)


def _paused(loaded: Loaded) -> Iterator[Finding]:
    state = loaded.config.state
    if not os.access(state, os.X_OK):  # there is none yet, or only root sees what is in it
        return
    for name, one in sorted(Pauses(state).every().items()):
        who, resume = ("every handler", "") if name == EVERY else (name, f" {name}")
        yield Finding("warn", "pause", f"{who} is {one}", f"to go on: `agentd resume{resume}`")


def _frozen(loaded: Loaded) -> Iterator[Finding]:
    options, trust, home = loaded.config.fleet, loaded.config.trust, loaded.config.consul
    if options is None:
        return
    try:
        signing = Signing(trust, None, make_keyring(trust, ())) if trust else Signing()
        with closing(ConsulClient(home.at(options.datacenter) if options.datacenter else home)) as client:
            freeze = read_freeze(Reader(ConsulKV(client), Keys(options.name)), signing.admit)
    except ConsulError:
        return  # reported by the check of the fleet
    except (FleetError, BadKey) as error:
        text = f"cannot tell whether the fleet {options.name} is frozen: {error}"
        yield Finding("FAIL", "freeze", text, "see `agentd log agentd.freeze`")
        return
    if freeze is not None and freeze.holds(time.time()):
        text = f"since {universal(freeze.since)} UTC, the fleet {options.name} is {freeze}"
        yield Finding("warn", "freeze", text, "new messages wait: end it with `agentd thaw`")
