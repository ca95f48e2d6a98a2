"""Mesh extraction by FlexiCubes, on any set of cubes: differentiable dual marching cubes.

A patch of surface within a cube (`scenes.objects.flexicubes_tables`) gets one vertex, a weighted
mean of the points where the surface crosses the cube's edges; each crossed edge with four cubes
around it gives a quad.  Only cubes that the surface passes matter, so only those are handed in and
memory follows the surface, not the volume.

Notation: f cubes, v grid points, k pairs (cube, crossed edge), d patches = vertices, q quads,
c attributes.  Inside is where the scalar is negative; triangles turn counter-clockwise seen from
outside.

Source: Shen et al., "Flexible Isosurface Extraction for Gradient-Based Mesh Optimization"
(FlexiCubes, 2023); as in TRELLIS (2024) without the step that fits vertices to normals.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geo3d.errors import ShapeError
from scenes.objects.flexicubes_tables import CORNERS, EDGES, tables

WEIGHTS = 21
"""Channels of a cube's weights: 12 of edges, 8 of corners, 1 of quads."""
_RANGE = 0.99
"""How near the weights come to the ends of their ranges."""
_TINY = 1e-8


class Cubes(NamedTuple):
    """Cubes of a regular grid and the points at their corners."""

    coords: Int[Tensor, "f 3"]
    """(x, y, z) of each cube, distinct and ascending."""
    corners: Int[Tensor, "f 8"]
    """The grid point at each corner, ordered like `CORNERS`."""


class Surface(NamedTuple):
    """A triangle mesh, and how far its vertices are from the crossings they stand for."""

    vertices: Float[Tensor, "d 3"]
    faces: Int[Tensor, "t 3"]
    deviations: Float[Tensor, " k"]
    """For each crossing, its distance to its vertex less the mean distance there, without sign."""
    attributes: Float[Tensor, "d c"] | None


class _Crossings(NamedTuple):
    """Pairs of a cube and an edge of it that the surface crosses, by cube."""

    cube: Int[Tensor, " k"]
    edge: Int[Tensor, " k"]
    ends: Int[Tensor, "k 2"]
    """Grid points."""
    vertex: Int[Tensor, " k"]
    """The patch, numbered over all cubes."""


def split_weights(
    weights: Float[Tensor, "f 21"],
) -> tuple[Float[Tensor, "f 12"], Float[Tensor, "f 8"], Float[Tensor, " f"]]:
    """Return the raw weights of edges (beta), corners (alpha) and quads (gamma)."""
    return weights[:, :12], weights[:, 12:20], weights[:, 20]


def crossed(scalars: Float[Tensor, " v"], corners: Int[Tensor, "f 8"]) -> Bool[Tensor, " f"]:
    """Return which cubes have corners of both signs."""
    count = (scalars < 0)[corners].sum(1)
    return (count > 0) & (count < 8)


def flexicubes(
    points: Float[Tensor, "v 3"],
    scalars: Float[Tensor, " v"],
    cubes: Cubes,
    weights: Float[Tensor, "f 21"] | None = None,
    attributes: Float[Tensor, "v c"] | None = None,
    *,
    training: bool = False,
) -> Surface:
    """Return the surface where the scalars change sign.

    Cubes without both signs are left out.  With ``training`` each quad becomes four triangles
    around a weighted centre, through which the quads' weights get gradients; else two, along the
    diagonal with the larger product of weights.

    Args:
        points: the (deformed) grid points.
        scalars: signed distance at the grid points, negative inside.
        cubes: the cubes to look at.
        weights: raw weights per cube, see `split_weights`; None weighs all alike.
        attributes: values at the grid points to carry over to the vertices.
        training: see above.

    Raises:
        ShapeError: ``flexicubes.wrong_shape``.
    """
    _check(points, scalars, cubes, weights)
    kept = crossed(scalars, cubes.corners).nonzero()[:, 0]
    cubes = Cubes(cubes.coords[kept], cubes.corners[kept])
    crossings, count = _find_crossings(scalars, cubes)
    beta, alpha, gamma = _activate(scalars, weights, kept)

    ends = torch.tensor(EDGES, device=kept.device)[crossings.edge]
    plain = scalars[crossings.ends]
    share = _shares(plain * alpha[crossings.cube[:, None], ends])
    weight = beta[crossings.cube, crossings.edge][:, None]
    total = _sum(weight, crossings.vertex, count)

    def at_vertices(values: Tensor) -> Tensor:
        at_crossings = (values[crossings.ends] * share).sum(1)
        return _sum(weight * at_crossings, crossings.vertex, count) / total

    vertices = at_vertices(points)
    carried = None if attributes is None else at_vertices(attributes)
    on_edges = (points[crossings.ends] * _shares(plain)).sum(1)
    deviations = _deviations(on_edges, vertices, crossings.vertex)
    quads = _quads(scalars, crossings)
    gamma = gamma[crossings.cube.new_zeros(count).index_copy(0, crossings.vertex, crossings.cube)]
    if not training:
        return Surface(vertices, _two_triangles(quads, gamma), deviations, carried)
    faces, vertices, carried = _four_triangles(quads, gamma, vertices, carried)
    return Surface(vertices, faces, deviations, carried)


