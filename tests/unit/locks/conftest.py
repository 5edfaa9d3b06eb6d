"""Fixtures of the tests of locks: a Consul in memory."""

from __future__ import annotations

import pytest

from tests.unit.locks.fake import FakeConsul, FakeStore


@pytest.fixture
def consul() -> FakeConsul:
    """An empty one."""
    return FakeConsul()


@pytest.fixture
def store(consul: FakeConsul) -> FakeStore:
    """A connection to it."""
    return FakeStore(consul)
