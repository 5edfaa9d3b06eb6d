"""Unit tests of agentd/config/."""
