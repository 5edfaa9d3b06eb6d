"""The HTML pages `/` and `/fleet` of the daemon's listener, imported when somebody first looks at one.

Owns their content and their look. It asks nothing by itself, and decides nothing: what is shown comes from
the callables that the agent passes in; `agentd.trouble` and `agentd.fleet.standing` say what is wrong.
"""
