"""A machine with a real systemd: nginx, Consul and agentd as README.md installs them, in a container.

The container is systemd-nspawn's, with a network of its own that has nothing but loopback. Its root is an
overlay on the one of `machine_root`: what a test writes is the test's, and survives `reboot`. agentd is the
checkout's, with the packages of its virtual environment, mounted read-only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import pytest
import yaml

from tests.servers.machine_root import SOURCE, machine_root
from tests.servers.process import ServerExitedError, ServerProcess
from tests.servers.waiting import wait_until

_SECONDS: Final = 300.0
_SITE: Final = f"opt/agentd/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
_BOOT: Final = (
    'mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root" || exit 1\n'
    'for cgroup in $3; do echo $$ >"$cgroup/cgroup.procs" || exit 1; done\n'
    'directory=$2; shift 3; exec systemd-nspawn --directory="$directory/root" "$@"'
)
_CGROUPS: Final = Path("/sys/fs/cgroup")
_NGINX: Final = """\
user www-data;
worker_processes 2;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
worker_shutdown_timeout 10s;
events {}
http {
    access_log off;
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Client;
    include agentd/current/agentd.conf;
    server {
        listen 127.0.0.1:80;
        if ($agentd_blocked) { return 403; }
        location / { return 200 "served"; }
    }
}
"""
_CONSUL: Final = """\
[Service]
ExecStart=/usr/local/bin/consul agent -dev -bind=127.0.0.1 -log-level=warn
[Install]
WantedBy=multi-user.target
"""
_SCRIPT: Final = "#!/opt/agentd/bin/python\nimport sys\nfrom agentd.cli import main\nsys.exit(main())\n"


class Machine:
    """One machine; not running until `boot`.

    Args:
        directory: the machine's own; everything that is written on it is there.
        bare: without agentd, and with nginx as Debian installs it.

    Attributes:
        files: where the machine's own files are while it does not run, as if it were /.
    """

    def __init__(self, directory: Path, *, bare: bool = False) -> None:
        self._root = machine_root()
        self._directory = directory
        self.files = directory / "upper"
        for name in ("upper", "work", "root"):
            (directory / name).mkdir()
        self._name = f"agentd-{directory.name[-20:]}"
        self._cgroups = [one / f"{self._name}-{os.getpid()}" for one in _own_cgroups()]
        self._process: ServerProcess | None = None
        self._install_consul()
        if not bare:
            self._install()

    # ------------------------------------------------------------------ before it runs

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file, also while the machine runs; the path begins with a slash."""
        file = (Path(f"/proc/{self.leader}/root") if self._running else self.files) / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def copy(self, source: Path, path: str) -> None:
        """Copy a file to the machine, which is not running."""
        target = self.files / path[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)

    def configure(self, handlers: dict[str, Any], **settings: Any) -> None:  # noqa: ANN401 (as in YAML)
        """Write /etc/agentd/agentd.yaml."""
        document = {"tree": {"path": "/etc/nginx/agentd"}, "state": "/var/lib/agentd"} | settings
        self.write("/etc/agentd/agentd.yaml", json.dumps(document | {"handlers": handlers}))

    def drop_in(self, name: str) -> None:
        """Install systemd/agentd.service.d/NAME; it counts from the next daemon-reload or boot."""
        text = (SOURCE / "systemd" / "agentd.service.d" / name).read_text()
        self.write(f"/etc/systemd/system/agentd.service.d/{name}", text)

    def _install(self) -> None:
        """As README.md says, but for the virtual environment, whose packages are mounted."""
        self.write("/opt/agentd/pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n")
        self.write(f"/{_SITE}/agentd.pth", "/opt/source\n/opt/packages\n")
        self.write("/opt/agentd/bin/agentd", _SCRIPT, 0o755)
        (self.files / "opt/agentd/bin/python").symlink_to("/usr/bin/python3")
        self._link("/usr/local/bin/agentd", "/opt/agentd/bin/agentd")
        configuration = (SOURCE / "config" / "agentd.yaml").read_text()
        self.configure(yaml.safe_load(configuration)["handlers"])
        self._copy("systemd/agentd.service", "/etc/systemd/system/agentd.service")
        self._copy("systemd/nginx.service.d/agentd.conf", "/etc/systemd/system/nginx.service.d/agentd.conf")
        self._copy("systemd/agentd.tmpfiles", "/etc/tmpfiles.d/agentd.conf")
        self._enable("/etc/systemd/system/agentd.service")
        self.write("/etc/nginx/nginx.conf", _NGINX)

    def _install_consul(self) -> None:
        if consul := shutil.which("consul"):
            self._consul = consul
            self.write("/etc/systemd/system/consul.service", _CONSUL)
            self._enable("/etc/systemd/system/consul.service")
        else:
            pytest.skip("there is no consul for the machine")

    def _copy(self, source: str, target: str) -> None:
        self.write(target, (SOURCE / source).read_text())

    def _enable(self, unit: str) -> None:
        self._link(f"/etc/systemd/system/multi-user.target.wants/{Path(unit).name}", unit)

    def _link(self, path: str, target: str) -> None:
        link = self.files / path[1:]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)

    # ------------------------------------------------------------------ running

    @property
    def leader(self) -> int:
        """The process id, on the host, of the machine's systemd. Raises OSError while there is none."""
        if self._process is None:
            raise OSError("the machine was not booted")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                return int(child)
        raise OSError("there is no systemd in the machine yet")

    def boot(self) -> Machine:
        """Boot it, and wait until its units have started or failed; skips where no machine can run."""
        packages = sysconfig.get_paths()["purelib"]
        try:  # in the same one, two systemds would manage each other's units
            for cgroup in self._cgroups:
                cgroup.mkdir(exist_ok=True)
        except OSError as error:
            pytest.skip(f"a machine needs a control group of its own: {error}")
        argv = [
            "unshare", "--mount", "--propagation=private", "sh", "-c", _BOOT, "sh",
            str(self._root), str(self._directory), " ".join(map(str, self._cgroups)),
            "--quiet", "--boot", f"--machine={self._name}", "--private-network", "--register=no",
            "--keep-unit", "--link-journal=no", "--console=pipe", "--resolv-conf=off", "--timezone=off",
            f"--bind-ro={SOURCE}:/opt/source", f"--bind-ro={packages}:/opt/packages",
            f"--bind-ro={self._consul}:/usr/local/bin/consul",
        ]  # fmt: skip
        self._process = ServerProcess(argv, self._directory / "nspawn.log")
        try:
            self._process.start(self._is_up, seconds=_SECONDS)
        except ServerExitedError as error:
            pytest.skip(f"no machine can be booted here: {error}")
        return self

    def _is_up(self) -> bool:
        done = self.attempt("systemctl", "is-system-running")
        return done.stdout.strip() in {"running", "degraded"}

    @property
    def _running(self) -> bool:
        return self._process is not None and self._process.running

    def reboot(self) -> Machine:
        """Shut it down in order, and boot it again; its files stay."""
        self.stop()
        return self.boot()

    def stop(self) -> None:
        """Shut it down in order; what does not end in time is killed with it."""
        if self._process is not None:
            self._process.stop(signal.SIGTERM, seconds=_SECONDS)
            shutil.rmtree(Path("/run/systemd/nspawn/propagate") / self._name, ignore_errors=True)
            for cgroup in self._cgroups:
                for directory, _, _ in os.walk(cgroup, topdown=False):
                    with suppress(OSError):
                        os.rmdir(directory)  # noqa: PTH106 (the walk's own names)

    def attempt(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program in the machine, as root and outside of any unit, to its end."""
        try:
            command = ["nsenter", f"--target={self.leader}", "--all", "--", *argv]
        except OSError as error:
            return subprocess.CompletedProcess(argv, 1, "", str(error))
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=_SECONDS, check=False
        )

    def run(self, *argv: str, stdin: str = "") -> str:
        """The same; return what it printed. It must succeed."""
        done = self.attempt(*argv, stdin=stdin)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}{self.log()}"
        return done.stdout

    def log(self, unit: str = "agentd") -> str:
        """The end of what a unit logged."""
        return self.attempt("journalctl", "--no-pager", "--lines=40", f"--unit={unit}").stdout

    def show(self, unit: str, setting: str) -> str:
        """What systemd says of a unit."""
        return self.run("systemctl", "show", unit, f"--property={setting}", "--value").strip()

    def answer(self, client: str = "") -> int:
        """The status that nginx answers a client with; 0 if it does not answer."""
        argv = ["nsenter", f"--target={self.leader}", "--net", "--", "curl", "--silent", "--max-time", "10"]
        argv += ["--output", "/dev/null", "--write-out", "%{http_code}", "--header", f"X-Client: {client}"]
        done = subprocess.run(
            [*argv, "http://127.0.0.1/"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        return int(done.stdout or 0)

    def __enter__(self) -> Self:
        """The machine, as it is."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def wait_for(self, unit: str, state: str = "active") -> None:
        """Wait until systemd says that a unit is in a state, such as "active"."""
        wait_until(
            lambda: self.attempt("systemctl", "is-active", unit).stdout.strip() == state,
            f"{unit} to be {state}",
            seconds=_SECONDS,
            pause=0.1,
        )


def _own_cgroups() -> list[Path]:
    """The control groups of this process in the hierarchies that systemd uses: its own, the unified one."""
    unified = _CGROUPS / "unified"
    roots = {"name=systemd": _CGROUPS / "systemd", "": unified if unified.is_dir() else _CGROUPS}
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = [(controllers, path) for _, controllers, path in (line.split(":", 2) for line in lines)]
    return [roots[controllers] / path[1:] for controllers, path in own if controllers in roots]
