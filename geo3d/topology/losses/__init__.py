"""Losses that judge the topology of a segmentation."""
