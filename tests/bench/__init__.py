"""What is measured, side by side in one run: each module is one bench, and `rows()` its figures."""