def dense_cubes(resolution: int, device: torch.device | None = None) -> Cubes:
    """Return all cubes of a grid with ``resolution + 1`` points along each edge, z fastest."""
    axis = torch.arange(resolution, device=device)
    coords = torch.cartesian_prod(axis, axis, axis)
    return Cubes(coords, corner_keys(coords, resolution))


def corner_keys(coords: Int[Tensor, "f 3"], resolution: int) -> Int[Tensor, "f 8"]:
    """Return the number of each corner among the grid's ``(resolution + 1)**3`` points."""
    steps = torch.tensor(CORNERS, device=coords.device)
    x, y, z = (coords.long()[:, None] + steps).unbind(2)
    return (x * (resolution + 1) + y) * (resolution + 1) + z


def _find_crossings(scalars: Tensor, cubes: Cubes) -> tuple[_Crossings, int]:
    device = scalars.device
    inside = (scalars < 0)[cubes.corners].long()
    case = (inside << torch.arange(8, device=device)).sum(1)
    table = tables()
    patch = torch.from_numpy(table.patch).to(device)
    patches = torch.from_numpy(table.patches).to(device).long()
    case = _resolve_conflicts(case, cubes.coords, torch.from_numpy(table.conflict).to(device))
    patch_of_edge, numbers = patch[case], patches[case]
    cube, edge = (patch_of_edge >= 0).nonzero(as_tuple=True)
    first = numbers.cumsum(0) - numbers
    ends = torch.tensor(EDGES, device=device)[edge]
    return _Crossings(
        cube=cube,
        edge=edge,
        ends=cubes.corners[cube[:, None], ends],
        vertex=first[cube] + patch_of_edge[cube, edge],
    ), int(numbers.sum())


def _resolve_conflicts(
    case: Int[Tensor, " f"], coords: Int[Tensor, "f 3"], table: Int[Tensor, "256 3"]
) -> Int[Tensor, " f"]:
    """Change to the opposite case where both cubes at an ambiguous face are in conflict."""
    step = table[case].long()
    suspects = step.any(1).nonzero()[:, 0]
    if len(suspects) < 2:
        return case
    size = int(coords.max()) + 3
    scale = torch.tensor([size * size, size, 1], device=coords.device)
    # One more on each side keeps neighbours of the outermost cubes from wrapping around.
    here = ((coords[suspects].long() + 1) * scale).sum(1)
    there = here + (step[suspects] * scale).sum(1)
    both = suspects[torch.isin(there, here)]
    return case.index_copy(0, both, 255 - case[both])


