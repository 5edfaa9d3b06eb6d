"""Tests of agentd/apply."""
