"""Layouts: primitives, files, importers, validation, edits, made-up streets, plans."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from geo3d.errors import ConfigError, Geo3dError, InputError
from geo3d.files import asset
from geo3d.layout.classes import CLASSES, PALETTE, class_id
from geo3d.layout.layout import Layout, Primitive, box, ellipsoid, known_kind, slab, turn
from geo3d.synth.streets.generate import generate_street
from scenes.urban import edits
from scenes.urban.imports.kitti360 import import_kitti360
from scenes.urban.imports.samples import import_sample
from scenes.urban.layout_json import layout_from_dict, layout_to_dict, load_layout, save_layout
from scenes.urban.plan import outline, plan_image, plan_svg, save_plan
from scenes.urban.validate import check_layout, penetration, require_valid

RAIL = np.array([[-2.0, 0, 0], [-2.0, 0, 10], [-3.0, 0, 20]])


def small() -> Layout:
    """A road, a house beside it, a car ahead, one camera."""
    pose = np.eye(4)
    pose[:3, 3] = 0, -1.55, 1
    parts = (
        slab("road", "road", RAIL, RAIL + np.array([6.0, 0, 0])),
        box("house", "building", (10, -3, 8), (6, 6, 8)),
        box("car", "car", (2, -0.75, 12), (2, 1.5, 4)),
    )
    return Layout("small", parts, pose[None])


def codes(layout: Layout) -> set[str]:
    return {f.code for f in check_layout(layout)}


def error_of(function, *args, **more) -> str:
    with pytest.raises(Geo3dError) as caught:
        function(*args, **more)
    return caught.value.code


@pytest.mark.parametrize(
    "primitive",
    [
        box("a", "car", (1, 2, 3), (2, 1.5, 4), 0.3),
        ellipsoid("b", "vegetation", (0, 0, 0), (1, 2, 3)),
        slab("c", "road", RAIL, RAIL + np.array([4.0, 0, 0])),
    ],
    ids=lambda p: p.kind,
)
def test_primitives_are_closed_and_wound_outwards(primitive: Primitive) -> None:
    mesh = trimesh.Trimesh(primitive.world_vertices(), primitive.faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    known = {"box": 12.0, "slab": 4 * 20 * 0.6}
    assert mesh.volume == pytest.approx(known.get(primitive.kind, mesh.volume))
    assert mesh.volume > 0


def test_counts_of_vertices_follow_the_published_samples() -> None:
    ball, road = ellipsoid("b", "vegetation", (0, 0, 0), (1, 1, 1)), slab("r", "road", RAIL, -RAIL)
    assert (len(ball.vertices), len(ball.faces)) == (42, 80)
    assert len(road.faces) == 2 * len(road.vertices) - 4
    assert np.allclose(np.linalg.norm(ball.vertices, axis=1), 0.5)


def test_yaw_turns_forward_to_the_right() -> None:
    assert np.allclose(turn(np.pi / 2) @ [0, 0, 1], [1, 0, 0])
    assert np.linalg.det(turn(0.4)) == pytest.approx(1)


def test_triangles_tell_primitive_and_class() -> None:
    vertices, faces, index, classes = small().triangles()
    assert faces.max() == len(vertices) - 1
    assert index.tolist() == [0] * 20 + [1] * 12 + [2] * 12
    assert sorted(set(classes.tolist())) == [0, 5, 8]
    assert [len(a) for a in Layout("none", (), np.zeros((0, 4, 4))).triangles()] == [0] * 4


def test_classes_have_colours() -> None:
    assert class_id("zeppelin") == 13 and class_id("bus") == 0
    assert PALETTE[CLASSES["road"]].tolist() == [128, 64, 128]


def test_layout_errors() -> None:
    assert error_of(small().primitive, "lorry") == "layout.unknown_id"
    assert error_of(known_kind, "sphere") == "layout.unknown_kind"
    assert error_of(slab, "s", "road", RAIL, RAIL[:2]) == "layout.bad_slab"
    assert error_of(Layout("none", (), np.zeros((0, 4, 4))).bounds) == "layout.empty"


@pytest.mark.parametrize("kind", ["straight", "curved", "crossing"])
def test_files_keep_every_bit(tmp_path: Path, kind) -> None:
    layout = generate_street(60, 3, kind, hills=1.0)
    again = load_layout(save_layout(layout, tmp_path / "a.json"))
    assert np.array_equal(again.trajectory, layout.trajectory)
    for a, b in zip(layout.primitives, again.primitives, strict=True):
        assert (a.id, a.name, a.kind, a.style) == (b.id, b.name, b.kind, b.style)
        assert np.array_equal(a.transform, b.transform) and np.array_equal(a.vertices, b.vertices)
        assert np.array_equal(a.faces, b.faces)


def test_a_box_can_be_written_by_hand() -> None:
    item = {"id": "a", "class": "car", "kind": "box", "position": [1, 2, 3]}
    layout = layout_from_dict({"primitives": [item | {"size": [4, 1, 2], "yaw_deg": 90}]})
    assert np.allclose(layout.bounds(), [[0, 1.5, 1], [2, 2.5, 5]])


@pytest.mark.parametrize(
    "change",
    [
        {"primitives": 3},
        {"primitives": [{"id": "a", "class": "car", "kind": "box"}]},
        {"primitives": [{"id": "a", "class": "car", "kind": "mesh", "position": [0, 0, 0]}]},
        {"primitives": [{"id": 1, "class": "car", "kind": "box", "position": [0, 0, 0]}]},
        {"primitives": [{"id": "a", "class": "car", "kind": "box", "position": ["x", 0, 0]}]},
        {"trajectory": [[1, 2, 3]]},
        {"trajektory": []},
        {"version": 2},
        {"regions": [{"bounds": [0, 1], "prompt": ""}]},
        [],
    ],
    ids=str,
)
def test_bad_fields_are_named(change) -> None:
    assert error_of(layout_from_dict, change) == "layout_file.bad_field"


def test_bad_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert error_of(load_layout, path) == "file.missing"
    path.write_text("{")
    assert error_of(load_layout, path) == "layout_file.not_json"
    assert error_of(load_layout, path, max_bytes=0) == "layout_file.too_large"


def test_schema_lists_what_the_writer_writes() -> None:
    schema = json.loads(asset("urban/layout.schema.json").read_text())
    properties = schema["properties"]["primitives"]["items"]["properties"]
    content = layout_to_dict(generate_street(40, 1))
    assert set(content) <= set(schema["properties"])
    assert all(set(item) <= set(properties) for item in content["primitives"])
    assert set(properties["class"]["enum"]) == set(CLASSES)


@pytest.mark.parametrize("name", ["straight", "curved", "crossing", "tcrossing"])
def test_shipped_streets_are_faultless(name: str) -> None:
    assert require_valid(load_layout(asset(f"urban/streets/{name}.json"))) == ()


def test_every_fault_has_its_name() -> None:
    good = small()
    assert codes(good) == set()

    def changed(**fields) -> Layout:
        return replace(
            good, primitives=(*good.primitives[:2], replace(good.primitives[2], **fields))
        )

    broken = good.primitives[2].transform.copy()
    broken[0, 3] = np.nan
    assert codes(replace(good, primitives=())) == {"layout.empty"}
    assert codes(replace(good, trajectory=np.zeros((0, 4, 4)))) == {"layout.no_trajectory"}
    assert codes(replace(good, trajectory=good.trajectory * 2)) == {"layout.bad_camera"}
    assert codes(changed(id="house")) == {"layout.duplicate_id"}
    assert codes(changed(name="kar")) == {"layout.unknown_class"}
    assert codes(changed(transform=broken)) == {"layout.non_finite"}
    assert codes(changed(transform=np.diag([1.0, 0, 1, 1]))) == {"layout.degenerate_transform"}
    assert codes(changed(faces=np.array([[0, 1, 8]]))) == {"layout.bad_faces"}
    assert codes(replace(good, primitives=good.primitives[1:])) == {"layout.no_ground"}
    inside = edits.move(good, "house", (-10, 0, -6)).layout
    assert codes(inside) == {"layout.camera_inside"}
    assert codes(edits.move(good, "car", (7, 0, -4)).layout) == {"layout.overlap"}
    assert codes(edits.move(good, "road", (50, 0, 0)).layout) == {"layout.camera_off_ground"}
    assert error_of(require_valid, inside) == "layout.camera_inside"


def test_penetration_of_squares() -> None:
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    assert penetration(square, square + np.array([0.75, 0.5])) == pytest.approx(0.25)
    assert penetration(square, square + np.array([1.5, 0])) == 0


def test_edits_touch_where_things_were_and_are() -> None:
    layout = small()
    moved = edits.move(layout, "car", (0, 0, 5))
    assert moved.touched == ("car",) and np.allclose(
        moved.boxes[1] - moved.boxes[0], [[0, 0, 5]] * 2
    )
    assert moved.layout.primitives[0] is layout.primitives[0]
    turned = edits.rotate(layout, "car", np.pi / 2).boxes
    assert np.allclose((turned[1, 1] - turned[1, 0])[[0, 2]], [4, 2])
    assert np.allclose(turned[0].mean(axis=0), turned[1].mean(axis=0))
    taller = edits.scale(layout, "car", (1, 2, 1)).boxes
    assert np.allclose(taller[:, 1, 1], 0) and taller[1, 0, 1] == pytest.approx(-3)
    twice = edits.duplicate(layout, "car", (0, 0, 6))
    assert twice.touched == ("car-2",) and len(twice.layout.primitives) == 4
    assert edits.duplicate(twice.layout, "car", (0, 0, 9)).touched == ("car-3",)
    assert edits.restyle(layout, "house", "brick").layout.primitive("house").style == "brick"
    assert len(edits.remove(layout, "car").layout.primitives) == 2
    assert error_of(edits.add, layout, layout.primitives[0]) == "layout.duplicate_id"
    assert error_of(edits.scale, layout, "car", 0) == "layout.bad_scale"


def test_history_goes_back_and_forth() -> None:
    history = edits.History(small())
    first = history.layout
    edit = history.apply(edits.move(first, "car", (1, 0, 0)))
    assert history.undo().touched == ("car",) and history.layout is first
    assert error_of(history.undo) == "layout.nothing_to_undo"
    assert history.redo().layout is edit.layout
    history.undo()
    history.apply(edits.remove(history.layout, "car"))
    assert error_of(history.redo) == "layout.nothing_to_redo"
    history.undo()
    assert error_of(history.undo) == "layout.nothing_to_undo"


@pytest.mark.parametrize("kind", ["straight", "curved"])
def test_extension_drives_on_without_a_gap(kind) -> None:
    edit = edits.extend(generate_street(60, 1, kind), 60, 1, kind)
    steps = np.linalg.norm(np.diff(edit.layout.trajectory[:, :3, 3], axis=0), axis=1)
    assert steps.min() > 0.4 and steps.max() < 1.0
    assert not {"layout.camera_off_ground", "layout.duplicate_id"} & codes(edit.layout)
    assert codes(edits.extend(edit.layout, 40, 1).layout) <= {"layout.overlap"}
    bare = replace(edit.layout, trajectory=np.zeros((0, 4, 4)))
    assert error_of(edits.extend, bare, 10) == "layout.no_trajectory"


@pytest.mark.parametrize("kind", ["straight", "curved", "crossing"])
def test_streets_are_seeded_sound_and_begin_alike(kind) -> None:
    short, long = generate_street(60, 5, kind), generate_street(120, 5, kind)
    assert not {f.code for f in check_layout(long) if f.severity == "error"}
    for a, b in zip(short.primitives, long.primitives, strict=False):
        assert a.id == b.id and np.array_equal(a.transform, b.transform)
    other = generate_street(60, 6, kind)
    assert [p.id for p in other.primitives] != [p.id for p in short.primitives]
    steps = np.linalg.norm(np.diff(short.trajectory[:, :3, 3], axis=0), axis=1)
    assert np.allclose(steps, 0.7, atol=0.05)
    assert np.allclose(short.trajectory[:, 1, 3], -1.55)


def test_street_errors() -> None:
    with pytest.raises(ConfigError):
        generate_street(0)
    assert error_of(generate_street, 10, 0, "spiral") == "street.unknown_kind"
    assert error_of(generate_street, -1) == "street.bad_length"


def test_plan_shows_colours_where_things_are(tmp_path: Path) -> None:
    layout = small()
    image = plan_image(layout, 200, (-10, 20, -5, 25))
    assert image.shape == (200, 200, 3)
    assert image[200 - int(13 / 30 * 200), int(20 / 30 * 200)].tolist() == [70, 70, 70]
    assert image[200 - int(23 / 30 * 200), int(12 / 30 * 200)].tolist() == [128, 64, 128]
    assert plan_svg(layout).count("<polygon") == 3
    assert save_plan(layout, tmp_path / "a.png").stat().st_size > 100
    assert save_plan(layout, tmp_path / "a.svg").read_text().startswith("<svg")
    assert len(outline(layout.primitives[1])) == 4


def test_flat_samples_are_imported(tmp_path: Path) -> None:
    path = tmp_path / "s_flat.npz"
    flat = {
        "names": np.array(["car", "trailer", "car"]),
        "transforms": np.stack([np.eye(4)] * 3),
        "verts": np.concatenate([p.vertices for p in [small().primitives[2]] * 3]),
        "faces": np.concatenate([p.faces for p in [small().primitives[2]] * 3]).astype(np.int32),
        "vert_offsets": np.array([0, 8, 16, 24]),
        "face_offsets": np.array([0, 12, 24, 36]),
        "camera_c2w": np.eye(4)[None],
    }
    np.savez(path, **flat)
    layout = import_sample(path)
    assert [p.id for p in layout.primitives] == ["car-000", "car-001"]
    assert {p.kind for p in layout.primitives} == {"box"}
    np.savez(path, **{k: v for k, v in flat.items() if k != "faces"})
    assert error_of(import_sample, path) == "layout_file.not_a_sample"
    (tmp_path / "x.npy").write_bytes(b"\x80\x04]\x94.")
    assert error_of(import_sample, tmp_path / "x.npy") == "layout_file.not_a_sample"
    (tmp_path / "y.npy").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert error_of(import_sample, tmp_path / "y.npy") == "checkpoint.forbidden_global"
    assert error_of(import_sample, tmp_path / "z.npy") == "file.missing"
    assert error_of(import_sample, path, max_bytes=1) == "layout_file.too_large"


def matrix(name: str, values: np.ndarray) -> str:
    rows, columns = values.shape
    data = " ".join(str(v) for v in values.ravel())
    return (
        f"<{name}><rows>{rows}</rows><cols>{columns}</cols><dt>f</dt><data>{data}</data></{name}>"
    )


def kitti_object(label: str, transform: np.ndarray, stamp: int = -1) -> str:
    shape = small().primitives[2]
    parts = matrix("transform", transform) + matrix("vertices", shape.vertices)
    parts += matrix("faces", shape.faces)
    parts += f"<start_frame>1</start_frame><end_frame>9</end_frame><timestamp>{stamp}</timestamp>"
    return f"<object1>{label}{parts}</object1>"


def test_kitti_boxes_come_into_the_frame_of_the_middle_camera(tmp_path: Path) -> None:
    # KITTI-360: z up; the camera looks along world x, its y down = world -z
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    pose[:3, 3] = 1000, 2000, 100
    rows = [np.r_[i, (pose + 0.0).ravel()] for i in (1, 2, 3)]
    np.savetxt(tmp_path / "poses.txt", rows)
    car, wall = np.eye(4), np.eye(4)
    car[:3, 3] = 1010, 2000, 99
    wall[:3, 3] = 1005, 1996, 100
    xml = tmp_path / "seq.xml"
    body = kitti_object("<semanticId>13</semanticId>", car)
    body += kitti_object("<label>driveway</label>", wall)
    body += kitti_object("<label>car</label>", car, stamp=2)
    xml.write_text(f"<opencv_storage>{body}</opencv_storage>")
    layout = import_kitti360(xml, tmp_path / "poses.txt", (1, 3)).layout
    assert [p.name for p in layout.primitives] == ["car", "parking"]
    assert np.allclose(layout.trajectory[1], np.eye(4))
    assert np.allclose(layout.primitives[0].bounds().mean(axis=0), [0, 1, 10])
    assert np.allclose(layout.primitives[1].bounds().mean(axis=0), [4, 0, 5])
    assert layout.primitives[0].movable and np.allclose(layout.primitives[1].transform, np.eye(4))
    poses = tmp_path / "poses.txt"
    assert error_of(import_kitti360, xml, poses, (7, 9)) == "layout_file.no_frames"
    xml.write_text("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>")
    assert error_of(import_kitti360, xml, poses, (1, 3)) == "layout_file.bad_import"
    xml.write_text("<a><b>")
    assert error_of(import_kitti360, xml, poses, (1, 3)) == "layout_file.bad_import"
    with pytest.raises(InputError):
        import_kitti360(xml, tmp_path / "none", (1, 3))
