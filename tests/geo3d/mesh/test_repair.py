"""Repairs: what they do to small shapes, and that their maps say where everything went."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import grid, icosphere, tetrahedron, torus

from geo3d.errors import ConfigError, MeshError
from geo3d.mesh.check import check_arrays
from geo3d.mesh.connectivity import edge_sides
from geo3d.mesh.mesh import Mesh, RawMesh
from geo3d.mesh.repair import REPAIRS, Repaired, repair


def raw(vertices: np.ndarray, faces: np.ndarray) -> RawMesh:
    return RawMesh(np.asarray(vertices, float), np.asarray(faces, np.int64), None, "obj")


def codes(result: Repaired) -> tuple[str, ...]:
    return check_arrays(result.mesh.vertices, result.mesh.faces).codes()


def assert_maps_tell_the_truth(before: RawMesh | Mesh, result: Repaired) -> None:
    kept = result.vertex_map >= 0
    assert len(kept) == len(before.vertices)
    assert np.array_equal(result.mesh.vertices[result.vertex_map[kept]], before.vertices[kept])
    kept = result.face_map >= 0
    assert len(kept) == len(before.faces)
    old = np.sort(before.vertices[before.faces[kept]], axis=1)
    new = np.sort(result.mesh.vertices[result.mesh.faces[result.face_map[kept]]], axis=1)
    assert np.array_equal(old, new)


def test_drop_non_finite() -> None:
    vertices = np.array([[0, 0, 0], [np.nan, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, np.inf]])
    result = repair(raw(vertices, np.array([[0, 1, 2], [0, 2, 3], [2, 3, 4]])), ["drop_non_finite"])
    assert result.vertex_map.tolist() == [0, -1, 1, 2, -1]
    assert result.face_map.tolist() == [-1, 0, -1]
    assert result.mesh.faces.tolist() == [[0, 1, 2]]
    assert result.log == ("drop_non_finite: removed 2 vertices and 2 faces",)


def test_drop_bad_faces_and_order_of_repairs() -> None:
    mesh = tetrahedron()
    faces = np.r_[mesh.faces, [[0, 1, 4], [-1, 1, 2]]]
    result = repair(raw(mesh.vertices, faces), ["drop_bad_faces"])
    assert result.face_map.tolist() == [0, 1, 2, 3, -1, -1]
    # A bad face survives other repairs as a bad face instead of becoming a wrong good one.
    vertices = np.r_[[[np.nan] * 3], mesh.vertices]
    with pytest.raises(MeshError) as caught:
        repair(raw(vertices, np.array([[1, 2, 5]])), ["drop_non_finite"])
    assert caught.value.code == "mesh.index_out_of_range"


def test_drop_degenerate_and_duplicates() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0]])
    faces = np.array([[0, 1, 3], [0, 1, 1], [0, 1, 2], [3, 0, 1], [1, 0, 3], [1, 2, 3]])
    result = repair(raw(vertices, faces), ["drop_degenerate", "drop_duplicate_faces"])
    assert result.face_map.tolist() == [0, -1, -1, -1, -1, 1]
    assert codes(result) == ("mesh.boundary",)


def test_merge_duplicate_vertices_keeps_the_first() -> None:
    mesh = grid(3)
    # Every triangle with corners of its own, as STL would have it; -0.0 is 0.0.
    vertices = mesh.vertices[mesh.faces].reshape(-1, 3)
    vertices[vertices == 0] *= np.random.default_rng(0).choice([-1.0, 1.0], (vertices == 0).sum())
    soup = raw(vertices, np.arange(len(vertices)).reshape(-1, 3))
    result = repair(soup, ["merge_duplicate_vertices"])
    assert result.mesh.n_vertices == 9
    assert_maps_tell_the_truth(soup, result)
    assert codes(result) == ("mesh.boundary",)


def test_drop_unreferenced_and_colours_follow() -> None:
    mesh = tetrahedron()
    vertices = np.r_[[[9, 9, 9]], mesh.vertices, [[8, 8, 8]]]
    colors = np.arange(18, dtype=np.uint8).reshape(6, 3)
    result = repair(Mesh(vertices, mesh.faces + 1, colors), ["drop_unreferenced"])
    assert result.vertex_map.tolist() == [-1, 0, 1, 2, 3, -1]
    assert result.mesh.vertex_colors is not None
    assert np.array_equal(result.mesh.vertex_colors, colors[1:5])


def test_keep_largest_component() -> None:
    big, small = icosphere(1), tetrahedron()
    faces = np.r_[small.faces, big.faces + 4]
    both = Mesh(np.r_[small.vertices + 5, big.vertices, [[0, 0, 0]]], faces)
    result = repair(both, ["keep_largest_component"])
    assert np.array_equal(result.mesh.vertices, big.vertices)
    assert np.array_equal(result.mesh.faces, big.faces)
    assert result.vertex_map[:4].tolist() == [-1] * 4


@pytest.mark.parametrize("mesh", [icosphere(2), torus()])
def test_orient_consistently_restores_any_scramble(mesh: Mesh) -> None:
    scramble = np.random.default_rng(0).random(mesh.n_faces) < 0.5
    faces = np.where(scramble[:, None], mesh.faces[:, [0, 2, 1]], mesh.faces)
    result = repair(Mesh(mesh.vertices, faces), ["orient_consistently"])
    assert np.array_equal(result.mesh.faces, mesh.faces)
    assert result.log == (f"orient_consistently: turned {int(scramble.sum()):,} faces",)


def test_orientation_of_open_pieces_follows_the_majority() -> None:
    mesh = grid(6)
    faces = mesh.faces.copy()
    faces[::5] = faces[::5][:, [0, 2, 1]]
    assert np.array_equal(repair(Mesh(mesh.vertices, faces), ["orient_consistently"]).mesh.faces,
                          mesh.faces)  # fmt: skip


def test_orient_outward_turns_each_closed_piece() -> None:
    a, b = icosphere(1), icosphere(1)
    vertices = np.r_[a.vertices, b.vertices + 5]
    faces = np.r_[a.faces, b.faces[:, ::-1] + a.n_vertices]
    result = repair(Mesh(vertices, faces), ["orient_outward"])
    assert result.log == (f"orient_outward: turned {a.n_faces:,} faces",)
    assert codes(result) == ("mesh.disconnected",)


def test_split_non_manifold_vertices() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [-1, 0, 0], [-1, -1, 0]])
    touching = raw(vertices, np.array([[0, 1, 2], [0, 3, 4]]))
    result = repair(touching, ["split_non_manifold_vertices"])
    assert result.mesh.faces.tolist() == [[0, 1, 2], [5, 3, 4]]
    assert result.mesh.vertices[5].tolist() == [0, 0, 0]
    assert result.vertex_map.tolist() == [0, 1, 2, 3, 4]


def test_cut_non_manifold_edges() -> None:
    vertices = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [-1, 1, 0], [-1, -1, 0]])
    sheets = raw(vertices, np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]]))
    result = repair(sheets, ["cut_non_manifold_edges"])
    assert "mesh.non_manifold_edge" not in codes(result)
    assert result.mesh.n_vertices == 9
    assert_maps_tell_the_truth(sheets, result)


def test_fill_small_holes_closes_a_punched_sphere() -> None:
    mesh = icosphere(2)
    ring = np.flatnonzero((mesh.faces == 0).any(axis=1))
    keep = np.setdiff1d(np.arange(mesh.n_faces), np.r_[ring, 200])
    result = repair(
        Mesh(mesh.vertices, mesh.faces[keep]), ["fill_small_holes", "drop_unreferenced"]
    )
    assert codes(result) == ()
    # The single missing face comes back without a new vertex, the ring around vertex 0 with one.
    assert result.log[0] == f"fill_small_holes: closed 2 holes with {len(ring) + 1} faces"
    assert result.mesh.n_vertices == mesh.n_vertices
    assert (result.face_map == np.arange(len(keep))).all()


def test_large_holes_and_lone_triangles_stay_open() -> None:
    assert repair(grid(20), ["fill_small_holes"]).mesh.n_faces == grid(20).n_faces
    lone = Mesh(np.eye(3), np.array([[0, 1, 2]]))
    assert repair(lone, ["fill_small_holes"]).mesh.n_faces == 1


def test_a_whole_chain_keeps_its_maps() -> None:
    mesh = icosphere(2)
    vertices = np.r_[mesh.vertices[:5], [[np.nan] * 3], mesh.vertices[5:], mesh.vertices[:3]]
    shifted = mesh.faces + (mesh.faces >= 5)
    faces = np.r_[[[0, 1, 999]], shifted[2:], shifted[:2], shifted[:4], [[5, 6, 7], [8, 8, 9]]]
    before = raw(vertices, faces)
    names = ["drop_bad_faces", "drop_non_finite", "merge_duplicate_vertices", "drop_degenerate",
             "drop_duplicate_faces", "drop_unreferenced", "orient_consistently"]  # fmt: skip
    result = repair(before, names, name="ball")
    assert codes(result) == ()
    assert result.mesh.name == "ball"
    assert np.array_equal(result.mesh.vertices, mesh.vertices)
    assert_maps_tell_the_truth(before, result)
    assert len(result.log) == len(names)


@pytest.mark.parametrize("name", list(REPAIRS))
def test_clean_meshes_pass_through_unchanged(name: str) -> None:
    mesh = icosphere(1)
    result = repair(mesh, [name])
    assert result.mesh.content_hash() == mesh.content_hash()
    assert np.array_equal(result.vertex_map, np.arange(mesh.n_vertices))
    assert np.array_equal(result.face_map, np.arange(mesh.n_faces))


def test_unknown_names_are_refused_before_anything_is_done() -> None:
    with pytest.raises(ConfigError) as caught:
        repair(tetrahedron(), ["drop_unreferenced", "drop_degenerat"])
    assert caught.value.code == "repair.unknown_name"
    assert "did you mean 'drop_degenerate'" in caught.value.message
    assert all(name in caught.value.hint for name in REPAIRS)


@pytest.mark.parametrize("name", [
    "keep_largest_component", "orient_consistently", "orient_outward",
    "split_non_manifold_vertices", "cut_non_manifold_edges", "fill_small_holes",
])  # fmt: skip
@pytest.mark.parametrize("face", [[0, 1, 9], [0, 1, 1]])
def test_repairs_that_need_sound_faces_say_so(name: str, face: list[int]) -> None:
    with pytest.raises(MeshError) as caught:
        repair(raw(np.eye(3), np.array([face])), [name])
    assert caught.value.code == "repair.needs_sound_faces"


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_merge_close_vertices_joins_what_rounding_tore_apart(scale: float) -> None:
    """Corners that differ by rounding (case `float_noise_stl`)."""
    sphere = icosphere(2)
    corners = sphere.faces.ravel()
    noise = np.random.default_rng(0).uniform(-1e-7, 1e-7, (len(corners), 3))
    soup = RawMesh(
        (sphere.vertices[corners] + noise) * scale + 3 * scale,
        np.arange(len(corners)).reshape(-1, 3),
        None,
        "stl",
    )
    result = repair(soup, ["merge_close_vertices"])
    assert result.mesh.n_vertices == sphere.n_vertices
    assert (edge_sides(result.mesh.faces, sphere.n_vertices).count == 2).all()
    assert result.log[0].endswith(f"joined {len(corners) - 162:,} vertices with earlier ones")
    same = repair(sphere, ["merge_close_vertices"])
    np.testing.assert_array_equal(same.mesh.faces, sphere.faces)


def test_merge_close_vertices_far_from_the_origin() -> None:
    """There float32 is coarser than 1e-5 of the extent; float64 is not (case `float_noise_stl`)."""
    sphere = icosphere(1)
    corners = sphere.faces.ravel()
    far = (sphere.vertices[corners] + 1000.0).astype(np.float32)
    ulp = np.random.default_rng(0).integers(-1, 2, far.shape) * np.spacing(np.float32(1000))
    torn = (far + ulp).astype(np.float32)
    for vertices in (torn, torn.astype(np.float64)):
        soup = RawMesh(vertices, np.arange(len(corners)).reshape(-1, 3), None, "stl")
        left = repair(soup, ["merge_close_vertices"]).mesh.n_vertices
        assert (left == sphere.n_vertices) == (vertices.dtype == np.float32)


def test_merge_close_vertices_leaves_broken_coordinates_alone() -> None:
    vertices = np.array([[np.nan, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1e-9, 0], [np.nan, 0, 0]])
    raw = RawMesh(vertices, np.array([[1, 2, 3]]), None, "obj")
    result = repair(raw, ["merge_close_vertices", "drop_non_finite"])
    assert result.vertex_map.tolist() == [-1, 0, 1, 1, -1]
