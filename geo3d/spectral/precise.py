"""Precise maps: vertices of the target land inside triangles of the source.

Notation as in `geo3d.spectral.fmap`; in the k-dimensional embedding the source is a triangle mesh
with vertices Phi_1 C^T, and every target vertex (a row of Phi_2) goes to its closest point on it.
No point of a triangle is further from its nearest corner than the longest edge over sqrt(3) (Jung),
so a triangle can only hold the closest point if its nearest corner is at most that much further
than the closest vertex, which leaves few triangles to project on.

Source: Ezuz and Ben-Chen 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

BLOCK_ENTRIES = 20_000_000
"""Numbers in the largest array held at once."""


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """Points on a mesh: a face and barycentric weights each."""

    face_ids: Int64[Tensor, " p"]
    barycentric: Float[Tensor, "p 3"]

    def interpolate(
        self, values: Float[Tensor, "v c"], faces: Int64[Tensor, "f 3"]
    ) -> Float[Tensor, "p c"]:
        """Return per-vertex values at the points."""
        return torch.einsum("pi,pic->pc", self.barycentric, values[faces[self.face_ids]])

    def nearest_vertices(self, faces: Int64[Tensor, "f 3"]) -> Int64[Tensor, " p"]:
        """Return the corner with the largest weight."""
        corner = self.barycentric.argmax(dim=1, keepdim=True)
        return faces[self.face_ids].gather(1, corner)[:, 0]


def precise_map(
    fmap_12: Float[Tensor, "k2 k1"],
    evecs_1: Float[Tensor, "v1 _"],
    evecs_2: Float[Tensor, "v2 _"],
    faces_1: Int64[Tensor, "f 3"],
) -> SurfacePoints:
    """Return for every vertex of 2 its closest point on the embedded triangles of 1."""
    k2, k1 = fmap_12.shape
    embedded, queries = evecs_1[:, :k1] @ fmap_12.T, evecs_2[:, :k2]
    corners = embedded[faces_1]
    reach = (corners - corners.roll(1, dims=1)).norm(dim=-1).amax(dim=1) / math.sqrt(3)
    block = max(1, BLOCK_ENTRIES // (3 * len(faces_1)))
    parts = [
        _closest(queries[i : i + block], embedded, faces_1, reach)
        for i in range(0, len(queries), block)
    ]
    return SurfacePoints(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _closest(
    queries: Tensor, embedded: Tensor, faces: Tensor, reach: Tensor
) -> tuple[Tensor, Tensor]:
    to_vertex = torch.cdist(queries, embedded)
    bound = to_vertex.amin(dim=1, keepdim=True)
    to_corner = to_vertex[:, faces].amin(dim=2)
    # a relative slack keeps the triangle of the nearest vertex in spite of rounding
    rows, candidates = torch.nonzero(to_corner <= (bound + reach) * (1 + 1e-5), as_tuple=True)
    size = max(1, BLOCK_ENTRIES // (12 * queries.shape[1]))
    parts = [
        _project(queries[rows[i : i + size]], embedded[faces[candidates[i : i + size]]])
        for i in range(0, len(rows), size)
    ]
    weights, distances = (torch.cat(column) for column in zip(*parts, strict=True))
    order = torch.argsort(distances, stable=True)
    order = order[torch.argsort(rows[order], stable=True)]
    first = torch.ones(len(order), dtype=torch.bool, device=rows.device)
    first[1:] = rows[order][1:] != rows[order][:-1]
    chosen = order[first]
    return candidates[chosen], weights[chosen]


def _project(points: Tensor, triangles: Tensor) -> tuple[Tensor, Tensor]:
    """Return barycentric weights of, and squared distances to, the closest points on triangles."""
    inside = _inner_weights(points, triangles)
    options = [torch.where((inside >= 0).all(1, keepdim=True), inside, torch.nan)]
    for i, j in ((0, 1), (1, 2), (2, 0)):
        edge = triangles[:, j] - triangles[:, i]
        length = edge.square().sum(1).clamp(min=torch.finfo(edge.dtype).tiny)
        along = (((points - triangles[:, i]) * edge).sum(1) / length).clamp(0, 1)
        weights = torch.zeros_like(inside)
        weights[:, i], weights[:, j] = 1 - along, along
        options.append(weights)
    stacked = torch.stack(options)
    landed = torch.einsum("opi,pic->opc", stacked, triangles)
    distances = (landed - points).square().sum(-1)
    distances = torch.where(distances.isnan(), torch.inf, distances)
    best = distances.argmin(dim=0)
    picked = torch.arange(len(points), device=points.device)
    return stacked[best, picked], distances[best, picked]


def _inner_weights(points: Tensor, triangles: Tensor) -> Tensor:
    u, v = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    w = points - triangles[:, 0]
    uu, uv, vv = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1)
    wu, wv = (w * u).sum(1), (w * v).sum(1)
    determinant = uu * vv - uv * uv
    # degenerate triangles have no interior; their edges are tried separately
    safe = torch.where(determinant > 0, determinant, torch.nan)
    second, third = (vv * wu - uv * wv) / safe, (uu * wv - uv * wu) / safe
    weights = torch.stack([1 - second - third, second, third], dim=1)
    return torch.where(weights.isnan(), -torch.ones_like(weights), weights)
