"""What reconstruction programs ask for beside the images of a drive: cameras, depth, classes.

    outputs/transforms.json        nerfstudio: cameras (y up, z backward), in the meshes' frame
    outputs/sparse/0/*.txt         COLMAP: cameras, images, points; in the frame of the layout
    outputs/depth/0000.png         16 bit, 256 to the metre along the camera's z; 0: nothing
    outputs/classes/0000.png       class ids by palette; 255: nothing
    outputs/instances/0000.png     16 bit, 1 + index of the primitive; 0: nothing
    outputs/instances.json         id and class of every index

Depth is that of the scene; classes and instances those of the layout.  The frame of meshes has
y up: (x, -y, -z) of the layout.  That of the layout has y down, as captures by COLMAP have it.

Source: nerfstudio's data format; COLMAP's text format; depth as in KITTI.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from geo3d.files import atomic_path, atomic_write_json, atomic_write_text
from geo3d.layout.classes import CLASSES, PALETTE
from geo3d.layout.layout import Layout
from geo3d.render.cameras import Camera, opencv_to_opengl
from scenes.urban.scene import Rendering
from scenes.urban.views import View

PER_METRE = 256
"""Steps of the depth images in a metre."""
NOTHING = 255
Y_UP = np.diag([1.0, -1.0, -1.0, 1.0])
"""From the layout's frame to that of the meshes."""
_SPARSE = 20_000


def save_maps(number: int, view: View, seen: Rendering, folder: Path, finer: int = 1) -> None:
    """Write depth, classes and instances of one frame.

    Args:
        finer: rays per pixel of the frame, squared; the maps are of one near its middle.
    """
    kept = (slice(finer // 2, None, finer),) * 2
    depth = seen.depth.reshape(seen.height, seen.width).numpy()
    steps = np.where(seen.acc.numpy().reshape(depth.shape) > 0.5, depth * PER_METRE, 0)[kept]
    _save(steps.round().clip(0, 65535).astype(np.uint16), folder / "depth", number)
    label = view.maps.label[kept].astype(int)
    classes = Image.fromarray(np.where(label < 0, NOTHING, label).astype(np.uint8), "P")
    classes.putpalette(np.concatenate([PALETTE, np.zeros((242, 3), np.uint8)]).tobytes())
    with atomic_path(folder / "classes" / f"{number:04d}.png") as path:
        classes.save(path)
    _save(
        (view.maps.instance[kept] + 1).clip(0, 65535).astype(np.uint16),
        folder / "instances",
        number,
    )


def save_cameras(
    layout: Layout,
    cameras: Sequence[Camera],
    cloud: tuple[Float[np.ndarray, "p 3"], UInt8[np.ndarray, "p 3"]],
    folder: Path,
) -> None:
    """Write the cameras of the frames for nerfstudio and COLMAP, and what the maps' numbers mean.

    Args:
        cloud: points of the layout's frame and their colours; may be empty.
    """
    save_instances(layout, folder)
    save_transforms(cameras, folder, len(cloud[0]) > 0)
    save_colmap(cameras, *cloud, folder)


def save_instances(layout: Layout, folder: Path) -> Path:
    """Write what the numbers in the images of instances and classes stand for."""
    names: dict[int, list[str]] = {}
    for name, number in CLASSES.items():
        names.setdefault(number, []).append(name)
    things = [
        {"number": i + 1, "id": p.id, "class": p.name} for i, p in enumerate(layout.primitives)
    ]
    content = {"instances": things, "classes": names, "nothing": {"instance": 0, "class": NOTHING}}
    return atomic_write_json(folder / "instances.json", content)


def save_transforms(cameras: Sequence[Camera], folder: Path, has_points: bool) -> Path:
    """Write the cameras of frames/0000.png, ... as nerfstudio reads them."""
    frames = [
        {
            "file_path": f"frames/{i:04d}.png",
            "depth_file_path": f"depth/{i:04d}.png",
            "transform_matrix": (Y_UP @ opencv_to_opengl(camera.c2w)).tolist(),
        }
        for i, camera in enumerate(cameras)
    ]
    first = cameras[0]
    content = {
        "camera_model": "OPENCV",
        "fl_x": first.fx,
        "fl_y": first.fy,
        "cx": first.cx,
        "cy": first.cy,
        "w": first.width,
        "h": first.height,
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        "depth_unit_scale_factor": 1 / PER_METRE,
        **({"ply_file_path": "points.ply"} if has_points else {}),
        "frames": frames,
    }
    return atomic_write_json(folder / "transforms.json", content)


def save_colmap(
    cameras: Sequence[Camera],
    points: Float[np.ndarray, "p 3"],
    colours: UInt8[np.ndarray, "p 3"],
    folder: Path,
) -> Path:
    """Write cameras and points as COLMAP's text model; return its folder.

    Args:
        points: of the layout's frame; some of them are kept.
    """
    model, first = folder / "sparse" / "0", cameras[0]
    numbers = f"{first.width} {first.height} {first.fx!r} {first.fy!r} {first.cx!r} {first.cy!r}"
    atomic_write_text(model / "cameras.txt", f"1 PINHOLE {numbers}\n")
    lines = []
    for i, camera in enumerate(cameras):
        turn = camera.c2w[:3, :3].T
        values = [*quaternion(turn), *(-turn @ camera.c2w[:3, 3])]
        text = " ".join(repr(float(value)) for value in values)
        # the second line would list points seen in the image
        lines.append(f"{i + 1} {text} 1 {i:04d}.png\n\n")
    atomic_write_text(model / "images.txt", "".join(lines))
    step = max(1, len(points) // _SPARSE)
    rows = zip(points[::step], colours[::step], strict=True)
    text = "".join(
        f"{i + 1} {x:.4f} {y:.4f} {z:.4f} {r} {g} {b} 0\n"
        for i, ((x, y, z), (r, g, b)) in enumerate(rows)
    )
    atomic_write_text(model / "points3D.txt", text)
    return model


def quaternion(turn: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 4"]:
    """Return the quaternion (w, x, y, z), w not negative, of a rotation.

    It is the eigenvector of the largest eigenvalue of a symmetric matrix (Bar-Itzhack 2000), which
    is stable for every angle.
    """
    (a, b, c), (d, e, f), (g, h, i) = turn
    matrix = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    found = np.linalg.eigh(matrix)[1][:, -1]
    return found if found[0] >= 0 else -found


def _save(image: np.ndarray, folder: Path, number: int) -> None:
    with atomic_path(folder / f"{number:04d}.png") as path:
        Image.fromarray(image).save(path)
