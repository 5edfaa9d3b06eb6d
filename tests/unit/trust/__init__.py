"""Signed and sealed messages, and the keys."""
