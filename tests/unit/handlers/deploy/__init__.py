"""Tests of `deploy`; they mirror its modules."""
