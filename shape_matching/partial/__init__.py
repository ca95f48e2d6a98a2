"""Matching a part of a surface to the whole, or to another part of it."""
