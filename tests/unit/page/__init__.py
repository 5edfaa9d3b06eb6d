"""Tests of agentd.page."""
