"""Whole surfaces: shells without gaps before they are decoded, and solids without inner walls.

A structure is a shell of cells.  A gap in it lets the outside in, and the shell gets an inner wall;
`closed_shell` puts cells into gaps that open a hollow much larger than the gap.  `solid_signs` then
says of every point of the grid whether it is inside: hollows that the outside does not reach are
solid, and crumbs are nothing.  A surface between these signs is closed whatever the decoder said.

Notation: r edge of a grid of cells, q = r + 1 that of its points; n cells.

Source: the flood fill of the outside is that of Xiang et al., "Structured 3D Latents" (TRELLIS,
2024) in its training data; the rest is ours.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

GAPS_PER_HOLLOW = 4
"""A gap is closed where it opens a hollow of more than so many cells for each of its own."""
CRUMB = 0.01
"""Pieces smaller than this share of the largest are left out."""
_AROUND = np.ones((3, 3, 3), bool)


def closed_shell(coords: Int[np.ndarray, "n 3"], resolution: int) -> Int[np.ndarray, "m 3"]:
    """Return the cells of a shell without its gaps and crumbs, in ascending order.

    Cells that hide behind others stay: where a shell is two cells thick, because it is not sure
    which of them has the surface, either may.
    """
    shell = np.zeros((resolution,) * 3, bool)
    shell[tuple(coords.T)] = True
    # a border of two cells: the outside goes around, and so does the dilated shell
    shell = np.pad(_without_crumbs(shell), 2)
    return np.argwhere((shell | _plugs(shell))[2:-2, 2:-2, 2:-2])


def solid_signs(
    values: Float[np.ndarray, "q q q"], active: Bool[np.ndarray, "r r r"]
) -> Bool[np.ndarray, "q q q"]:
    """Return which points of a grid are inside.

    Args:
        values: signed distance, negative inside; only at corners of active cells does it count.
        active: which cells tell a distance.
    """
    known = _corners(active)
    enclosed = _corners(~active & ~_outside(np.pad(active, 1))[1:-1, 1:-1, 1:-1])
    inside = np.where(known, values < 0, enclosed)
    # what lies on the border of the grid would have no other side
    for axis in range(3):
        np.moveaxis(inside, axis, 0)[[0, -1]] = False
    reached = _outside(np.pad(inside, 1))[1:-1, 1:-1, 1:-1]
    return _without_crumbs(~reached)


def _plugs(shell: Bool[np.ndarray, "a b c"]) -> Bool[np.ndarray, "a b c"]:
    """Return the cells that close the gaps of a shell, of at most two cells' width."""
    # eroded by growing what is outside
    solid = ~_grown(_outside(_grown(shell, _AROUND)), _AROUND) | shell
    plugs = _grown(~solid) & solid & ~shell
    hollow = solid & ~shell & ~plugs
    # hollows that were sealed before need none
    hollow &= _outside(shell)
    pieces, count = _label(plugs | hollow)
    if count == 0:
        return plugs & False
    gaps = np.bincount(pieces[plugs], minlength=count + 1)
    room = np.bincount(pieces[hollow], minlength=count + 1)
    wanted = (room > GAPS_PER_HOLLOW * gaps) & (gaps > 0)
    wanted[0] = False
    return plugs & wanted[pieces]


def _outside(full: Bool[np.ndarray, "a b c"]) -> Bool[np.ndarray, "a b c"]:
    """Return what is empty and joined to the first corner, which is empty."""
    labels, _ = _label(~full)
    return labels == labels[0, 0, 0]


def _without_crumbs(full: Bool[np.ndarray, "a b c"]) -> Bool[np.ndarray, "a b c"]:
    labels, count = _label(full, _AROUND)
    if count < 2:
        return full
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return (sizes >= CRUMB * sizes.max())[labels]


def _corners(cells: Bool[np.ndarray, "a b c"]) -> Bool[np.ndarray, "q r s"]:
    """Return the points that are a corner of one of the cells."""
    found = np.pad(cells, 1)
    for axis in range(3):
        low, high = (np.moveaxis(found, axis, 0)[part] for part in (slice(-1), slice(1, None)))
        found = np.moveaxis(low | high, 0, axis)
    return found


def _grown(mask: np.ndarray, structure: np.ndarray | None = None) -> Bool[np.ndarray, "a b c"]:
    return np.asarray(ndimage.binary_dilation(mask, structure), bool)


def _label(mask: np.ndarray, structure: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    return cast(tuple[np.ndarray, int], cast(Any, ndimage.label)(mask, structure))
