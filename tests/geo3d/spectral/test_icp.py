"""Spectral ICP: fixed point, orthogonality, a plain loop."""

from __future__ import annotations

import numpy as np
import torch
from helpers import bumpy_sphere, moved, permuted, rotation

from geo3d.spectral.basis import eigenbasis
from geo3d.spectral.fmap import fmap_to_p2p, p2p_to_fmap
from geo3d.spectral.icp import icp


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_identity_stays() -> None:
    basis = eigenbasis(bumpy_sphere(2), 15)
    identity = torch.eye(15, dtype=torch.float64)
    torch.testing.assert_close(icp(identity, basis, basis, 3), identity, atol=1e-9, rtol=0)
    start = random(6, 6)
    assert torch.equal(icp(start, basis, basis, 0), start)


def test_singular_values_become_one() -> None:
    one, two = eigenbasis(bumpy_sphere(2), 15), eigenbasis(bumpy_sphere(2, seed=1), 15)
    for shape in ((12, 12), (10, 13), (13, 10)):
        found = icp(random(*shape), one, two, 2)
        assert found.shape == shape
        singular = torch.linalg.svdvals(found)
        torch.testing.assert_close(singular, torch.ones_like(singular), atol=1e-10, rtol=0)


def test_a_plain_loop_gives_the_same() -> None:
    one, two = eigenbasis(bumpy_sphere(1), 12), eigenbasis(bumpy_sphere(1, seed=1), 12)
    phi_1, phi_2 = one.evecs.numpy()[:, :7], two.evecs.numpy()[:, :8]
    fmap = np.eye(8, 7)
    for _ in range(3):
        embedded = phi_1 @ fmap.T
        images = [int(((embedded - row) ** 2).sum(axis=1).argmin()) for row in phi_2]
        fitted = np.linalg.lstsq(phi_2, phi_1[images], rcond=None)[0]
        u, _, vt = np.linalg.svd(fitted, full_matrices=False)
        fmap = u @ vt
    found = icp(torch.eye(8, 7, dtype=torch.float64), one, two, 3)
    np.testing.assert_allclose(found, fmap, atol=1e-10)


def test_a_noisy_map_improves() -> None:
    mesh = bumpy_sphere(2)
    copy, order = permuted(moved(mesh, rotation(2)))
    one, two = eigenbasis(mesh, 30), eigenbasis(copy, 30)
    truth = torch.from_numpy(order)
    start = p2p_to_fmap(truth, one, two) + 0.3 * random(30, 30)
    before, after = (
        float((fmap_to_p2p(fmap, one.evecs, two.evecs) == truth).double().mean())
        for fmap in (start, icp(start, one, two, 5))
    )
    assert before < 0.9 and after > 0.99
