"""Tests of `ip_blacklist`; they mirror its modules."""
