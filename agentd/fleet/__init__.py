"""What crosses nodes: the log behind the events, and what each node acknowledges of it."""
