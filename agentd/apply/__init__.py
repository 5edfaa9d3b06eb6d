"""Turns a change into files that nginx runs: dispatcher, workers, tree, journal. Never imports a handler."""
