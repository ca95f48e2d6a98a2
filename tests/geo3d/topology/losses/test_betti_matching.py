"""Merging and matching: union-find against matrix reduction, hand-worked pairs, the metric."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
import pytest
import torch

from geo3d.errors import ShapeError
from geo3d.topology.grids import Pixels
from geo3d.topology.losses.betti_matching import betti_matching_cost
from geo3d.topology.matching import Matching, match_features
from geo3d.topology.merging import cavity_merges, component_merges, stack
from geo3d.topology.metrics import betti_errors, betti_matching_errors
from geo3d.topology.persistence import persistence
from geo3d.topology.shared_tunnels import shared_tunnels

READINGS: tuple[Pixels, ...] = ("cells", "vertices")
Levels = tuple[float, ...]


def lasting(first: np.ndarray, second: np.ndarray) -> list[tuple[float, float]]:
    return sorted((float(b), float(d)) for b, d in zip(first, second, strict=True) if b != d)


@pytest.mark.parametrize("pixels", READINGS)
@pytest.mark.parametrize("space", [(7, 9), (1, 6), (4, 5, 6)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_merges_of_a_stack_are_the_pairs_of_each_item(
    pixels: Pixels, space: tuple[int, ...], dtype: type
) -> None:
    values = np.random.default_rng(0).normal(size=(3, *space)).astype(dtype)
    values[1] = np.round(values[1])
    flat, size = values.ravel(), values[0].size
    sorted_stack = stack(values)
    components = component_merges(sorted_stack, pixels)
    holes = cavity_merges(sorted_stack, pixels)
    for item in range(3):
        expected = persistence(values[item], pixels, superlevel=True)
        here = components.at // size == item
        found = lasting(flat[components.began()][here], flat[components.at][here])
        assert found == lasting(expected[0].birth[:-1], expected[0].death[:-1])
        here = holes.at // size == item
        found = lasting(flat[holes.at][here], flat[holes.began()][here])
        assert found == lasting(expected[-1].birth, expected[-1].death)


@pytest.mark.parametrize("pixels", READINGS)
def test_absent_pixels_count_as_border(pixels: Pixels) -> None:
    values = np.random.default_rng(1).random((2, 6, 8)).astype(np.float32)
    present = np.ones(values.shape, dtype=bool)
    present[1, :, 5:] = False
    sorted_stack = stack(values, present)
    flat = values.ravel()
    expected = persistence(values[1, :, :5], pixels, superlevel=True)
    for merges, pairs in (
        (component_merges(sorted_stack, pixels), expected[0]),
        (cavity_merges(sorted_stack, pixels), expected[1]),
    ):
        here = merges.at >= 48
        ends = lasting(flat[merges.began()][here], flat[merges.at][here])
        stays = np.isfinite(pairs.death)
        wanted = zip(pairs.birth[stays], pairs.death[stays], strict=True)
        assert sorted(map(sorted, ends)) == sorted(sorted(map(float, pair)) for pair in wanted)


def cells_of(values: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Return the level at which each cell of the doubled grid appears."""
    if pixels == "cells":
        values = np.pad(values, 1, constant_values=-np.inf)
    wide = np.full([2 * n - 1 for n in values.shape], np.nan)
    pick = np.fmax if pixels == "cells" else np.fmin
    for at in np.ndindex(*wide.shape):
        beside = [(n // 2,) if n % 2 == 0 else (n // 2, n // 2 + 1) for n in at]
        wide[at] = pick.reduce([values[corner] for corner in product(*beside)])
    return wide[(slice(1, -1),) * wide.ndim] if pixels == "cells" else wide


class Complex:
    """A filtered complex with all its cells in order; dimensions count odd coordinates."""

    def __init__(self, values: np.ndarray, pixels: Pixels) -> None:
        self.level = cells_of(values, pixels)
        # Pixels are at even coordinates with "vertices" and at odd ones with "cells".
        self.dimension = {at: sum(n % 2 for n in at) for at in np.ndindex(*self.level.shape)}
        # Cells that appear with one pixel come in the order that `FIRST_MET` stands for.
        first = (
            (lambda at: tuple(-n for n in at)) if pixels == "vertices" else (lambda at: at[::-1])
        )
        ranked = sorted(
            self.dimension, key=lambda at: (-self.level[at], self.dimension[at], first(at))
        )
        self.rank = {at: k for k, at in enumerate(ranked)}

    def faces(self, at: tuple[int, ...]) -> list[tuple[int, ...]]:
        moved = [
            tuple(n + (k == axis) * step for k, n in enumerate(at))
            for axis in range(len(at))
            for step in (-1, 1)
        ]
        return [m for m in moved if self.dimension.get(m, -9) == self.dimension[at] - 1]


def reduce_pairs(rows: Complex, columns: Complex) -> dict[tuple, tuple]:
    """Return birth cell -> death cell, by reducing columns (in their order) over Z/2."""
    back = {k: at for at, k in rows.rank.items()}
    owner: dict[int, set[int]] = {}
    pairs = {}
    for at in sorted(columns.rank, key=columns.rank.__getitem__):
        column = {rows.rank[face] for face in columns.faces(at)}
        while column and max(column) in owner:
            column = column ^ owner[max(column)]
        if column:
            owner[max(column)] = column
            pairs[back[max(column)]] = at
    return pairs


def brute_force(f: np.ndarray, g: np.ndarray, pixels: Pixels) -> tuple[list[Levels], ...]:
    """Return matched, unmatched of f and unmatched of g in levels, for each dimension."""
    u = Complex(np.maximum(f, g), pixels)
    common = reduce_pairs(u, u)
    lasting_ends = {d: b for b, d in common.items() if u.level[b] > u.level[d]}
    seen_as, levels = [], []
    for values in (f, g):
        own = Complex(values, pixels)
        pairs = reduce_pairs(own, own)
        pairs = {b: d for b, d in pairs.items() if own.level[b] > own.level[d]}
        image = reduce_pairs(own, u)
        seen_as.append(
            {
                death: birth
                for birth, death in image.items()
                if birth in pairs and death in lasting_ends and own.level[birth] > u.level[death]
            }
        )
        levels.append({b: (own.level[b], own.level[d], own.dimension[b]) for b, d in pairs.items()})
    result: list[list[Levels]] = []
    both = seen_as[0].keys() & seen_as[1].keys()
    for dimension in range(f.ndim):
        matched = [levels[0][seen_as[0][d]] + levels[1][seen_as[1][d]] for d in both]
        result.append(sorted(m[:2] + m[3:5] for m in matched if m[2] == dimension))
        for k in (0, 1):
            taken = {seen_as[k][d] for d in both}
            rest = [v for b, v in levels[k].items() if b not in taken and v[2] == dimension]
            result.append(sorted(v[:2] for v in rest))
    return tuple(result)


def in_levels(f: np.ndarray, g: np.ndarray, found: Matching) -> tuple[list[Levels], ...]:
    a, b = f.ravel(), g.ravel()
    m = found.matched[found.matched[:, 1] >= 0]
    matched = zip(a[m[:, 0]], a[m[:, 1]], b[m[:, 2]], b[m[:, 3]], strict=True)
    alone = (
        zip(v[p[:, 0]], v[p[:, 1]], strict=True) for v, p in ((a, found.predicted), (b, found.true))
    )
    return tuple(sorted(tuple(map(float, row)) for row in rows) for rows in (matched, *alone))


@pytest.mark.parametrize("pixels", READINGS)
@pytest.mark.parametrize("seed", range(15))
def test_matching_is_that_of_matrix_reduction(pixels: Pixels, seed: int) -> None:
    rng = np.random.default_rng(seed)
    f = rng.random((5, 6))
    # Half of the truths look like the prediction, so that there is something to match.
    g = rng.random((5, 6)) if seed % 2 else f + 0.4 * rng.random((5, 6))
    found = match_features(f[None], g[None], pixels)
    expected = brute_force(f, g, pixels)
    assert in_levels(f, g, found[0]) == expected[:3]
    assert in_levels(f, g, found[1]) == expected[3:]


@pytest.mark.parametrize("pixels", READINGS)
@pytest.mark.parametrize("seed", range(7))
def test_matching_of_volumes_is_that_of_matrix_reduction(pixels: Pixels, seed: int) -> None:
    """With seeds in which no two features end at one voxel: partners would depend on the order."""
    rng = np.random.default_rng(30 + seed)
    f = rng.random((3, 4, 4))
    g = f + 0.05 * rng.normal(size=f.shape) if seed % 6 else rng.random(f.shape)
    found = match_features(f[None], g[None], pixels)
    expected = brute_force(f, g, pixels)
    for k in range(3):
        assert in_levels(f, g, found[k]) == expected[3 * k : 3 * k + 3]
    assert len(found[1].matched) or seed % 6 == 0


def rank(rows: Iterable[int]) -> int:
    """Return the rank over Z/2 of rows of bits."""
    kept: dict[int, int] = {}
    for row in rows:
        while row and row.bit_length() in kept:
            row ^= kept[row.bit_length()]
        if row:
            kept[row.bit_length()] = row
    return len(kept)


def cycles(columns: dict[tuple, int]) -> list[int]:
    """Return a basis of the sums of edges without ends; ends and edges as bits."""
    kept: dict[int, tuple[int, int]] = {}
    found = []
    for k, ends in enumerate(columns.values()):
        edges = 1 << k
        while ends and ends.bit_length() in kept:
            other = kept[ends.bit_length()]
            ends, edges = ends ^ other[0], edges ^ other[1]
        if ends:
            kept[ends.bit_length()] = (ends, edges)
        else:
            found.append(edges)
    return found


def tunnels_in_common(one: np.ndarray, two: np.ndarray, pixels: Pixels) -> int:
    """Return the dimension of what the tunnels of both masks share, by linear algebra."""
    both = Complex((one | two).astype(float), pixels)
    edges = [at for at in both.rank if both.dimension[at] == 1 and both.level[at] == 1]
    bit = {at: 1 << k for k, at in enumerate(edges)}
    filled = [
        sum(bit[face] for face in both.faces(at))
        for at in both.rank
        if both.dimension[at] == 2 and both.level[at] == 1
    ]
    own = []
    for mask in (one, two):
        here = Complex(mask.astype(float), pixels)
        mine = [at for at in edges if here.level[at] == 1]
        ends = {at: sum(1 << both.rank[end] for end in both.faces(at)) for at in mine}
        names = dict(enumerate(mine))
        own.append(
            [
                sum(bit[names[k]] for k in range(len(mine)) if cycle >> k & 1)
                for cycle in cycles(ends)
            ]
        )
    ranks = [rank(filled + extra) - rank(filled) for extra in (*own, own[0] + own[1])]
    return ranks[0] + ranks[1] - ranks[2]


@pytest.mark.parametrize("pixels", READINGS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.75])
def test_tunnels_in_common_are_those_of_linear_algebra(pixels: Pixels, share: float) -> None:
    rng = np.random.default_rng(int(100 * share))
    shared = 0
    for _ in range(8):
        one = rng.random((3, 4, 5)) < share
        two = one ^ (rng.random(one.shape) < 0.15)
        found = shared_tunnels(one, two, pixels)
        assert found == tunnels_in_common(one, two, pixels)
        shared += found
    assert shared or share == 0.3


def test_a_cut_ring_is_an_error_of_one_tunnel() -> None:
    """A ring in a volume, and the same ring cut (case `torus_cut_betti_matching_3d`)."""
    ring = np.zeros((5, 12, 12), dtype=bool)
    ring[1:4, 2:10, 2:10] = True
    ring[1:4, 4:8, 4:8] = False
    cut = ring.copy()
    cut[1:4, 2:4, 5:7] = False
    moved = np.roll(ring, 3, axis=2)
    for pixels in READINGS:
        assert betti_matching_errors(cut, ring, pixels) == (0, 1, 0)
        assert betti_matching_errors(ring, ring, pixels) == (0, 0, 0)
        # Two rings that overlap without sharing their hole are two tunnels, of which none is both.
        assert betti_matching_errors(ring, moved, pixels)[1] in (0, 2)
        cost = betti_matching_cost(
            *(torch.from_numpy(m[None].astype(np.float32)) for m in (cut, ring)),
            relative=False,
            pixels=pixels,
        )
        assert float(cost) == pytest.approx(1)


def test_one_of_two_blobs_is_matched_by_hand() -> None:
    f = np.array([[0.9, 0.1, 0.2, 0.1, 0.8]])
    g = np.array([[0.0, 0.0, 0.0, 0.0, 1.0]])
    components, holes = match_features(f[None], g[None])
    # The component that stays is matched though it began elsewhere.
    assert components.matched.tolist() == [[0, -1, 4, -1]]
    assert sorted(components.predicted.tolist()) == [[2, 3], [4, 1]]
    assert len(components.true) == len(holes.matched) == len(holes.predicted) == 0


def test_a_ring_is_matched_with_its_ring_only() -> None:
    ring = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]) == 0
    f, g = np.zeros((2, 5, 9))
    f[1:4, 1:4], f[1:4, 5:8] = 0.8 * ring, 0.6 * ring
    g[1:4, 1:4] = ring
    for pixels in READINGS:
        _, holes = match_features(f[None], g[None], pixels)
        assert [len(v) for v in (holes.matched, holes.predicted, holes.true)] == [1, 1, 0]
        birth, death, _, end = holes.matched[0]
        assert (f.ravel()[birth], death, end) == (0.8, 20, 20)


