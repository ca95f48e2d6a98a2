"""Fields over space: hash grids, and lattices of them that page to disk."""
