"""What is written beside the frames: cameras that project where ours do, maps, films."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from geo3d.errors import MeshError
from geo3d.layout.layout import Layout, box, slab, turn
from geo3d.mesh.io import save_mesh
from geo3d.mesh.mesh import Mesh
from geo3d.render.cameras import Camera
from scenes.urban.conditions import RayScene
from scenes.urban.export import y_up
from scenes.urban.film import save_mp4
from scenes.urban.frame_data import quaternion, save_cameras, save_maps
from scenes.urban.scene import Rendering
from scenes.urban.views import look


def street() -> Layout:
    rails = np.array([[-4.0, 0.0, -4.0], [-4.0, 0.0, 60.0]])
    drive = np.tile(np.eye(4), (3, 1, 1))
    drive[:, 1, 3], drive[:, 2, 3] = -1.5, [0, 5, 10]
    drive[1, :3, :3] = turn(0.3)
    parts = (
        slab("r", "road", rails, rails + np.array([8.0, 0, 0])),
        box("c", "car", (1, -1, 20), (2, 2, 4)),
    )
    return Layout("s", parts, drive)


def cameras(layout: Layout) -> list[Camera]:
    rays = RayScene(layout)
    return [look(rays, pose, 16).camera for pose in layout.trajectory]


def test_the_cameras_of_both_formats_project_where_ours_do(tmp_path: Path) -> None:
    layout = street()
    own = cameras(layout)
    points = np.array([[1.0, -1.0, 20.0], [-2.0, 0.5, 30.0], [0.5, -3.0, 25.0]])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    save_cameras(layout, own, (points, colours), tmp_path)
    made = json.loads((tmp_path / "transforms.json").read_text())
    text = (tmp_path / "sparse/0/images.txt").read_text().splitlines()
    kind = (tmp_path / "sparse/0/cameras.txt").read_text().split()
    assert kind[:4] == ["1", "PINHOLE", "16", "16"]
    fx, fy, cx, cy = map(float, kind[4:])
    for i, camera in enumerate(own):
        wanted, _ = camera.project(points)
        # nerfstudio: y up and z backward in the camera, y up in the world
        to_camera = np.linalg.inv(np.array(made["frames"][i]["transform_matrix"]))
        local = y_up(points) @ to_camera[:3, :3].T + to_camera[:3, 3]
        flat = local[:, :2] / -local[:, 2:] * [made["fl_x"], -made["fl_y"]]
        assert np.allclose(flat + np.array([made["cx"], made["cy"]]), wanted)
        assert made["frames"][i]["file_path"] == f"frames/{i:04d}.png"
        # COLMAP: world to camera, in the layout's own frame
        row = text[2 * i].split()
        assert row[0] == str(i + 1) and row[-1] == f"{i:04d}.png" and text[2 * i + 1] == ""
        w, x, y, z, *shift = map(float, row[1:8])
        local = Rotation.from_quat([x, y, z, w]).apply(points) + shift
        assert np.allclose(local[:, :2] / local[:, 2:] * [fx, fy] + [cx, cy], wanted)
    rows = (tmp_path / "sparse/0/points3D.txt").read_text().splitlines()
    assert [float(v) for v in rows[0].split()[1:7]] == [1, -1, 20, 255, 0, 0]
    things = json.loads((tmp_path / "instances.json").read_text())["instances"]
    assert things[1] == {"number": 2, "id": "c", "class": "car"}


def test_quaternions_of_any_turn() -> None:
    draws = np.random.default_rng(0)
    turns = [Rotation.random(random_state=draws.integers(99)) for _ in range(9)]
    turns += [Rotation.from_rotvec(np.pi * axis) for axis in np.eye(3)]
    for made in turns:
        w, x, y, z = quaternion(made.as_matrix())
        assert w >= 0 and np.allclose(
            Rotation.from_quat([x, y, z, w]).as_matrix(), made.as_matrix()
        )


def test_maps_keep_their_numbers(tmp_path: Path) -> None:
    layout = street()
    view = look(RayScene(layout), layout.trajectory[0], 16)
    depth = torch.from_numpy(np.where(view.maps.depth > 0, view.maps.depth, 0)).flatten()
    acc = (depth > 0).float()
    none = torch.zeros(0)
    seen = Rendering(none, depth, acc, none, none, none, none, none, 16, 16)
    save_maps(3, view, seen, tmp_path)
    read = {
        name: np.asarray(Image.open(tmp_path / name / "0003.png"))
        for name in ("depth", "classes", "instances")
    }
    assert np.abs(read["depth"] / 256 - depth.view(16, 16).numpy()).max() <= 0.5 / 256
    label = view.maps.label.astype(int)
    assert np.array_equal(read["classes"], np.where(label < 0, 255, label))
    assert np.array_equal(read["instances"].astype(int), view.maps.instance + 1)
    assert {0, 5, 255} == set(np.unique(read["classes"]))


@pytest.mark.parametrize("module", ["av", "cv2"])
def test_the_film_holds_the_frames(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(module)
    cv2 = pytest.importorskip("cv2")
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        "scenes.urban.film.importlib.util.find_spec",
        lambda name: None if name != module else found(name),
    )
    frames = [np.full((33, 48, 3), value, np.uint8) for value in (20, 120, 220)]
    for frame in frames:
        frame[:16] = [200, 40, 40]
    codec = save_mp4(frames, tmp_path / "a.mp4", 10)
    assert codec == {"av": "h264", "cv2": "mpeg4"}[module]
    film = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert film.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    for frame in frames:
        ok, read = film.read()
        assert ok and read.shape == (32, 48, 3)
        assert np.abs(read[20:, :, ::-1].mean() - frame[20, 0, 0]) < 8
        assert np.allclose(read[4:12, :, ::-1].mean(axis=(0, 1)), [200, 40, 40], atol=16)
    assert not film.read()[0]


def test_without_a_library_there_is_no_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scenes.urban.film.importlib.util.find_spec", lambda name: None)
    assert save_mp4([np.zeros((8, 8, 3), np.uint8)], tmp_path / "a.mp4") is None
    assert not list(tmp_path.iterdir())


def test_a_usdz_is_stored_aligned_and_complete(tmp_path: Path) -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3.0]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [188, 188, 188]], np.uint8)
    mesh = Mesh(corners, faces, colours)
    path = save_mesh(mesh, tmp_path / "a.usdz")
    with zipfile.ZipFile(path) as archive:
        (entry,) = archive.infolist()
        assert entry.compress_type == zipfile.ZIP_STORED and archive.testzip() is None
        layer = archive.read(entry)
        start = path.read_bytes().index(b"#usda 1.0")
        assert start % 64 == 0
    text = layer.decode()
    assert "faceVertexIndices = [0, 2, 1, 0, 1, 3, 0, 3, 2, 1, 2, 3]" in text
    assert "(0.0000, 0.0000, 3.0000)" in text and 'upAxis = "Y"' in text
    # 188 of sRGB is half of linear light
    assert "(0.5029, 0.5029, 0.5029)" in text
    try:
        from pxr import Usd, UsdGeom
    except ImportError:
        pass
    else:
        stage = Usd.Stage.Open(str(path))
        read = UsdGeom.Mesh(stage.GetPrimAtPath("/Scene/Mesh"))
        assert np.allclose(np.array(read.GetPointsAttr().Get()), corners)
        assert np.array(read.GetDisplayColorAttr().Get()).shape == (4, 3)
    with pytest.raises(MeshError, match=r"mesh.no_faces"):
        save_mesh(replace(mesh, faces=np.zeros((0, 3), np.int64)), tmp_path / "b.usdz")
