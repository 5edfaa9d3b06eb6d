"""How the daemon is watched from outside: log lines, metrics, HTTP endpoints, systemd.

This package only reports. It never decides what becomes of a change, and it takes what it reports from the
values and callables that the agent passes in.
"""

from agentd.deferred import defer

defer("prometheus_client")  # before any module of this room imports a module of it
