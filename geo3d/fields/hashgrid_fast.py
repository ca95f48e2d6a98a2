"""Hash grids on the CPU, fast: the same numbers as `hashgrid.encode_reference`, compiled by numba.

Three dimensions, float32.  The forward pass and the gradient of the points are split over points,
the gradient of the table over levels: every level owns its rows, so threads never write to the same
place, no atomics are needed and the sum does not depend on the number of threads.  Threads are
Python's (the kernels release the interpreter lock), as many as torch uses.

Each level is walked in blocks of points: rows and weights of a block first, in straight loops that
the compiler vectorises, then the reads of the table, which the processor overlaps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor

from geo3d.fields.levels import HashGridConfig, grid_levels

BLOCK = 128
"""Points whose rows are worked out together; their scratch memory stays in the first cache."""
_SERIAL = 4096
"""Fewer points than this are not worth a second thread."""
_PRIME_Y = np.uint32(2654435761)
_PRIME_Z = np.uint32(805459861)


def encode_fast(
    points: Float[Tensor, "p 3"], table: Float[Tensor, "rows c"], config: HashGridConfig
) -> Float[Tensor, "p width"]:
    """Encode points of the unit box; differentiable once in ``table`` and ``points``."""
    return _Encode.apply(points, table, config)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, config: HashGridConfig) -> Tensor:
        ctx.save_for_backward(points, table)
        ctx.config = config
        x, rows = _array(points), _array(table)
        out = np.empty((len(x), config.width), np.float32)
        kernel = _kernels(config.features)[0]
        grid = _layout(config)

        def work(a: int, b: int) -> None:
            kernel(x[a:b], rows, grid, out[a:b])

        _over_points(work, len(x))
        return torch.from_numpy(out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        points, table = ctx.saved_tensors
        config: HashGridConfig = ctx.config
        x, rows, dy = _array(points), _array(table), _array(gradient)
        _, table_kernel, point_kernel = _kernels(config.features)
        grid = _layout(config)
        to_points = to_table = None
        if ctx.needs_input_grad[1]:
            drows = np.zeros_like(rows)

            def one_level(level: int) -> None:
                table_kernel(x, dy, level, grid, drows)

            _over_levels(one_level, config.levels, len(x))
            to_table = torch.from_numpy(drows)
        if ctx.needs_input_grad[0]:
            dx = np.empty_like(x)

            def work(a: int, b: int) -> None:
                point_kernel(x[a:b], rows, dy[a:b], grid, dx[a:b])

            _over_points(work, len(x))
            to_points = torch.from_numpy(dx)
        return to_points, to_table, None


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


_Grid = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Scales, first rows, shapes (rows, three strides, hashed) by level; then three switches: zero
outside, aligned corners, smoothstep."""


@functools.cache
def _layout(config: HashGridConfig) -> _Grid:
    levels = grid_levels(config)
    switches = (
        config.convention == "gridencoder",
        config.align_corners,
        config.interpolation == "smoothstep",
    )
    return (
        np.array([level.scale for level in levels], np.float32),
        np.array([level.offset for level in levels], np.int64),
        np.array([(v.rows, *v.strides, v.hashed) for v in levels], np.uint32),
        np.array(switches),
    )


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="hashgrid")


def _over_points(work: Callable[[int, int], None], count: int) -> None:
    threads = torch.get_num_threads()
    if threads == 1 or count < _SERIAL:
        work(0, count)
        return
    # several pieces per thread, as another process may hold one of them up
    cuts = np.linspace(0, count, 4 * threads + 1).astype(int)
    list(_pool(threads).map(work, cuts[:-1].tolist(), cuts[1:].tolist()))


def _over_levels(work: Callable[[int], None], levels: int, count: int) -> None:
    threads = torch.get_num_threads()
    if threads == 1 or count < _SERIAL:
        for level in range(levels):
            work(level)
        return
    # fine levels take longest: they go first
    list(_pool(threads).map(work, range(levels - 1, -1, -1)))


