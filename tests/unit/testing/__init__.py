"""Tests of what a handler author tests with."""
