"""The tree: generations are staged, checked and made current. Nothing else writes what nginx reads."""
