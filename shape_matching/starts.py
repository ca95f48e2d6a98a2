"""What a match can start from besides vertices: functional maps and descriptors of other programs.

Notation as in `geo3d.spectral.fmap`: 1 is the source, 2 the target.  Both kinds become a vertex
map, which the matcher refines; bases of any unit serve, since the map is read off in the basis of
the source (`geo3d.spectral.bijective.adjoint_p2p`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d.errors import InputError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.operators import LaplacianKind
from geo3d.mesh.ops import normalized
from geo3d.spectral.basis import Basis, eigenbasis
from geo3d.spectral.bijective import adjoint_p2p
from geo3d.spectral.descriptors import unit_norm
from geo3d.spectral.fmap import resolvent_mask, solve_fmap

K_DESCRIPTORS = 40
"""Size of the map fitted to descriptors, where the bases are ours."""
MASK_WEIGHT = 1.0
"""Of the resolvent mask beside descriptors of unit norm; from 0.1 to 10 it makes no difference."""

Array = np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class FunctionalStart:
    """A functional map, or descriptors that correspond; one of them."""

    fmap_12: Array | None = None
    """(k2, k1); carries functions of the source to the target, as `Correspondence.fmap_12` does;
    pyFM's FM."""
    descriptors: tuple[Array, Array] | None = None
    """(n1, d) and (n2, d): the same d descriptors of all vertices of source and target."""
    bases: tuple[Basis, Basis] | None = None
    """Eigenfunctions on all vertices of source and target.  By default those of
    `geo3d.spectral.basis.eigenbasis` for the shapes scaled to unit area."""


def start_p2p(
    start: FunctionalStart, source: Mesh, target: Mesh, kind: LaplacianKind = "auto"
) -> Int64[np.ndarray, " n2"]:
    """Return p2p_21 of a start.

    Args:
        kind: of the Laplacian where bases are not given.

    Raises:
        InputError: ``match.bad_start`` where shapes of arrays do not fit, something is not finite,
            or not exactly one of map and descriptors is given.
    """
    if (start.fmap_12 is None) == (start.descriptors is None):
        raise _bad("it has both or neither of a functional map and descriptors")
    fmap_12 = None if start.fmap_12 is None else _numbers(start.fmap_12, "the functional map")
    k2, k1 = (K_DESCRIPTORS,) * 2 if fmap_12 is None else fmap_12.shape
    one, two = start.bases or (_own(source, k1, kind), _own(target, k2, kind))
    for basis, mesh in ((one, source), (two, target)):
        if basis.evecs.shape != (mesh.n_vertices, basis.k) or len(basis.mass) != mesh.n_vertices:
            raise _bad(
                f"a basis has {len(basis.evecs)} rows, {mesh.name} {mesh.n_vertices} vertices"
            )
    one, two = (basis.to(dtype=torch.float64, device="cpu") for basis in (one, two))
    if fmap_12 is None:
        assert start.descriptors is not None
        fmap_12 = _fitted(start.descriptors, one, two)
    elif one.k < k1 or two.k < k2:
        raise _bad(f"its map is {k2} by {k1}, its bases hold {two.k} and {one.k} functions")
    return adjoint_p2p(fmap_12, one.evecs, two.evecs).numpy()


def _own(mesh: Mesh, k: int, kind: LaplacianKind) -> Basis:
    return eigenbasis(normalized(mesh), min(k, mesh.n_vertices - 2), kind)


def _fitted(descriptors: tuple[Array, Array], one: Basis, two: Basis) -> Tensor:
    tables = [_numbers(table, "the descriptors") for table in descriptors]
    rows = [(len(basis.mass), tables[0].shape[1]) for basis in (one, two)]
    if [tuple(table.shape) for table in tables] != rows:
        found = " and ".join(str(tuple(table.shape)) for table in tables)
        raise _bad(f"descriptors of shapes {found} should be {rows[0]} and {rows[1]}")
    first, second = (
        basis.project(unit_norm(table, basis.mass / basis.mass.sum()))
        for table, basis in zip(tables, (one, two), strict=True)
    )
    # Coefficients grow with the root of the area; a map between areas does the same.
    first, second = first / one.mass.sum().sqrt(), second / two.mass.sum().sqrt()
    if not bool(torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise _bad("a descriptor is 0 everywhere")
    mask = resolvent_mask(one.evals * one.mass.sum(), two.evals * two.mass.sum())
    scale = (two.mass.sum() / one.mass.sum()).sqrt()
    return scale * solve_fmap(first, second, mask, MASK_WEIGHT)


def _numbers(array: Array, name: str) -> Float[Tensor, "_ _"]:
    tensor = torch.as_tensor(array).to(dtype=torch.float64, device="cpu")
    if tensor.ndim != 2 or not tensor.numel() or not bool(torch.isfinite(tensor).all()):
        raise _bad(f"{name} of shape {tuple(tensor.shape)} are no table of finite numbers")
    return tensor


def _bad(why: str) -> InputError:
    return InputError(
        "match.bad_start",
        f"The match cannot start like this: {why}.",
        "Give a functional map (k2, k1), or descriptors (n1, d) and (n2, d), with bases whose rows "
        "are the vertices of source and target.",
    )
