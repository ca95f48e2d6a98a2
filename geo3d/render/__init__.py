"""Cameras and images made on the CPU."""
