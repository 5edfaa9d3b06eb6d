"""Tests on real Consul and real nginx, each on loopback and in its own directories."""
