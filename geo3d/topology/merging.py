"""How components of many images at once merge while their pixels appear from bright to dark.

Notation: n pixels in all items of a stack, P nodes with the border of one pixel around each item.
A superlevel set holds the pixels with f >= t; t falls.  Of equally bright pixels the one with the
higher index comes first, so that every order here is strict.

* Dimension 0: pixels appear from the brightest on.  Where two components meet, the younger dies.
* The last dimension, by duality: pixels appear from the darkest on; components of dark pixels are
  holes (or the outside, the eldest), and the level where two of them meet is where a loop is born.

The same merges can be read with other ages: which component is younger when each is as old as its
eldest pixel *in another image's order*.  That is image persistence, what matching needs.

With "vertices" in 2D the nodes of the last dimension are the squares between pixels rather than the
pixels themselves: the merges are the same, and places agree with the published Betti matching even
where pixels tie.  One compiled call goes through all items, as they share no neighbours.
Source: Edelsbrunner & Harer, Computational Topology (2010), VII.1-2; Bauer et al. (2022), Efficient
two-parameter and image persistence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64
from numba import njit

from geo3d.topology.grids import Pixels, neighbourhood
from geo3d.topology.joins import needed_steps
from geo3d.topology.kernels import find_root

FIRST_MET = {
    (2, "vertices", "bright"): np.array([[0, 1], [1, 0], [0, -1], [-1, 0]]),
    (2, "cells", "bright"): np.array(
        [[-1, -1], [-1, 0], [0, -1], [1, -1], [1, 0], [-1, 1], [0, 1], [1, 1]]
    ),
    (2, "cells", "dark"): np.array([[0, 1], [1, 0], [-1, 0], [0, -1]]),
}
"""In which order a pixel meets what is around it, so that all edges have one strict order, that of
the published codes; elsewhere any order will do."""


@dataclass(frozen=True)
class Stack:
    """Items of one size, their pixels sorted item by item.

    Attributes:
        padded: number of items, then the size of one with its border.
        ascending: flat index of every present pixel, item by item, from dark to bright.
        inner: index of every pixel, present or not, in the padded stack.
    """

    padded: tuple[int, ...]
    ascending: Int32[np.ndarray, " n"]
    inner: Int32[np.ndarray, " m"]

    @cached_property
    def rank(self) -> Int32[np.ndarray, " p"]:
        """Place of each padded pixel from dark to bright; -1 of the border and absent ones."""
        rank = np.full(int(np.prod(self.padded)), -1, dtype=np.int32)
        rank[self.inner[self.ascending]] = np.arange(self.ascending.size, dtype=np.int32)
        return rank

    def eldest(self) -> Int32[np.ndarray, " e"]:
        """Return the flat index of the brightest pixel of each item that has one."""
        item = self.ascending // (self.inner.size // self.padded[0])
        last = np.append(np.flatnonzero(np.diff(item)), item.size - 1)
        return self.ascending[last if item.size else []]


@dataclass(frozen=True)
class Merges:
    """Where components meet, and which of them is younger.

    Attributes:
        at: flat index of the pixel at which two components meet.
        age: for the own order and for each other one, the age of the component that dies.
        orders: for each of them the flat indices of pixels from eldest to youngest.
        per_pixel: ages per pixel, 1 or (squares) 4.
    """

    at: Int32[np.ndarray, " m"]
    age: Int32[np.ndarray, "k m"]
    orders: tuple[np.ndarray, ...]
    per_pixel: int

    def began(self, which: int = 0) -> Int32[np.ndarray, " m"]:
        """Return the flat index of the pixel where the component that dies began."""
        return self.orders[which][self.age[which] // self.per_pixel]


def stack(
    values: Float[np.ndarray, "n ..."], present: Bool[np.ndarray, "n ..."] | None = None
) -> Stack:
    """Sort the pixels of a stack of images or volumes; absent ones count as border."""
    n, *space = values.shape
    padded = (n, *(side + 2 for side in space))
    inside = (slice(None), *(slice(1, -1) for _ in space))
    inner = np.arange(np.prod(padded), dtype=np.int32).reshape(padded)[inside].reshape(-1)
    order = _ascending(values.reshape(n, -1)).reshape(-1)
    if present is not None:
        order = order[present.reshape(-1)[order]]
    return Stack(padded, order, np.ascontiguousarray(inner))


def component_merges(own: Stack, pixels: Pixels, *others: Stack) -> Merges:
    """Merge components of bright pixels (dimension 0), read with the ages of further images."""
    n_dims = len(own.padded) - 1
    around = FIRST_MET.get((n_dims, pixels, "bright"), neighbourhood(n_dims, pixels))
    orders = tuple(each.ascending[::-1] for each in (own, *others))
    ages = np.stack([len(each.ascending) - 1 - each.rank for each in (own, *others)])
    parent = np.arange(ages.shape[1], dtype=np.int32)
    taken = _needed(own, ages[0], around, corners=pixels == "cells")
    return _merge(own, orders, (taken, _ends(own, around), 1), parent, ages)


def cavity_merges(own: Stack, pixels: Pixels, *others: Stack) -> Merges:
    """Merge components of dark pixels (the last dimension); the outside is the eldest."""
    n_dims = len(own.padded) - 1
    orders = tuple(each.ascending for each in (own, *others))
    ranks = np.stack([each.rank for each in (own, *others)])
    if pixels == "vertices" and n_dims == 2:
        width = own.padded[2]
        ends = np.array([[0, 1], [0, width], [width, width + 1], [1, width + 1]])
        ages = np.stack([_square_ages(rank.reshape(own.padded)) for rank in ranks])
        rules = (_later(ranks[0], np.array([-width, -1, width, 1])), ends, 4)
    else:
        around = neighbourhood(n_dims, pixels, background=True)
        around = FIRST_MET.get((n_dims, pixels, "dark"), around)
        taken = _needed(own, ranks[0], around, corners=pixels == "vertices")
        rules, ages = (taken, _ends(own, around), 1), ranks
    # Node 0 is a corner of the border, so it stands for the outside.
    parent = np.where(ages[0] < 0, 0, np.arange(ages.shape[1])).astype(np.int32)
    return _merge(own, orders, rules, parent, ages)


def _merge(
    own: Stack,
    orders: tuple[np.ndarray, ...],
    rules: tuple[np.ndarray, np.ndarray, int],
    parent: np.ndarray,
    ages: np.ndarray,
) -> Merges:
    taken, ends, per_pixel = rules
    at, age = merge_grid(own.inner[orders[0]], taken, ends, per_pixel, parent, ages)
    return Merges(orders[0][at], age, orders, per_pixel)


def _needed(
    own: Stack, rank: Int32[np.ndarray, " p"], steps: Int64[np.ndarray, "s d"], *, corners: bool
) -> Int32[np.ndarray, " p"]:
    """Return the steps to neighbours that each pixel must be joined to, as bits."""
    n, *space = own.padded
    volumes = rank.reshape(n, *(1,) * (3 - len(space)), *space)
    bits = 13 + steps @ np.array([9, 3, 1])[-len(space) :]
    return needed_steps(volumes, bits, corners).ravel()


def _later(rank: Int32[np.ndarray, " p"], steps: Int64[np.ndarray, " s"]) -> np.ndarray:
    """Return the steps to pixels that come later, as bits; those of the border are any."""
    found = np.zeros(rank.shape, dtype=np.int32)
    for k, step in enumerate(steps):
        found |= (np.roll(rank, -step) >= rank).astype(np.int32) << k
    return found


def _ends(own: Stack, steps: Int64[np.ndarray, "s d"]) -> Int64[np.ndarray, "s 2"]:
    """Return the steps to both ends of each edge."""
    flat = _strides(own, steps)
    return np.stack([np.zeros_like(flat), flat], axis=1)


def _ascending(values: Float[np.ndarray, "n m"]) -> Int32[np.ndarray, "n m"]:
    """Return the flat indices of each row's pixels by value, then by index."""
    start = np.arange(values.shape[0], dtype=np.int32)[:, None] * values.shape[1]
    if values.dtype != np.float32:
        return np.argsort(values, axis=1, kind="stable").astype(np.int32) + start
    # Adding zero turns -0 into +0; the bits of a negative float grow as it falls.
    bits = (values + np.float32(0)).view(np.int32)
    keys = (bits ^ ((bits >> 31) | np.int32(-(2**31)))).view(np.uint32)
    return sorted_keys(keys) + start


