"""Packages without what agentd does not use. Each test starts a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = (
    "requests", "charset_normalizer", "urllib3", "consul.std", "asyncio.events", "rich", "http.server",
    "urllib.request", "wsgiref", "http.cookiejar", "multiprocessing", "unittest",
)  # fmt: skip


def python(program: str) -> str:
    """What the program printed. It is not measured: coverage imports modules too."""
    argv = [sys.executable, "-W", "error", "-c", program]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(argv, env=plain, check=True, capture_output=True, text=True).stdout.strip()


def test_the_daemon_loads_nothing_heavy() -> None:
    """All that a node with the built-in handlers imports."""
    program = f"""
import sys
from agentd.commands import run
run._import_structlog()
import agentd.agent, agentd.config.plugins
for name in agentd.config.plugins.available():
    agentd.config.plugins.resolve(name)
print([name for name in {HEAVY} if sys.modules.get(name) is not None])"""
    assert python(program) == "[]"


@pytest.mark.parametrize(
    "use",
    [
        "import asyncio; print(asyncio.run(asyncio.sleep(0, 7)))",
        "from asyncio import run, sleep; print(run(sleep(0, 7)))",
        "import asyncio.subprocess, asyncio; print(asyncio.subprocess.PIPE + 8)",
        "from asyncio.subprocess import PIPE; import asyncio; print(asyncio.run(asyncio.sleep(0, PIPE + 8)))",
        "import asyncio; print(7 if issubclass(asyncio.TimeoutError, Exception) else 0)",
        "import concurrent.futures, asyncio.events as e; print(7 if e.get_event_loop_policy() else 0)",
    ],
)
def test_a_handler_may_use_asyncio(use: str) -> None:
    """Whatever of it is imported first, after structlog has been."""
    assert python(f"from agentd.commands import run; run._import_structlog(); {use}") == "7"


@pytest.mark.parametrize(
    "use",
    [
        "import prometheus_client as p; print(p.Counter, p.generate_latest(p.CollectorRegistry()))",
        "from prometheus_client import Counter, generate_latest as g; print(Counter, g()[:0])",
        "import prometheus_client.exposition as e, prometheus_client as p; print(p.Counter, e and b'')",
    ],
)
def test_a_handler_may_use_prometheus_client(use: str) -> None:
    """All of it, with the same classes."""
    assert python(f"import agentd.report.metrics; {use}") == "<class 'prometheus_client.metrics.Counter'> b''"


def test_what_is_imported_already_is_kept() -> None:
    """Nothing is loaded twice."""
    assert (
        python("import asyncio as a; from agentd.deferred import defer; print(defer('asyncio') is a)")
        == "True"
    )


def test_a_missing_package_is_an_import_error() -> None:
    """As for any import."""
    program = """
from agentd.deferred import defer
try: defer("no_such_package")
except ModuleNotFoundError as error: print(error.name)"""
    assert python(program) == "no_such_package"


def test_an_init_that_fails_is_tried_again(tmp_path: object) -> None:
    """A package that is half installed fails as it would without agentd, each time."""
    program = f"""
import sys, pathlib
package = pathlib.Path({str(tmp_path)!r}) / "halfway"
package.mkdir()
(package / "__init__.py").write_text("import no_such_module")
sys.path.insert(0, {str(tmp_path)!r})
from agentd.deferred import defer
halfway = defer("halfway")
for _ in range(2):
    try: halfway.anything
    except ModuleNotFoundError as error: print(error.name)"""
    assert python(program).split() == ["no_such_module"] * 2
