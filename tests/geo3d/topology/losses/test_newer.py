"""Blob, Euler, centreline, Topograph, path and signed-distance loss, each beside a reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from apps.bench.topology_toys import descend, toys
from geo3d.errors import ConfigError, InputError
from geo3d.topology.betti import betti_numbers, euler_number
from geo3d.topology.losses.blob import blob_items, check_domain
from geo3d.topology.losses.catalogue import LOSSES
from geo3d.topology.losses.centreline import centreline_loss
from geo3d.topology.losses.euler import euler_density, euler_loss
from geo3d.topology.losses.options import as_batch
from geo3d.topology.losses.paths import cheapest_paths, path_items, skeleton_pieces
from geo3d.topology.losses.signed_distance import signed_distance_items, signed_distance_loss
from geo3d.topology.losses.topograph import critical_regions, topograph_loss

NEW = ("cl_ce", "blob", "euler", "signed_distance", "topograph", "cape")
TOYS = {toy.name: toy for toy in toys()}
DRAWS = np.random.default_rng(0)


def scores(p: np.ndarray) -> Tensor:
    """Return scores (1, 2, *space) whose softmax is p."""
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return torch.from_numpy(np.stack([np.log(1 - p), np.log(p)]))[None]


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("space", [(11, 12), (6, 7, 8)])
def test_gradients_are_those_of_finite_differences(name: str, space: tuple[int, ...]) -> None:
    row = LOSSES[name]
    if len(space) not in row.dimensions:
        pytest.skip("images only")
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, 2, *space, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = (torch.rand(2, *space, generator=generator) > 0.6).long()
    (slope,) = torch.autograd.grad(row.function(z, labels), z)
    for _ in range(5):
        way, step = torch.randn(z.shape, generator=generator, dtype=torch.float64), 1e-6
        with torch.no_grad():
            ahead, back = (row.function(z + s * step * way, labels) for s in (1, -1))
        assert float((ahead - back) / (2 * step)) == pytest.approx(
            float((slope * way).sum()), abs=1e-7
        )


@pytest.mark.parametrize(
    ("name", "repaired"),
    [
        ("cl_ce", "gap bridge broken_ring"),
        ("blob", "gap bridge broken_ring false_hole"),
        ("euler", "bridge broken_ring"),
        ("signed_distance", "gap bridge broken_ring false_hole"),
        ("topograph", "gap bridge broken_ring false_hole"),
        ("cape", "gap broken_ring"),
    ],
)
def test_what_each_term_repairs_alone(name: str, repaired: str) -> None:
    found = [toy.name for toy in TOYS.values() if descend(toy, name, 50).repaired]
    assert found == repaired.split()


def test_blobs_count_the_same_whatever_their_size() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:14, 2:14] = True
    mask[17, 17] = True
    without_small, without_large = mask.copy(), mask.copy()
    without_small[17, 17] = False
    without_large[2:14, 2:14] = False
    labels = torch.from_numpy(mask)[None].long()
    batches = [as_batch(scores(p), labels) for p in (mask, without_small, without_large)]
    whole, small, large = (float(blob_items(b)) for b in batches)
    assert whole == pytest.approx(-1, abs=1e-3)
    assert small == pytest.approx(large, abs=1e-3) and small == pytest.approx(-0.5, abs=1e-2)


def test_blob_term_beside_its_formula() -> None:
    p = DRAWS.random((12, 12))
    mask = ndimage.gaussian_filter(DRAWS.random((12, 12)), 1) > 0.52
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    dices = []
    for k in range(1, count + 1):
        here = (labels == 0) | (labels == k)
        top = 2 * p[labels == k].sum() + 1e-5
        dices.append(top / (p[here].sum() + (labels == k).sum() + 1e-5))
    found = blob_items(as_batch(scores(p), torch.from_numpy(mask)[None].long()))
    assert float(found) == pytest.approx(-np.mean(dices), abs=1e-5)


def test_a_false_blob_costs_the_component_beside_it_only() -> None:
    mask = np.zeros((9, 30), bool)
    mask[3:6, 2:5] = mask[3:6, 24:27] = True
    false = mask.copy()
    false[3:6, 7:10] = True
    labels = torch.from_numpy(mask)[None].long()
    every, near = (
        float(blob_items(as_batch(scores(false), labels), domain)) for domain in ("all", "nearest")
    )
    assert every == pytest.approx(-2 * 9 / 27, abs=1e-2)
    assert near == pytest.approx(-(2 * 9 / 27 + 1) / 2, abs=1e-2)


def test_without_a_component_there_is_no_blob_term() -> None:
    z = torch.randn(1, 2, 8, 8, requires_grad=True)
    blob_items(as_batch(z, torch.zeros(1, 8, 8).long())).sum().backward()
    assert z.grad is not None and not z.grad.any()


@pytest.mark.parametrize("space", [(9, 11), (5, 6, 7)])
def test_the_euler_number_of_masks(space: tuple[int, ...]) -> None:
    for density in (0.2, 0.5, 0.8):
        mask = DRAWS.random(space) < density
        found = euler_density(torch.from_numpy(mask).double()[None, None]).sum()
        assert float(found) == euler_number(mask)


def test_the_mean_over_levels_is_exact() -> None:
    p = np.round(DRAWS.random((7, 8)), 2)
    levels = (np.arange(100) + 0.5) / 100
    mean = np.mean([euler_number(p > level) for level in levels])
    assert float(euler_density(torch.from_numpy(p)[None, None]).sum()) == pytest.approx(mean)


def test_the_centreline_term_sees_gaps_and_false_lines() -> None:
    line = np.zeros((15, 31), bool)
    line[6:9] = True
    gap, extra = line.copy(), line.copy()
    gap[:, 14:17] = False
    extra[9:, 14:17] = True
    labels = torch.from_numpy(line)[None].long()
    values = [float(centreline_loss(scores(0.9 * p + 0.05), labels)) for p in (line, gap, extra)]
    assert values[0] < min(values[1:])


def reference_regions(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return critical pixels as the paper defines them, pixel by pixel and region by region."""
    p, t = np.pad(predicted, 1), np.pad(true, 1)
    wide, narrow = np.ones((3, 3)), ndimage.generate_binary_structure(2, 1)
    both, neither = ndimage.label(p & t, wide)[0], ndimage.label(~p & ~t, narrow)[0]
    critical = np.zeros(p.shape, bool)
    for part in (p & ~t, t & ~p):
        regions, count = ndimage.label(part, wide)
        for k in range(1, count + 1):
            near = np.unique(both[ndimage.binary_dilation(regions == k, wide)])
            beside = np.unique(neither[ndimage.binary_dilation(regions == k, narrow)])
            if (near > 0).sum() != 1 or (beside > 0).sum() != 1:
                critical |= regions == k
    return critical[1:-1, 1:-1]


