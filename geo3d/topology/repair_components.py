"""Components that a mask has too many of: joined to a neighbour or removed, whichever is cheaper.

Notation: l the log-odds of foreground at each pixel in nats, so that flipping a foreground pixel
costs l and a background pixel -l.  Removing a component costs the sum of l over its pixels; joining
two costs the sum of -l over the cheapest path between them.

Regions grow from all components at once (Dijkstra); where two of them meet lies the cheapest path
between them, and the cheapest of all such paths are those of a spanning tree of all components
(Mehlhorn 1988).  The cheapest change is made first, as long as it costs less than the price of a
component.

The same function serves holes and cavities: they are components of the background, with the border
of the array as one that always stays.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from geo3d.topology.grids import label_components, neighbourhood
from geo3d.topology.repair_kernels import spread

_ROUNDS = 4
_FREE = 1e-3
"""Nats per pixel of a path where it costs nothing: of free paths the shortest is taken."""


@dataclass(frozen=True)
class Change:
    """One local change of a mask."""

    kind: Literal["join", "remove", "cut", "fill", "close", "open"]
    """Components joined or removed; holes joined by a cut through what parts them or filled; lines
    closed that part regions; in 3D, a loop cut ("open") or its middle filled ("close")."""
    cost: float
    """Nats: how much less likely the mask has become."""
    pixels: int
    """How many were changed."""
    at: tuple[int, ...]
    """One of them."""


@dataclass(frozen=True)
class Rules:
    """Which components stay apart."""

    join_price: float
    """Joins that cost less are made."""
    remove_price: float
    """Components that cost less are removed."""
    corners: bool
    """Whether pixels that share a corner touch."""
    border: bool = False
    """Whether outside the array is a component that stays; else the heaviest one stays."""


def fewer_components(
    log_odds: Float[np.ndarray, "*space"],
    mask: Bool[np.ndarray, "*space"],
    rules: Rules,
    groups: Int[np.ndarray, "*space"] | None = None,
) -> tuple[Bool[np.ndarray, "*space"], list[Change]]:
    """Join and remove components of a mask while that is cheap.

    Args:
        log_odds: of being in the mask, nats.
        mask: its pixels.
        rules: see `Rules`.
        groups: number of a group at every pixel; only components of one group are joined.  None
            allows all.  Outside the array is group 0.

    Returns:
        The changed mask, and what was changed.
    """
    changes: list[Change] = []
    for _ in range(_ROUNDS):
        found = _one_round(log_odds, mask, rules, groups)
        if not found:
            break
        mask = mask.copy()
        for change, pixels in found:
            mask.ravel()[pixels] = change.kind == "join"
            changes.append(change)
    return mask, changes


@dataclass(frozen=True)
class _Framed:
    """The array with a ring that is outside and a ring that is blocked."""

    labels: Int[np.ndarray, "*wide"]
    count: int
    weights: Float[np.ndarray, " n"]
    cost: Float[np.ndarray, " p"]
    blocked: Bool[np.ndarray, " p"]
    steps: Int64[np.ndarray, " s"]
    inner: Int64[np.ndarray, " p"]
    """Index of each pixel in the array, -1 outside."""
    stays: int


def _framed(log_odds: np.ndarray, mask: np.ndarray, rules: Rules) -> _Framed:
    wide = np.pad(np.pad(mask, 1, constant_values=rules.border), 1)
    labels, count = label_components(wide, corners=rules.corners)
    values = np.pad(log_odds, 2)
    weights = np.bincount(labels.ravel(), np.maximum(values, 0).ravel(), count + 1)
    inner = np.pad(np.arange(mask.size).reshape(mask.shape), 2, constant_values=-1).ravel()
    ring = 1 if rules.border else 2
    open_ = np.zeros(wide.shape, dtype=bool)
    open_[(slice(ring, -ring),) * mask.ndim] = True
    around = neighbourhood(mask.ndim, "cells" if rules.corners else "vertices")
    strides = [int(np.prod(wide.shape[k + 1 :])) for k in range(mask.ndim)]
    stays = int(labels[(1,) * mask.ndim]) if rules.border else int(np.argmax(weights[1:])) + 1
    cost = np.maximum(-values.ravel(), _FREE)
    steps = around @ np.array(strides)
    return _Framed(labels, count, weights, cost, ~open_.ravel(), steps, inner, stays)


def _one_round(
    log_odds: np.ndarray, mask: np.ndarray, rules: Rules, groups: np.ndarray | None
) -> list[tuple[Change, np.ndarray]]:
    """Return the changes that are worth their price, the cheapest first, with their pixels."""
    frame = _framed(log_odds, mask, rules)
    if frame.count < 2:
        return []
    owner = frame.labels.ravel().astype(np.int64)
    price, before = spread(frame.cost, owner, frame.steps, frame.blocked)
    queue: list[tuple[float, int, int, int, int]] = []
    group = np.zeros(frame.count + 1) if groups is None else _groups(groups, frame)
    for cost, one, two, here, there in _meetings(price, owner, frame, rules.join_price):
        if group[one] == group[two]:
            queue.append((cost, one, two, here, there))
    for label in range(1, frame.count + 1):
        if label != frame.stays and frame.weights[label] < rules.remove_price:
            queue.append((float(frame.weights[label]), label, 0, 0, 0))
    heapq.heapify(queue)
    return _carried_out(queue, frame, before, mask.shape)


def _carried_out(
    queue: list[tuple[float, int, int, int, int]],
    frame: _Framed,
    before: np.ndarray,
    shape: tuple[int, ...],
) -> list[tuple[Change, np.ndarray]]:
    parent, gone, joined = list(range(frame.count + 1)), set[int](), set[int]()

    def root(label: int) -> int:
        while parent[label] != label:
            label = parent[label]
        return label

    found = []
    while queue:
        cost, one, two, here, there = heapq.heappop(queue)
        if one in gone or two in gone:
            continue
        if two:
            first, second = root(one), root(two)
            if first == second:
                continue
            parent[first] = second
            joined |= {one, two}
            path = [*_way(before, here), *_way(before, there)]
            pixels, kind = frame.inner[np.array(path, dtype=np.int64)], "join"
        elif one in joined:
            # Part of something larger by now.
            continue
        else:
            gone.add(one)
            pixels, kind = frame.inner[np.flatnonzero(frame.labels.ravel() == one)], "remove"
        pixels = pixels[pixels >= 0]
        at = tuple(int(i) for i in np.unravel_index(int(pixels[0]), shape)) if len(pixels) else ()
        found.append((Change(kind, float(cost), len(pixels), at), pixels))
    return found


def _way(before: np.ndarray, pixel: int) -> list[int]:
    """Return the pixels from one outside a component back to it."""
    way = []
    while before[pixel] >= 0:
        way.append(pixel)
        pixel = int(before[pixel])
    return way


def _groups(groups: np.ndarray, frame: _Framed) -> np.ndarray:
    """Return the group that most pixels of each component are of."""
    wide = np.where(frame.inner >= 0, groups.ravel()[frame.inner], 0)
    keys, counts = np.unique(
        np.stack([frame.labels.ravel(), wide], axis=1), axis=0, return_counts=True
    )
    order = np.argsort(counts, kind="stable")
    group = np.zeros(frame.count + 1, dtype=np.int64)
    # The last assignment holds: that of the most pixels.
    for label, number in keys[order]:
        group[label] = number
    return group


def _meetings(
    price: np.ndarray, owner: np.ndarray, frame: _Framed, limit: float
) -> Sequence[tuple[float, int, int, int, int]]:
    """Return the cheapest place where each two regions meet, if cheaper than the limit."""
    costs, keys, here, there = [], [], [], []
    for step in frame.steps[frame.steps > 0]:
        one, two = owner[:-step], owner[step:]
        at = np.flatnonzero((one != two) & (one > 0) & (two > 0))
        total = price[at] + price[at + step]
        cheap = total < limit
        at, total = at[cheap], total[cheap]
        low, high = np.minimum(one[at], two[at]), np.maximum(one[at], two[at])
        costs.append(total)
        keys.append(low * (frame.count + 1) + high)
        here.append(at)
        there.append(at + step)
    cost, key, one, two = (np.concatenate(part) for part in (costs, keys, here, there))
    order = np.argsort(cost, kind="stable")
    _, first = np.unique(key[order], return_index=True)
    best = order[first]
    labels = key // (frame.count + 1), key % (frame.count + 1)
    return [
        (float(cost[i]), int(labels[0][i]), int(labels[1][i]), int(one[i]), int(two[i]))
        for i in best
    ]
