"""Recorded drives with boxes: nuScenes' tables, and Waymo's frames or tables, without their SDKs.

Both have worlds with z up.  A vehicle that stood still is kept wherever it was seen; of one that
moved, the box in the middle of the drive.  Neither has the ground in these files: a road along the
drive and wide ground are added.

Source: Caesar et al. 2020 (nuScenes), its schema; Sun et al. 2020 (Waymo Open Dataset), the frames
of version 1 as JSON, the tables of version 2.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from geo3d.errors import InputError
from geo3d.files import slug
from geo3d.layout.layout import Primitive, box
from scenes.urban.imports.common import (
    EYE_HEIGHT,
    FROM_Z_UP,
    Imported,
    MalformedError,
    Names,
    existing,
    finished,
    importer,
    parsing,
    read_json,
    with_ground,
)

NUSCENES = {
    "vehiclecar": "car",
    "vehicletruck": "truck",
    "vehicleconstruction": "truck",
    "vehicleemergencyambulance": "van",
    "vehicleemergencypolice": "car",
    **dict.fromkeys(("vehiclebusrigid", "vehiclebusbendy"), "bus"),
    "vehicletrailer": "trailer",
    "vehiclemotorcycle": "motorcycle",
    "vehiclebicycle": "bicycle",
    "movableobjecttrafficcone": "smallpole",
    "movableobjectbarrier": "guard rail",
    "movableobjectpushablepullable": "trash bin",
    "movableobjectdebris": "unknown object",
    "staticobjectbicyclerack": "fence",
    "animal": "",
    **{
        f"humanpedestrian{kind}": "person"
        for kind in "adult child wheelchair stroller personalmobility policeofficer "
        "constructionworker".split()
    },
}
WAYMO = {
    **dict.fromkeys(("vehicle", "typevehicle", "1"), "car"),
    **dict.fromkeys(("pedestrian", "typepedestrian", "2"), "person"),
    **dict.fromkeys(("sign", "typesign", "3"), "traffic sign"),
    **dict.fromkeys(("cyclist", "typecyclist", "4"), "rider"),
}
_MOVED = 1.0
"""Metres between two sightings beyond which a thing has moved."""
_LONG = {"car": ((6.5, "truck"), (10.0, "bus"))}
"""Waymo has one kind of vehicle: longer ones are what they most likely are."""


@importer("nuScenes' tables")
def import_nuscenes(folder: Path, scene: str = "") -> Imported:
    """Read one scene from the folder of nuScenes' tables (``v1.0-mini`` and so on).

    The drive is that of the front camera, as recorded.

    Args:
        scene: its name ("scene-0061"); "" takes the first.

    Raises:
        InputError: ``layout_file.no_scene``.
        FileFormatError: ``layout_file.bad_import``.
    """
    tables = {name: read_json(folder / f"{name}.json", "a nuScenes table") for name in _TABLES}
    with parsing():
        known = {row["name"]: row for row in tables["scene"]}
        if not known or (scene and scene not in known):
            raise InputError(
                "layout_file.no_scene",
                f"{folder} has no scene {scene!r}.",
                f"It has {', '.join(sorted(known)[:10])}.",
            )
        row = known[scene or next(iter(known))]
        by_token = {name: {r["token"]: r for r in rows} for name, rows in tables.items()}
        samples, token = [], row["first_sample_token"]
        while token:
            if len(samples) == len(tables["sample"]):
                raise MalformedError("its samples follow each other in a circle")
            samples.append(token)
            token = by_token["sample"][token]["next"]
        cameras, ground = _nuscenes_cameras(by_token, tables["sample_data"], samples)
        boxes = _nuscenes_boxes(by_token, tables["sample_annotation"], samples)
        name = slug(row["name"])
    return _layout_of(name, cameras, ground, boxes, Names(NUSCENES))


@importer("Waymo's boxes")
def import_waymo(path: Path, poses: Path | None = None) -> Imported:
    """Read one segment of Waymo's boxes.

    Either a JSON file of frames (a list, or one a line: what protobuf's own writer makes of
    ``Frame`` messages, with ``pose`` and ``laserLabels``), or version 2's table ``lidar_box`` as
    CSV or Parquet, with that of ``vehicle_pose`` beside it.

    The camera is put over the vehicle's origin, looking ahead, as no camera is in these files.

    Args:
        poses: the table ``vehicle_pose``; None looks beside the other.

    Raises:
        InputError: ``file.missing``, ``layout_file.no_scene``.
        FileFormatError: ``layout_file.bad_import``.
    """
    is_table = path.suffix.lower() in (".csv", ".parquet")
    with parsing():
        frames = _waymo_tables(path, poses) if is_table else _waymo_frames(path)
    if not frames:
        raise InputError("layout_file.no_scene", f"{path} has no frames.", "Take another segment.")
    boxes, vehicle = [], np.stack([pose for pose, _ in frames])
    for number, (pose, labels) in enumerate(frames):
        for label in labels:
            turned = pose @ _placed(label["centre"], label["heading"])
            boxes.append((label["id"], number, label["kind"], turned, label["size"]))
    ground = vehicle[:, :3, 3]
    # the vehicle looks along its x, left is y
    ahead = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    cameras = vehicle.copy()
    cameras[:, :3, :3] = vehicle[:, :3, :3] @ ahead
    cameras[:, :3, 3] = ground + np.array([0, 0, EYE_HEIGHT])
    return _layout_of(slug(path.stem), cameras, ground, boxes, Names(WAYMO))


Box = tuple[str, int, str, np.ndarray, Sequence[float]]
"""Id, number of the frame, label, pose in the world, and length, width, height in metres."""
_TABLES = (
    *("scene", "sample", "sample_data", "sample_annotation", "instance", "category"),
    *("ego_pose", "calibrated_sensor", "sensor"),
)


def _layout_of(
    name: str,
    cameras: Float[np.ndarray, "n 4 4"],
    ground: Float[np.ndarray, "n 3"],
    boxes: Iterable[Box],
    names: Names,
) -> Imported:
    """Return the layout in the world's axes, the first camera over the origin."""
    origin = ground[0]
    tracks: dict[str, list[Box]] = defaultdict(list)
    for one in boxes:
        tracks[one[0]].append(one)
    middle, parts = len(cameras) // 2, []
    for track in tracks.values():
        places = np.array([one[3][:3, 3] for one in track])
        nearest = min(track, key=lambda one: abs(one[1] - middle))
        if np.ptp(places, axis=0).max() > _MOVED and abs(nearest[1] - middle) > 1:
            names.skipped[f"{nearest[2]} that moved and was elsewhere"] += 1
            continue
        if part := _box_of(nearest, origin, names):
            parts.append(part)
    kept, trajectory = [0], np.tile(np.eye(4), (len(cameras), 1, 1))
    trajectory[:, :3, :3] = FROM_Z_UP @ cameras[:, :3, :3]
    trajectory[:, :3, 3] = (cameras[:, :3, 3] - origin) @ FROM_Z_UP.T
    for k in range(1, len(trajectory)):
        # where the vehicle stood, one camera is enough
        if np.linalg.norm(trajectory[k, :3, 3] - trajectory[kept[-1], :3, 3]) > 0.3:
            kept.append(k)
    trajectory = trajectory[kept]
    below = float(np.median((cameras[:, :3, 3] - ground)[:, 2]))
    return finished(name, with_ground(parts, trajectory, below), trajectory, names)


