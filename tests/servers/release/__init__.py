"""A directory for PYTHONPATH: its sitecustomize makes a daemon one of another release."""
