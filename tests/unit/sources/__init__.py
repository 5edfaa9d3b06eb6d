"""Tests of payloads by reference."""
