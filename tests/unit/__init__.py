"""Tests that need no network, no server and no sleep."""
