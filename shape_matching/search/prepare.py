"""A shape made ready for matching: unit area, eigenbasis, samples, first derivatives at them.

Notation: v vertices, k eigenpairs, p samples in farthest-point order, so that any leading part of
them is itself an even sampling.  Gradients are taken in the tangent frame of each sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from geo3d.errors import MeshError
from geo3d.mesh.clouds import outward_normals, surface_edges
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.operators import (
    LaplacianKind,
    frames_about,
    gradient_operators,
    gradients_along,
    laplacian,
    tangent_frames,
)
from geo3d.mesh.ops import normalized
from geo3d.mesh.sampling import farthest_point_samples
from geo3d.spectral.basis import Basis, eigenbasis
from shape_matching.search.sound import FEWEST_VERTICES

CURVATURE_TIMES = (3e-4, 1e-3, 3e-3)
"""Heat flow times of the curvatures, in units of area: features of 2 to 5 % of the size stay."""
CURVATURE_LIMIT = 30.0
"""Largest mean curvature that counts, on a surface of unit area."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """One shape as the matcher sees it; tensors in float32 on the chosen device."""

    mesh: Mesh
    """Vertex mean at the origin, unit area, float64."""
    basis: Basis
    samples: Int64[Tensor, " p"]
    rows: Float[Tensor, "p k"]
    """Eigenvectors at the samples."""
    positions: Float[Tensor, "k 3"]
    """Spectral coefficients of the vertex positions."""
    normals: Float[Tensor, "p 3"]
    """Unit normals at the samples; those of point clouds are estimated (`geo3d.mesh.clouds`)."""
    slopes: tuple[Float[Tensor, "v k"], Float[Tensor, "v k"]]
    """Derivatives of the eigenvectors along both tangent axes."""
    curvature: Float[Tensor, "v r"]
    """Mean curvature, less and less smooth detail; each column has mean 0 and unit norm under the
    mass."""
    stiffness: sp.csr_matrix
    """The Laplacian (v, v) without mass, on the CPU."""
    notes: tuple[str, ...]

    @property
    def gradients(self) -> tuple[Float[Tensor, "p k"], Float[Tensor, "p k"]]:
        """Derivatives of the eigenvectors at the samples."""
        return self.slopes[0][self.samples], self.slopes[1][self.samples]


@lru_cache(maxsize=6)
def prepare(
    mesh: Mesh,
    k: int,
    n_samples: int,
    kind: LaplacianKind,
    device: torch.device,
    cache: bool = True,
) -> Prepared:
    """Make ``mesh`` ready; repeated calls with the same mesh object are remembered.

    Raises:
        MeshError: ``match.too_small`` below 50 vertices; errors of the Laplacian and eigenbasis.
    """
    if mesh.n_vertices < FEWEST_VERTICES:
        raise MeshError(
            "match.too_small",
            f"{mesh.name} has {mesh.n_vertices} vertices; matching needs {FEWEST_VERTICES}.",
            "Subdivide the mesh.",
        )
    unit = normalized(mesh)
    basis = eigenbasis(unit, min(k, mesh.n_vertices - 2), kind, cache=cache)
    if mesh.is_point_cloud:
        unit, basis = _unit_area(unit, basis)
    samples = farthest_point_samples(unit, min(n_samples, mesh.n_vertices))
    evecs = basis.evecs.numpy()
    stiffness = laplacian(unit, kind)[0]
    directions, (grad_x, grad_y) = _directions(unit)
    positions = basis.project(torch.from_numpy(unit.vertices.copy()))
    return Prepared(
        unit,
        basis.to(device=device, dtype=torch.float32),
        torch.from_numpy(samples).to(device),
        _tensor(evecs[samples], device),
        _tensor(positions.numpy(), device),
        _tensor(directions[samples], device),
        (_tensor(grad_x @ evecs, device), _tensor(grad_y @ evecs, device)),
        _tensor(_smooth_curvatures(stiffness, directions, unit, basis), device),
        stiffness,
        _notes(mesh, directions),
    )


def _directions(unit: Mesh) -> tuple[Float[np.ndarray, "v 3"], tuple[sp.csr_matrix, sp.csr_matrix]]:
    """Return the normals and the gradient along the surface; a cloud's are estimated."""
    normals = outward_normals(unit)
    if not unit.is_point_cloud:
        return normals, gradient_operators(unit, tangent_frames(unit))
    edges = surface_edges(unit.vertices, normals)
    return normals, gradients_along(unit.vertices, *edges, frames_about(normals))


def _smooth_curvatures(
    stiffness: sp.csr_matrix, normals: np.ndarray, unit: Mesh, basis: Basis
) -> Float[np.ndarray, "v r"]:
    """Return mean curvature after heat flow, shifted and scaled to mean 0 and unit norm.

    The mean curvature normal is L x / 2 mass; spikes of slivers are cut before smoothing.
    """
    mass = basis.mass.numpy()
    bend = ((stiffness @ unit.vertices) * normals).sum(axis=1) / (2 * mass)
    clipped = torch.from_numpy(bend.clip(-CURVATURE_LIMIT, CURVATURE_LIMIT))[:, None]
    times = torch.tensor(CURVATURE_TIMES).to(basis.evals)
    decay = torch.exp(-times * basis.evals[:, None])
    smooth = basis.reconstruct(decay * basis.project(clipped)).numpy()
    smooth = smooth - (mass @ smooth) / mass.sum()
    return smooth / np.sqrt(mass @ smooth**2).clip(min=1e-12)


def _unit_area(cloud: Mesh, basis: Basis) -> tuple[Mesh, Basis]:
    """Scale a point cloud, whose area only its Laplacian knows, so that it compares with meshes."""
    area = float(basis.mass.sum())
    scaled = Basis(basis.evals * area, basis.evecs * area**0.5, basis.mass / area)
    return replace(cloud, vertices=cloud.vertices / area**0.5), scaled


def _notes(mesh: Mesh, normals: np.ndarray) -> tuple[str, ...]:
    if not mesh.is_point_cloud:
        return ()
    if not normals.any():
        return (f"{mesh.name} is a point cloud: orientation cannot be used to tell symmetries.",)
    return (f"{mesh.name} is a point cloud: which side faces outwards is estimated.",)


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device)