@njit(cache=True, inline="always")
@no_type_check
def _fill(
    x: np.ndarray,
    start: int,
    count: int,
    level: int,
    grid: _Grid,
    rows: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Work out the rows (8 corners) and the fractions of a block of points on one level."""
    scales, _, shapes, switches = grid
    scale, shape, zero_outside = scales[level], shapes[level], switches[0]
    size, sx, sy, sz, hashed = shape[0], shape[1], shape[2], shape[3], shape[4]
    shift = np.float32(0.0) if switches[1] else np.float32(0.5)
    zero = np.float32(0.0)
    one = np.float32(1.0)
    for i in range(count):
        px = x[start + i, 0] * scale + shift
        py = x[start + i, 1] * scale + shift
        pz = x[start + i, 2] * scale + shift
        cx, cy, cz = np.floor(px), np.floor(py), np.floor(pz)
        weights[0, i] = px - cx
        weights[1, i] = py - cy
        weights[2, i] = pz - cz
        inside = one
        if zero_outside:
            for axis in range(3):
                value = x[start + i, axis]
                if not (value >= zero and value <= one):
                    inside = zero
        weights[3, i] = inside
        ix, iy, iz = np.uint32(np.int64(cx)), np.uint32(np.int64(cy)), np.uint32(np.int64(cz))
        if hashed:
            ay, az = np.uint32(iy * _PRIME_Y), np.uint32(iz * _PRIME_Z)
            by, bz = np.uint32(ay + _PRIME_Y), np.uint32(az + _PRIME_Z)
            bx = np.uint32(ix + np.uint32(1))
            ab, bb = ay ^ az, by ^ az
            ac, bc = ay ^ bz, by ^ bz
            rows[0, i], rows[1, i] = ix ^ ab, bx ^ ab
            rows[2, i], rows[3, i] = ix ^ bb, bx ^ bb
            rows[4, i], rows[5, i] = ix ^ ac, bx ^ ac
            rows[6, i], rows[7, i] = ix ^ bc, bx ^ bc
        else:
            first = np.uint32(ix * sx + iy * sy + iz * sz)
            rows[0, i], rows[1, i] = first, first + sx
            rows[2, i], rows[3, i] = first + sy, first + sy + sx
            rows[4, i], rows[5, i] = first + sz, first + sz + sx
            rows[6, i], rows[7, i] = first + sz + sy, first + sz + sy + sx
    mask = np.uint32(size - np.uint32(1))
    if size & mask == 0:
        for corner in range(8):
            for i in range(count):
                rows[corner, i] &= mask
    else:
        for corner in range(8):
            for i in range(count):
                if rows[corner, i] >= size:
                    rows[corner, i] %= size


@njit(cache=True, inline="always")
@no_type_check
def _fill_mixed(
    x: np.ndarray, start: int, level: int, grid: _Grid, rows: np.ndarray, weights: np.ndarray
) -> int:
    """Do as `_fill` for the block from ``start`` on, with the weights of the interpolation.

    Returns how many points the block has.
    """
    count = min(BLOCK, len(x) - start)
    _fill(x, start, count, level, grid, rows, weights)
    if grid[3][2]:
        for axis in range(3):
            for i in range(count):
                f = weights[axis, i]
                weights[axis, i] = f * f * (np.float32(3.0) - np.float32(2.0) * f)
    return count


@njit(cache=True, inline="always")
@no_type_check
def _corners(weights: np.ndarray, i: int) -> tuple[np.float32, ...]:
    """Return the weights of the far and near corners of a point; z's are 0 outside the box."""
    fx, fy, fz, inside = weights[0, i], weights[1, i], weights[2, i], weights[3, i]
    one = np.float32(1.0)
    return fx, fy, fz * inside, one - fx, one - fy, (one - fz) * inside


@functools.cache
def _kernels(features: int) -> tuple[Callable[..., None], ...]:
    """Return the kernels for a width of rows, which the compiler takes as a constant."""
    return _forward_kernel(features), _table_kernel(features), _points_kernel(features)


def _forward_kernel(features: int) -> Callable[..., None]:
    @njit(cache=True, nogil=True)
    @no_type_check
    def forward(x: np.ndarray, table: np.ndarray, grid: _Grid, out: np.ndarray) -> None:
        scales, offsets, shapes, _ = grid
        rows = np.empty((8, BLOCK), np.uint32)
        weights = np.empty((4, BLOCK), np.float32)
        for level in range(len(scales)):
            part = table[offsets[level] : offsets[level] + shapes[level, 0]]
            column = level * features
            for start in range(0, len(x), BLOCK):
                for i in range(_fill_mixed(x, start, level, grid, rows, weights)):
                    fx, fy, fz, gx, gy, gz = _corners(weights, i)
                    for c in range(features):
                        near = gy * (gx * part[rows[0, i], c] + fx * part[rows[1, i], c])
                        near += fy * (gx * part[rows[2, i], c] + fx * part[rows[3, i], c])
                        far = gy * (gx * part[rows[4, i], c] + fx * part[rows[5, i], c])
                        far += fy * (gx * part[rows[6, i], c] + fx * part[rows[7, i], c])
                        out[start + i, column + c] = gz * near + fz * far

    return forward


def _table_kernel(features: int) -> Callable[..., None]:
    @njit(cache=True, nogil=True)
    @no_type_check
    def table_gradient(
        x: np.ndarray, dy: np.ndarray, level: int, grid: _Grid, drows: np.ndarray
    ) -> None:
        _, offsets, shapes, _ = grid
        rows = np.empty((8, BLOCK), np.uint32)
        weights = np.empty((4, BLOCK), np.float32)
        part = drows[offsets[level] : offsets[level] + shapes[level, 0]]
        column = level * features
        for start in range(0, len(x), BLOCK):
            for i in range(_fill_mixed(x, start, level, grid, rows, weights)):
                fx, fy, fz, gx, gy, gz = _corners(weights, i)
                for c in range(features):
                    d = dy[start + i, column + c]
                    near, far = gz * d, fz * d
                    a, b = gy * near, fy * near
                    part[rows[0, i], c] += gx * a
                    part[rows[1, i], c] += fx * a
                    part[rows[2, i], c] += gx * b
                    part[rows[3, i], c] += fx * b
                    a, b = gy * far, fy * far
                    part[rows[4, i], c] += gx * a
                    part[rows[5, i], c] += fx * a
                    part[rows[6, i], c] += gx * b
                    part[rows[7, i], c] += fx * b

    return table_gradient


def _points_kernel(features: int) -> Callable[..., None]:
    @njit(cache=True, nogil=True)
    @no_type_check
    def points_gradient(
        x: np.ndarray, table: np.ndarray, dy: np.ndarray, grid: _Grid, dx: np.ndarray
    ) -> None:
        scales, offsets, shapes, switches = grid
        rows = np.empty((8, BLOCK), np.uint32)
        weights = np.empty((4, BLOCK), np.float32)
        corner = np.empty(8, np.float32)
        slope = np.ones(3, np.float32)
        one, two, six = np.float32(1.0), np.float32(2.0), np.float32(6.0)
        dx[:] = np.float32(0.0)
        for level in range(len(scales)):
            part = table[offsets[level] : offsets[level] + shapes[level, 0]]
            column = level * features
            for start in range(0, len(x), BLOCK):
                count = min(BLOCK, len(x) - start)
                _fill(x, start, count, level, grid, rows, weights)
                for i in range(count):
                    if weights[3, i] == np.float32(0.0):
                        continue
                    for k in range(8):
                        corner[k] = np.float32(0.0)
                        for c in range(features):
                            corner[k] += dy[start + i, column + c] * part[rows[k, i], c]
                    for axis in range(3):
                        f = weights[axis, i]
                        slope[axis] = scales[level]
                        if switches[2]:
                            slope[axis] *= six * f * (one - f)
                            weights[axis, i] = f * f * (np.float32(3.0) - two * f)
                    fx, fy, fz = weights[0, i], weights[1, i], weights[2, i]
                    gx, gy, gz = one - fx, one - fy, one - fz
                    near = gy * (corner[1] - corner[0]) + fy * (corner[3] - corner[2])
                    far = gy * (corner[5] - corner[4]) + fy * (corner[7] - corner[6])
                    dx[start + i, 0] += slope[0] * (gz * near + fz * far)
                    near = gx * (corner[2] - corner[0]) + fx * (corner[3] - corner[1])
                    far = gx * (corner[6] - corner[4]) + fx * (corner[7] - corner[5])
                    dx[start + i, 1] += slope[1] * (gz * near + fz * far)
                    near = gx * (corner[4] - corner[0]) + fx * (corner[5] - corner[1])
                    far = gx * (corner[6] - corner[2]) + fx * (corner[7] - corner[3])
                    dx[start + i, 2] += slope[2] * (gy * near + fy * far)

    return points_gradient
