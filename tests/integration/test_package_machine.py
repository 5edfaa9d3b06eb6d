"""The Debian package on a machine: the path of a stranger, from a bare Debian to a purge."""

from __future__ import annotations

import pytest

from tests import stranger
from tests.servers.nspawn import Machine


def test_a_stranger_installs_uses_upgrades_and_purges_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each step shows what it must, and nginx has a valid configuration after each."""
    with Machine(tmp_path_factory.mktemp("machine"), bare=True) as machine:
        stranger.prepare(machine)
        machine.boot()
        for step in stranger.PATH:
            stranger.take(step, machine)
