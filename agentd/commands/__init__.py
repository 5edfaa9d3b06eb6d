"""One small module a command; `agentd.cli` imports only the one that is asked for.

Each has `execute(arguments, output)`, which returns the exit status. Commands read the journal and the tree,
and write only through `apply/`; what they print goes through `output`, which keeps control characters out.
"""
