"""Teachers of streets on disk: what a folder may hold, what fits together, how it is read."""
