"""Tiny files of streets in the formats of others, made here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

LON, LAT = 11.0, 48.0
EAST = 1 / (111319.49 * math.cos(math.radians(LAT)) * 1.00185)
NORTH = 1 / 111200.0
"""About a metre in degrees; tests allow for what that leaves out."""


def degrees(x: float, y: float) -> tuple[float, float]:
    return LON + x * EAST, LAT + y * NORTH


def osm(path: Path) -> Path:
    """A street north, a house to its east, trees to its west, a bench that nobody wants."""
    nodes: list[str] = []

    def node(x: float, y: float, **tags: str) -> int:
        lon, lat = degrees(x, y)
        words = "".join(f'<tag k="{k}" v="{v}"/>' for k, v in tags.items())
        number = len(nodes) + 1
        nodes.append(f'<node id="{number}" lon="{lon:.9f}" lat="{lat:.9f}">{words}</node>')
        return number

    def way(*ids: int, **tags: str) -> str:
        refs = "".join(f'<nd ref="{i}"/>' for i in ids)
        words = "".join(f'<tag k="{k.replace("__", ":")}" v="{v}"/>' for k, v in tags.items())
        return f'<way id="{900 + ids[0]}">{refs}{words}</way>'

    middle, far = node(0, 42), node(0, 80)
    ways = [
        way(node(0, 0), middle, highway="residential", name="A", width="6", sidewalk="both"),
        way(far, middle, highway="residential", name="A", width="6"),
        way(middle, node(60, 42), highway="service"),
    ]
    house = [node(*p) for p in ((12, 20), (22, 20), (22, 32), (12, 32))]
    ways.append(way(*house, house[0], building="yes", building__levels="3"))
    lawn = [node(*p) for p in ((-20, 10), (-8, 10), (-8, 30), (-20, 30))]
    ways.append(way(*lawn, lawn[0], leisure="park"))
    ways.append(way(node(-6, 5), node(-6, 35), barrier="fence"))
    node(-12, 20, natural="tree", height="9")
    node(5, 10, highway="street_lamp")
    node(7, 12, amenity="bench")
    path.write_text(f"<osm version='0.6'>{''.join(nodes)}{''.join(ways)}</osm>")
    return path


def geojson(path: Path, is_metric: bool = False) -> Path:
    def place(x: float, y: float) -> list[float]:
        return [500000.0 + x, 5e6 + y] if is_metric else list(degrees(x, y))

    ring = [place(*p) for p in ((12, 20), (22, 20), (22, 32), (12, 32), (12, 20))]
    hole = [place(*p) for p in ((15, 24), (19, 24), (19, 28), (15, 28), (15, 24))]
    shapes = [
        ({"type": "LineString", "coordinates": [place(0, 0), place(0, 80)]}, {"width": 6}),
        ({"type": "Polygon", "coordinates": [ring, hole]}, {"height": 9.5}),
        ({"type": "Point", "coordinates": place(-6, 30)}, {"natural": "tree"}),
        ({"type": "Point", "coordinates": place(-7, 30)}, {"amenity": "fountain"}),
    ]
    features = [{"type": "Feature", "geometry": g, "properties": p} for g, p in shapes]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def cityjson(path: Path) -> Path:
    """A road north, a house to its east, with millimetres and a shift; a pond that is left out."""
    corners = [(0, 0), (8, 0), (8, 80), (0, 80)]
    points = [(x, y, 0) for x, y in corners]
    points += [(x, y, z) for z in (0, 9) for x, y in ((14, 20), (24, 20), (24, 32), (14, 32))]
    house = [[[4, 7, 6, 5]], [[8, 9, 10, 11]]]
    house += [[[4 + a, 4 + b, 8 + b, 8 + a]] for a, b in ((0, 1), (1, 2), (2, 3), (3, 0))]
    objects = {
        "r": {"type": "Road", "geometry": [_surface("MultiSurface", [[[0, 1, 2, 3]]])]},
        "b": {"type": "Building", "geometry": [_surface("Solid", [house])]},
        "w": {"type": "WaterBody", "geometry": [_surface("MultiSurface", [[[0, 1, 2]]])]},
        "f": {"type": "+Folly", "geometry": [_surface("MultiSurface", [[[8, 9, 10, 11]]])]},
    }
    content = {
        "type": "CityJSON",
        "version": "2.0",
        "transform": {"scale": [0.001] * 3, "translate": [85000.0, 446500.0, 12.0]},
        "CityObjects": objects,
        "vertices": (1000 * np.array(points)).astype(int).tolist(),
    }
    path.write_text(json.dumps(content))
    return path


def _surface(kind: str, boundaries: list) -> dict:
    return {"type": kind, "lod": "2", "boundaries": boundaries}


def opendrive(path: Path) -> Path:
    """A road north for 40 m, then to the right (east) on an arc; lanes, walks, a house, a sign."""
    turn = math.pi / 2 * 20
    lanes = "".join(
        f"<{side}>"
        + "".join(
            f"<lane id='{sign * (i + 1)}' type='{kind}'><width sOffset='0' a='{w}' b='0' c='0' "
            "d='0'/></lane>"
            for i, (kind, w) in enumerate((("driving", 3.5), ("sidewalk", 2), ("fancy", 1)))
        )
        + f"</{side}>"
        for side, sign in (("left", 1), ("right", -1))
    )
    path.write_text(
        "<OpenDRIVE xmlns='http://code.asam.net/simulation/standard/opendrive_schema'>"
        f"<header revMajor='1'/><road id='1' length='{40 + turn}' junction='-1'><planView>"
        f"<geometry s='0' x='100' y='200' hdg='{math.pi / 2}' length='40'><line/></geometry>"
        f"<geometry s='40' x='100' y='240' hdg='{math.pi / 2}' length='{turn}'>"
        "<arc curvature='-0.05'/></geometry></planView>"
        "<elevationProfile><elevation s='0' a='5' b='0.01' c='0' d='0'/></elevationProfile>"
        f"<lanes><laneSection s='0'>{lanes}</laneSection></lanes><objects>"
        "<object type='building' s='20' t='-14' zOffset='0' hdg='0' length='10' width='8' "
        "height='6'/>"
        "<object type='tree' s='10' t='8' radius='1.5' height='5'/></objects>"
        "<signals><signal s='5' t='-6' zOffset='2' dynamic='no' height='0.6' width='0.6'/>"
        "</signals>"
        "</road></OpenDRIVE>"
    )
    return path


def nuscenes(folder: Path) -> Path:
    """Five samples of a drive north, a parked car that looks east, one that moved on."""
    folder.mkdir()
    half = math.sqrt(0.5)
    # the vehicle looks along its x: a quarter turn about z makes that north
    north = [half, 0, 0, half]
    samples = [f"s{i}" for i in range(5)]
    tables = {
        "scene": [{"token": "c", "name": "scene-0061", "first_sample_token": "s0"}],
        "sample": [
            {"token": t, "next": samples[i + 1] if i < 4 else ""} for i, t in enumerate(samples)
        ],
        "sensor": [{"token": "front", "channel": "CAM_FRONT"}],
        # camera axes: z ahead, x right, y down
        "calibrated_sensor": [
            {
                "token": "k",
                "sensor_token": "front",
                "translation": [1.5, 0, 1.6],
                "rotation": [0.5, -0.5, 0.5, -0.5],
            }
        ],
        "ego_pose": [
            {"token": f"e{i}", "translation": [300, 600 + 4.0 * i, 0], "rotation": north}
            for i in range(5)
        ],
        "sample_data": [
            {
                "token": f"d{i}",
                "sample_token": t,
                "ego_pose_token": f"e{i}",
                "calibrated_sensor_token": "k",
                "timestamp": i,
            }
            for i, t in enumerate(samples)
        ],
        "category": [
            {"token": "car", "name": "vehicle.car"},
            {"token": "odd", "name": "static_object.kiosk"},
        ],
        "instance": [
            {"token": "parked", "category_token": "car"},
            {"token": "gone", "category_token": "car"},
            {"token": "kiosk", "category_token": "odd"},
        ],
        "sample_annotation": [
            _annotation("s0", "parked", (306, 612, 0.8), (1.8, 4.4, 1.6), [1, 0, 0, 0]),
            _annotation("s0", "gone", (303, 640, 0.8), (1.8, 4.4, 1.6), north),
            _annotation("s4", "gone", (303, 660, 0.8), (1.8, 4.4, 1.6), north),
            _annotation("s2", "kiosk", (292, 620, 1.5), (2, 2, 3), [1, 0, 0, 0]),
        ],
    }
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


def _annotation(sample: str, instance: str, place: tuple, size: tuple, turn: list) -> dict:
    return {
        "token": sample + instance,
        "sample_token": sample,
        "instance_token": instance,
        "translation": list(place),
        "size": list(size),
        "rotation": turn,
    }


def waymo_pose(north: float) -> list[float]:
    """The vehicle's x looks north."""
    return [0, -1, 0, 50, 1, 0, 0, 70 + north, 0, 0, 1, 3, 0, 0, 0, 1]


