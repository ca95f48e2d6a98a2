"""Topology of masks and images: Betti numbers, persistence, skeletons, distances, metrics."""
