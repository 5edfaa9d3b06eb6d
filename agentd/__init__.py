"""agentd: watches Consul and turns changes into files that nginx runs."""

__version__ = "0.2.0"
"""The one place that says it; pyproject.toml reads it from here."""
