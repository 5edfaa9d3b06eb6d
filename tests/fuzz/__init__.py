"""Fuzzing with atheris (`scripts/fuzz`): the parsers of bytes that come from outside, and a small corpus."""
