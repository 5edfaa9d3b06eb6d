"""The daemon that runs: whether it answers, and whether it runs with this configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from agentd import http
from agentd.clock import unix_time
from agentd.commands.checks.finding import Finding
from agentd.commands.daemon_address import daemon_address
from agentd.commands.places import daemon_runs
from agentd.commands.status import ask_daemon
from agentd.config.load import Loaded
from agentd.errors import ConfigError
from agentd.options import StatusOptions

if TYPE_CHECKING:
    from agentd.report.certificate import Certificate

_SOON: Final = 14 * 86400.0  # seconds before its end from which on a certificate is worth a word


def findings(loaded: Loaded) -> Iterator[Finding]:
    """What is wrong with its certificate and token; of the daemon nothing, if none runs yet."""
    options = loaded.config.status
    address = daemon_address(options)
    if address is None:
        return
    files = list(_files(options))
    yield from files
    if not daemon_runs(loaded.config.state) or any(one.level == "FAIL" for one in files):
        return
    try:
        state = ask_daemon(address)
    except (http.ExchangeError, ValueError) as error:
        text = f"it runs, but does not answer on {options.address}: {error}"
        yield Finding("FAIL", "daemon", text, "see its log: `journalctl -u agentd`")
        return
    refused = state.get("config_refused") or ()
    for problem in refused:
        text = f"the last reload was refused, and the earlier configuration is in use: {problem}"
        yield Finding("FAIL", "daemon", text, "correct that, and `systemctl reload agentd`")
    if not refused:
        yield Finding("ok", "daemon", f"pid {state.get('pid')}, version {state.get('version')}")


def _files(options: StatusOptions) -> Iterator[Finding]:
    """Whether the certificate and the token can be used, and for how long."""
    from agentd.report.access import read_token  # noqa: PLC0415 (only with these files)
    from agentd.report.certificate import read_certificate  # noqa: PLC0415 (as above)

    try:
        if options.token_file:
            read_token(options.token_file)
        if options.cert_file:
            yield _validity(read_certificate(options.cert_file, options.key_file), unix_time())
    except ConfigError as error:
        yield Finding("FAIL", "status", error.problems[0], "correct that: agentd does not start with it")


def _validity(certificate: Certificate, now: float) -> Finding:
    end = time.strftime("%Y-%m-%d", time.gmtime(certificate.expires))
    names = ", ".join(certificate.names) or "no name"
    if now >= certificate.expires:
        return Finding("FAIL", "status", f"its certificate expired on {end}", "renew it; agentd notices")
    if now < certificate.begins:
        return Finding("FAIL", "status", "its certificate is not valid yet", "look at the clock and the file")
    if certificate.expires - now < _SOON:
        return Finding("warn", "status", f"its certificate expires on {end}", "renew it; agentd notices")
    return Finding("ok", "status", f"certificate for {names} until {end}")
