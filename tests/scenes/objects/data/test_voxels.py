"""Surface cells against hand-worked cases, sampling, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import icosphere

from geo3d.errors import MeshError
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import total_area
from geo3d.mesh.sampling import uniform_samples
from geo3d.synth.objects.generate import generate_object
from geo3d.synth.objects.solids import box
from scenes.objects.data.voxels import coarser, cut_triangles, visible_shell, voxelize


def triangle(*corners: tuple[float, float, float]) -> Mesh:
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    return Mesh(np.array(corners, np.float64), np.array([[0, 1, 2]]), colors)


def test_a_triangle_in_one_cell() -> None:
    cells = voxelize(triangle((0.1, 0.1, 0.2), (0.4, 0.1, 0.2), (0.1, 0.4, 0.2)), 2)
    assert cells.coords.tolist() == [[1, 1, 1]]
    assert cells.colors.tolist() == [[85, 85, 85]]
    assert cells.normals.tolist() == [[0, 0, 127]]
    np.testing.assert_allclose(cells.points(), [[0.2, 0.2, 0.2]], atol=1 / 500)


def test_a_triangle_cut_in_two() -> None:
    # legs of length 0.8: the corner triangle beyond x = 0 has half the side, a quarter of the area
    mesh = triangle((-0.4, 0.1, 0.3), (0.4, 0.1, 0.3), (-0.4, 0.1 + 0.3, 0.3))
    cells = voxelize(mesh, 2)
    assert cells.coords.tolist() == [[0, 1, 1], [1, 1, 1]]
    # centroid of the small triangle: a third of the way from its legs
    np.testing.assert_allclose(cells.points()[1], [0.4 / 3, 0.1 + 0.15 / 3, 0.3], atol=1 / 500)
    # its colour there: barycentric coordinates (1/3, 2/3 .. ) worked out by hand
    np.testing.assert_allclose(cells.colors[1], 255 * np.array([1 / 6, 2 / 3, 1 / 6]), atol=1)


def test_pieces_add_up_to_the_surface() -> None:
    mesh = generate_object("car", 2).mesh
    r = 64
    sums = np.zeros((r**3, 10))
    corners = (mesh.vertices[mesh.faces] + 0.5) * r
    cut_triangles(corners, np.ones_like(corners), r, sums)
    assert sums[:, 0].sum() / r**2 == pytest.approx(total_area(mesh), rel=1e-9)


@pytest.mark.parametrize("kind", ["chair", "teapot", "quadruped"])
def test_every_sample_lies_in_an_active_cell(kind: str) -> None:
    mesh = generate_object(kind, 0).mesh
    cells = voxelize(mesh)
    rng = np.random.default_rng(0)
    points = mesh.vertices[mesh.faces]
    weights = rng.dirichlet([1, 1, 1], (20, mesh.n_faces))
    samples = np.einsum("sfc,fcd->sfd", weights, points).reshape(-1, 3)
    index = np.floor((samples + 0.5) * 64).astype(int)
    assert cells.occupancy()[tuple(index.T)].mean() > 1 - 1e-4
    assert len(np.unique(cells.coords, axis=0)) == len(cells.coords)
    assert np.array_equal(np.argwhere(cells.occupancy()), cells.coords)


def test_a_sphere_is_a_shell_with_its_normals() -> None:
    cells = voxelize(icosphere(4, 0.4), 32)
    points = cells.points()
    radius = np.linalg.norm(points, axis=1)
    assert np.abs(radius - 0.4).max() < 0.01
    along = np.einsum("nd,nd->n", points / radius[:, None], cells.normals / 127.0)
    assert along.min() > 0.98
    assert (cells.colors == 255).all()


def test_coarse_cells_are_those_of_the_coarse_grid() -> None:
    mesh = generate_object("plane", 1).mesh
    fine = voxelize(mesh, 64).occupancy()
    for factor in (2, 4):
        coarse = voxelize(mesh, 64 // factor).occupancy()
        assert np.array_equal(coarser(fine, factor), coarse)


def test_hidden_cells_are_left_out() -> None:
    outer, inner = box((-0.4,) * 3, (0.4,) * 3), box((-0.1,) * 3, (0.1,) * 3)
    both = Mesh(
        np.concatenate([outer.vertices, inner.vertices]),
        np.concatenate([outer.faces, inner.faces + len(outer.vertices)]),
    )
    alone = voxelize(Mesh(outer.vertices, outer.faces), 32)
    seen = visible_shell(voxelize(both, 32))
    assert np.array_equal(seen.coords, alone.coords)


def test_the_inside_of_a_cup_is_seen() -> None:
    cells = voxelize(generate_object("cup", 3).mesh)
    shell = visible_shell(cells)
    inward = np.einsum("nd,nd->n", shell.points()[:, :2], shell.normals[:, :2]) < -10
    assert inward.sum() > 1000


def test_what_leaves_the_cube_is_refused() -> None:
    with pytest.raises(MeshError) as caught:
        voxelize(icosphere(1, 0.6))
    assert caught.value.code == "voxels.outside"
    with pytest.raises(MeshError) as caught:
        voxelize(Mesh(np.zeros((2, 3)), np.zeros((0, 3), np.int64)))
    assert caught.value.code == "voxels.no_faces"


def test_mean_colours_are_those_of_samples() -> None:
    mesh = generate_object("vase", 4).mesh
    cells = voxelize(mesh, 8)
    found = uniform_samples(mesh, 200_000, np.random.default_rng(0))
    assert mesh.vertex_colors is not None
    colors = np.einsum(
        "pc,pcd->pd", found.barycentric, mesh.vertex_colors[mesh.faces[found.face_ids]]
    )
    index = np.ravel_multi_index(tuple(np.floor((found.points + 0.5) * 8).astype(int).T), (8, 8, 8))
    count = np.bincount(index, minlength=512)
    sums = np.stack([np.bincount(index, c, 512) for c in colors.T], 1)
    mean = sums / np.maximum(count, 1)[:, None]
    rows = np.ravel_multi_index(tuple(cells.coords.T.astype(int)), (8, 8, 8))
    often = count[rows] > 1000
    assert np.abs(mean[rows] - cells.colors)[often].max() < 8