def _strides(own: Stack, steps: Int64[np.ndarray, "s d"]) -> Int64[np.ndarray, " s"]:
    sizes = own.padded[1:]
    strides = np.array([int(np.prod(sizes[k + 1 :])) for k in range(len(sizes))], dtype=np.int64)
    return steps @ strides


def _square_ages(rank: Int32[np.ndarray, "n h w"]) -> Int32[np.ndarray, " p"]:
    """Return the age of each square, named by its last pixel: that of its eldest pixel.

    Of the four squares of one pixel the one before it is the eldest; -1 is the outside.
    """
    ages = np.full(rank.shape, -1, dtype=np.int32)
    before, after = slice(None, -1), slice(1, None)
    corners = [(after, after), (after, before), (before, after), (before, before)]
    four = np.stack([4 * rank[:, i, j] + k for k, (i, j) in enumerate(corners)])
    eldest = four.min(axis=0)
    ages[:, 1:, 1:] = np.where(eldest < 0, -1, eldest)
    return ages.reshape(-1)


@njit(cache=True)
@no_type_check
def merge_grid(
    order: np.ndarray,
    taken: np.ndarray,
    ends: np.ndarray,
    per_pixel: int,
    parent: np.ndarray,
    ages: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Go through pixels in order and join the nodes of their edges.

    Components that would die at the pixel of their birth have no row.

    Args:
        order: padded indices of the pixels.
        taken: for each pixel the edges to take with it, as bits.
        ends: for each edge the steps to the two nodes that it joins.
        per_pixel: how many ages of nodes belong to one pixel.
        parent: the trees of the nodes, changed in place.
        ages: (k, p) ages of the nodes, the first one decides; changed in place.

    Returns:
        Positions in `order` where components meet (m,) and the ages (k, m) of those that die.
    """
    n_ages = ages.shape[0]
    at = np.empty(order.size, dtype=np.int32)
    died = np.empty((n_ages, order.size), dtype=np.int32)
    count = 0
    for position in range(order.size):
        pixel = order[position]
        left = taken[pixel]
        if per_pixel == 1 and left & (left - 1) == 0:
            # A pixel of its own that joins one component only: what dies there was born there.
            if left:
                step = 0
                while left > 1:
                    left >>= 1
                    step += 1
                one = pixel + ends[step, 1]
                if n_ages > 1:
                    one = find_root(parent, one)
                    for k in range(1, n_ages):
                        ages[k, one] = min(ages[k, one], ages[k, pixel])
                parent[pixel] = one
            continue
        step = -1
        while left:
            step += 1
            takes = left & 1
            left >>= 1
            if not takes:
                continue
            one = find_root(parent, pixel + ends[step, 0])
            two = find_root(parent, pixel + ends[step, 1])
            if one == two:
                continue
            if ages[0, two] < ages[0, one]:
                one, two = two, one
            parent[two] = one
            counts = ages[0, two] < per_pixel * position
            for k in range(n_ages):
                died[k, count] = max(ages[k, one], ages[k, two])
                ages[k, one] = min(ages[k, one], ages[k, two])
            if counts:
                at[count] = position
                count += 1
    return at[:count].copy(), died[:, :count].copy()


@njit(cache=True, nogil=True)
@no_type_check
def sorted_keys(keys: np.ndarray) -> np.ndarray:
    """Return the order of each row of (n, m) whole numbers; equal ones keep theirs.

    Sorted by 11 bits at a time, from the lowest on: several times faster than by comparison.
    """
    n, m = keys.shape
    order = np.empty((n, m), dtype=np.int32)
    other = np.empty(m, dtype=np.int32)
    for i in range(n):
        row = keys[i]
        counts = np.zeros((3, 2049), dtype=np.int32)
        for value in row:
            for k in range(3):
                counts[k, (value >> np.uint32(11 * k) & np.uint32(2047)) + 1] += 1
        source, target = order[i], other
        for j in range(m):
            source[j] = j
        for k in range(3):
            if counts[k].max() == m:
                continue  # all are alike in these bits
            starts = np.cumsum(counts[k]).astype(np.int32)
            for index in source:
                digit = row[index] >> np.uint32(11 * k) & np.uint32(2047)
                target[starts[digit]] = index
                starts[digit] += 1
            source, target = target, source
        order[i] = source
    return order
