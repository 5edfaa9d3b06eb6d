"""The drop-in for nginx's own unit, as systemd reads it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.servers.equipment import missing, require

SYSTEMD = Path(__file__).parents[2] / "systemd"
NGINX_UNIT = Path("/lib/systemd/system/nginx.service")


def test_the_drop_in_is_accepted(directory: Path) -> None:
    """Beside Debian's nginx.service and agentd's unit, without a warning."""
    require("systemd-analyze")
    if not NGINX_UNIT.exists():
        missing("nginx was not installed with its unit, as Debian's is")
    drop_ins = directory / "nginx.service.d"
    shutil.copytree(SYSTEMD / "nginx.service.d", drop_ins)
    for unit in (NGINX_UNIT, SYSTEMD / "agentd.service"):
        shutil.copy(unit, directory)

    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "nginx.service"],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{directory}:"},
        capture_output=True,
        text=True,
        check=False,
    )

    about_the_drop_in = [line for line in verified.stderr.splitlines() if str(drop_ins) in line]
    assert (verified.returncode, about_the_drop_in) == (0, [])
