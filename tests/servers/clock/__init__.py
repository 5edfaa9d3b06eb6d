"""A directory for PYTHONPATH: its sitecustomize shifts the wall clock of a daemon."""
