"""Turns a change into files that nginx runs: dispatcher, workers, tree and journal. Never imports a handler."""
