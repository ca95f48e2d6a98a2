"""Polygons and strips become triangles that cover them once."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import rotation

from geo3d.mesh.formats.polygons import fan, triangulated, unrolled_strips
from geo3d.mesh.io import parse_bytes

L = np.array([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2.0]])
SQUARE = np.array([[0, 0], [4, 0], [4, 4], [0, 4.0]])
HOLE = np.array([[1, 1], [1, 3], [3, 3], [3, 1.0]])


def star(n: int) -> np.ndarray:
    angle = np.arange(n) * 2 * np.pi / n
    return np.where(np.arange(n) % 2, 0.4, 1.0)[:, None] * np.c_[np.cos(angle), np.sin(angle)]


def spiral(n: int = 60) -> np.ndarray:
    angle = np.linspace(0, 6 * np.pi, n)[:, None]
    ring = np.c_[np.cos(angle), np.sin(angle)]
    return np.concatenate([ring * (angle + 3), (ring * (angle + 1.5))[::-1]])


def wave() -> np.ndarray:
    return np.c_[np.tile([1.0, 9.0], 20), np.arange(40.0)][:, ::-1]


POLYGONS = {
    **{f"L from corner {i}": np.roll(L, i, axis=0) for i in range(6)},
    "L clockwise": L[::-1],
    "arrow": np.array([[0, 0], [2, 1], [0, 2], [0.5, 1.0]]),
    "star": star(14),
    "large star": star(160),
    "spiral": spiral(),
    "comb": np.concatenate([[[39.0, 0], [0, 0]], wave()]),
    "square with a slit to its hole": np.concatenate([SQUARE, SQUARE[:1], HOLE, HOLE[:1]]),
    "straight corners": np.array(
        [[0, 0], [1, 0], [2, 0], [2, 1], [2, 2], [1, 2], [1, 1], [0, 1.0]]
    ),
    "touching itself": np.array([[0, 0], [1, 0], [1, 1], [2, 1], [2, 2], [1, 2], [1, 1], [0, 1.0]]),
}


def shoelace(points: np.ndarray) -> float:
    x, y = points.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def crosses(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    return np.cross(b - a, c - a) / 2


@pytest.mark.parametrize("name", POLYGONS)
def test_areas_are_exact_and_no_triangle_is_turned_over(name: str) -> None:
    flat = POLYGONS[name]
    vertices = np.c_[flat, np.zeros(len(flat))] @ rotation(1).T * 7.0 + 3.0
    faces, overlapping = triangulated(vertices, np.arange(len(flat)), np.array([len(flat)]))
    assert faces.shape == (len(flat) - 2, 3) and overlapping == 0
    parts = crosses(vertices, faces)
    areas = np.linalg.norm(parts, axis=1)
    assert areas.sum() == pytest.approx(49 * shoelace(flat), rel=1e-9)
    assert np.linalg.norm(parts.sum(axis=0)) == pytest.approx(areas.sum(), rel=1e-9)


def test_polygons_keep_their_order_and_convex_ones_their_fans() -> None:
    vertices = np.c_[np.concatenate([SQUARE, L + 9, SQUARE]), np.zeros(14)]
    faces, _ = triangulated(vertices, np.arange(14), np.array([4, 6, 2, 2]))
    assert (faces[:2] == [[0, 1, 2], [0, 2, 3]]).all()
    assert set(faces[2:].ravel()) == set(range(4, 10))


@pytest.mark.parametrize("seed", range(5))
def test_folded_polygons_are_covered_as_seen_along_their_normal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 24) + np.arange(24)) % (2 * np.pi)
    angle = (np.arange(24) + rng.uniform(0.1, 0.9, 24)) * 2 * np.pi / 24
    radius = rng.uniform(0.3, 1, 24)
    points = np.c_[radius * np.cos(angle), radius * np.sin(angle), rng.uniform(-0.05, 0.05, 24)]
    faces, overlapping = triangulated(points, np.arange(24), np.array([24]))
    parts = crosses(points, faces)
    assert overlapping == 0
    assert (parts @ parts.sum(axis=0) > -1e-9).all()


def test_crossed_polygons_are_counted_and_damaged_ones_left_as_fans() -> None:
    bow = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1.2, 0]])
    faces, overlapping = triangulated(bow, np.arange(4), np.array([4]))
    assert overlapping == 1 and faces.shape == (2, 3)
    for vertices, corners in (
        (np.full((6, 3), np.nan), np.arange(6)),
        (np.zeros((6, 3)), np.arange(6)),
        (np.c_[L, np.zeros(6)], np.array([0, 1, 2, 3, 4, 77])),
    ):
        faces, overlapping = triangulated(vertices, corners, np.array([6]))
        assert overlapping == 0 and (faces == fan(corners, np.array([6]))).all()


def test_strips_alternate_and_begin_anew_after_minus_one() -> None:
    faces = unrolled_strips(np.array([0, 1, 2, 3, -1, 4, 5, 6, 6, 7, 8]), np.array([8, 3]))
    assert faces.tolist() == [[0, 1, 2], [2, 1, 3], [4, 5, 6], [6, 7, 8]]
    assert unrolled_strips(np.array([0, 1]), np.array([2])).shape == (0, 3)


def concave_file(kind: str) -> bytes:
    rows = "".join(f"{x} {y} 0\n" for x, y in L)
    if kind == "off":
        return f"OFF\n6 1 0\n{rows}6 0 1 2 3 4 5\n".encode()
    if kind == "obj":
        return ("f -1 -2 -3 -4 -5 -6\n".join(["".join(f"v {r}\n" for r in rows.splitlines()), ""])
                ).encode()  # fmt: skip
    head = "ply\nformat ascii 1.0\nelement vertex 6\n" + "".join(
        f"property float {axis}\n" for axis in "xyz"
    )
    head += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    return f"{head}{rows}6 0 1 2 3 4 5\n".encode()


@pytest.mark.parametrize("kind", ["obj", "off", "ply"])
def test_files_with_concave_polygons(kind: str) -> None:
    """An L of area 3, not the 4 of its fan (case `concave_ngon`)."""
    raw = parse_bytes(concave_file(kind))
    assert np.linalg.norm(crosses(raw.vertices, raw.faces), axis=1).sum() == pytest.approx(3.0)
    assert [note.split(":")[0] for note in raw.notes] == ["mesh_file.polygons"]
    crossed = parse_bytes(b"v 0 0 0\nv 1 1 0\nv 1 0 0\nv 0 1.2 0\nf 1 2 3 4\n")
    assert "mesh_file.crossed_polygons: the triangles of 1 polygons overlap" in crossed.notes[1]


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize("kind", ["i4", "u4", "u1"])
def test_ply_strips_are_read(encoding: str, kind: str) -> None:
    """Strips end with -1, or the largest number of unsigned ones (case `reject_files`)."""
    corners = np.array([0, 1, 2, 3, -1, 1, 4, 3]).astype("<" + kind)
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [2, 0, 0.0]], "<f4")
    head = f"ply\nformat {encoding} 1.0\nelement vertex 5\n" + "".join(
        f"property float {axis}\n" for axis in "xyz"
    )
    name = {"i4": "int", "u4": "uint", "u1": "uchar"}[kind]
    head += f"element tristrips 1\nproperty list int {name} vertex_indices\nend_header\n"
    body = points.tobytes() + np.array([8], "<i4").tobytes() + corners.tobytes()
    if encoding == "ascii":
        rows = [" ".join(map(str, row)) for row in points.tolist()]
        body = "\n".join([*rows, " ".join(map(str, [8, *corners])), ""]).encode()
    raw = parse_bytes(head.encode() + body)
    assert raw.faces.tolist() == [[0, 1, 2], [2, 1, 3], [1, 4, 3]] and raw.notes == ()


def test_comments_of_ply_headers_may_hold_any_letter() -> None:
    """The second byte of an A with a ring is a line end in Latin-1."""
    comment = "comment Created by Blender 2.79, source file: /home/Åsa/Körper.blend\n".encode()
    data = concave_file("ply").replace(b"element vertex", comment + b"element vertex")
    assert parse_bytes(data).faces.shape == (4, 3)


def test_polygons_without_any_vertex_are_left_to_the_validator() -> None:
    faces, overlapping = triangulated(np.zeros((0, 3)), np.arange(4), np.array([4]))
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3]] and not np.any(overlapping)
