"""py-consul without what agentd does not use. Each test starts a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(program: str) -> str:
    """What the program printed."""
    argv = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def test_a_later_import_gets_the_whole_package() -> None:
    """A handler's `import consul` finds all names, and the classes that agentd uses are the same ones."""
    program = """
import agentd.watch.py_consul as ours
import consul
from consul import Consul, Timeout
assert issubclass(Consul, ours.base.Consul) and issubclass(Timeout, ours.ConsulException)
print(consul.base is ours.base, consul.std.Consul is Consul, consul.__version__ != "unknown")"""
    assert python(program) == "True True True"


@pytest.mark.parametrize("name", ["Consul", "ConsulException", "__version__", "std"])
def test_any_first_name_loads_the_package(name: str) -> None:
    """Whatever is asked for first, it is there."""
    assert python(f"import agentd.watch.py_consul, consul; print(hasattr(consul, {name!r}))") == "True"


def test_a_missing_name_is_missing() -> None:
    """Before and after the rest is loaded, and with a plain AttributeError."""
    program = "import agentd.watch.py_consul, consul; print([hasattr(consul, 'none') for _ in range(2)])"
    assert python(program) == "[False, False]"


def test_an_earlier_import_is_kept() -> None:
    """A package that is there already stays the one."""
    program = """
import consul
import agentd.watch.py_consul as ours, sys
print(sys.modules['consul'] is consul, consul.base is ours.base, consul.std.base is ours.base)"""
    assert python(program) == "True True True"


def test_probing_modules_loads_nothing() -> None:
    """`inspect` and the like look at every module for names with two underscores."""
    program = """
import agentd.watch.py_consul, sys
for module in list(sys.modules.values()):
    getattr(module, "__warningregistry__", None)
print("requests" in sys.modules)"""
    assert python(program) == "False"


def test_threads_that_ask_at_once_all_find_it() -> None:
    """The first loads the rest, and the others wait for it."""
    program = """
import agentd.watch.py_consul, consul
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    print(len({pool.submit(lambda: consul.Consul).result() for _ in range(8)}))"""
    assert python(program) == "1"