def _activate(
    scalars: Tensor, weights: Tensor | None, kept: Int[Tensor, " f"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return positive weights of the kept cubes' edges, corners and quads."""
    if weights is None:
        one = scalars.new_ones(len(kept), 12)
        return one, one[:, :8], one[:, 0]
    beta, alpha, gamma = split_weights(weights[kept])
    return (
        beta.tanh() * _RANGE + 1,
        alpha.tanh() * _RANGE + 1,
        gamma.sigmoid() * _RANGE + (1 - _RANGE) / 2,
    )


def _shares(scalars: Float[Tensor, "k 2"]) -> Float[Tensor, "k 2 1"]:
    """Return the weights of an edge's ends where the line through their scalars is zero."""
    share = scalars / (scalars - scalars.flip(1))
    return share.flip(1)[..., None]


def _sum(values: Float[Tensor, "k c"], index: Int[Tensor, " k"], count: int) -> Tensor:
    return values.new_zeros(count, values.shape[1]).index_add(0, index, values)


def _deviations(on_edges: Tensor, vertices: Tensor, index: Tensor) -> Float[Tensor, " k"]:
    distance = (on_edges - vertices[index]).norm(dim=1, keepdim=True)
    number = _sum(torch.ones_like(distance), index, len(vertices))
    mean = _sum(distance, index, len(vertices)) / number
    return (distance - mean[index]).abs()[:, 0]


def _quads(scalars: Tensor, crossings: _Crossings) -> Int[Tensor, "q 4"]:
    """Return the four vertices around each edge that has all its cubes, seen from outside."""
    low, high = crossings.ends.amin(1), crossings.ends.amax(1)
    # An edge is its two points; cubes are ascending, and a stable sort keeps them so.
    key = low * (int(crossings.ends.max()) + 1 if len(low) else 1) + high
    order = key.argsort(stable=True)
    _, counts = key[order].unique_consecutive(return_counts=True)
    start = (counts.cumsum(0) - counts)[counts == 4]
    rows = order[start[:, None] + torch.arange(4, device=key.device)]
    vertex = crossings.vertex[rows]
    outwards = scalars[crossings.ends[rows[:, 0], 0]] < 0
    # Ascending cubes 0 1 2 3 lie around the edge in the order 0 1 3 2.
    return torch.where(outwards[:, None], vertex[:, [2, 3, 1, 0]], vertex[:, [0, 1, 3, 2]])


def _two_triangles(quads: Int[Tensor, "q 4"], gamma: Float[Tensor, " d"]) -> Int[Tensor, "t 3"]:
    a, b, c, d = quads.unbind(1)
    first = (gamma[a] * gamma[c] > gamma[b] * gamma[d])[:, None]
    along_ac = torch.stack([a, b, c, a, c, d], dim=1)
    along_bd = torch.stack([a, b, d, d, b, c], dim=1)
    return torch.where(first, along_ac, along_bd).reshape(-1, 3)


def _four_triangles(
    quads: Int[Tensor, "q 4"], gamma: Tensor, vertices: Tensor, attributes: Tensor | None
) -> tuple[Int[Tensor, "t 3"], Tensor, Tensor | None]:
    a, b, c, d = quads.unbind(1)
    ac, bd = (gamma[a] * gamma[c])[:, None], (gamma[b] * gamma[d])[:, None]

    def with_centres(values: Tensor) -> Tensor:
        middle_ac, middle_bd = (values[a] + values[c]) / 2, (values[b] + values[d]) / 2
        return torch.cat([values, (ac * middle_ac + bd * middle_bd) / (ac + bd + _TINY)])

    centre = torch.arange(len(quads), device=quads.device) + len(vertices)
    sides = [torch.stack([p, q, centre], dim=1) for p, q in ((a, b), (b, c), (c, d), (d, a))]
    faces = torch.stack(sides, dim=1).reshape(-1, 3)
    carried = None if attributes is None else with_centres(attributes)
    return faces, with_centres(vertices), carried


def _check(points: Tensor, scalars: Tensor, cubes: Cubes, weights: Tensor | None) -> None:
    number = len(cubes.coords)
    shapes = [tuple(points.shape), tuple(scalars.shape), tuple(cubes.corners.shape)]
    expected = [(len(scalars), 3), (len(scalars),), (number, 8)]
    if weights is not None:
        shapes.append(tuple(weights.shape))
        expected.append((number, WEIGHTS))
    if shapes != expected:
        raise ShapeError(
            "flexicubes.wrong_shape",
            f"Points, scalars, corners and weights are {shapes}, expected {expected}.",
            "Give one scalar per point, 8 corners and 21 weights per cube.",
        )
