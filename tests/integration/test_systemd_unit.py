"""The unit as systemd's own tools judge it, and its capabilities as the real nginx needs them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.servers.equipment import NAMESPACE, missing, require, require_root
from tests.servers.tls import make_certificate

_UNITS = Path(__file__).parents[2] / "systemd"
_UNIT = _UNITS / "agentd.service"
_NOBODY = 65534

_CONF = """
user nobody nogroup;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {address}:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
    }}
}}
"""


def _run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def _setting(name: str) -> str:
    """The value of a setting that the unit has once."""
    (value,) = re.findall(rf"^{name}=(.*)$", _UNIT.read_text(), re.MULTILINE)
    return str(value)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here, whether or not agentd is installed under /opt."""
    require("systemd-analyze")
    copy = tmp_path / "agentd.service"
    copy.write_text(_UNIT.read_text().replace("/opt/agentd/bin/agentd", shutil.which("true") or "/bin/true"))
    return copy


def test_systemd_finds_nothing_to_complain_about(unit: Path) -> None:
    """`systemd-analyze verify` has no word to say, so every setting is known and no value is ignored."""
    verified = _run("systemd-analyze", "verify", "--man=no", unit)

    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_verify_would_find_a_mistake(unit: Path) -> None:
    """The clean bill above means something: one setting that does not exist is told."""
    unit.write_text(unit.read_text().replace("PrivateTmp=yes", "PrivateTemp=yes"))

    assert "PrivateTemp" in _run("systemd-analyze", "verify", "--man=no", unit).stderr


def test_the_exposure_is_3_or_better(unit: Path) -> None:
    """`systemd-analyze security` rates the unit at 3.0 or below."""
    rated = _run("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=30", unit)

    assert rated.returncode == 0, rated.stdout[-200:]
    assert "Overall exposure level" in rated.stdout


def test_the_drop_in_for_kernel_sets(unit: Path) -> None:
    """It is as clean, adds the two rights to the unit's, and takes none away."""
    drop_ins = unit.with_name("agentd.service.d")
    shutil.copytree(_UNITS / "agentd.service.d", drop_ins)

    verified = _run("systemd-analyze", "verify", "--man=no", unit)

    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    settings = (drop_ins / "kernel-sets.conf").read_text().partition("[Service]")[2]
    lines = [line for line in settings.splitlines() if line and not line.startswith("#")]
    assert lines == ["CapabilityBoundingSet=CAP_NET_ADMIN", "RestrictAddressFamilies=AF_NETLINK"]


def test_the_directories_of_nginxs_sockets_are_there_without_agentd(tmp_path: Path) -> None:
    """The tmpfiles rules make them, so that nginx starts also on a node where agentd does not."""
    require("systemd-tmpfiles")

    made = _run(*NAMESPACE, "systemd-tmpfiles", f"--root={tmp_path}", "--create", _UNITS / "agentd.tmpfiles")

    assert (made.returncode, made.stderr) == (0, "")
    assert (tmp_path / "run/agentd").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "run/agentd/upstreams").stat().st_mode & 0o777 == 0o750


def test_nginx_comes_after_agentd_by_both_units() -> None:
    """The unit and nginx's drop-in agree on the order, and neither ends with the other."""
    drop_in = (_UNITS / "nginx.service.d" / "agentd.conf").read_text()

    assert "Before=nginx.service" in _UNIT.read_text()
    assert "After=agentd.service" in drop_in
    assert not re.search(r"^(Requires|BindsTo|PartOf)=", _UNIT.read_text() + drop_in, re.MULTILINE)


@pytest.fixture
def strict_nginx(directory: Path) -> Path:
    """Needs every right: a low port, another user's key, directories to give away."""
    require("nginx")
    require("setpriv")
    require_root("take capabilities away from root")
    certificate = make_certificate(directory)
    os.chown(certificate.key, _NOBODY, 0)
    certificate.key.chmod(0o600)
    conf = directory / "nginx.conf"
    address, port = _low_port()
    conf.write_text(
        _CONF.format(
            directory=directory,
            address=address,
            port=port,
            certificate=certificate.certificate,
            key=certificate.key,
        )
    )
    return conf


def _low_port() -> tuple[str, int]:
    """A port below 1024 on loopback that is free now."""
    address = "127.0.0.9"
    for port in range(1000, 1024):
        with socket.socket() as probe:
            if probe.connect_ex((address, port)):
                return address, port
    return missing(f"no port between 1000 and 1023 is free on {address}")


def _check(conf: Path, capabilities: list[str]) -> subprocess.CompletedProcess[str]:
    """`nginx -t`, as root with no more than these capabilities, as it is run for the first time."""
    for name in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
        shutil.rmtree(conf.parent / name, ignore_errors=True)
    bounding = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in capabilities)])
    return _run(
        "setpriv",
        f"--bounding-set={bounding}",
        "--inh-caps=-all",
        *("nginx", "-t", "-q", "-c", conf, "-e", conf.parent / "error.log"),
    )


def test_the_capabilities_are_enough_for_a_check(strict_nginx: Path) -> None:
    """With what the unit keeps, `nginx -t` judges as nginx's master would."""
    checked = _check(strict_nginx, _setting("CapabilityBoundingSet").split())

    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("capability", _setting("CapabilityBoundingSet").split())
def test_no_capability_is_kept_in_vain(strict_nginx: Path, capability: str) -> None:
    """Without any one of them, `nginx -t` refuses a configuration that nginx itself would run."""
    others = [name for name in _setting("CapabilityBoundingSet").split() if name != capability]

    checked = _check(strict_nginx, others)

    assert checked.returncode != 0
    assert re.search("permission denied|not permitted", checked.stderr, re.IGNORECASE)
