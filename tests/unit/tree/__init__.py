"""Unit tests of agentd/tree/."""
