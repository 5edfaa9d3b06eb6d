"""Files rendered by Jinja2 templates from states: services, keys, nodes, checks.

Imports nothing: the program that renders starts without the handler.
"""
