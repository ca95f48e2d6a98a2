"""Spectral geometry: eigenbases, descriptors, functional maps, ZoomOut."""
