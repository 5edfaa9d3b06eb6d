"""The nginx of this node: which one runs, what it is given to read, and whether it accepts that."""
