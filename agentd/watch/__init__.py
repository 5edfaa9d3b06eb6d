"""Talks to Consul, and does nothing else."""