def _box_of(one: Box, origin: np.ndarray, names: Names) -> Primitive | None:
    _, _, label, pose, (length, width, height) = one
    name = names.of(label)
    if names.known is WAYMO:
        for least, longer in _LONG.get(name, ()):
            name = longer if length > least else name
    if not name or min(length, width, height) <= 0:
        return None
    # a box's own x is ahead and z up; ours has x to the right, y down, z ahead
    turned = np.eye(4)
    turned[:3, :3] = FROM_Z_UP @ pose[:3, :3] @ np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    turned[:3, 3] = FROM_Z_UP @ (pose[:3, 3] - origin)
    shape = box("", name, (0, 0, 0), (width, height, length))
    return Primitive("", name, "box", turned @ shape.transform, shape.vertices, shape.faces)


def _nuscenes_cameras(
    by_token: Mapping[str, Mapping[str, Any]], rows: Sequence[Any], samples: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    wanted, found = set(samples), []
    for row in rows:
        sensor = by_token["calibrated_sensor"][row["calibrated_sensor_token"]]
        if (
            row["sample_token"] in wanted
            and by_token["sensor"][sensor["sensor_token"]]["channel"] == "CAM_FRONT"
        ):
            ego = by_token["ego_pose"][row["ego_pose_token"]]
            found.append((row["timestamp"], _pose(ego), _pose(sensor)))
    found.sort(key=lambda item: item[0])
    if not found:
        raise MalformedError("it has no data of CAM_FRONT")
    return np.stack([ego @ cam for _, ego, cam in found]), np.stack([e[:3, 3] for _, e, _ in found])


def _nuscenes_boxes(
    by_token: Mapping[str, Mapping[str, Any]], rows: Sequence[Any], samples: Sequence[str]
) -> list[Box]:
    number = {token: k for k, token in enumerate(samples)}
    boxes: list[Box] = []
    for row in rows:
        if row["sample_token"] in number:
            instance = by_token["instance"][row["instance_token"]]
            label = str(by_token["category"][instance["category_token"]]["name"])
            width, length, height = map(float, row["size"])
            at = number[row["sample_token"]]
            boxes.append((row["instance_token"], at, label, _pose(row), (length, width, height)))
    return boxes


def _waymo_frames(path: Path) -> list[tuple[np.ndarray, list[dict[str, Any]]]]:
    text = existing(path).read_text("utf-8")
    try:
        content = json.loads(text)
    except ValueError:
        content = [json.loads(line) for line in text.splitlines() if line.strip()]
    frames = content.get("frames", [content]) if isinstance(content, dict) else content
    found = []
    for frame in sorted(frames, key=lambda f: int(_either(f, "timestampMicros", 0))):
        pose = np.array(frame["pose"]["transform"], np.float64).reshape(4, 4)
        labels = []
        for label in _either(frame, "laserLabels", []):
            shape = label["box"]
            labels.append(
                {
                    "id": str(label.get("id", len(labels))),
                    "kind": str(label.get("type", "unknown")),
                    "centre": [float(_either(shape, f"center{axis}", 0)) for axis in "XYZ"],
                    "size": [float(shape.get(key, 0)) for key in ("length", "width", "height")],
                    "heading": float(shape.get("heading", 0)),
                }
            )
        found.append((pose, labels))
    return found


def _waymo_tables(path: Path, poses: Path | None) -> list[tuple[np.ndarray, list[dict[str, Any]]]]:
    if poses is None:
        poses = path.with_name(path.name.replace("lidar_box", "vehicle_pose"))
        if poses == path:
            poses = path.parent.parent / "vehicle_pose" / path.name
    key, form = "key.frame_timestamp_micros", "[LiDARBoxComponent].box."
    frames: dict[int, tuple[np.ndarray, list[dict[str, Any]]]] = {}
    transform = "[VehiclePoseComponent].world_from_vehicle.transform"
    for row in _rows(existing(poses)):
        values = row[transform]
        if isinstance(values, str):
            values = re.findall(r"[-+.\deE]+", values)
        frames[int(row[key])] = (np.array(values, np.float64).reshape(4, 4), [])
    for row in _rows(existing(path)):
        label = {
            "id": str(row["key.laser_object_id"]),
            "kind": str(row["[LiDARBoxComponent].type"]),
            "centre": [float(row[f"{form}center.{axis}"]) for axis in "xyz"],
            "size": [float(row[f"{form}size.{axis}"]) for axis in "xyz"],
            "heading": float(row[f"{form}heading"]),
        }
        frames[int(row[key])][1].append(label)
    return [frames[stamp] for stamp in sorted(frames)]


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix.lower() == ".parquet":
        from geo3d.backends import require

        require("pyarrow")
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _either(values: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return an entry by its name in JSON, or in the protocol ("center_x")."""
    other = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
    return values.get(name, values.get(other, default))


def _placed(centre: Sequence[float], heading: float) -> np.ndarray:
    pose = np.eye(4)
    c, s = np.cos(heading), np.sin(heading)
    pose[:2, :2] = [[c, -s], [s, c]]
    pose[:3, 3] = centre
    return pose


def _pose(row: Mapping[str, Any]) -> np.ndarray:
    """Return a pose of translation and a quaternion (w, x, y, z)."""
    w, x, y, z = np.array(row["rotation"], np.float64) / np.linalg.norm(row["rotation"])
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = row["translation"]
    return pose
