"""Real servers for the tests: Consul agents, nginx, agentd, and a TLS client.

Each one runs on loopback, on ports of its own, in a directory the test gives it, and is stopped by its
process id. Nothing here asserts anything: tests do.
"""
