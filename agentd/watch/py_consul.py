"""The parts of py-consul that agentd uses, without its `__init__` (see `agentd.deferred`).

Nothing else in agentd imports `consul`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from agentd.deferred import defer

_package = defer("consul")
# `consul.api.agent` takes this one name from the package.
_package.Check = import_module("consul.check").Check  # type: ignore[attr-defined]
base: Any = import_module("consul.base")
ConsulException: type[Exception] = import_module("consul.exceptions").ConsulException
