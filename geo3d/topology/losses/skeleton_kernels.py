"""One round of the soft skeleton and its gradient, compiled by numba.

Notation: x the map of this round, e = erode(x) the map of the next, m = dilate(e), r = relu(x - m),
s the skeleton so far; s' = s + relu(r - s r).  Arrays are (n, d, h, w) float32, d = 1 for images.
`reach` says along which of the three axes a round steps, 1 or 0 (images: 0 along the first).

Values and gradients are those of torch's pooling, ties included: of tied pixels in a window the
first takes the gradient, of tied windows each takes half.  Positions beyond the border are clamped
to it, which changes no minimum or maximum.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
@no_type_check
def erode_round(x: np.ndarray, e: np.ndarray, reach: tuple[int, int, int]) -> None:
    """Write into e the minimum of x over the three-pixel lines along each axis of the reach."""
    n, depth, height, width = x.shape
    rd, rh, rw = reach
    for i in range(n):
        for z in range(depth):
            for y in range(height):
                here = x[i, z, y]
                out = e[i, z, y]
                above = x[i, z, max(y - rh, 0)]
                below = x[i, z, min(y + rh, height - 1)]
                for j in range(width):
                    out[j] = min(here[j], min(above[j], below[j]))
                if rd:
                    front = x[i, max(z - 1, 0), y]
                    back = x[i, min(z + 1, depth - 1), y]
                    for j in range(width):
                        out[j] = min(out[j], min(front[j], back[j]))
                if rw:
                    for j in range(1, width):
                        out[j] = min(out[j], here[j - 1])
                    for j in range(width - 1):
                        out[j] = min(out[j], here[j + 1])


@njit(cache=True, nogil=True)
@no_type_check
def _dilate_row(
    e: np.ndarray,
    at: tuple[int, int, int],
    reach: tuple[int, int, int],
    tall: np.ndarray,
    m: np.ndarray,
) -> None:
    """Write into m one row of the maximum of e over the neighbourhood; tall is scratch."""
    i, z, y = at
    rd, rh, rw = reach
    _, depth, height, width = e.shape
    tall[:] = e[i, z, y]
    for a in range(max(z - rd, 0), min(z + rd + 1, depth)):
        for b in range(max(y - rh, 0), min(y + rh + 1, height)):
            row = e[i, a, b]
            for j in range(width):
                tall[j] = max(tall[j], row[j])
    m[:] = tall
    if not rw:
        return
    for j in range(1, width):
        m[j] = max(m[j], tall[j - 1])
    for j in range(width - 1):
        m[j] = max(m[j], tall[j + 1])


@njit(cache=True, nogil=True)
@no_type_check
def grow_round(
    x: np.ndarray, e: np.ndarray, s: np.ndarray, grown: np.ndarray, reach: tuple[int, int, int]
) -> None:
    """Write s' into grown."""
    n, depth, height, width = x.shape
    tall = np.empty(width, x.dtype)
    m = np.empty(width, x.dtype)
    zero = x.dtype.type(0)
    for i in range(n):
        for z in range(depth):
            for y in range(height):
                _dilate_row(e, (i, z, y), reach, tall, m)
                here = x[i, z, y]
                old = s[i, z, y]
                new = grown[i, z, y]
                for j in range(width):
                    r = max(here[j] - m[j], zero)
                    new[j] = old[j] + max(r - old[j] * r, zero)


@njit(cache=True, nogil=True)
@no_type_check
def ungrow_round(
    x: np.ndarray,
    e: np.ndarray,
    s: np.ndarray,
    grad_s: np.ndarray,
    grad_e: np.ndarray,
    reach: tuple[int, int, int],
) -> np.ndarray:
    """Return the direct gradient of x; turn that of s' into that of s, and add to that of e."""
    n, depth, height, width = x.shape
    tall = np.empty(width, x.dtype)
    m = np.empty(width, x.dtype)
    grad_x = np.zeros_like(x)
    for i in range(n):
        for z in range(depth):
            for y in range(height):
                _dilate_row(e, (i, z, y), reach, tall, m)
                for j in range(width):
                    r = x[i, z, y, j] - m[j]
                    old = s[i, z, y, j]
                    if r <= 0 or r - old * r <= 0:
                        continue
                    g = grad_s[i, z, y, j]
                    grad_s[i, z, y, j] = g - g * r
                    g -= g * old
                    grad_x[i, z, y, j] = g
                    a, b, c = _first_equal(e, (i, z, y, j), reach, m[j])
                    grad_e[i, a, b, c] -= g
    return grad_x