def test_items_do_not_mix() -> None:
    f, g = np.random.default_rng(3).random((2, 4, 6, 7)).astype(np.float32)
    whole = match_features(f, g)
    for k, found in enumerate(whole):
        for name in ("matched", "predicted", "true"):
            rows = [getattr(match_features(f[i : i + 1], g[i : i + 1])[k], name) for i in range(4)]
            moved = [np.where(r < 0, r, r + 42 * i) for i, r in enumerate(rows)]
            together = np.concatenate(moved)
            assert sorted(together.tolist()) == sorted(getattr(found, name).tolist())


def test_volumes_match_themselves() -> None:
    f = np.random.default_rng(4).random((1, 5, 6, 7)).astype(np.float32)
    for pixels in READINGS:
        for found in match_features(f, f, pixels):
            assert len(found.predicted) == len(found.true) == 0 < len(found.matched)
            assert np.array_equal(found.matched[:, :2], found.matched[:, 2:])


def masks(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


def test_the_metric_by_hand() -> None:
    one = masks("#....", ".....", "...##")
    two = masks("....#", ".....", "...#.")
    assert betti_matching_errors(one, two) == (2, 0)
    assert betti_errors(one, two) == (0, 0)
    ring = masks("###..", "#.#..", "###..")
    elsewhere = ring[:, ::-1]
    assert betti_matching_errors(ring, elsewhere) == (0, 2)
    assert betti_matching_errors(ring, ring) == (0, 0)
    assert betti_matching_errors(ring, ring | elsewhere) == (0, 1)
    cross = masks("#.", ".#")
    assert betti_matching_errors(cross, ~cross & False) == (1, 0)
    assert betti_matching_errors(cross, ~cross & False, "vertices") == (2, 0)
    assert betti_matching_errors(cross, cross | True, "vertices") == (1, 0)


def test_as_many_holes_as_possible_are_matched() -> None:
    two_holes = masks("#####", "#.#.#", "#####")
    wide_hole = masks("#####", "#...#", "#####")
    assert betti_matching_errors(two_holes, wide_hole) == (0, 1)
    cube = np.ones((3, 3, 5), dtype=bool)
    hollow = cube.copy()
    hollow[1, 1, 1], hollow[1, 1, 3] = False, False
    assert betti_matching_errors(hollow, cube) == (0, 0, 2)


@pytest.mark.parametrize("pixels", READINGS)
@pytest.mark.parametrize("space", [(14, 15), (7, 6, 8)])
def test_the_metric_is_a_symmetric_bound(pixels: Pixels, space: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    for _ in range(5):
        one, two = rng.random((2, *space)) < 0.55
        found = betti_matching_errors(one, two, pixels)
        assert found == betti_matching_errors(two, one, pixels)
        assert found == betti_matching_errors(one.T, two.T, pixels)
        assert found == betti_matching_errors(np.flip(one, 0), np.flip(two, 0), pixels)
        errors = betti_errors(one, two, pixels)
        for error, unmatched in zip(errors, found, strict=True):
            assert unmatched >= error and (unmatched - error) % 2 == 0


def test_the_metric_of_empty_and_full_masks() -> None:
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert betti_matching_errors(empty, empty) == betti_matching_errors(full, full) == (0, 0)
    assert betti_matching_errors(empty, full) == (1, 0)


def test_errors() -> None:
    mask = np.ones((3, 3), dtype=bool)
    with pytest.raises(ShapeError, match="unequal_shapes"):
        betti_matching_errors(mask, mask[:2])
    with pytest.raises(ShapeError, match="not_a_mask"):
        betti_matching_errors(mask * 3, mask)
