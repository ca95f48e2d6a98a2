"""Segmentation whose components and holes are right (TopoMortar)."""
