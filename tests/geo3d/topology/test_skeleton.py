"""Skeletons: hand-worked lines, a plain loop, kept topology, gradients, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from geo3d.errors import ConfigError, ShapeError
from geo3d.topology.betti import betti_numbers
from geo3d.topology.skeleton import (
    hard_skeleton,
    rounds_needed,
    soft_dilate,
    soft_erode,
    soft_skeleton,
    thin,
    tube,
)


def bar(width: int = 5) -> np.ndarray:
    mask = np.zeros((15, 25), dtype=bool)
    mask[5 : 5 + width, 3:22] = True
    return mask


def blobs(seed: int, shape: tuple[int, ...] = (40, 50)) -> np.ndarray:
    noise = np.random.default_rng(seed).random(shape)
    return np.asarray(ndimage.gaussian_filter(noise, 1.5)) > 0.5


def batch(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float64))[None, None]


def test_the_skeleton_of_a_bar_is_its_middle_line() -> None:
    for found in (hard_skeleton(bar()), thin(bar())):
        rows = np.unique(np.argwhere(found)[:, 0])
        assert 7 in rows and found[7, 8:17].all()
        assert found[:, 10].sum() == 1
    soft = soft_skeleton(batch(bar()), 3)[0, 0]
    assert soft[7, 6:19].all() and soft[:, 10].sum() == 1


def test_empty_masks_have_empty_skeletons() -> None:
    for shape in ((6, 7), (4, 5, 6)):
        empty = np.zeros(shape, dtype=bool)
        assert not hard_skeleton(empty).any() and not tube(empty).any()
        assert not soft_skeleton(batch(empty)).any()
        assert rounds_needed(empty) == rounds_needed(~empty) == 0
    assert not thin(np.zeros((6, 7), dtype=bool)).any()


@pytest.mark.parametrize("seed", range(4))
def test_thinning_keeps_topology_and_shrinks(seed: int) -> None:
    mask, before = blobs(seed), np.inf
    for rounds in (0, 1, 2, 5, 20):
        found = thin(mask, rounds)
        assert not (found & ~mask).any() and found.sum() <= before
        assert betti_numbers(found) == betti_numbers(mask)
        before = found.sum()
    assert before < 0.4 * mask.sum()
    assert betti_numbers(hard_skeleton(mask)) == betti_numbers(mask)


def test_a_tube_is_a_widened_skeleton_inside_the_mask() -> None:
    found = tube(bar(5), 1)
    assert found[:, 12].tolist() == [row in (6, 7, 8) for row in range(15)]
    assert np.array_equal(tube(bar(5), 0), hard_skeleton(bar(5)))
    assert not (tube(bar(3), 9) & ~bar(3)).any()


@pytest.mark.parametrize("shape", [(9, 8), (5, 6, 7)])
def test_pooling_is_grey_morphology(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).random(shape)
    cross = ndimage.generate_binary_structure(len(shape), 1)
    eroded = ndimage.grey_erosion(values, footprint=cross, mode="nearest")
    dilated = ndimage.grey_dilation(values, size=3, mode="nearest")
    np.testing.assert_array_equal(soft_erode(batch_of(values), (1,) * values.ndim)[0, 0], eroded)
    np.testing.assert_array_equal(soft_dilate(batch_of(values), (1,) * values.ndim)[0, 0], dilated)


def batch_of(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values)[None, None]


@pytest.mark.parametrize("shape", [(40, 50), (14, 15, 16)])
def test_rounds_needed_is_exact(shape: tuple[int, ...]) -> None:
    mask = blobs(1, shape)
    needed = rounds_needed(mask)
    assert needed >= 2
    finished = soft_skeleton(batch(mask), needed)
    assert torch.equal(finished, soft_skeleton(batch(mask), needed + 5))
    assert not torch.equal(finished, soft_skeleton(batch(mask), needed - 1))


def test_soft_skeletons_do_not_depend_on_batch_order_or_orientation() -> None:
    values = torch.rand(2, 3, 12, 14, generator=torch.Generator().manual_seed(0))
    found = soft_skeleton(values, 2)
    assert torch.equal(soft_skeleton(values.flip(0), 2), found.flip(0))
    assert torch.equal(soft_skeleton(values.transpose(2, 3), 2), found.transpose(2, 3))
    assert float(found.min()) >= 0 and float(found.max()) <= 1


@pytest.mark.parametrize("shape", [(1, 2, 6, 5), (1, 1, 4, 4, 3)])
def test_gradients(shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    # Distinct levels, so that no pool has two maxima.
    values = ((order.double() + 1) / (count + 1)).reshape(shape).requires_grad_()
    for rounds in (0, 2):
        weights = torch.linspace(0.5, 2, count, dtype=torch.float64).reshape(shape)
        assert torch.autograd.gradcheck(
            lambda x, n=rounds, w=weights: (soft_skeleton(x, n) * w).sum(), (values,), eps=1e-7
        )


def test_errors() -> None:
    with pytest.raises(ConfigError, match="bad_rounds"):
        soft_skeleton(torch.zeros(1, 1, 4, 4), -1)
    with pytest.raises(ConfigError, match="bad_rounds"):
        thin(bar(), -1)
    with pytest.raises(ConfigError, match="bad_rounds"):
        tube(bar(), -2)
    with pytest.raises(ShapeError, match="bad_dimensions"):
        soft_skeleton(torch.zeros(1, 4, 4))
    with pytest.raises(ShapeError, match="bad_dimensions"):
        thin(np.zeros((3, 3, 3), dtype=bool))
    with pytest.raises(ShapeError, match="not_a_mask"):
        hard_skeleton(np.full((3, 3), 2))
