"""Meshes: reading, checking, repairing, measuring."""
