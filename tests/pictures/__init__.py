"""Pictures for docs/, made from the real thing: `scripts/pictures` writes them anew."""
