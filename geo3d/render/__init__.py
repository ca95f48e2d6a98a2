"""Cameras and pictures made on the CPU."""
