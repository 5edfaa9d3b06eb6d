"""Unit tests of agentd/journal/."""
