"""Warping loss: hand-worked masks, kept topology, plain simple-point test, gradients, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from geo3d.errors import InputError
from geo3d.topology.betti import betti_numbers
from geo3d.topology.grids import Pixels
from geo3d.topology.losses.critical import critical_pixels, warp, warping_loss


def bar(*gap: int) -> np.ndarray:
    mask = np.zeros((9, 20), dtype=bool)
    mask[3:6, 2:18] = True
    mask[:, list(gap)] = False
    return mask


def blobs(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(seed).random(shape)
    return np.asarray(ndimage.gaussian_filter(noise, 1.2)) > 0.5


def scores(mask: np.ndarray, strength: float = 4.0) -> torch.Tensor:
    half = torch.from_numpy(np.where(mask, strength, -strength).astype(np.float32)) / 2
    return torch.stack((-half, half), dim=-mask.ndim - 1)[None]


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_moved_edges_are_not_critical(shift: int) -> None:
    thick = np.asarray(ndimage.binary_dilation(bar(), iterations=1 + shift))
    assert not critical_pixels(bar(), thick).any()
    assert not critical_pixels(thick, bar()).any()


def test_a_gap_is_critical_in_its_middle() -> None:
    found = critical_pixels(bar(9, 10, 11), bar())
    rows, columns = np.nonzero(found)
    assert set(columns) <= {9, 10, 11} and set(rows) <= {3, 4, 5}
    assert 1 <= found.sum() <= 9
    # Closing what is critical connects the bar.
    assert betti_numbers(bar(9, 10, 11) | found) == (1, 0)


def test_a_bridge_is_critical() -> None:
    found = critical_pixels(bar(), bar(9, 10, 11))
    assert found.any() and betti_numbers(bar() & ~found) == (2, 0)


def test_a_false_hole_and_an_island_are_critical() -> None:
    holed, island = bar(), bar()
    holed[4, 9] = False
    island[7, 2] = True
    for predicted, at in ((holed, (4, 9)), (island, (7, 2))):
        found = critical_pixels(predicted, bar())
        assert found.sum() == 1 and found[at]


@pytest.mark.parametrize("pixels", ["cells", "vertices"])
@pytest.mark.parametrize("shape", [(30, 31), (11, 12, 13)])
def test_warping_keeps_the_topology(shape: tuple[int, ...], pixels: Pixels) -> None:
    for seed in range(4):
        one, two = blobs(seed, shape), blobs(seed + 10, shape)
        found = warp(one, one & ~two, two & ~one, pixels)
        assert betti_numbers(found, pixels) == betti_numbers(one, pixels)
        # Only listed pixels change, and nothing simple is left to flip.
        assert not ((found != one) & (one == two)).any()
        wrong = np.argwhere(found != two)
        assert (found != two).sum() < (one != two).sum()
        for at in wrong[:: max(1, len(wrong) // 12)]:
            flipped = found.copy()
            flipped[tuple(at)] = ~flipped[tuple(at)]
            if not _simple(found, tuple(at), pixels):
                continue
            raise AssertionError(f"{at} could still be flipped")


def _simple(mask: np.ndarray, at: tuple[int, ...], pixels: Pixels) -> bool:
    """Say by counting whether a pixel is simple: on a patch Betti numbers must not change."""
    padded = np.pad(mask, 1)
    patch = padded[tuple(slice(k, k + 3) for k in at)].copy()
    middle = (1,) * mask.ndim
    numbers = []
    for value in (False, True):
        patch[middle] = value
        inverse = ~patch
        corners: dict[bool, Pixels] = {True: "cells", False: "vertices"}
        other = corners[pixels == "vertices"]
        numbers.append((_touching(patch, pixels), _touching(inverse, other)))
    return numbers[1][1] == 1 and numbers[0][0] == 1


def _touching(patch: np.ndarray, pixels: Pixels) -> int:
    """Count the components beside the middle, the middle left out."""
    n = patch.ndim
    reach = np.abs(np.indices(patch.shape) - 1).sum(axis=0)
    allowed = patch & (reach > 0) & ((pixels == "cells") | (reach <= 2))
    structure = ndimage.generate_binary_structure(n, n if pixels == "cells" else 1)
    labels, _ = ndimage.label(allowed, structure)
    beside = labels[(reach > 0) & ((pixels == "cells") | (reach == 1))]
    return len(set(beside.tolist()) - {0})


def test_the_term_is_the_mean_over_critical_pixels() -> None:
    predicted, true = bar(9, 10, 11), bar()
    z = scores(predicted)
    critical = critical_pixels(predicted, true)
    expected = np.log1p(np.exp(4.0))
    found = warping_loss(z, torch.from_numpy(true)[None], lambd=1.0, lambda_dice=0.0)
    assert critical.any() and found.item() == pytest.approx(expected, rel=1e-6)
    assert warping_loss(scores(true), torch.from_numpy(true)[None], lambda_dice=0.0) == 0


def test_classes_are_judged_one_by_one_and_volumes_too() -> None:
    true = torch.from_numpy(np.where(bar(), 2, 0))[None]
    z = torch.zeros(1, 3, 9, 20)
    z[:, 0], z[0, 2] = 0.5, scores(bar(9))[0, 1]
    value = warping_loss(z.requires_grad_(), true, lambda_dice=0.0)
    value.backward()
    assert value.item() > 0 and z.grad is not None
    assert set(z.grad.abs().sum(dim=(0, 1)).nonzero()[:, 1].tolist()) == {9}
    volume = np.zeros((7, 8, 9), dtype=bool)
    volume[2:5, 2:6, 2:7] = True
    holed = volume.copy()
    holed[3, 4, 4] = False
    assert critical_pixels(holed, volume).sum() == 1
    found = warping_loss(scores(holed), torch.from_numpy(volume)[None], lambda_dice=0.0)
    assert found.item() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_gradients_keep_the_type_and_point_the_right_way(dtype: torch.dtype) -> None:
    z = scores(bar(9, 10)).to(dtype).requires_grad_()
    before = z.detach().clone()
    warping_loss(z, torch.from_numpy(bar())[None, None].long(), lambda_dice=0.0).backward()
    assert z.grad is not None and z.grad.dtype == dtype and torch.equal(z, before)
    assert float(z.grad[:, 1].max()) <= 0 < float(-z.grad[:, 1].min())


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 3, 4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 3, (1, 4, 3), generator=generator)
    soft = torch.softmax(torch.randn(1, 3, 4, 3, generator=generator), dim=1)
    for target in (labels, soft):
        assert torch.autograd.gradcheck(lambda x, t=target: warping_loss(x, t, lambd=1.0), (z,))


def test_errors() -> None:
    with pytest.raises(InputError, match="wrong_shape"):
        warping_loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64))
