"""What a stranger does with the Debian package, from a bare Debian to a purge, each answer compared.

Every step is a few lines for root's shell and what they must show. Runs on a machine of its own: systemd,
nginx and Consul are real. It has no network; so, unlike elsewhere, what the package depends on and recommends
was there before: Python, nginx, and a Consul that Debian 12 does not have.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from agentd import __version__
from tests.pages import ROOT, of
from tests.servers.debian_package import NEWER, package
from tests.servers.guide import follow
from tests.servers.nspawn import Machine

EVENTS: Final = 30
"""Fired while the package is upgraded."""
_COUNT: Final = """\
import json, subprocess
asked = ["agentd", "history", "--handler=blacklist", "--limit=1000", "--json"]
listed = json.loads(subprocess.run(asked, check=True, capture_output=True).stdout)
print(len(listed), len({one["id"] for one in listed}), *sorted({one["outcome"] for one in listed}))
"""


class Step(NamedTuple):
    """One step.

    Attributes:
        says: what it is for.
        command: for `bash`.
        shows: lines that it must print, in this order, among others; * stands for anything.
    """

    says: str
    command: str
    shows: str


class StepFailedError(Exception):
    """It showed something else."""


INSTALL: Final = (
    Step("Install it: it is not started, and nginx is as it was", f"""\
apt-get install --yes ./agentd_{__version__}_*.deb
systemctl is-enabled agentd
systemctl is-active agentd
nginx -t
""", f"""\
Setting up agentd ({__version__}) ...
agentd: Not started. *
disabled
inactive
nginx: configuration file /etc/nginx/nginx.conf test is successful
"""),
    Step("It is as it was packed, as docs/installing.md has one look", """\
dpkg --verify agentd && echo nothing differs
""", """\
nothing differs
"""),
    Step("It says its version, and nothing of it is seen by the system's own Python", """\
agentd --version
python3 -c 'import agentd' | tail -1
""", f"""\
agentd {__version__}
ModuleNotFoundError: No module named 'agentd'
"""),
    Step("`agentd init` adds what nginx may include, and finds everything else in its place", """\
agentd init --yes >init.txt; grep missing init.txt
agentd init --dry-run
""", """\
/etc/nginx/snippets/agentd-http.conf missing
/etc/nginx/snippets/agentd-server.conf missing
/etc/agentd/agentd.yaml kept
*/lib/systemd/system/agentd.service there
/usr/lib/tmpfiles.d/agentd.conf there
*/lib/systemd/system/nginx.service.d/agentd.conf there
Nothing is missing, and nothing has been written.
"""),
    Step("Name the fleet, and keep the blacklist's events for nodes that are down", """\
cd /etc/agentd
sed -i -e 's/^# fleet:.*/fleet: {name: production}/' agentd.yaml
sed -i -e 's/{event: ip-blacklist}/{event: ip-blacklist, keep: all}/' agentd.yaml
grep -e '^fleet' -e '^    on:.*keep' agentd.yaml
""", """\
fleet: {name: production}
    on: [{event: ip-blacklist, keep: all}]
"""),
    Step("One line in nginx.conf, and start it", """\
sed -i 's|^http {|http {\\n    include agentd/current/agentd.conf;|' /etc/nginx/nginx.conf
systemctl enable --now agentd
nginx -t
agentd check | grep -e ^FAIL -e canary
agentd status | head -1
""", """\
Created symlink *
nginx: configuration file /etc/nginx/nginx.conf test is successful
ok * all * workers answer: generation 1
All is well.
"""),
)  # fmt: skip

USE: Final = (
    Step("Fire two events", """\
head -c 80 /dev/urandom | agentd fire tls-session-ticket-refresh -
agentd fire ip-blacklist 'add 198.51.100.7 10m' --wait
until agentd history --handler ticket-keys | grep applied; do sleep 0.2; done
agentd history --handler blacklist
""", """\
ip-blacklist *: in force on 1 of 1 nodes after *
* tls-session-ticket-refresh * applied *
* ip-blacklist * applied *
"""),
    Step("Which node runs what", "agentd fleet", """\
production: 1 node, all agree
NAME NEWEST IN FORCE ON *
ip-blacklist * 1 of 1 *
"""),
    Step("Use the handler of the guide", """\
