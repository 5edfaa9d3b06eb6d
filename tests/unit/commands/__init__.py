"""Unit tests of agentd/commands/."""
