"""What the feature network sees of a prepared shape: operators and input functions at points.

Notation: p points (all vertices, or the leading samples of `Prepared`), k eigenpairs, c channels,
X vertex positions.  On samples, spectral coefficients are read off by least squares.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.errors import InputError
from geo3d.spectral.descriptors import hks, unit_norm, wks
from shape_matching.prior.feature_network import Surface
from shape_matching.prior.zero_shot_config import Input
from shape_matching.search.prepare import Prepared

N_DESCRIPTORS = 128
DESCRIPTOR_EIGENPAIRS = 128
RIDGE = 1e-5
"""Added to the unit diagonal of the least squares on samples."""


@lru_cache(maxsize=8)
def surface(shape: Prepared, k: int, n_points: int | None) -> Surface:
    """Return the operators on the leading ``n_points`` samples, or on all vertices."""
    basis = shape.basis.truncate(k)
    if n_points is None:
        return Surface(
            basis.evals, basis.evecs, (basis.mass[:, None] * basis.evecs).T, _gradients(shape, k)
        )
    rows = shape.rows[:n_points, :k]
    axes = shape.gradients
    sampled = None if axes is None else (axes[0][:n_points, :k], axes[1][:n_points, :k])
    return Surface(basis.evals, rows, least_squares(rows), sampled)


def input_values(
    shape: Prepared, kind: Input, n_points: int | None, coordinates: Float[Tensor, "k 3"] | None
) -> Float[Tensor, "p c"]:
    """Return the network's input at the points.

    Args:
        coordinates: spectral coefficients of the positions for the "coordinates" inputs.

    Raises:
        InputError: ``zero_shot.no_initial_map`` when they are needed and not given.
    """
    parts = [
        _positions(shape, coordinates) if name == "coordinates" else _functions(shape, name)
        for name in kind.split("+")
    ]
    values = torch.cat(parts, dim=-1)
    return values if n_points is None else values[shape.samples[:n_points]]


def canonical(positions: Float[Tensor, "k 3"]) -> Float[Tensor, "k 3"]:
    """Turn spectral coefficients of positions into principal axes, so that no rotation is left.

    In each axis the coefficient of largest magnitude is positive, which may mirror the shape.
    """
    _, _, axes = torch.linalg.svd(positions[1:].double(), full_matrices=False)
    turned = positions.double() @ axes.T
    peaks = turned[1:].gather(0, turned[1:].abs().argmax(dim=0, keepdim=True))
    return (turned * torch.where(peaks < 0, -1.0, 1.0)).to(positions)


def _positions(shape: Prepared, coordinates: Tensor | None) -> Tensor:
    if coordinates is None:
        raise InputError(
            "zero_shot.no_initial_map",
            "The input 'coordinates' carries positions by an initial map, and none is given.",
            "Pass initial_fmaps, or choose the input xyz (aligned shapes) or wks.",
        )
    return shape.basis.evecs[:, : len(coordinates)] @ coordinates


def _functions(shape: Prepared, name: str) -> Tensor:
    if name == "xyz":
        return torch.from_numpy(shape.mesh.vertices.copy()).to(shape.rows)
    descriptor = {"wks": wks, "hks": hks}[name]
    basis = shape.basis.truncate(DESCRIPTOR_EIGENPAIRS)
    return unit_norm(descriptor(basis, N_DESCRIPTORS), basis.mass)


def _gradients(shape: Prepared, k: int) -> tuple[Tensor, Tensor] | None:
    return None if shape.slopes is None else (shape.slopes[0][:, :k], shape.slopes[1][:, :k])


def least_squares(rows: Float[Tensor, "p k"]) -> Float[Tensor, "k p"]:
    """Return the matrix that takes values at the points to spectral coefficients."""
    wide = rows.double()
    gram = wide.T @ wide
    gram = gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    return torch.linalg.solve(gram, wide.T).to(rows)