def test_critical_regions_beside_a_plain_reference() -> None:
    for seed in range(30):
        draws = np.random.default_rng(seed)
        smooth = ndimage.gaussian_filter(draws.normal(size=(2, 14, 15)), (0, 1.2, 1.2))
        p, t = smooth[0] > 0, smooth[0] + 0.5 * smooth[1] > 0
        np.testing.assert_array_equal(critical_regions(p, t) > 0, reference_regions(p, t))


def test_no_critical_region_almost_always_means_the_same_topology() -> None:
    alike: list[bool] = []
    for seed in range(200):
        draws = np.random.default_rng(seed)
        smooth = ndimage.gaussian_filter(draws.normal(size=(12, 12)), 1.5)
        p, t = smooth > 0, smooth + 0.05 * draws.normal(size=(12, 12)) > 0
        if (p != t).any() and not critical_regions(p, t).any():
            alike.append(betti_numbers(p) == betti_numbers(t))
    assert len(alike) > 30 and np.mean(alike) > 0.9


def test_topograph_takes_images_only() -> None:
    with pytest.raises(InputError, match=r"loss\.images_only"):
        topograph_loss(torch.randn(1, 2, 4, 4, 4), torch.zeros(1, 4, 4, 4).long())


def test_a_path_leads_through_a_gap_and_not_around() -> None:
    line = np.zeros((17, 40), bool)
    line[7:10] = True
    p = np.where(line, 0.9, 0.1)
    p[:, 18:22] = 0.1
    p[8, 18:22] = 0.3
    pieces = skeleton_pieces(line)
    assert 2 <= len(pieces) <= 5
    path = cheapest_paths(p, line, pieces, (1.0, 1.0))
    assert path[8, 18:22].all() and path[:, 18:22].sum() == 4
    z = scores(p).requires_grad_()
    path_items(as_batch(z, torch.from_numpy(line)[None].long())).sum().backward()
    assert z.grad is not None
    assert set(map(tuple, np.argwhere(z.grad[0, 1].numpy() != 0))) == set(
        product([8], range(18, 22))
    )


def test_pieces_hang_together_as_the_skeleton_does() -> None:
    ring = TOYS["broken_ring"].true
    pieces = skeleton_pieces(ring)
    nodes = {tuple(end) for pair in pieces for end in pair}
    assert len(pieces) >= len(nodes) > 3
    assert not skeleton_pieces(np.zeros((5, 5), bool))


def test_signed_distances_beside_their_formula() -> None:
    bar = np.zeros((9, 15), bool)
    bar[2:7] = True
    rows = np.array([-1.5, -0.5, 0.5, 1.5, 2.5, 1.5, 0.5, -0.5, -1.5]) / 5
    p = np.broadcast_to((rows[:, None] + 1) / 2, bar.shape)
    batch = as_batch(scores(p), torch.from_numpy(bar)[None].long())
    exact = float(signed_distance_items(batch))
    off = float(signed_distance_items(as_batch(scores(0 * p + 0.5), batch.target)))
    assert 0 < exact < off
    assert math.isclose(float(signed_distance_items(batch, 1e9)) > exact, True)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (lambda z, t: check_domain("none"), "loss.bad_domain"),
        (lambda z, t: euler_loss(z, t, window=0), "loss.bad_window"),
        (lambda z, t: signed_distance_loss(z, t, reach=0), "loss.bad_reach"),
    ],
)
def test_slips_are_named(action: Callable[[Tensor, Tensor], object], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        action(torch.randn(1, 2, 8, 8), torch.zeros(1, 8, 8).long())
    assert caught.value.code == code