def waymo_json(path: Path) -> Path:
    frames = []
    for i in range(4):
        ahead = 15.0 - 5.0 * i
        box = {"centerX": ahead, "centerY": -6.0, "centerZ": 0.9, "heading": 0.0}
        label = {"box": {**box, "length": 11, "width": 2.5, "height": 1.8}, "id": "p"}
        odd = {"box": {**box, "centerY": 8.0, "length": 1, "width": 1, "height": 1}, "id": "q"}
        labels = [{**label, "type": "TYPE_VEHICLE"}, {**odd, "type": "TYPE_ROBOT"}]
        frame = {"timestampMicros": str(i), "pose": {"transform": waymo_pose(5.0 * i)}}
        frames.append({**frame, "laserLabels": labels})
    path.write_text("\n".join(map(json.dumps, frames)))
    return path


def waymo_tables(folder: Path) -> Path:
    form = "[LiDARBoxComponent]."
    head = ["key.frame_timestamp_micros", "key.laser_object_id", f"{form}type"]
    head += [f"{form}box.{k}" for k in ("center.x", "center.y", "center.z")]
    head += [f"{form}box.{k}" for k in ("size.x", "size.y", "size.z", "heading")]
    rows = [[str(i), "p", "1", 15 - 5.0 * i, -6, 0.9, 4.4, 1.8, 1.6, 0] for i in range(4)]
    lines = [",".join(head), *(",".join(map(str, row)) for row in rows)]
    (folder / "lidar_box.csv").write_text("\n".join(lines))
    poses = "[VehiclePoseComponent].world_from_vehicle.transform"
    lines = [f"key.frame_timestamp_micros,{poses}"]
    for i in range(4):
        text = str(np.array(waymo_pose(5.0 * i), float))
        lines.append(f'{i},"{text}"')
    (folder / "vehicle_pose.csv").write_text("\n".join(lines))
    return folder / "lidar_box.csv"


