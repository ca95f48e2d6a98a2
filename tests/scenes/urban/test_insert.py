"""Mesh files as primitives of a street."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from helpers import icosphere

from geo3d.errors import ConfigError, InputError
from geo3d.layout.layout import Layout, box, slab
from geo3d.mesh.io import save_mesh
from geo3d.mesh.mesh import Mesh
from scenes.urban.conditions import RayScene, street_camera
from scenes.urban.edits import add, joined, move, remove
from scenes.urban.insert import ground_height, mesh_primitive
from scenes.urban.validate import check_layout

CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 2) for z in (0, 4)], np.float64)
QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
FACES = np.array([f for a, b, c, d in QUADS for f in ((a, b, c), (a, c, d))])


def street() -> Layout:
    rails = np.array([[-4.0, 1.5, -6.0], [-4.0, 1.5, 40.0]])
    kerb = np.array([[2.0, 1.3, -6.0], [2.0, 1.3, 40.0]])
    parts = (
        slab("road", "road", rails, rails + np.array([8.0, 0, 0])),
        slab("walk", "sidewalk", kerb, kerb + np.array([2.0, 0, 0])),
        box("car", "car", (-1.5, 0.7, 30), (1.8, 1.6, 4.2)),
    )
    return Layout("tiny", parts, np.eye(4)[None])


def brick(folder: Path, faces: np.ndarray = FACES) -> Path:
    """Write a block 1 wide, 2 high (y up), 4 long."""
    return save_mesh(Mesh(CORNERS, faces), folder / "My Car.obj")


def test_an_inserted_mesh_stands_on_the_ground(tmp_path: Path) -> None:
    layout = street()
    made = mesh_primitive(layout, brick(tmp_path), (-1.0, 12.0), "car", length=4.0, style="snow")
    expected = [[-1.5, 1.5 - 2.0, 10.0], [-0.5, 1.5, 14.0]]
    np.testing.assert_allclose(made.bounds(), expected, atol=1e-9)
    assert (made.id, made.kind, made.movable, made.style) == ("my-car-1", "mesh", True, "snow")
    edit = add(layout, made)
    assert not [f for f in check_layout(edit.layout) if f.severity == "error"]
    again = mesh_primitive(edit.layout, tmp_path / "My Car.obj", (3.0, 12.0), yaw=math.pi / 2)
    assert again.id == "my-car-2" and again.bounds()[1, 1] == pytest.approx(1.3)
    size = np.ptp(again.bounds(), axis=0)
    np.testing.assert_allclose(size, [4.3, 2.15, 1.075])


def test_rays_enter_and_leave_an_inserted_mesh(tmp_path: Path) -> None:
    layout = street()
    made = mesh_primitive(layout, brick(tmp_path), (0.0, 8.0), length=4.0)
    alone = Layout("alone", (made,), layout.trajectory)
    maps = RayScene(alone, threads=1).maps(street_camera(np.eye(4), 24))
    hit = maps.depth > 0
    assert hit.any() and maps.depth[hit].min() == pytest.approx(6.0, abs=0.01)
    lengths = maps.segments[hit][:, 0, 1] - maps.segments[hit][:, 0, 0]
    assert (lengths > 0).all() and lengths.max() <= 4.01
    volume = np.einsum("fi,fi->f", *_halves(made.world_vertices()[made.faces])).sum() / 6
    assert volume == pytest.approx(8.0)


def _halves(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return corners[:, 0], np.cross(corners[:, 1], corners[:, 2])


def test_of_an_open_mesh_the_hull_is_taken(tmp_path: Path) -> None:
    made = mesh_primitive(street(), brick(tmp_path, FACES[2:]), (0.0, 8.0), length=4.0)
    assert len(made.vertices) == 8 and len(made.faces) == 12
    corners = made.world_vertices()[made.faces]
    assert np.einsum("fi,fi->f", *_halves(corners)).sum() / 6 == pytest.approx(8.0)


def test_a_fine_mesh_is_made_coarser(tmp_path: Path) -> None:
    path = save_mesh(icosphere(5), tmp_path / "ball.obj")
    made = mesh_primitive(street(), path, (0.0, 8.0), "vegetation")
    assert 100 < len(made.vertices) <= 2100 and not made.movable


def test_the_highest_ground_counts() -> None:
    assert ground_height(street(), (3.0, 10.0)) == pytest.approx(1.3)
    assert ground_height(street(), (0.0, 10.0)) == pytest.approx(1.5)


def test_what_cannot_be_inserted(tmp_path: Path) -> None:
    layout, path = street(), brick(tmp_path)
    flat = save_mesh(Mesh(CORNERS * [1, 0, 1], FACES), tmp_path / "flat.obj")
    for code, error, arguments in (
        ("insert.no_ground", InputError, (path, (90.0, 0.0))),
        ("insert.flat", InputError, (flat, (0.0, 8.0))),
        ("layout.unknown_class", InputError, (path, (0.0, 8.0), "cart")),
    ):
        with pytest.raises(error) as caught:
            mesh_primitive(layout, *arguments)
        assert caught.value.code == code
    with pytest.raises(ConfigError, match=r"insert\.bad_length"):
        mesh_primitive(layout, path, (0.0, 8.0), length=0.0)


def test_several_edits_are_one() -> None:
    layout = street()
    first = move(layout, "car", (0, 0, 2))
    both = joined([first, remove(first.layout, "walk")])
    assert both.touched == ("car", "walk") and len(both.boxes) == 3
    assert [p.id for p in both.layout.primitives] == ["road", "car"]