@njit(cache=True, nogil=True)
@no_type_check
def _first_equal(
    e: np.ndarray, at: tuple[int, int, int, int], reach: tuple[int, int, int], value: float
) -> tuple[int, int, int]:
    """Return the first place around a pixel that holds a value."""
    i, z, y, j = at
    rd, rh, rw = reach
    _, depth, height, width = e.shape
    for a in range(max(z - rd, 0), min(z + rd + 1, depth)):
        for b in range(max(y - rh, 0), min(y + rh + 1, height)):
            for c in range(max(j - rw, 0), min(j + rw + 1, width)):
                if e[i, a, b, c] == value:
                    return a, b, c
    return z, y, j


@njit(cache=True, nogil=True)
@no_type_check
def unerode_round(
    x: np.ndarray, grad_e: np.ndarray, grad_x: np.ndarray, reach: tuple[int, int, int]
) -> None:
    """Add to the gradient of x what comes through e = erode(x)."""
    n, depth, height, width = x.shape
    rd, rh, rw = reach
    none = x.dtype.type(0)
    for i in range(n):
        for z in range(depth):
            for y in range(height):
                for j in range(width):
                    g = grad_e[i, z, y, j]
                    if g == 0:
                        continue
                    a, b, c = z, y, j
                    share_a = share_b = share_c = none
                    lowest = none
                    if rd:
                        a = max(z - 1, 0)
                        for k in range(a + 1, min(z + 2, depth)):
                            if x[i, k, y, j] < x[i, a, y, j]:
                                a = k
                        lowest = x[i, a, y, j]
                        share_a = g
                    if rh:
                        b = max(y - 1, 0)
                        for k in range(b + 1, min(y + 2, height)):
                            if x[i, z, k, j] < x[i, z, b, j]:
                                b = k
                        if not rd or x[i, z, b, j] < lowest:
                            share_a, share_b = none, g
                            lowest = x[i, z, b, j]
                        elif x[i, z, b, j] == lowest:
                            share_a = share_b = g / 2
                    if rw:
                        c = max(j - 1, 0)
                        for k in range(c + 1, min(j + 2, width)):
                            if x[i, z, y, k] < x[i, z, y, c]:
                                c = k
                        if not (rd or rh) or x[i, z, y, c] < lowest:
                            share_a, share_b, share_c = none, none, g
                        elif x[i, z, y, c] == lowest:
                            share_a, share_b, share_c = share_a / 2, share_b / 2, g / 2
                    grad_x[i, a, y, j] += share_a
                    grad_x[i, z, b, j] += share_b
                    grad_x[i, z, y, c] += share_c


@njit(cache=True, nogil=True)
@no_type_check
def depths_at(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the distance of pixels of a (h, w) mask to its background; 0 on the background.

    Args:
        mask: booleans with at least one false.
        points: row-major indices of the pixels.
    """
    height, width = mask.shape
    far = height + width
    steps = np.empty(mask.shape, np.int32)
    for j in range(width):
        steps[0, j] = far if mask[0, j] else 0
    for i in range(1, height):
        for j in range(width):
            steps[i, j] = steps[i - 1, j] + 1 if mask[i, j] else 0
    for i in range(height - 2, -1, -1):
        for j in range(width):
            steps[i, j] = min(steps[i, j], steps[i + 1, j] + 1)
    depths = np.empty(points.size, np.float64)
    for k in range(points.size):
        i = points[k] // width
        j = points[k] % width
        best = steps[i, j] ** 2
        reach = 1
        while reach * reach < best and (j >= reach or j + reach < width):
            if j >= reach:
                best = min(best, reach**2 + steps[i, j - reach] ** 2)
            if j + reach < width:
                best = min(best, reach**2 + steps[i, j + reach] ** 2)
            reach += 1
        depths[k] = np.sqrt(best)
    return depths
