"""Files of others become layouts: the right way round, complete, and with what is unknown named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import street_files

from apps.cli import main
from geo3d.errors import ConfigError, FileFormatError, Geo3dError, InputError
from geo3d.layout.classes import CLASSES
from geo3d.layout.layout import Layout, Primitive
from scenes.urban.conditions import is_closed
from scenes.urban.imports import drives, features, kitti360, opendrive
from scenes.urban.imports.cityjson import import_cityjson
from scenes.urban.imports.common import Imported
from scenes.urban.imports.door import FORMATS, ImportOptions, format_of, import_layout
from scenes.urban.imports.kitti360 import import_kitti360
from scenes.urban.imports.opendrive import import_opendrive
from scenes.urban.imports.polygons import area, prism, triangulated, triangulated_in_space
from scenes.urban.layout_json import load_layout
from scenes.urban.validate import check_layout

MAKERS: dict[str, Callable[[Path], Path]] = {
    "osm": lambda folder: street_files.osm(folder / "a.osm"),
    "geojson": lambda folder: street_files.geojson(folder / "a.json"),
    "cityjson": lambda folder: street_files.cityjson(folder / "a.city.json"),
    "opendrive": lambda folder: street_files.opendrive(folder / "a.xodr"),
    "nuscenes": lambda folder: street_files.nuscenes(folder / "v1.0-mini"),
    "waymo": lambda folder: street_files.waymo_json(folder / "segment.json"),
    "kitti360": street_files.kitti360,
}


def errors(layout: Layout) -> list[str]:
    return [f.code for f in check_layout(layout) if f.severity == "error"]


def named(made: Imported, name: str) -> list[Primitive]:
    return [p for p in made.layout.primitives if p.name == name]


def middle(primitive: Primitive) -> np.ndarray:
    return primitive.bounds().mean(axis=0)


@pytest.mark.parametrize("format", MAKERS)
def test_every_format_gives_a_street_that_can_be_built(tmp_path: Path, format: str) -> None:
    path = MAKERS[format](tmp_path)
    assert format_of(path) == format
    made = import_layout(path)
    assert errors(made.layout) == []
    assert made.mapped or made.skipped, "each file holds something that is not known"
    # upright, right-handed cameras that look where they go
    poses = made.layout.trajectory
    assert np.allclose(np.linalg.det(poses[:, :3, :3]), 1)
    assert (poses[:, 1, 1] > 0.99).all()
    ahead = np.diff(poses[:, :3, 3], axis=0)
    assert (np.einsum("ni,ni->n", ahead, poses[:-1, :3, 2]) > 0).all()
    for part in made.layout.primitives:
        assert part.name in CLASSES
        assert part.kind == "mesh" or np.linalg.det(part.transform[:3, :3]) > 0


@pytest.mark.parametrize("format", ["osm", "geojson", "cityjson"])
def test_maps_keep_east_right_and_north_ahead(tmp_path: Path, format: str) -> None:
    made = import_layout(MAKERS[format](tmp_path))
    pose = made.layout.trajectory[0]
    assert np.allclose(pose[:3, 2], [0, 0, 1], atol=0.01)
    (house,) = named(made, "building")
    low, high = house.bounds()
    # 12 to 22 m east of the middle of the road, which is left of the right lane
    lane = {"osm": 1.5, "geojson": 1.5, "cityjson": 6.0}[format]
    east = {"osm": (12, 22), "geojson": (12, 22), "cityjson": (14, 24)}[format]
    start = {"osm": 0, "geojson": 0, "cityjson": 1}[format]
    assert np.allclose([low[0], high[0]], np.array(east) - lane, atol=0.15)
    assert np.allclose([low[2], high[2]], np.array([20, 32]) - start, atol=0.15)
    top = {"osm": 9.3, "geojson": 9.5, "cityjson": 9.0}[format]
    assert low[1] == pytest.approx(-top, abs=0.01) and is_closed(house.vertices, house.faces)
    volume = {"osm": 120 * 9.3, "geojson": 104 * 9.5, "cityjson": 120 * 9.0}[format]
    assert signed_volume(house) == pytest.approx(volume, rel=0.01)


def signed_volume(part: Primitive) -> float:
    corners = part.world_vertices()[part.faces]
    return float(np.linalg.det(corners).sum() / 6)


def test_what_osm_tells(tmp_path: Path) -> None:
    made = import_layout(MAKERS["osm"](tmp_path))
    counts = Counter(p.name for p in made.layout.primitives)
    wanted = {"road": 3, "sidewalk": 2, "building": 1, "terrain": 2, "fence": 1}
    assert counts == {**wanted, "vegetation": 1, "lamp": 1}
    assert dict(made.skipped) == {"amenity=bench": 1}
    # two ways of one name are driven as one, on the right
    places = made.layout.trajectory[:, :3, 3]
    assert np.ptp(places[:, 2]) == pytest.approx(80, abs=0.2) and np.ptp(places[:, 0]) < 0.1
    (tree,), (fence,) = named(made, "vegetation"), named(made, "fence")
    assert middle(tree)[0] == pytest.approx(-13.5, abs=0.1) and tree.bounds()[0, 1] < -8.5
    size = np.ptp(fence.bounds(), axis=0)
    assert size[2] == pytest.approx(30, abs=0.2) and size[0] < 0.2


def test_geojson_in_metres(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    far = import_layout(street_files.geojson(tmp_path / "a.geojson"))
    near = import_layout(street_files.geojson(tmp_path / "b" / "a.geojson", is_metric=True))
    a, b = (middle(named(made, "building")[0]) for made in (far, near))
    assert np.allclose(a, b, atol=0.1)


def test_a_drive_of_ones_own(tmp_path: Path) -> None:
    line = np.array([street_files.degrees(0, 70), street_files.degrees(0, 10)])
    made = import_layout(MAKERS["osm"](tmp_path), ImportOptions(drive=line))
    assert np.allclose(made.layout.trajectory[0, :3, 2], [0, 0, -1], atol=0.01)
    (house,) = named(made, "building")
    assert middle(house)[0] == pytest.approx(17, abs=0.1)
    made = import_cityjson(
        MAKERS["cityjson"](tmp_path), np.array([[85004, 446510], [85004, 446560]])
    )
    assert len(made.layout.trajectory) == 72


def test_opendrive_follows_lines_and_arcs(tmp_path: Path) -> None:
    made = import_opendrive(MAKERS["opendrive"](tmp_path))
    places = made.layout.trajectory[:, :3, 3]
    # on the right lane, 1.75 m east of the line; the arc of 20 m ends looking east, 20 m further
    assert np.allclose(places[0], [0, -1.55, 0], atol=1e-6)
    inner = 20 - 1.75
    assert np.allclose(places[-1, [0, 2]], [inner, 40 + inner], atol=0.02)
    assert np.allclose(made.layout.trajectory[-1, :3, 2], [1, 0, 0], atol=0.05)
    climb = 0.01 * (40 + np.pi / 2 * 20)
    assert places[-1, 1] == pytest.approx(-1.55 - climb, abs=0.01)
    counts = Counter(p.name for p in made.layout.primitives)
    assert counts == {
        **{"road": 2, "sidewalk": 2, "ground": 2, "terrain": 1},
        **{"building": 1, "vegetation": 1, "traffic sign": 1},
    }
    assert dict(made.mapped) == {"fancy -> ground": 2}
    (house,) = named(made, "building")
    assert np.allclose(middle(house)[[0, 2]], [14 - 1.75, 20], atol=1e-6)
    assert np.allclose(np.ptp(house.bounds(), axis=0), [8, 6, 10])
    right = max(named(made, "sidewalk"), key=lambda p: middle(p)[0] - middle(p)[2])
    assert right.bounds()[0, 1] < 0


@pytest.mark.parametrize(
    ("shape", "end", "heading"),
    [
        ("<spiral curvStart='0' curvEnd='0.02'/>", None, 0.5),
        ("<poly3 a='0' b='0' c='0.01' d='0'/>", None, None),
        (
            "<paramPoly3 pRange='normalized' aU='0' bU='50' cU='0' dU='0' aV='0' bV='0' cV='10' "
            "dV='0'/>",
            (50, 10),
            None,
        ),
    ],
)
def test_opendrive_geometries(tmp_path: Path, shape: str, end: Any, heading: float | None) -> None:
    path = tmp_path / "a.xodr"
    path.write_text(
        "<OpenDRIVE><road id='1' length='50'><planView><geometry s='0' x='0' y='0' hdg='0' "
        f"length='50'>{shape}</geometry></planView><lanes><laneSection s='0'><right><lane id='-1' "
        "type='driving'><width sOffset='0' a='0.001' b='0' c='0' d='0'/></lane></right>"
        "</laneSection></lanes></road></OpenDRIVE>"
    )
    poses = import_opendrive(path).layout.trajectory
    east, north = poses[-1, 0, 3] - poses[0, 0, 3], poses[-1, 2, 3] - poses[0, 2, 3]
    if end is not None:
        assert (east, north) == pytest.approx(end, abs=0.02)
    if heading is not None:
        # a clothoid from Fresnel's integrals
        from scipy.special import fresnel

        a = np.sqrt(np.pi * 50 / 0.02)
        s, c = fresnel(50 / a)
        assert (east, north) == pytest.approx((a * c, a * s), abs=0.02)
    if "poly3 a" in shape and end is None and heading is None:
        assert north == pytest.approx(0.01 * east**2, abs=0.01)
        u = np.linspace(0, east, 2001)
        length = np.trapezoid(np.sqrt(1 + (0.02 * u) ** 2), u)
        assert length == pytest.approx(50, abs=0.05)


def test_nuscenes_boxes_stand_where_they_stood(tmp_path: Path) -> None:
    made = import_layout(MAKERS["nuscenes"](tmp_path))
    pose = made.layout.trajectory[0]
    assert np.allclose(pose[:3, :3], np.eye(3), atol=1e-9)
    # the camera is 1.5 m before the vehicle's origin, 1.6 m up
    assert np.allclose(pose[:3, 3], [0, -1.6, 1.5])
    (car,) = named(made, "car")
    assert np.allclose(middle(car), [6, -0.8, 12])
    # it looks east: its length is along x
    assert np.allclose(np.ptp(car.bounds(), axis=0), [4.4, 1.6, 1.8])
    assert dict(made.mapped) == {"static_object.kiosk -> unknown object": 1}
    assert dict(made.skipped) == {"vehicle.car that moved and was elsewhere": 1}
    road = named(made, "road")[0]
    assert road.bounds()[0, 1] == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match=r"layout_file.no_scene"):
        import_layout(tmp_path / "v1.0-mini", ImportOptions(scene="scene-9"))


def test_waymos_frames_and_tables_agree(tmp_path: Path) -> None:
    made = import_layout(MAKERS["waymo"](tmp_path))
    assert np.allclose(made.layout.trajectory[0, :3, :3], np.eye(3), atol=1e-9)
    (bus,) = named(made, "bus")
    assert np.allclose(middle(bus), [6, -0.9, 15]) and "TYPE_ROBOT -> unknown object" in made.mapped
    assert np.allclose(np.ptp(bus.bounds(), axis=0), [2.5, 1.8, 11])
    other = import_layout(street_files.waymo_tables(tmp_path))
    (car,) = named(other, "car")
    assert np.allclose(middle(car), [6, -0.9, 15])
    assert np.allclose(other.layout.trajectory, made.layout.trajectory)
    (tmp_path / "vehicle_pose.csv").unlink()
    with pytest.raises(InputError, match=r"file.missing"):
        import_layout(tmp_path / "lidar_box.csv")


def test_kitti_labels_are_known_or_named(tmp_path: Path) -> None:
    """Whatever the spelling (case `kitti360-bigpole`)."""
    made = import_kitti360(MAKERS["kitti360"](tmp_path))
    counts = Counter(p.name for p in made.layout.primitives)
    assert counts == {
        **{"road": 1, "building": 1, "pole": 1, "smallpole": 1, "trash bin": 1},
        **{"vending machine": 1, "unknown object": 2},
    }
    unknown = {"wombat -> unknown object": 1, "semanticId 999 -> unknown object": 1}
    assert dict(made.mapped) == unknown and dict(made.skipped) == {"trailer": 1}
    (house,) = named(made, "building")
    assert middle(house)[0] < 0, "left of the drive"
    (tmp_path / "cam0_to_world.txt").rename(tmp_path / "poses.txt")
    with pytest.raises(ConfigError, match=r"layout_file.no_poses"):
        import_kitti360(tmp_path / "k.xml")
    part = import_kitti360(tmp_path / "k.xml", tmp_path / "poses.txt", (2, 4)).layout
    assert len(part.trajectory) == 3


XML = ("osm", "opendrive", "kitti360")


@pytest.mark.parametrize("coding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("format", XML)
def test_entities_are_refused_in_every_coding(tmp_path: Path, format: str, coding: str) -> None:
    path = MAKERS[format](tmp_path)
    bomb = "<!DOCTYPE a [<!ENTITY b 'cc'><!ENTITY d '&b;&b;'>]>"
    text = path.read_text()
    path.write_bytes(f"<?xml version='1.0' encoding='{coding}'?>{bomb}{text}".encode(coding))
    with pytest.raises(FileFormatError, match=r"layout_file.bad_import.*document type"):
        import_layout(path, ImportOptions(format=format))


@pytest.mark.parametrize("format", MAKERS)
@pytest.mark.parametrize("damage", ["cut", "empty", "other", "deep"])
def test_damaged_files_have_one_clear_error(tmp_path: Path, format: str, damage: str) -> None:
    path = MAKERS[format](tmp_path)
    file = path / "sample_annotation.json" if path.is_dir() else path
    whole = file.read_text()
    is_xml = format in XML
    file.write_text(
        {
            "cut": whole[: len(whole) // 2],
            "empty": "",
            "other": "<a/>" if is_xml else '{"type": "FeatureCollection", "features": [1]}',
            "deep": "<a>" * 5000 if is_xml else "[" * 100_000,
        }[damage]
    )
    with pytest.raises(Geo3dError) as caught:
        import_layout(path, ImportOptions(format=format))
    assert caught.value.code.startswith("layout_file.")


def test_formats_are_named_when_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"layout_file.unknown_format"):
        import_layout(tmp_path / "a.txt")
    with pytest.raises(ConfigError, match=r"Did you mean 'osm'"):
        import_layout(tmp_path / "a.txt", ImportOptions(format="osn"))
    with pytest.raises(InputError, match=r"file.missing"):
        import_layout(tmp_path / "none.osm")
    assert set(MAKERS) | {"layout", "sample"} == set(FORMATS)


def test_polygons_by_hand() -> None:
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4.0]])
    hole = np.array([[1, 1], [3, 1], [3, 3], [1, 3.0]])
    comb = np.array([[0, 0], [5, 0], [5, 3], [4, 3], [4, 1], [3, 1], [3, 3], [0, 3.0]])
    for rings, size in (
        ([square], 16),
        ([square[::-1]], 16),
        ([square, hole], 12),
        ([square, hole[::-1], hole / 4 + 0.2], 12 - 0.25),
        ([comb], 13),
        ([square[:3]], 8),
        ([np.array([[0, 0], [4, 0], [1, 1], [0, 4.0]])], 4),
        ([np.repeat(square, 2, axis=0)], 16),
    ):
        points, faces = triangulated(rings)
        sizes = [area(points[face]) for face in faces]
        assert min(sizes) > 0 and sum(sizes) == pytest.approx(size)
    body = prism("building", [square, hole], 1.0, 6.0)
    assert body is not None and is_closed(body.vertices, body.faces)
    assert signed_volume(body) == pytest.approx(60)
    assert body.bounds()[:, 1].tolist() == [-6, -1]
    assert prism("building", [square[:2]], 0, 1) is None
    for turn in (np.eye(3), np.eye(3)[[1, 2, 0]], np.eye(3)[[2, 0, 1]]):
        flat = np.column_stack([square, np.full(4, 2.0)]) @ turn
        points, faces = triangulated_in_space([flat])
        normal = np.cross(*(points[faces][:, 1:] - points[faces][:, :1]).transpose(1, 0, 2))
        assert np.allclose(normal.sum(axis=0), 32 * np.array([0, 0, 1]) @ turn)


def test_the_command_imports_checks_and_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = MAKERS["osm"](tmp_path), tmp_path / "street.json"
    given = ["--out", str(out), "--length", "40", "--start", "10"]
    assert main(["layout", "import", str(source), *given]) == 0
    said = capsys.readouterr().out
    assert "left out: amenity=bench (1)" in said and str(out) in said
    layout = load_layout(out)
    assert np.ptp(layout.trajectory[:, 2, 3]) == pytest.approx(40, abs=1)
    assert main(["layout", "check", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"]["building"] == 1
    for name in ("plan.png", "plan.svg"):
        assert main(["layout", "show", str(out), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 1000
    bad = json.loads(out.read_text())
    bad["primitives"][0]["class"] = "rowd"
    out.write_text(json.dumps(bad))
    assert main(["layout", "check", str(out)]) == 3
    assert "Did you mean road?" in capsys.readouterr().out
    assert main(["layout", "import", str(source), "--drive", "1 2"]) == 2


def test_a_plain_box_needs_no_kind(tmp_path: Path) -> None:
    items = [
        {"id": "a", "class": "car", "position": [1, 2, 3], "size": [2, 1, 4]},
        {"id": "b", "class": "wall", "position": [0, 0, 0], "vertices": [[0, 0, 0]], "faces": []},
    ]
    items[1]["vertices"], items[1]["faces"] = np.eye(3).tolist(), [[0, 1, 2]]
    (tmp_path / "a.json").write_text(json.dumps({"primitives": items}))
    assert [p.kind for p in load_layout(tmp_path / "a.json").primitives] == ["box", "mesh"]


@pytest.mark.parametrize("format", ["osm", "opendrive", "nuscenes", "kitti360"])
def test_a_fault_of_ours_is_not_blamed_on_the_file(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise TypeError("a fault of ours")

    modules = {"osm": features, "opendrive": opendrive, "nuscenes": drives, "kitti360": kitti360}
    name = "numbered_objects" if format == "kitti360" else "finished"
    monkeypatch.setattr(modules[format], name, broken)
    with pytest.raises(TypeError, match="a fault of ours"):
        import_layout(MAKERS[format](tmp_path), ImportOptions(format=format))


def test_a_road_of_one_node_does_not_spoil_the_map(tmp_path: Path) -> None:
    path = street_files.osm(tmp_path / "a.osm")
    stub = '<way id="7"><nd ref="2"/><tag k="highway" v="residential"/></way>'
    path.write_text(path.read_text().replace("</osm>", f"<node id='77'/>{stub}</osm>"))
    assert named(import_layout(path), "road")


def test_a_vehicle_that_never_moved_has_a_road_ahead(tmp_path: Path) -> None:
    path = street_files.waymo_json(tmp_path / "still.jsonl")
    path.write_text(path.read_text().splitlines()[0])
    made = import_layout(path)
    assert len(made.layout.trajectory) == 1
    (low, high) = named(made, "road")[0].bounds()
    assert np.ptp([low[2], high[2]]) > 50 and not errors(made.layout)
