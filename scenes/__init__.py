"""Generate geometry: objects and street scenes (see docs/how-to-choose.md for what has landed)."""
