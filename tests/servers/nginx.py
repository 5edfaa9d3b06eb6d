"""A real nginx in a directory of its own, whose configuration includes the tree agentd writes.

    DIRECTORY/nginx.pid, error.log, canary.sock
    DIRECTORY/conf/nginx.conf               includes agentd/current/agentd.conf
    DIRECTORY/conf/agentd/current           the tree; an empty generation until agentd makes the first

The canary server belongs to the tree: this module only gives the socket its name.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import urllib3

from tests.servers.ports import free_port
from tests.servers.process import ServerProcess
from tests.servers.tls import Certificate
from tests.servers.waiting import wait_until

MODULES = Path("/usr/lib/nginx/modules")
_LOADED = {"lua": ("ndk_http", "ngx_http_lua"), "stream": ("ngx_stream",)}
_MAIN = """\
{main}
daemon {daemon};
worker_processes {workers};
worker_shutdown_timeout {shutdown_timeout};
pid {directory}/nginx.pid;
error_log {directory}/error.log notice;
events {{ worker_connections 512; }}
http {{
    access_log off;
    {temporary_paths}
    # Every client of a test is on loopback; X-Forwarded-For says whom it plays.
    set_real_ip_from 127.0.0.0/8;
    set_real_ip_from ::1;
    real_ip_header X-Forwarded-For;
    ssl_protocols TLSv1.2 TLSv1.3;
    include agentd/current/agentd.conf;
    {http}
    server {{
        listen {address}:{port};
        listen {address}:{tls_port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        {server}
        root /;
        location / {{ try_files /none @answer; }}
        location @answer {{ default_type text/plain; return 200 "$remote_addr $ssl_session_reused\\n"; }}
    }}
}}
"""


def loading(module: str) -> str:
    """The directives that load `lua` or `stream`, as Debian packages them; none for any other name."""
    return "".join(f"load_module {MODULES}/{name}_module.so;\n" for name in _LOADED.get(module, ()))


def temporary_paths(directory: Path) -> str:
    """The directives of `http {}` without which only root can start Debian's nginx."""
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{name}_temp_path {directory}/{name};" for name in names)


class Nginx:
    """One nginx: plain HTTP and TLS on ports of its own.

    Args:
        directory: empty and nginx's own; keep its path short, it holds a unix socket.
        certificate: shown by the TLS port.
        address: where it listens, e.g. 127.0.0.2.
        workers: number of worker processes.
        shutdown_timeout: how long old workers may drain after a reload (nginx's own notation).
        daemon: whether it goes into the background, without which it ignores SIGUSR2.
        arguments: of the command line; by default -p, -c and -e, each with an absolute path.
    """

    def __init__(  # noqa: PLR0913 (one has this many sides; all but two are named at the call)
        self,
        directory: Path,
        certificate: Certificate,
        *,
        address: str = "127.0.0.1",
        workers: int = 1,
        shutdown_timeout: str = "5s",
        daemon: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.address = address
        self.port = free_port(address)
        self.tls_port = free_port(address)
        self.binary = shutil.which("nginx") or "nginx"
        self._workers = workers
        self._values: dict[str, object] = {
            "directory": directory,
            "temporary_paths": temporary_paths(directory),
            "address": address,
            "port": self.port,
            "tls_port": self.tls_port,
            "certificate": certificate.certificate,
            "key": certificate.key,
            "workers": workers,
            "daemon": "on" if daemon else "off",
            "shutdown_timeout": shutdown_timeout,
        }
        self.conf = directory / "conf" / "nginx.conf"
        self.tree = directory / "conf" / "agentd"
        self.pid_file = directory / "nginx.pid"
        self.error_log = directory / "error.log"
        self.canary = directory / "canary.sock"
        self.conf.parent.mkdir()
        self.configure()
        default = ["-p", str(directory), "-c", str(self.conf), "-e", str(self.error_log)]
        self.process = ServerProcess([self.binary, *(arguments or default)], directory / "nginx.out")
        self._daemon = daemon
        self._daemons: list[int] = []
        self._orphans: set[int] = set()

    # ------------------------------------------------------------------ configuration

    def configure(self, *, http: str = "", server: str = "", main: str = "") -> None:
        """Write nginx.conf anew, with directives added to the http block, to its server, and at the top."""
        self.conf.write_text(_MAIN.format(**self._values, http=http, server=server, main=main))

    def break_configuration(self) -> None:
        """Make nginx.conf invalid, as an operator's typing error does; `configure` mends it."""
        self.conf.write_text(self.conf.read_text() + "\nno_such_directive on;\n")

    def seed_tree(self, text: str = "") -> None:
        """Make a first generation whose agentd.conf is `text`, for an nginx that starts before agentd."""
        generation = self.tree / "generations" / "000000"
        generation.mkdir(parents=True)
        (generation / "agentd.conf").write_text(text)
        (self.tree / "current").symlink_to("generations/000000")

    @property
    def agentd_section(self) -> dict[str, str]:
        """The `nginx:` section of an agentd configuration for this nginx."""
        return {
            "binary": self.binary,
            "conf": str(self.conf),
            "pid": str(self.pid_file),
            "error_log": str(self.error_log),
            "canary": str(self.canary),
        }

    # ------------------------------------------------------------------ life

    def start(self) -> Nginx:
        """Start nginx and wait until both ports accept and each worker is there."""
        if self._daemon:
            self.process.spawn()
            self.process.wait()
            self._daemons.append(self._master_in_pid_file())
            wait_until(self._accepts, "nginx to be ready")
        else:
            self.process.start(self._accepts)
        return self

    def _accepts(self) -> bool:
        for port in (self.port, self.tls_port):
            socket.create_connection((self.address, port), timeout=30).close()
        return self._complete()

    def _complete(self) -> bool:
        """Whether all workers serve: ports accept from before the first of them is forked."""
        return len(self.workers()) >= self._workers

    def stop(self) -> None:
        """Stop nginx and its workers at once, also those that it left behind."""
        # Masters first: a master starts a worker anew when one is killed.
        left = [*self._daemons, *self._orphans]
        left += [child for master in self._daemons for child in _children(master)]
        for pid in left:
            if _title(str(pid)).startswith("nginx: "):
                _kill(pid)
        if self.process.running:
            for pid in (self.master, *_children(self.master)):
                _send(pid, signal.SIGCONT)
        self.process.stop(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the master and every worker, as a machine crash would; sockets and pid file stay."""
        workers = [*self.workers(), *self.draining()] if self.process.running else []
        self.process.kill()
        for pid in workers:
            _kill(pid)

    def kill_master(self) -> set[int]:
        """Kill the master alone; return its workers, which go on."""
        self._orphans = self.workers()
        if self._daemon:
            _kill(self.master)
        else:
            self.process.kill()
        wait_until(lambda: not _title(str(self.master)), "the master to end")
        return self._orphans

    def upgrade(self) -> int:
        """Upgrade the binary by SIGUSR2; return the new master, beside which the old one goes on."""
        old = int(self.pid_file.read_text())
        os.kill(old, signal.SIGUSR2)
        wait_until(lambda: self._master_in_pid_file() not in (0, old), "the pid file of the new master")
        new = self._master_in_pid_file()
        self._daemons.append(new)
        wait_until(lambda: len(_workers(new)) >= self._workers, "the workers of the new master")
        return new

    def _master_in_pid_file(self) -> int:
        try:
            return int(self.pid_file.read_text())
        except (OSError, ValueError):
            return 0

    def reload(self) -> None:
        """Reload by SIGHUP, as an operator does, and wait until all new workers serve and no old one."""
        before = self.workers()
        os.kill(self.master, signal.SIGHUP)
        wait_until(lambda: self._complete() and not self.workers() & before, "new workers only")

    # ------------------------------------------------------------------ what a test looks at

    @property
    def master(self) -> int:
        """The master's process id; that of the first one, after a binary upgrade."""
        return self._daemons[0] if self._daemon else self.process.pid

    def workers(self) -> set[int]:
        """Return the process ids of the workers that serve."""
        return _workers(self.master)

    def draining(self) -> set[int]:
        """Return the process ids of old workers that still finish connections."""
        return {pid for pid, title in _children(self.master).items() if "is shutting down" in title}

    def emergencies(self) -> list[str]:
        """Return the [emerg] lines of the error log."""
        return [line for line in self.error_log.read_text().splitlines() if "[emerg]" in line]

    def get(self, path: str = "/", *, client: str | None = None) -> tuple[int, str]:
        """GET over plain HTTP; return status and body.

        Args:
            path: what to ask for.
            client: the address the request is to come from, as nginx sees it after realip.
        """
        headers = {"X-Forwarded-For": client} if client else {}
        with urllib3.HTTPConnectionPool(self.address, self.port, timeout=30, retries=False) as pool:
            answer = pool.request("GET", path, headers=headers)
        return answer.status, answer.data.decode()


def _workers(master: int) -> set[int]:
    """The workers of a master that serve."""
    titles = _children(master).items()
    return {pid for pid, title in titles if "worker process" in title and "shutting down" not in title}


def _children(master: int) -> Mapping[int, str]:
    try:
        pids = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    except OSError:
        return {}  # it ended
    return {int(pid): _title(pid) for pid in pids}


def _kill(pid: int) -> None:
    _send(pid, signal.SIGKILL)


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended just now
        os.kill(pid, number)


def _title(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""  # it ended just now