sed -i 's|^# handlers_path: .*|handlers_path: [/etc/agentd/handlers]|' /etc/agentd/agentd.yaml
cat >>/etc/agentd/agentd.yaml <<'END'

  motd:
    use: motd:Motd
    on: [{key: site/motd}]
    notify: [nginx-reload]
END
systemctl reload agentd
consul kv put site/motd 'Welcome.'
until [ -s /etc/nginx/agentd/current/motd/motd.txt ]; do sleep 0.2; done
cat /etc/nginx/agentd/current/motd/motd.txt; echo
""", """\
Success! Data written to: site/motd
Welcome.
"""),
    Step("A package of handlers in /usr/local/lib/agentd is found, with its command", """\
agentd handlers maintenance | head -3
agentd --help | grep -A1 maintenance
""", """\
*maintenance*
*maintenance*
"""),
)  # fmt: skip

UPGRADE: Final = (
    Step(f"Upgrade while {EVENTS} events arrive: one restart, the changed configuration stays", f"""\
before=$(journalctl --unit=agentd | grep -c agent.starting)
for last in $(seq {EVENTS}); do
    consul event -name=ip-blacklist "add 203.0.113.$last 10m" >/dev/null
    sleep 0.1
done &
apt-get install --yes ./agentd_{NEWER}_*.deb
wait
after=$(journalctl --unit=agentd | grep -c agent.starting)
echo "restarts: $((after - before)), by systemd: $(systemctl show agentd --property=NRestarts --value)"
grep '^fleet' /etc/agentd/agentd.yaml
agentd --version
nginx -t
""", f"""\
Setting up agentd ({NEWER}) ...
restarts: 1, by systemd: 0
fleet: {{name: production}}
agentd {NEWER}
nginx: configuration file /etc/nginx/nginx.conf test is successful
"""),
    Step("No event was lost, and none was applied twice", f"""\
cat >count.py <<'END'
{_COUNT}END
until python3 count.py | grep '^{EVENTS + 1} '; do sleep 0.5; done
agentd status | head -4
""", f"""\
{EVENTS + 1} {EVENTS + 1} applied
All is well.
daemon running (pid *, version {NEWER})
"""),
    Step("An upgrade does not restart a daemon whose configuration is wrong by now", f"""\
cp /etc/agentd/agentd.yaml right.yaml
echo nonsense: 1 >>/etc/agentd/agentd.yaml
dpkg --install ./agentd_{NEWER}_*.deb
systemctl is-active agentd
cp right.yaml /etc/agentd/agentd.yaml
""", """\
agentd: /etc/agentd/agentd.yaml is not valid, so the daemon was not restarted: *
active
"""),
    Step("A daemon that is stopped stays so, and a downgrade works", f"""\
systemctl stop agentd
dpkg --install ./agentd_{__version__}_*.deb
systemctl is-active agentd
agentd --version
systemctl start agentd
agentd status | head -1
""", f"""\
dpkg: warning: downgrading agentd from {NEWER} to {__version__}
inactive
agentd {__version__}
All is well.
"""),
)  # fmt: skip

REMOVE: Final = (
    Step("Remove it: nginx goes on serving what it has, also after a crash; the state stays", """\
apt-get remove --yes agentd
systemctl is-active agentd
systemctl kill --signal=KILL nginx
until systemctl is-failed nginx; do sleep 0.1; done
systemctl start nginx
nginx -t
ls /var/lib/agentd/journal.db /etc/nginx/agentd/current/agentd.conf
cat /etc/tmpfiles.d/agentd.conf
""", """\
Removing agentd *
inactive
failed
nginx: configuration file /etc/nginx/nginx.conf test is successful
/etc/nginx/agentd/current/agentd.conf
/var/lib/agentd/journal.db
d /run/agentd 0755 root root -
"""),
    Step("Purge it while nginx.conf includes the tree: the state goes, the tree stays", """\
