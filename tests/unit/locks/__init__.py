"""Unit tests of agentd/locks/."""
