"""Data sets, ground truth, errors and reports of matching."""
