"""Extraction: tables against their definition, closed manifolds, known shapes, derivatives."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from geo3d.errors import InputError, ShapeError
from scenes.objects.flexicubes import Cubes, corner_keys, dense_cubes, flexicubes
from scenes.objects.flexicubes_tables import CORNERS, EDGES, tables
from scenes.objects.slat_mesh import CubeLayout, extract_mesh
from scenes.objects.sparse import SparseTensor


def grid_points(resolution: int) -> torch.Tensor:
    axis = torch.linspace(-0.5, 0.5, resolution + 1, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis, axis)


def sphere(resolution: int, radius: float = 0.31) -> tuple[torch.Tensor, torch.Tensor]:
    points = grid_points(resolution)
    return points, points.norm(dim=1) - radius


def sorted_rows(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.round(9).T)]


def edge_uses(faces: torch.Tensor) -> Counter[tuple[int, int]]:
    """Count how often each directed edge is used."""
    ends = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).tolist()
    return Counter((a, b) for a, b in ends)


def volume(vertices: torch.Tensor, faces: torch.Tensor) -> float:
    a, b, c = vertices[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def test_hand_worked_cases() -> None:
    table = tables()
    assert table.patches[0] == table.patches[255] == 0
    # One corner inside: one patch across its three edges.
    around_0 = [edge for edge, ends in enumerate(EDGES) if 0 in ends]
    assert sorted(np.flatnonzero(table.patch[1] == 0)) == sorted(around_0)
    # Corners 0 and 3 are diagonal on the face z = 0 and are cut off from each other...
    assert table.patches[0b1001] == 2
    # ...while their complement, with outside corners 0 and 3, is joined between them.
    assert table.patches[255 - 0b1001] == 1
    assert table.conflict[255 - 0b1001].tolist() == [0, 0, -1]
    # The four corners of a chess pattern: four patches.
    assert table.patches[0b10010110 ^ 0xFF] == table.patches[0b10010110] == 4


def test_tables_are_even_under_the_symmetries_of_the_cube() -> None:
    table = tables()
    corner = {position: index for index, position in enumerate(CORNERS)}
    turned = [corner[(p[1], p[2], p[0])] for p in CORNERS]
    mirrored = [corner[(1 - p[0], p[1], p[2])] for p in CORNERS]
    for move in (turned, mirrored):
        for case in range(256):
            other = sum(1 << move[c] for c in range(8) if case >> c & 1)
            assert table.patches[case] == table.patches[other]
            assert np.abs(table.conflict[case]).sum() == np.abs(table.conflict[other]).sum()


def test_conflicts_are_the_two_known_classes() -> None:
    conflict = np.abs(tables().conflict).sum(1)
    inside = np.array([bin(case).count("1") for case in range(256)])
    assert Counter(inside[conflict == 1].tolist()) == {5: 24, 6: 12} and conflict.max() == 1


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_noise_gives_a_closed_oriented_surface(seed: int, training: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    resolution = 9
    values = torch.rand(resolution + 1, resolution + 1, resolution + 1, generator=generator) - 0.4
    rim = torch.ones_like(values, dtype=torch.bool)
    rim[1:-1, 1:-1, 1:-1] = False
    values[rim] = 1.0
    surface = flexicubes(
        grid_points(resolution).float(), values.flatten(), dense_cubes(resolution),
        training=training,
    )  # fmt: skip
    uses = edge_uses(surface.faces)
    # Each edge once in each direction: closed, oriented, and two triangles per edge.
    assert all(count == 1 and uses[b, a] == 1 for (a, b), count in uses.items())
    assert volume(surface.vertices, surface.faces) > 0


def test_without_the_conflict_rule_the_surface_would_not_be_a_manifold() -> None:
    """Two corners out of a wall of inside corners, on either side of one face."""
    values = -torch.ones(5, 5, 5)
    values[[0, -1]] = values[:, [0, -1]] = values[:, :, [0, -1]] = 1.0
    values[2, 2, 2] = values[2, 3, 3] = 1.0
    surface = flexicubes(grid_points(4).float(), values.flatten(), dense_cubes(4))
    uses = edge_uses(surface.faces)
    assert all(count == 1 and uses[b, a] == 1 for (a, b), count in uses.items())


def test_a_sphere_has_its_volume_area_and_genus() -> None:
    points, distance = sphere(32)
    surface = flexicubes(points, distance, dense_cubes(32))
    v, e, f = len(surface.vertices), len(edge_uses(surface.faces)) // 2, len(surface.faces)
    assert v - e + f == 2
    exact = 4 / 3 * np.pi * 0.31**3
    assert volume(surface.vertices, surface.faces) == pytest.approx(exact, rel=0.02)
    assert (surface.vertices.norm(dim=1) - 0.31).abs().max() < 0.1 / 32
    assert surface.deviations.max() < 1 / 32


def test_turning_the_field_turns_the_surface() -> None:
    points, distance = sphere(8)
    field = distance + 0.05 * points[:, 0]
    moved = field.reshape(9, 9, 9).permute(1, 2, 0).flatten()
    one = flexicubes(points, field, dense_cubes(8))
    two = flexicubes(points, moved, dense_cubes(8))
    first = one.vertices[:, [1, 2, 0]].numpy()
    assert np.allclose(sorted_rows(first), sorted_rows(two.vertices.numpy()))
    assert volume(one.vertices, one.faces) == pytest.approx(volume(two.vertices, two.faces))


def test_gradients_reach_points_scalars_and_weights() -> None:
    points, distance = sphere(2, 0.35)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(8, 21, dtype=torch.float64, generator=generator)

    def vertices(*arguments: torch.Tensor) -> torch.Tensor:
        p, s, w, a = arguments
        surface = flexicubes(p, s, dense_cubes(2), w, a, training=True)
        assert surface.attributes is not None
        pull = torch.arange(3, dtype=torch.float64)
        return (surface.vertices @ pull).sum() + surface.attributes.sum() + surface.deviations.sum()

    inputs = (points, distance, weights, points.sin())
    assert torch.autograd.gradcheck(vertices, [x.clone().requires_grad_() for x in inputs])


def test_a_subset_of_cubes_gives_the_same_surface() -> None:
    points, distance = sphere(12)
    cubes = dense_cubes(12)
    whole = flexicubes(points, distance, cubes)
    inside = (distance < 0)[cubes.corners].sum(1)
    kept = ((inside > 0) & (inside < 8)).nonzero()[:, 0]
    part = flexicubes(points, distance, Cubes(cubes.coords[kept], cubes.corners[kept]))
    assert torch.equal(part.faces, whole.faces) and torch.equal(part.vertices, whole.vertices)


def voxel_features(resolution: int, radius: float, thickness: float = 1.0) -> SparseTensor:
    """Return cubes near a sphere with its signed distance at their corners."""
    coords = dense_cubes(resolution).coords
    corners = coords[:, None] + torch.tensor(CORNERS)
    distance = (corners / resolution - 0.5).norm(dim=2) - radius
    near = distance.abs().amin(1) < thickness / resolution
    feats = torch.zeros(int(near.sum()), CubeLayout().channels)
    feats[:, :8] = distance[near] + 1 / resolution
    return SparseTensor(feats, torch.cat([torch.zeros(len(feats), 1), coords[near]], 1).int(), 1)


def test_cubes_with_a_hollow_inside_get_an_inner_wall() -> None:
    """Elsewhere is outside, so a shell of active cubes has a surface on both sides."""
    mesh = extract_mesh(voxel_features(24, 0.3), 24, CubeLayout())
    uses = edge_uses(mesh.faces)
    assert all(count == 1 and uses[b, a] == 1 for (a, b), count in uses.items())
    radii = mesh.vertices.norm(dim=1)
    assert radii.min() < 0.3 - 0.5 / 24 and (radii - 0.3).abs().min() < 1e-3


def test_mesh_of_voxels_equals_that_of_the_whole_grid() -> None:
    resolution, item = 16, voxel_features(16, 0.35)
    mesh = extract_mesh(item, resolution, CubeLayout())
    keys = corner_keys(item.coords[:, 1:], resolution)
    total = torch.zeros((resolution + 1) ** 3).index_add(
        0, keys.flatten(), (item.feats[:, :8] - 1 / resolution).flatten()
    )
    number = torch.bincount(keys.flatten(), minlength=len(total))
    field = torch.where(number > 0, total / number.clamp(min=1), 1.0)
    whole = flexicubes(grid_points(resolution).float(), field, dense_cubes(resolution))
    assert torch.equal(mesh.faces, whole.faces)
    torch.testing.assert_close(mesh.vertices, whole.vertices, rtol=0, atol=1e-6)
    assert mesh.attributes is not None
    torch.testing.assert_close(mesh.attributes, torch.full_like(mesh.attributes, 0.5))


def test_export_turns_y_up_and_refuses_nothing() -> None:
    mesh = extract_mesh(voxel_features(8, 0.3), 8, CubeLayout())
    exported = mesh.to_mesh()
    x, y, z = mesh.vertices.double().T
    assert np.array_equal(exported.vertices, torch.stack([x, z, -y], dim=1).numpy())
    assert exported.vertex_colors is not None and (exported.vertex_colors == 128).all()
    item = voxel_features(8, 0.3)
    empty = extract_mesh(item.replace(item.feats.abs() + 1), 8, CubeLayout(), training=True)
    assert len(empty.vertices) == 0 and empty.regularity is not None
    assert torch.isfinite(empty.regularity)
    with pytest.raises(InputError) as caught:
        empty.to_mesh()
    assert caught.value.code == "objects.empty_mesh"
    none = SparseTensor(item.feats[:0], item.coords[:0], 1)
    assert len(extract_mesh(none, 8, CubeLayout()).faces) == 0


def test_wrong_shapes_are_refused() -> None:
    points, distance = sphere(2)
    with pytest.raises(ShapeError) as caught:
        flexicubes(points, distance, dense_cubes(2), torch.zeros(7, 21))
    assert caught.value.code == "flexicubes.wrong_shape"
