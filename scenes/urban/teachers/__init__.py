"""Teachers of streets: the procedural painter, and networks on disk: what a folder may hold, what
fits together, how it is read."""
