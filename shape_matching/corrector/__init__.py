"""The corrector: a network that mends the maps that the search finds."""
