"""Each search on a shape whose defects were counted by hand, and against slow plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import bumpy_sphere, grid, icosphere, moved, rotation, tetrahedron, torus

from geo3d.mesh.check import Defect, Report, check_arrays, check_file
from geo3d.mesh.connectivity import edge_sides, fans_per_vertex
from geo3d.mesh.io import save_mesh
from geo3d.mesh.mesh import Mesh


def found(report: Report, code: str) -> Defect:
    """Return the one defect of this code."""
    matching = [defect for defect in report.defects if defect.code == code]
    assert len(matching) == 1, report.summary()
    return matching[0]


def check(mesh: Mesh, **options: bool) -> Report:
    return check_arrays(mesh.vertices, mesh.faces, **options)


@pytest.mark.parametrize("mesh", [tetrahedron(), icosphere(2), torus(), bumpy_sphere(2)])
def test_clean_meshes_have_no_defects(mesh: Mesh) -> None:
    report = check(mesh, self_intersections=True)
    assert report.defects == ()
    assert report.healthy
    assert "no defects" in report.summary()


def test_an_open_grid_is_healthy_and_its_border_counted() -> None:
    report = check(grid(5, 4))
    assert report.codes() == ("mesh.boundary",)
    assert report.defects[0].count == 2 * (4 + 3)
    assert report.defects[0].severity == "info"


def test_three_sheets_on_one_edge() -> None:
    vertices = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [-1, 1, 0], [-1, -1, 0]], float)
    faces = np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    defect = found(check_arrays(vertices, faces), "mesh.non_manifold_edge")
    assert (defect.count, defect.examples) == (1, (0, 1, 2))


def test_two_triangles_touching_in_a_vertex() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [-1, 0, 0], [-1, -1, 0]], float)
    report = check_arrays(vertices, np.array([[0, 1, 2], [0, 3, 4]]))
    defect = found(report, "mesh.non_manifold_vertex")
    assert (defect.count, defect.examples) == (1, (0,))
    # They hang together, if only in a vertex.
    assert "mesh.disconnected" not in report.codes()


def test_flipped_faces_are_the_minority() -> None:
    mesh = icosphere(1)
    faces = mesh.faces.copy()
    faces[[3, 40]] = faces[[3, 40]][:, ::-1]
    defect = found(check_arrays(mesh.vertices, faces), "mesh.flipped")
    assert (defect.count, defect.examples) == (2, (3, 40))
    defect = found(check_arrays(mesh.vertices, faces[:, ::-1]), "mesh.flipped")
    assert defect.examples == (3, 40)


def test_moebius_strip_is_non_orientable() -> None:
    n = 12
    angle = 2 * np.pi * np.arange(n) / n
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(n)], axis=1)
    arm = 0.3 * np.stack([np.cos(angle / 2) * np.cos(angle), np.cos(angle / 2) * np.sin(angle),
                          np.sin(angle / 2)], axis=1)  # fmt: skip
    i = np.arange(n)
    # After one turn the sides are exchanged.
    a, b = i, n + i
    c = np.where(i < n - 1, i + 1, n)
    d = np.where(i < n - 1, n + i + 1, 0)
    faces = np.concatenate([np.stack([a, c, b], axis=1), np.stack([b, c, d], axis=1)])
    report = check_arrays(np.concatenate([ring + arm, ring - arm]), faces)
    assert "mesh.non_orientable" in report.codes()


def test_inward_needs_a_closed_surface() -> None:
    mesh = icosphere(1)
    assert check_arrays(mesh.vertices, mesh.faces[:, ::-1]).codes() == ("mesh.inward",)
    assert "mesh.inward" not in check_arrays(mesh.vertices, mesh.faces[1:, ::-1]).codes()


def test_slivers_and_faces_without_area() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0.5, 5e-4, 0], [2, 0, 0], [0.5, 0.5, 0]])
    report = check_arrays(vertices, np.array([[0, 1, 2], [0, 1, 3], [0, 1, 4]]))
    assert found(report, "mesh.sliver").examples == (0,)
    assert found(report, "mesh.zero_area").examples == (1,)
    assert found(report, "mesh.zero_area").severity == "warning"
    alone = check_arrays(vertices, np.array([[0, 1, 3]]))
    assert found(alone, "mesh.zero_area").severity == "error"


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_shape_defects_do_not_depend_on_scale(scale: float) -> None:
    mesh = icosphere(1)
    report = check_arrays(mesh.vertices * scale, mesh.faces[:, ::-1], self_intersections=True)
    expected = ("mesh.inward",) if scale == 1.0 else ("mesh.extreme_scale", "mesh.inward")
    assert report.codes() == expected


def test_non_finite_and_out_of_range_do_not_hide_the_rest() -> None:
    mesh = icosphere(1)
    vertices, faces = mesh.vertices.copy(), mesh.faces.copy()
    vertices[2] = [np.nan, np.inf, 0]
    faces[0] = [0, 1, 99]
    faces[1] = [-1, 4, 5]
    report = check_arrays(vertices, faces, self_intersections=True)
    assert found(report, "mesh.non_finite").examples == (2,)
    assert found(report, "mesh.index_out_of_range").examples == (0, 1)
    assert "mesh.boundary" in report.codes()
    assert not report.healthy


def test_examples_are_ten_at_most_and_errors_come_first() -> None:
    vertices = np.r_[grid(8).vertices, np.full((30, 3), np.nan)]
    report = check_arrays(vertices, grid(8).faces)
    assert [d.severity for d in report.defects] == ["error", "warning", "info"]
    assert report.defects[0].count == 30
    assert report.defects[0].examples == tuple(range(64, 74))


def test_nothing_at_all() -> None:
    report = check_arrays(np.zeros((0, 3)), np.zeros((0, 3), np.int64), self_intersections=True)
    assert report.codes() == ("mesh.no_vertices",)
    cloud = check_arrays(grid(3).vertices, np.zeros((0, 3), np.int64))
    assert cloud.codes() == ("mesh.no_faces",)
    assert cloud.healthy


def _pierced_pairs(points: np.ndarray, faces: np.ndarray) -> set[int]:
    """Return faces that take part in an intersection: every pair, every edge, one at a time."""
    hit: set[int] = set()
    for i, a in enumerate(faces):
        for j, b in enumerate(faces):
            if set(a) & set(b):
                continue
            for k in range(3):
                p, q = points[a[k]], points[a[(k + 1) % 3]]
                base = np.stack([q - p, points[b[0]] - points[b[1]], points[b[0]] - points[b[2]]])
                t, u, v = np.linalg.solve(base.T, points[b[0]] - p)
                if 0 < t < 1 and u > 0 and v > 0 and u + v < 1:
                    hit |= {i, j}
    return hit


def test_self_intersections_agree_with_brute_force() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(60, 3)) * [4, 1, 1]
    faces = np.arange(60).reshape(-1, 3)
    expected = _pierced_pairs(points, faces)
    assert 2 < len(expected) < 20
    report = check_arrays(points, faces, self_intersections=True)
    assert set(found(report, "mesh.self_intersection").examples) <= expected
    from geo3d.mesh.intersect import self_intersecting_pairs

    pairs, complete = self_intersecting_pairs(points, faces)
    assert complete
    assert set(pairs.ravel().tolist()) == expected


def test_two_spheres_through_each_other_and_a_flat_sheet() -> None:
    mesh = icosphere(2)
    vertices = np.r_[mesh.vertices, mesh.vertices + np.array([0.5, 0, 0])]
    faces = np.r_[mesh.faces, mesh.faces + mesh.n_vertices]
    report = check_arrays(vertices, faces, self_intersections=True)
    assert found(report, "mesh.self_intersection").count > 20
    # Coplanar neighbours touch all over without passing through each other.
    sheet = moved(grid(12), rotation(3))
    assert "mesh.self_intersection" not in check(sheet, self_intersections=True).codes()


def test_defects_survive_rotation_and_shift() -> None:
    mesh = icosphere(2)
    faces = np.r_[mesh.faces[4:], mesh.faces[10:12], [[0, 50, 100]]]
    before = check_arrays(mesh.vertices, faces, self_intersections=True)
    after = check_arrays(mesh.vertices @ rotation(1).T + 3, faces, self_intersections=True)
    assert before.to_dict() == after.to_dict()


def test_fans_agree_with_a_plain_walk() -> None:
    rng = np.random.default_rng(5)
    faces = np.stack([rng.permutation(12)[:3] for _ in range(25)])
    counts = fans_per_vertex(edge_sides(faces, 12), 12)
    for vertex in range(12):
        around = [set(face.tolist()) - {vertex} for face in faces if vertex in face]
        groups: list[set[int]] = []
        for pair in around:
            touching = [group for group in groups if group & pair]
            merged = pair.union(*touching)
            groups = [group for group in groups if group not in touching] + [merged]
        assert counts[vertex] == len(groups)


def test_check_file_reports_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "page.obj"
    path.write_bytes(b"<html></html>")
    report = check_file(path)
    assert report.codes() == ("mesh_file.not_a_mesh",)
    assert not report.healthy
    assert "cannot be read" in report.summary()
    assert check_file(tmp_path / "none.obj").codes() == ("mesh_file.not_found",)


def test_check_file_adds_notes_and_speaks_json(tmp_path: Path) -> None:
    path = save_mesh(tetrahedron(), tmp_path / "mesh.stl").rename(tmp_path / "mesh.obj")
    report = check_file(path)
    assert report.codes() == ("mesh_file.wrong_extension", "mesh_file.stl_merged")
    assert report.format == "stl"
    assert report.to_dict()["healthy"] is True
    assert report.to_dict()["defects"][0]["severity"] == "warning"
