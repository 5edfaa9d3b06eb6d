"""The node's memory on disk: what was received, what is still pending, and how it ended."""
