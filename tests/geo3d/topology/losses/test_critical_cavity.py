"""Cavity loss: leaks, walls, filled and false holes by hand, volumes, gradients, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from geo3d.errors import ConfigError
from geo3d.topology.betti import betti_numbers
from geo3d.topology.grids import Pixels
from geo3d.topology.losses.critical import cavity_loss, leaks_and_walls


def ring() -> np.ndarray:
    mask = np.zeros((15, 17), dtype=bool)
    mask[3:12, 3:14] = True
    mask[6:9, 6:11] = False
    return mask


def critical(predicted: np.ndarray, true: np.ndarray, pixels: Pixels = "cells") -> np.ndarray:
    return leaks_and_walls(predicted, true, np.where(predicted, 0.9, 0.1), pixels)


def test_right_topology_has_no_critical_pixel() -> None:
    wide = ndimage.binary_dilation(ring())
    for predicted in (ring(), wide, ndimage.binary_erosion(ring())):
        assert not critical(predicted, ring()).any()


@pytest.mark.parametrize("pixels", ["cells", "vertices"])
def test_a_leak_is_closed_where_the_floods_meet(pixels: Pixels) -> None:
    broken = ring()
    broken[3:6, 7:10] = False
    found = critical(broken, ring(), pixels)
    assert found.any() and not (found & (broken | ~ring())).any()
    assert betti_numbers(broken, pixels) == (1, 0)
    assert betti_numbers(broken | found, pixels) == (1, 1)


def test_a_false_hole_is_filled_and_a_filled_hole_dug() -> None:
    holed, filled = ring(), ring()
    holed[4, 4:6] = False
    filled[6:9, 6:11] = True
    assert np.array_equal(critical(holed, ring()), holed != ring())
    assert np.array_equal(critical(filled, ring()), filled != ring())


@pytest.mark.parametrize("pixels", ["cells", "vertices"])
def test_a_false_wall_is_opened_by_one_path(pixels: Pixels) -> None:
    walled = ring()
    walled[6:9, 7:10] = True
    found = critical(walled, ring(), pixels)
    assert found.sum() == 3 and not (found & (ring() | ~walled)).any()
    assert betti_numbers(walled, pixels) == (1, 2)
    assert betti_numbers(walled & ~found, pixels) == (1, 1)


def test_the_weakest_place_of_a_wall_is_opened() -> None:
    walled = ring()
    walled[6:9, 7:10] = True
    p = np.where(walled, 0.9, 0.1)
    p[8, 7:10] = 0.6
    found = leaks_and_walls(walled, ring(), p)
    assert np.argwhere(found).tolist() == [[8, 7], [8, 8], [8, 9]]


def test_islands_and_gaps_that_enclose_nothing_are_not_its_business() -> None:
    island = ring()
    island[1, 1] = True
    assert not critical(island, ring()).any()


@pytest.mark.parametrize("seed", range(4))
def test_repairing_the_critical_pixels_repairs_the_holes(seed: int) -> None:
    noise = np.random.default_rng(seed).random((2, 40, 40))
    true, predicted = (ndimage.gaussian_filter(n, 1.5) > 0.5 for n in noise)
    p = np.asarray(predicted, dtype=float)
    wrong = _hole_errors(predicted, true)
    now = predicted
    for _ in range(20):
        found = leaks_and_walls(now, true, p)
        assert not (found & (now == true)).any()
        now = np.where(found, true, now)
    assert _hole_errors(now, true) < wrong


def _hole_errors(predicted: np.ndarray, true: np.ndarray) -> int:
    return abs(betti_numbers(predicted)[1] - betti_numbers(true)[1])


def test_volumes() -> None:
    true = np.zeros((9, 9, 9), dtype=bool)
    true[2:7, 2:7, 2:7] = True
    true[4, 4, 4] = False
    leaking = true.copy()
    leaking[4, 4, 4:] = False
    found = critical(leaking, true)
    assert np.argwhere(found).tolist() in ([[4, 4, 5]], [[4, 4, 6]], [[4, 4, 5], [4, 4, 6]])
    assert betti_numbers(leaking | found)[2] == 1


def scores(mask: np.ndarray) -> torch.Tensor:
    half = torch.from_numpy(np.where(mask, 1.0, -1.0).astype(np.float32))
    return torch.stack((-half, half))[None]


def test_the_loss_is_the_mean_over_critical_pixels() -> None:
    broken = ring()
    broken[3:6, 8] = False
    z = scores(broken).requires_grad_()
    label = torch.from_numpy(ring())[None]
    value = cavity_loss(z, label, lambda_ce=0.0, lambda_dice=0.0)
    value.backward()
    assert value.item() == pytest.approx(np.log1p(np.exp(2.0)), rel=1e-6)
    assert z.grad is not None and set(z.grad.nonzero()[:, 3].tolist()) == {8}
    whole = cavity_loss(z, label, alpha=0.0)
    assert cavity_loss(z, label, alpha=2.0).item() == pytest.approx(
        whole.item() + 2 * value.item(), rel=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    broken = ring()
    broken[3:6, 8] = False
    z = scores(broken).to(dtype).requires_grad_()
    cavity_loss(z, torch.from_numpy(ring())[None]).backward()
    assert z.grad is not None and z.grad.dtype == dtype and bool(torch.isfinite(z.grad).all())


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64).requires_grad_()
    label = torch.randint(0, 3, (1, 4, 4), generator=generator)
    assert torch.autograd.gradcheck(lambda x: cavity_loss(x, label), (z,))


def test_errors() -> None:
    with pytest.raises(ConfigError, match="not_published"):
        cavity_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), compat=True)
