"""TOPO loss: hand-counted pairs, a brute-force count, what it pulls at, gradients, errors."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from geo3d.errors import ConfigError, InputError
from geo3d.topology.losses.windows import (
    LEVELS,
    region_weights,
    tiled,
    topo_window_loss,
    untiled,
)


def test_tiles_come_back_whole() -> None:
    values = np.arange(2 * 7 * 9).reshape(2, 7, 9)
    tiles = tiled(values, 4)
    assert tiles.shape == (2 * 2 * 3, 4, 4)
    assert np.array_equal(tiles[0], values[0, :4, :4]) and tiles[5, 3].tolist() == [0, 0, 0, 0]
    assert np.array_equal(untiled(tiles, values.shape), values)


def wall(gap_level: int) -> tuple[np.ndarray, np.ndarray]:
    """Return levels and line of a 3x3 window with a wall in the middle column."""
    near = np.zeros((1, 3, 3), dtype=bool)
    near[:, :, 1] = True
    levels = np.full((1, 3, 3), LEVELS)
    levels[near] = 0
    levels[0, 1, 1] = gap_level
    return levels, near


def test_all_pairs_leak_through_the_gap() -> None:
    levels, near = wall(600)
    leaks, blocks = region_weights(levels, near, np.ones_like(near), corners=False)
    # One edge into the gap joins nobody, the next one all 3 x 3 pairs.
    assert leaks[0, 1, 1] == pytest.approx(1) and leaks[0, [0, 2], 1].sum() == 0
    # Each region of three: its first edge joins one pair, its second two, of 6 in all.
    assert blocks[0, :, 1].sum() == 0
    assert blocks.sum() == pytest.approx(2)


def test_nothing_leaks_without_two_regions() -> None:
    near = np.zeros((1, 4, 4), dtype=bool)
    near[0, 1, 1] = True
    levels = np.zeros((1, 4, 4), dtype=np.int64)
    for line in (near, np.ones_like(near)):
        leaks, blocks = region_weights(levels, line, np.ones_like(near), corners=True)
        assert leaks.sum() == 0
        assert (blocks.sum() > 0) == (not line.all())


@pytest.mark.parametrize("corners", [False, True])
def test_pairs_are_those_of_the_best_paths(corners: bool) -> None:
    generator = np.random.default_rng(3)
    near = generator.random((1, 5, 5)) < 0.45
    levels = generator.permutation(np.arange(25) * 20).reshape(1, 5, 5)
    inside = np.ones_like(near)
    inside[0, :, 4] = False
    leaks, _ = region_weights(levels, near, inside, corners=corners)
    expected = brute_leaks(levels[0], near[0], inside[0], corners)
    np.testing.assert_allclose(leaks[0], expected, rtol=1e-6)


def brute_leaks(
    levels: np.ndarray, near: np.ndarray, inside: np.ndarray, corners: bool
) -> np.ndarray:
    """For each pair of pixels from two regions find the lowest edge of the best path."""
    at = [tuple(p) for p in np.argwhere(inside)]
    value = {p: (levels[p] if near[p] else LEVELS) for p in at}
    edges = [
        (value[p] + value[q], p, q)
        for p, q in combinations(at, 2)
        if max(abs(p[0] - q[0]), abs(p[1] - q[1])) == 1
        and (corners or abs(p[0] - q[0]) + abs(p[1] - q[1]) == 1)
    ]
    groups = {p: {p} for p in at}
    counts = np.zeros(levels.shape)
    region = {p: i for i, p in enumerate(at) if not near[p]}
    # Scan order among equals is by pixel, then by step: right, down, down-right, down-left.
    turn = {(0, 1): 0, (1, 0): 1, (1, 1): 2, (1, -1): 3}
    for _, p, q in sorted(edges, key=lambda e: (-e[0], e[1], turn[_step(e)])):
        if groups[p] is groups[q]:
            continue
        both = not near[p] and not near[q]
        if not both:
            ones, twos = ([region[x] for x in groups[y] if x in region] for y in (p, q))
            new = sum(a != b for a in ones for b in twos)
            counts[p] += new
            counts[q] += new
        joined = groups[p] | groups[q]
        if both:
            name = min(region[x] for x in joined if x in region)
            old = {region[p], region[q]}
            region.update({x: name for x in region if region[x] in old})
        for x in joined:
            groups[x] = joined
    return counts / max(counts.sum() / 2, 1)


def _step(edge: tuple[Any, tuple[Any, ...], tuple[Any, ...]]) -> tuple[int, int]:
    return edge[2][0] - edge[1][0], edge[2][1] - edge[1][1]


def lattice() -> torch.Tensor:
    label = torch.zeros(1, 40, 40, dtype=torch.int64)
    label[:, 10:13] = label[:, 27:30] = 1
    label[:, :, 10:13] = label[:, :, 27:30] = 1
    return label


def class_scores(label: torch.Tensor, strength: float = 3.0) -> torch.Tensor:
    half = (label.float() - 0.5) * strength
    return torch.stack((-half, half), dim=1)


def test_leaks_and_walls_are_pulled_at() -> None:
    z = class_scores(lattice())
    z[0, :, 10:13, 20] = z[0, :, 20, 20].unsqueeze(1)
    z[0, :, 13:27, 18] = z[0, :, 11, 11].unsqueeze(1)
    z.requires_grad_()
    topo_window_loss(z, lattice(), alpha=0.0, window=40).backward()
    assert z.grad is not None
    pull = -z.grad[0, 1]
    # The gap is filled and the wall opened; nothing else is pulled as hard.
    assert float(pull[10:13, 20].max()) == float(pull.max())
    assert float(pull[13:27, 18].min()) == float(pull.min()) < 0


def test_the_distance_channel_is_best_at_the_distances() -> None:
    from geo3d.topology.grids import distance_map

    best = np.minimum(distance_map(lattice()[0].numpy() == 0), 20)
    x = torch.from_numpy(best.astype(np.float32))[None, None]
    zero = topo_window_loss(x, lattice(), alpha=1.0, beta=0.0, window=40)
    assert zero.item() == pytest.approx(0, abs=1e-12)
    broken = x.clone()
    broken[0, 0, 8:15, 20] = 10.0
    leak = topo_window_loss(broken, lattice(), alpha=0.0, beta=0.0, window=40)
    # The share of the pairs that the gap joins, times the square of what is left there.
    assert leak.item() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_remainders_and_batches(dtype: torch.dtype) -> None:
    label = lattice()[:, :37, :33]
    z = class_scores(label).to(dtype).requires_grad_()
    value = topo_window_loss(z, label, window=16)
    value.backward()
    assert z.grad is not None and z.grad.dtype == dtype
    twice = topo_window_loss(torch.cat((z, z)), torch.cat((label, label)), window=16)
    assert twice.item() == pytest.approx(value.item(), rel=1e-5)
    soft = torch.nn.functional.one_hot(label, 2).movedim(-1, 1).float()
    assert topo_window_loss(z, soft, window=16).item() == pytest.approx(value.item(), rel=1e-6)


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64).requires_grad_()
    label = torch.randint(0, 3, (1, 4, 4), generator=generator)
    assert torch.autograd.gradcheck(lambda x: topo_window_loss(x, label, window=4), (z,))
    x = (8 * torch.rand(1, 1, 4, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    line = (label > 1).long()
    assert torch.autograd.gradcheck(lambda v: topo_window_loss(v, line, window=3), (x,))


def test_errors() -> None:
    image, volume = torch.zeros(1, 2, 6, 6), torch.zeros(1, 2, 4, 4, 4)
    label = torch.zeros(1, 6, 6, dtype=torch.int64)
    with pytest.raises(ConfigError, match="bad_window"):
        topo_window_loss(image, label, window=1)
    with pytest.raises(InputError, match="needs_one_channel"):
        topo_window_loss(image, label, compat=True)
    with pytest.raises(InputError, match="needs_images"):
        topo_window_loss(volume, torch.zeros(1, 4, 4, 4, dtype=torch.int64))
