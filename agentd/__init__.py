"""agentd: watches Consul and turns changes into files that nginx runs."""
