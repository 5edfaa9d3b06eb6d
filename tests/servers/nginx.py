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
from collections.abc import Mapping
from pathlib import Path

import urllib3

from tests.servers.ports import free_port
from tests.servers.process import ServerProcess
from tests.servers.tls import Certificate
from tests.servers.waiting import wait_until

_MAIN = """\
{main}
daemon off;
worker_processes {workers};
worker_shutdown_timeout {shutdown_timeout};
pid {directory}/nginx.pid;
error_log {directory}/error.log notice;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
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


class Nginx:
    """One nginx: plain HTTP and TLS on ports of its own.

    Args:
        directory: empty and nginx's own; keep its path short, it holds a unix socket.
        certificate: shown by the TLS port.
        address: where it listens, e.g. 127.0.0.2.
        workers: number of worker processes.
        shutdown_timeout: how long old workers may drain after a reload (nginx's own notation).
    """

    def __init__(
        self,
        directory: Path,
        certificate: Certificate,
        *,
        address: str = "127.0.0.1",
        workers: int = 1,
        shutdown_timeout: str = "5s",
    ) -> None:
        self.directory = directory
        self.address = address
        self.port = free_port(address)
        self.tls_port = free_port(address)
        self.binary = shutil.which("nginx") or "nginx"
        self._values: dict[str, object] = {
            "directory": directory,
            "address": address,
            "port": self.port,
            "tls_port": self.tls_port,
            "certificate": certificate.certificate,
            "key": certificate.key,
            "workers": workers,
            "shutdown_timeout": shutdown_timeout,
        }
        self.conf = directory / "conf" / "nginx.conf"
        self.tree = directory / "conf" / "agentd"
        self.pid_file = directory / "nginx.pid"
        self.error_log = directory / "error.log"
        self.canary = directory / "canary.sock"
        self.conf.parent.mkdir()
        self.configure()
        argv = [self.binary, "-p", str(directory), "-c", str(self.conf), "-e", str(self.error_log)]
        self.process = ServerProcess(argv, directory / "nginx.out")

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
        """Start nginx and wait until both ports accept."""
        self.process.start(self._accepts)
        return self

    def _accepts(self) -> bool:
        for port in (self.port, self.tls_port):
            socket.create_connection((self.address, port), timeout=1).close()
        return bool(self.workers())

    def stop(self) -> None:
        """Stop nginx and its workers at once."""
        self.process.stop(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the master and every worker, as a machine crash would; sockets and pid file stay."""
        workers = [*self.workers(), *self.draining()] if self.process.running else []
        self.process.kill()
        for pid in workers:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def reload(self) -> None:
        """Reload by SIGHUP, as an operator does, and wait until no old worker serves."""
        before = self.workers()
        self.process.send(signal.SIGHUP)
        wait_until(lambda: self.workers() and not self.workers() & before, "new workers only")

    # ------------------------------------------------------------------ what a test looks at

    @property
    def master(self) -> int:
        """The master's process id."""
        return self.process.pid

    def workers(self) -> set[int]:
        """Return the process ids of the workers that serve."""
        return {pid for pid, title in self._children().items() if "worker process" in title} - self.draining()

    def draining(self) -> set[int]:
        """Return the process ids of old workers that still finish connections."""
        return {pid for pid, title in self._children().items() if "is shutting down" in title}

    def _children(self) -> Mapping[int, str]:
        pids = Path(f"/proc/{self.master}/task/{self.master}/children").read_text().split()
        return {int(pid): _title(pid) for pid in pids}

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
        with urllib3.HTTPConnectionPool(self.address, self.port, timeout=10, retries=False) as pool:
            answer = pool.request("GET", path, headers=headers)
        return answer.status, answer.data.decode()


def _title(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""  # it ended just now
