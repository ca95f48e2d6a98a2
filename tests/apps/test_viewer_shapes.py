"""Shapes and ground truth that the viewer is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from helpers import bumpy_sphere, permuted

from apps.viewer import shapes
from geo3d.errors import Geo3dError
from geo3d.mesh.io import load_mesh, save_mesh
from geo3d.mesh.mesh import Mesh


@pytest.fixture
def pair(tmp_path: Path) -> tuple[shapes.Shape, shapes.Shape, np.ndarray]:
    """A bumpy sphere, its shuffled copy, and the map from the copy."""
    source = bumpy_sphere(2)
    target, order = permuted(source)
    first, second = (shapes.keep(m, n, tmp_path) for m, n in ((source, "one"), (target, "two")))
    return first, second, order


class TestShapes:
    @pytest.mark.parametrize(
        "mesh",
        [
            Mesh(np.eye(3), np.zeros((0, 3), int)),
            bumpy_sphere(1),
            Mesh(np.vstack([bumpy_sphere(1).vertices, np.zeros((60, 3))]), bumpy_sphere(1).faces),
        ],
        ids=["three points", "42 vertices", "42 vertices and 60 of no face"],
    )
    def test_what_is_too_small_to_match_is_refused_at_once(
        self, mesh: Mesh, tmp_path: Path
    ) -> None:
        """A job would only say so later (case `too-small-late`)."""
        shape = shapes.upload_to_shape(save_mesh(mesh, tmp_path / "small.ply"), tmp_path)
        assert not shape.usable
        assert "match.too_small" in [defect["code"] for defect in shape.defects]

    def test_an_upload_keeps_vertices_faces_and_order(self, tmp_path: Path) -> None:
        mesh, _ = permuted(bumpy_sphere(2))
        shape = shapes.upload_to_shape(save_mesh(mesh, tmp_path / "My shape (1).off"), tmp_path)
        copy = load_mesh(shape.path)
        np.testing.assert_array_equal(copy.vertices, mesh.vertices)
        np.testing.assert_array_equal(copy.faces, mesh.faces)
        assert (shape.name, shape.usable) == ("My shape (1)", True)
        assert Path(shape.view).read_bytes()[:4] == b"glTF"

    @pytest.mark.parametrize(
        ("name", "content", "code"),
        [
            ("page.obj", b"<!doctype html><script>alert(1)</script>", "mesh_file.not_a_mesh"),
            ("tool.exe", b"MZ\x90", "viewer.file_type"),
            ("empty.ply", b"", "mesh_file.empty"),
            ("nan.off", b"OFF\n3 1 0\n0 0 nan\n1 0 0\n0 1 0\n3 0 1 2\n", "mesh.non_finite"),
            ("far.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n", "mesh.index_out_of_range"),
        ],
    )
    def test_bad_uploads_have_their_codes(
        self, tmp_path: Path, name: str, content: bytes, code: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Geo3dError) as caught:
            shapes.upload_to_shape(tmp_path / name, tmp_path)
        assert caught.value.code == code

    def test_views_are_matt_and_hold_linear_light(self, tmp_path: Path) -> None:
        triangle = Mesh(np.eye(3), np.array([[0, 1, 2]]))
        colors = np.array([[0, 0, 0], [188, 188, 188], [255, 255, 255]], np.uint8)
        data = shapes.save_view(triangle, colors, tmp_path / "a.glb").read_bytes()
        length = int.from_bytes(data[12:16], "little")
        header = json.loads(data[20 : 20 + length])
        assert header["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0
        # sRGB 188 is half the light of white.
        scene = trimesh.load_scene(tmp_path / "a.glb", process=False, skip_materials=True)
        stored = next(iter(scene.geometry.values())).visual.vertex_colors[:, :3]
        np.testing.assert_allclose(stored, [[0] * 3, [128] * 3, [255] * 3], atol=1)
        read_back = load_mesh(tmp_path / "a.glb").vertex_colors
        np.testing.assert_allclose(read_back, colors, atol=1)


class TestTruth:
    def test_a_map_pairs_every_target_vertex(self, tmp_path: Path, pair: Any) -> None:
        source, target, order = pair
        np.savetxt(tmp_path / "gt.txt", order, "%d")
        truth = shapes.read_truth([tmp_path / "gt.txt"], source, target)
        np.testing.assert_array_equal(truth.source, order)
        np.testing.assert_array_equal(truth.target, np.arange(len(order)))

    @pytest.mark.parametrize("swapped", [False, True])
    def test_lists_are_told_apart_by_name(self, tmp_path: Path, pair: Any, swapped: bool) -> None:
        source, target, _ = pair
        files = [tmp_path / "one.vts", tmp_path / "two.vts"]
        files[0].write_text("1\n2\n3\n")
        files[1].write_text("4\n5\n6\n")
        truth = shapes.read_truth(files[::-1] if swapped else files, source, target)
        assert (truth.source.tolist(), truth.target.tolist()) == ([0, 1, 2], [3, 4, 5])

    @pytest.mark.parametrize(
        ("files", "code"),
        [
            ({"a.vts": "1\n2\n"}, "viewer.truth_files"),
            ({"a.txt": "0\n1\n"}, "viewer.truth_length"),
            ({"a.vts": "1\n2\n", "b.vts": "1\n"}, "viewer.truth_length"),
            ({"a.vts": "1\n", "b.vts": "999999\n"}, "dataset.index_out_of_range"),
            ({"a.txt": "<html>"}, "correspondence.bad_map"),
        ],
    )
    def test_unusable_files_are_refused(
        self, tmp_path: Path, pair: Any, files: dict[str, str], code: str
    ) -> None:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        with pytest.raises(Geo3dError) as caught:
            shapes.read_truth([tmp_path / name for name in files], pair[0], pair[1])
        assert caught.value.code == code
