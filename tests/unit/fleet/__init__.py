"""Tests of agentd/fleet."""
