"""Both directions at once against plain loops and against truth."""

from __future__ import annotations

import pytest
import torch
from helpers import bumpy_sphere, moved, permuted, rotation

from geo3d.errors import InputError
from geo3d.spectral.basis import Basis, eigenbasis
from geo3d.spectral.bijective import adjoint_p2p, bijective_zoomout, both_p2p
from geo3d.spectral.fmap import p2p_to_fmap


def pair(k: int, scale: float = 1.0) -> tuple[Basis, Basis, torch.Tensor]:
    """Return bases of a shape and of a moved, shuffled copy, and the true map."""
    mesh = bumpy_sphere(2)
    copy, order = permuted(moved(mesh, scale * rotation(1)), seed=3)
    return eigenbasis(mesh, k), eigenbasis(copy, k), torch.from_numpy(order)


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_adjoint_gives_the_same_at_every_scale(scale: float) -> None:
    one, two, truth = pair(30, scale)
    fmap_12 = p2p_to_fmap(truth, one, two)
    found = adjoint_p2p(fmap_12, one.evecs, two.evecs)
    assert torch.equal(found, truth)


def test_maps_in_both_bases_are_the_nearest_of_a_plain_loop() -> None:
    one, two, _ = pair(8)
    rng = torch.Generator().manual_seed(0)
    fmap_12, fmap_21 = (torch.randn(8, 8, dtype=torch.float64, generator=rng) for _ in range(2))
    p2p_21, p2p_12 = both_p2p(fmap_12, fmap_21, one, two)
    for row in (0, 17, 101):
        gap = (one.evecs @ fmap_12.T - two.evecs[row]).square().sum(1)
        gap = gap + (one.evecs - fmap_21 @ two.evecs[row]).square().sum(1)
        assert int(p2p_21[row]) == int(gap.argmin())
        gap = (two.evecs - fmap_12 @ one.evecs[row]).square().sum(1)
        gap = gap + (two.evecs @ fmap_21.T - one.evecs[row]).square().sum(1)
        assert int(p2p_12[row]) == int(gap.argmin())


def test_a_rough_map_is_refined_both_ways() -> None:
    one, two, truth = pair(40)
    noise = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = p2p_to_fmap(truth, one.truncate(6), two.truncate(6)) + 0.1 * noise
    fmap_12, p2p_21, p2p_12 = bijective_zoomout(start, start.T, one, two, 40, 4)
    assert fmap_12.shape == (40, 40)
    assert float((p2p_21 == truth).double().mean()) > 0.95
    there_and_back = p2p_21[p2p_12]
    assert float((there_and_back == torch.arange(len(there_and_back))).double().mean()) > 0.95


def test_the_fit_minimises_both_sides() -> None:
    one, two, _ = pair(12)
    fmap_12, _, _ = bijective_zoomout(torch.eye(12).double(), torch.eye(12).double(), one, two, 12)
    p2p_21, p2p_12 = both_p2p(torch.eye(12).double(), torch.eye(12).double(), one, two)

    def energy(fmap: torch.Tensor) -> float:
        there = two.mass[:, None] * (two.evecs @ fmap - one.evecs[p2p_21]).square()
        back = one.mass[:, None] * (two.evecs[p2p_12] @ fmap - one.evecs).square()
        return float(there.sum() + back.sum())

    rng = torch.Generator().manual_seed(1)
    for _ in range(5):
        change = 1e-3 * torch.randn(12, 12, dtype=torch.float64, generator=rng)
        assert energy(fmap_12) < energy(fmap_12 + change)


def test_bases_must_be_large_enough() -> None:
    one, two, _ = pair(10)
    with pytest.raises(InputError) as caught:
        bijective_zoomout(torch.eye(5).double(), torch.eye(5).double(), one, two, 20)
    assert caught.value.code == "zoomout.bad_sizes"
