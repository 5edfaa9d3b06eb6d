"""How the daemon is watched from outside: log lines, metrics, HTTP endpoints, systemd.

This room only tells. It never decides what becomes of a change, and it learns what it tells from the values
and callables that the agent hands in.
"""
