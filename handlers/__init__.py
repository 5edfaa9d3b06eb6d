"""The handlers that ship with agentd; each an entry point like any other that knows only `agentd.handler`."""
