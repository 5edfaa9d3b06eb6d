"""The YAML file: read with line numbers, checked against the models, and turned into configured handlers."""
