"""Upstreams: a handler that keeps one equal to a service, and commands that act on one across load balancers.

Imports nothing: the commands start without the handler, and the handler without what only commands may use.
"""
