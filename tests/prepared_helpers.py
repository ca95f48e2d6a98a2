"""Prepared shapes with random contents: what the search computes from them is checked by hand."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from helpers import bumpy_sphere, icosphere

from geo3d.spectral.basis import Basis
from shape_matching.search.prepare import Prepared


def random_prepared(seed: int, k: int = 12, subdivisions: int = 1, samples: int = 30) -> Prepared:
    """Return a shape whose eigenfunctions, slopes and curvatures are random numbers."""
    mesh = bumpy_sphere(subdivisions, seed) if subdivisions else icosphere(0)
    v = mesh.n_vertices
    draw = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    basis = Basis(numbers(k).abs().cumsum(0), numbers(v, k), numbers(v).abs() + 0.1)
    chosen = torch.randperm(v, generator=draw)[:samples]
    return Prepared(
        mesh,
        basis,
        chosen,
        basis.evecs[chosen],
        numbers(k, 3),
        torch.nn.functional.normalize(numbers(len(chosen), 3), dim=1),
        (numbers(v, k), numbers(v, k)),
        numbers(v, 3),
        sp.identity(v, format="csr"),
        (),
    )


def nearest_rows(queries: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return for each query the nearest point, by all distances."""
    return ((queries[:, None] - points[None]) ** 2).sum(-1).argmin(axis=1)
