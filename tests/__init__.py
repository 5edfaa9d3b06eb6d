"""The tests of agentd: `unit` needs nothing, `integration` the real servers in `servers`."""
