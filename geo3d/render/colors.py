"""Colours on shapes: by position, carried along a map, by error.

Notation: v vertices; colours are sRGB uint8; ``p2p_21`` (n2,) gives each target vertex its source
vertex.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8

from geo3d.errors import InputError
from geo3d.mesh.mesh import Mesh

# lightness falls steadily along the row, so the order survives grey printing and colour blindness
ERROR_STOPS = np.array(
    [[246, 243, 230], [252, 210, 130], [243, 136, 72], [203, 60, 80], [120, 25, 100], [35, 10, 60]],
    np.float64,
)
UNKNOWN_COLOR = np.array([150, 160, 170], np.uint8)
_DARKEST, _BRIGHTEST = 25.0, 245.0


def position_colors(mesh: Mesh) -> UInt8[np.ndarray, "v 3"]:
    """Return colours that vary smoothly with position: x red, y green, z blue.

    Each axis is stretched over its own extent; a flat axis gets the middle value.
    """
    points = mesh.vertices.astype(np.float64)
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    share = np.divide(points - low, extent, out=np.full_like(points, 0.5), where=extent > 0)
    return np.rint(_DARKEST + (_BRIGHTEST - _DARKEST) * share).astype(np.uint8)


def transfer_colors(
    colors_source: UInt8[np.ndarray, "n1 3"], p2p_21: Int[np.ndarray, " n2"]
) -> UInt8[np.ndarray, "n2 3"]:
    """Return the colour each target vertex gets from its source vertex; grey where the map says -1.

    Raises:
        InputError: ``colors.index_out_of_range``.
    """
    n = len(colors_source)
    if len(p2p_21) and (p2p_21.min() < -1 or p2p_21.max() >= n):
        raise InputError(
            "colors.index_out_of_range",
            f"The map holds source vertices {p2p_21.min()}..{p2p_21.max()}, the source has {n}.",
            "p2p_21 has one entry per target vertex: its 0-based source vertex. Is it the "
            "other direction?",
        )
    carried = colors_source[p2p_21]
    carried[p2p_21 == -1] = UNKNOWN_COLOR
    return carried


def error_colors(
    errors: Float[np.ndarray, " v"], maximum: float | None = None
) -> UInt8[np.ndarray, "v 3"]:
    """Return colours from light (0) to dark (``maximum`` and more); grey where not finite.

    Args:
        errors: values >= 0.
        maximum: end of the scale; by default the largest finite value.
    """
    finite = np.isfinite(errors)
    if maximum is None:
        maximum = float(errors[finite].max()) if finite.any() else 0.0
    share = np.where(finite, errors, 0.0) / maximum if maximum > 0 else np.zeros(len(errors))
    at = np.clip(share, 0.0, 1.0) * (len(ERROR_STOPS) - 1)
    stops = np.arange(len(ERROR_STOPS))
    channels = [np.interp(at, stops, ERROR_STOPS[:, c]) for c in range(3)]
    colors = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    colors[~finite] = UNKNOWN_COLOR
    return colors