apt-get purge --yes agentd
nginx -t
ls -d /var/lib/agentd /etc/agentd/agentd.yaml
ls /etc/nginx/agentd/current/agentd.conf
""", """\
Purging configuration files for agentd *
agentd: /etc/agentd stays, because other files are in it.
agentd: /etc/nginx/agentd and /run/agentd stay, because nginx's configuration includes it.
nginx: configuration file /etc/nginx/nginx.conf test is successful
ls: cannot access '/var/lib/agentd': No such file or directory
ls: cannot access '/etc/agentd/agentd.yaml': No such file or directory
/etc/nginx/agentd/current/agentd.conf
"""),
    Step("Install it again, take out the line, and purge: nothing is left but what others put there", f"""\
dpkg --install ./agentd_{NEWER}_*.deb
systemctl enable --now agentd
agentd status | head -1
sed -i '/agentd/d' /etc/nginx/nginx.conf
systemctl reload nginx
apt-get purge --yes agentd
nginx -t
echo left: $(find / /run -xdev -path /root -prune -o -name '*agentd*' -prune -print | sort)
""", f"""\
Setting up agentd ({NEWER}) ...
All is well.
Purging configuration files for agentd *
nginx: configuration file /etc/nginx/nginx.conf test is successful
left: /etc/agentd /etc/nginx/snippets/agentd-http.conf /etc/nginx/snippets/agentd-server.conf *
"""),
)  # fmt: skip

PATH: Final = (*INSTALL, *USE, *UPGRADE, *REMOVE)


def prepare(machine: Machine) -> None:
    """Put on the machine what the stranger brings: two packages, a handler, and a package of handlers."""
    for file in (package(), package(NEWER)):
        machine.copy(file, f"/root/{file.name}")
    example = machine.files.parent / "maintenance"
    shutil.copytree(ROOT / "config/examples/maintenance", example)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    site = machine.files / "usr/local/lib/agentd"
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", site, example], check=True)
    guide = next(
        one for one in of("python", page=ROOT / "docs/writing-a-handler.md") if "class Motd" in one.text
    )
    machine.write("/etc/agentd/handlers/motd.py", guide.text)


def take(step: Step, machine: Machine) -> str:
    """Do one step; returns what it showed. Raises StepFailedError if that is something else."""
    done = machine.attempt("env", "--chdir=/root", "bash", "-uc", f"exec 2>&1\n{step.command}")
    lines = iter(done.stdout.splitlines())
    for wanted in step.shows.splitlines():
        if not any(_fits(wanted, line) for line in lines):
            raise StepFailedError(f"{step.says}: {wanted!r} is missing in:\n{done.stdout}")
    return done.stdout


def follow_the_page(machine: Machine) -> None:
    """Follow docs/getting-started.md, word by word but for what a machine without a network has already."""
    machine.run("systemctl", "disable", "--now", "consul")

    def run(line: str) -> str:
        line = line.replace("curl openssl nginx ./agentd_*.deb", f"./agentd_{__version__}_*.deb")
        streams = ">/dev/null 2>&1" if line.startswith("apt-get") else "2>&1"
        done = machine.attempt("env", "--chdir=/root", "bash", "-uc", f"exec {streams}\n{line}")
        print(f"# {line}\n{done.stdout}", flush=True)
        return done.stdout

    follow(ROOT / "docs/getting-started.md", run)


def _fits(wanted: str, line: str) -> bool:
    pattern = ".*".join(map(re.escape, " ".join(wanted.split()).split("*")))
    return re.fullmatch(pattern, " ".join(line.split())) is not None


def main(arguments: Sequence[str] | None = None) -> int:
    """Take all steps and show them to a person; returns the exit status."""
    argparse.ArgumentParser(prog="scripts/stranger", description=__doc__).parse_args(arguments)
    began = time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="stranger-", dir="/dev/shm") as made,
            Machine(Path(made), bare=True) as machine,
        ):
            prepare(machine)
            machine.boot()
            _show(lambda step: take(step, machine))
            follow_the_page(machine)
    except (StepFailedError, AssertionError, pytest.skip.Exception) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print(f"All of it happened, in {time.monotonic() - began:.0f} s.")
    return 0


def _show(take_one: Callable[[Step], str]) -> None:
    for step in PATH:
        print(f"# {step.says}")
        for line in step.command.splitlines():
            print(f"$ {line}")
        print(take_one(step), flush=True)


if __name__ == "__main__":
    sys.exit(main())
