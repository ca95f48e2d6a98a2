"""Decimation keeps the shape, the topology and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import bumpy_sphere, grid, icosphere, moved, rotation, torus

from geo3d.errors import InputError, MeshError, NumericalError
from geo3d.mesh import decimate as module
from geo3d.mesh.decimate import decimate
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import edges, face_cross, total_area


def euler(mesh: Mesh) -> int:
    return mesh.n_vertices - len(edges(mesh)) + mesh.n_faces


def signed_volume(mesh: Mesh) -> float:
    a = mesh.vertices[mesh.faces[:, 0]]
    return float((a * face_cross(mesh)).sum() / 6)


@pytest.mark.parametrize(
    ("shape", "n"), [(icosphere(4), 500), (torus(60, 30), 400), (grid(40), 99)]
)
def test_size_topology_and_area(shape: Mesh, n: int) -> None:
    coarse = decimate(shape, n).mesh
    assert abs(coarse.n_vertices - n) <= 0.05 * n
    assert euler(coarse) == euler(shape)
    assert total_area(coarse) == pytest.approx(total_area(shape), rel=0.04)


def test_orientation_is_kept() -> None:
    shape = bumpy_sphere(4)
    assert signed_volume(decimate(shape, 300).mesh) == pytest.approx(signed_volume(shape), rel=0.03)


def test_every_vertex_has_its_place_on_the_coarse_mesh() -> None:
    shape = bumpy_sphere(4)
    found = decimate(shape, 400)
    assert found.barycentric.shape == (shape.n_vertices, 3)
    assert found.barycentric.min() >= 0
    corners = found.mesh.vertices[found.mesh.faces[found.face_ids]]
    back = np.einsum("vi,vij->vj", found.barycentric, corners)
    assert np.linalg.norm(back - shape.vertices, axis=1).max() < 0.05
    near = found.mesh.vertices[found.nearest_coarse()]
    assert np.linalg.norm(near - shape.vertices, axis=1).max() < 0.5


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_and_place_change_nothing(scale: float) -> None:
    shape = bumpy_sphere(3)
    here = decimate(shape, 200).mesh
    there = decimate(moved(shape, scale * np.eye(3)), 200).mesh
    np.testing.assert_array_equal(here.faces, there.faces)
    np.testing.assert_allclose(there.vertices / scale, here.vertices, atol=1e-4)
    turned = decimate(moved(shape, rotation(1), 3.0), 200).mesh
    assert total_area(turned) == pytest.approx(total_area(here), rel=0.02)


def test_a_mesh_that_is_small_enough_is_returned() -> None:
    shape = icosphere(1)
    found = decimate(shape, 42)
    assert found.mesh is shape
    np.testing.assert_array_equal(found.nearest_coarse(), np.arange(42))


def test_errors() -> None:
    with pytest.raises(InputError, match=r"decimate\.bad_count"):
        decimate(icosphere(1), 3)
    with pytest.raises(MeshError, match=r"decimate\.no_faces"):
        decimate(Mesh(np.eye(3), np.zeros((0, 3), np.int64)), 4)


def turned_over(mesh: Mesh, n: int, aggressiveness: float) -> Mesh:
    return Mesh(mesh.vertices[:], mesh.faces[:, ::-1])


def doubled(mesh: Mesh, n: int, aggressiveness: float) -> Mesh:
    return Mesh(mesh.vertices, np.concatenate([mesh.faces, mesh.faces[:1, [1, 0, 2]]]))


@pytest.mark.parametrize("bad", [turned_over, doubled])
def test_unsound_results_are_refused(bad: object, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = icosphere(2)
    monkeypatch.setattr(module, "_simplified", bad)
    with pytest.raises(NumericalError, match=r"decimate\.failed"):
        decimate(shape, shape.n_vertices - 1)


def test_another_setting_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    good, tried = module._simplified, []

    def first_fails(mesh: Mesh, n: int, aggressiveness: float) -> Mesh:
        tried.append(aggressiveness)
        return turned_over(mesh, n, 0) if len(tried) == 1 else good(mesh, n, aggressiveness)

    monkeypatch.setattr(module, "_simplified", first_fails)
    assert abs(decimate(icosphere(3), 200).mesh.n_vertices - 200) <= 10
    assert len(tried) == 2
