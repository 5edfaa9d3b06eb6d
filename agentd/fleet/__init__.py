"""What crosses nodes: locks that one process in the fleet holds at a time.

Talks to Consul through `agentd.watch.client` only, and knows nothing of handlers, files or nginx.
"""
