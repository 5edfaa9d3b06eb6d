"""Tests of the handlers that ship with agentd."""
