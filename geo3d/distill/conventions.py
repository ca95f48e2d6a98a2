"""Foreign conventions of guidance, converted where foreign files are read; needs no torch.

Notation: s our guidance scale, u + s (c - u); w TRELLIS's and MDT-dist's strength, c + w (c - u).
"""

from __future__ import annotations


def strength_to_scale(w: float) -> float:
    """Convert a guidance strength (``cfg_strength``) to a guidance scale."""
    return 1.0 + w


def scale_to_strength(s: float) -> float:
    """Convert a guidance scale to a guidance strength."""
    # Rounded: the strength 0.1 makes the scale 1.1, which is 0.1 and some dust above 1.
    return round(s - 1.0, 12)
