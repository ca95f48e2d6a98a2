"""A piece of a long layout: some metres of the drive and what stands around them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from geo3d.errors import InputError
from geo3d.layout.layout import Layout


def piece(layout: Layout, length: float, start: float = 0.0, reach: float = 120.0) -> Layout:
    """Return ``length`` metres of the drive and the primitives within ``reach`` metres of it.

    Args:
        start: metres of the drive before the piece.

    Raises:
        InputError: ``layout.no_piece`` where the drive ends before ``start``.
    """
    places = layout.trajectory[:, :3, 3]
    along = np.concatenate([[0], np.linalg.norm(np.diff(places, axis=0), axis=1).cumsum()])
    kept = (along >= start) & (along <= start + length)
    if not kept.any():
        raise InputError(
            "layout.no_piece",
            f"There is no piece of {length:g} m from {start:g} m on: the drive is "
            f"{along[-1]:.0f} m long.",
            "Start earlier, or take a longer piece.",
        )
    near = places[kept][:, [0, 2]]
    boxes = layout.primitive_bounds()[:, :, [0, 2]]
    chosen = []
    for primitive, (low, high) in zip(layout.primitives, boxes, strict=True):
        away = np.maximum(np.maximum(low - near, near - high), 0)
        if np.hypot(*away.T).min() <= reach:
            chosen.append(primitive)
    return replace(layout, primitives=tuple(chosen), trajectory=layout.trajectory[kept])
