"""Tests of agentd.report."""