def kitti360(folder: Path) -> Path:
    """A road, a house to the left of the drive, and labels of every kind."""

    def matrix(name: str, values: np.ndarray) -> str:
        rows, columns = values.shape
        data = " ".join(str(v) for v in values.ravel())
        return f"<{name}><rows>{rows}</rows><cols>{columns}</cols><data>{data}</data></{name}>"

    from geo3d.layout.layout import CUBE_FACES, CUBE_VERTICES

    def thing(label: str, place: tuple, size: tuple) -> str:
        transform = np.diag([*size, 1.0])
        transform[:3, 3] = place
        parts = matrix("transform", transform) + matrix("vertices", CUBE_VERTICES)
        parts += matrix("faces", CUBE_FACES)
        parts += "<start_frame>0</start_frame><end_frame>9</end_frame><timestamp>-1</timestamp>"
        return f"<object1>{label}{parts}</object1>"

    body = thing("<label>road</label>", (20, 0, -0.3), (80, 8, 0.6))
    body += thing("<label>building</label>", (15, 10, 3), (10, 6, 6))
    for i, label in enumerate(("bigPole", "smallPole", "trashbin", "vendingmachine", "wombat")):
        body += thing(f"<label>{label}</label>", (10 + 3 * i, -8, 1), (0.3, 0.3, 2))
    body += thing("<semanticId>999</semanticId>", (8, -9, 1), (1, 1, 2))
    body += thing("<label>trailer</label>", (30, -9, 1), (4, 2, 2))
    (folder / "k.xml").write_text(f"<opencv_storage>{body}</opencv_storage>")
    pose = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.55], [0, 0, 0, 1.0]])
    rows = []
    for i in range(10):
        pose[0, 3] = 0.8 * i
        rows.append(np.r_[i, pose.ravel()])
    np.savetxt(folder / "cam0_to_world.txt", np.array(rows))
    return folder / "k.xml"
