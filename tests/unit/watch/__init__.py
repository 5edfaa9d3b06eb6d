"""Tests of agentd.watch: no network, a unix socket at most."""
