"""Tests of what crosses nodes."""
