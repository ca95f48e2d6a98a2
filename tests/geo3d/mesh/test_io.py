"""Reading and writing mesh files of any format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import bumpy_sphere, grid
from mesh_file_helpers import OBJ, code_of, codes

from geo3d.errors import ConfigError, FileFormatError, InputError, LimitError, MeshError
from geo3d.mesh.io import FORMATS, load_mesh, parse_bytes, read_raw, save_mesh
from geo3d.mesh.mesh import Limits, Mesh


@pytest.mark.parametrize("extension", FORMATS)
def test_content_decides_and_a_wrong_name_is_noted(extension: str, tmp_path: Path) -> None:
    path = save_mesh(bumpy_sphere(1), tmp_path / f"shape.{extension}")
    right = read_raw(path)
    assert right.format == extension
    renamed = path.rename(tmp_path / "shape.xyz")
    wrong = read_raw(renamed)
    assert wrong.format == extension
    assert codes(wrong.notes)[0] == "mesh_file.wrong_extension"
    assert np.array_equal(wrong.faces, right.faces)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "mesh_file.empty"),
        (b"\xef\xbb\xbf \n\r\n", "mesh_file.empty"),
        (b"<!DOCTYPE html><html>", "mesh_file.not_a_mesh"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "mesh_file.not_a_mesh"),
        (b"just text\n", "mesh_file.not_a_mesh"),
        (bytes(1000), "mesh_file.not_a_mesh"),
        (b"PK\x03\x04" + bytes(100), "mesh_file.archive"),
        (b"\x1f\x8b" + bytes(100), "mesh_file.archive"),
        ("v 0 0 0\n".encode("utf-16"), "mesh_file.bad_encoding"),
        (b'<?xml version="1.0"?>\n<COLLADA>', "mesh_file.unsupported_format"),
        (b'{"asset": {"version": "2.0"}}', "mesh_file.unsupported_format"),
    ],
)
def test_what_is_no_mesh(data: bytes, code: str) -> None:
    assert code_of(data, ".obj") == code


def test_a_note_of_git_lfs_is_no_binary_stl() -> None:
    """Case `doctor_lfs`."""
    note = (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * b"0" + b"\nsize 12345\n"
    )
    with pytest.raises(FileFormatError, match="git lfs pull"):
        parse_bytes(note, suffix=".stl")


@pytest.mark.parametrize("extension", FORMATS)
def test_limits(extension: str, tmp_path: Path) -> None:
    path = save_mesh(grid(6), tmp_path / f"m.{extension}")
    with pytest.raises(LimitError) as caught:
        read_raw(path, Limits(max_bytes=50))
    assert caught.value.code == "mesh_file.too_many_bytes"
    data = path.read_bytes()
    assert code_of(data, extension, Limits(max_vertices=10)) == "mesh_file.too_many_vertices"
    assert code_of(data, extension, Limits(max_faces=10)) == "mesh_file.too_many_faces"


def test_a_polygon_counts_as_its_triangles() -> None:
    text = OBJ + b"f " + b" ".join([b"1"] * 100) + b"\n"
    assert code_of(text, ".obj", Limits(max_faces=97)) == "mesh_file.too_many_faces"
    assert len(parse_bytes(text, ".obj", Limits(max_faces=98)).faces) == 98


def test_load_mesh_vouches(tmp_path: Path) -> None:
    path = tmp_path / "bad.obj"
    path.write_bytes(OBJ + b"f 1 2 9\n")
    assert read_raw(path).faces.tolist() == [[0, 1, 8]]
    with pytest.raises(MeshError) as caught:
        load_mesh(path)
    assert caught.value.code == "mesh.index_out_of_range"
    path.write_bytes(OBJ + b"v nan 0 0\nf 1 2 3\n")
    with pytest.raises(MeshError) as caught:
        load_mesh(path)
    assert caught.value.code == "mesh.non_finite"


def test_load_mesh_is_named_after_the_file(tmp_path: Path) -> None:
    assert load_mesh(save_mesh(grid(3), tmp_path / "tile.ply")).name == "tile"


def test_save_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        save_mesh(grid(3), tmp_path / "mesh.fbx")
    assert caught.value.code == "mesh_file.unknown_format"
    cloud = Mesh(grid(3).vertices, np.zeros((0, 3), np.int64))
    with pytest.raises(MeshError) as caught:
        save_mesh(cloud, tmp_path / "cloud.stl")
    assert caught.value.code == "mesh.no_faces"
    huge = Mesh(grid(3).vertices * 1e300, grid(3).faces)
    for extension in ("stl", "glb"):
        with pytest.raises(MeshError) as caught:
            save_mesh(huge, tmp_path / f"huge.{extension}")
        assert caught.value.code == "mesh.extreme_scale"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extension", ["glb", "ply", "obj"])
def test_colours_reach_the_usual_readers(extension: str, tmp_path: Path) -> None:
    """Such as trimesh (case `glb-colours`)."""
    trimesh = pytest.importorskip("trimesh")
    mesh = grid(3)
    colors = np.where(np.arange(9)[:, None] < 4, [255, 0, 0], [0, 255, 255]).astype(np.uint8)
    path = save_mesh(replace(mesh, vertex_colors=colors), tmp_path / f"a.{extension}")
    for read in (trimesh.load(path, force="mesh"), trimesh.load_mesh(path, process=False)):
        assert read.visual.kind == "vertex"
        near = np.linalg.norm(read.vertices[:, None] - mesh.vertices[None], axis=2).argmin(axis=1)
        assert np.array_equal(read.visual.vertex_colors[:, :3], colors[near])
    try:
        import open3d
    except ImportError:
        return
    seen = open3d.io.read_triangle_mesh(str(path))
    assert sorted(np.unique(np.asarray(seen.vertex_colors), axis=0).sum(axis=1)) == [1, 2]


@pytest.mark.parametrize("extension", ["obj", "off", "ply", "glb"])
def test_point_clouds(extension: str, tmp_path: Path) -> None:
    mesh = Mesh(grid(4).vertices, np.zeros((0, 3), np.int64))
    again = load_mesh(save_mesh(mesh, tmp_path / f"cloud.{extension}"))
    assert again.is_point_cloud
    assert np.allclose(again.vertices, mesh.vertices, atol=1e-7)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path, code in (
        (tmp_path / "none.obj", "mesh_file.not_found"),
        (tmp_path, "mesh_file.not_a_file"),
        ("bad\0name.obj", "mesh_file.not_readable"),
    ):
        with pytest.raises(InputError) as caught:
            read_raw(path)
        assert caught.value.code == code
    link = tmp_path / "link.off"
    link.symlink_to(save_mesh(grid(3), tmp_path / "real.off"))
    assert load_mesh(link).n_vertices == 9


def test_every_error_is_a_file_format_error_with_a_hint() -> None:
    with pytest.raises(FileFormatError) as caught:
        parse_bytes(OBJ + b"v 0,5 1 2\n", ".obj")
    assert "0,5" in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 3
