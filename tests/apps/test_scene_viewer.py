"""The tab Scene without a browser: the map, its changes, jobs, refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from apps.job_files import end_job
from apps.jobs import Jobs
from apps.viewer import scene_edit, scene_job, scene_views
from apps.viewer.scene_job import NO_STYLE
from geo3d.errors import Geo3dError, InputError, LimitError
from geo3d.files import atomic_write_json
from geo3d.layout.classes import CLASSES
from geo3d.layout.layout import Layout
from geo3d.synth.streets.generate import generate_street
from scenes.urban.layout_json import load_layout, save_layout

EVIL = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def layout() -> Layout:
    return generate_street(30, 1)


@pytest.fixture
def street(layout: Layout) -> scene_edit.Street:
    return scene_edit.open_street(layout, "key")


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Jobs that stay queued."""
    made = Jobs(tmp_path / "runs" / "jobs", max_running=0)
    yield made
    made.close()


@pytest.fixture
def tab(jobs: Jobs, tmp_path: Path) -> Any:
    """The tab on a page; gradio leaks an event loop where none is running."""

    async def build() -> Any:
        import gradio as gr

        from apps.viewer.scene_tab import SceneTab

        with gr.Blocks(analytics_enabled=False):
            return SceneTab(jobs, tmp_path / "scratch")

    return asyncio.run(build())


def ask(street: scene_edit.Street, name: str = "car", **message: Any) -> None:
    scene_edit.change(street, json.dumps(message), name)


def a_thing(layout: Layout, name: str = "vegetation") -> str:
    return next(p.id for p in layout.primitives if p.name == name)


class TestChanges:
    def test_a_drawn_box_stands_on_the_ground(self, street: scene_edit.Street) -> None:
        x, _, z = street.layout.trajectory[3, :3, 3]
        ask(street, "building", op="add", x=x + 25, z=float(z), width=8.0, length=12.0)
        made = street.layout.primitives[-1]
        assert street.selected == made.id == "building-new-1"
        np.testing.assert_allclose(scene_edit.size_of(made), [8, 7, 12], atol=1e-9)
        bounds = made.bounds()
        assert bounds[1, 1] == pytest.approx(scene_edit.ground_at(street.layout, x + 25, z))
        np.testing.assert_allclose(bounds.mean(axis=0)[[0, 2]], [x + 25, z], atol=1e-9)

    def test_a_click_puts_down_a_thing_of_usual_size(self, street: scene_edit.Street) -> None:
        ask(street, "vegetation", op="add", x=20, z=10, width=0.1, length=0)
        made = street.layout.primitives[-1]
        assert made.kind == "ellipsoid"
        np.testing.assert_allclose(scene_edit.size_of(made), (4, 5, 4), rtol=0.2)

    def test_move_turn_copy_remove_and_back(self, street: scene_edit.Street) -> None:
        first = street.layout
        id = a_thing(first)
        ask(street, op="move", id=id, dx=1.0, dz=-2.0)
        moved = street.layout.primitive(id).bounds() - first.primitive(id).bounds()
        np.testing.assert_allclose(moved, [[1, 0, -2]] * 2, atol=1e-9)
        before = scene_edit.yaw_of(street.layout.primitive(id))
        ask(street, op="rotate", yaw=0.5)
        assert scene_edit.yaw_of(street.layout.primitive(id)) - before == pytest.approx(0.5)
        ask(street, op="duplicate")
        assert street.selected == f"{id}-2"
        ask(street, op="remove")
        assert street.selected == "" and len(street.layout.primitives) == len(first.primitives)
        for _ in range(4):
            ask(street, op="undo")
        assert street.layout is first
        with pytest.raises(InputError, match=r"layout\.nothing_to_undo"):
            ask(street, op="undo")
        ask(street, op="redo")
        assert street.selected == id

    def test_style_and_size(self, street: scene_edit.Street) -> None:
        id = a_thing(street.layout)
        ask(street, op="select", id=id)
        scene_edit.restyle(street, " autumn ")
        scene_edit.resize(street, (3.0, 4.0, 5.0))
        thing = street.layout.primitive(id)
        assert thing.style == "autumn"
        np.testing.assert_allclose(scene_edit.size_of(thing), (3, 4, 5))

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            ("", "viewer.bad_edit"),
            ("[]", "viewer.bad_edit"),
            ("[" * 900, "viewer.bad_edit"),
            ('{"op": "explode"}', "viewer.nothing_selected"),
            ('{"op": "explode", "id": "ID"}', "viewer.bad_edit"),
            ('{"op": "move", "id": "ID", "dx": NaN, "dz": 0}', "viewer.bad_edit"),
            ('{"op": "move", "id": "ID", "dx": true, "dz": 0}', "viewer.bad_edit"),
            ('{"op": "move", "id": "ID", "dx": 1e9, "dz": 0}', "viewer.off_the_map"),
            ('{"op": "move", "id": "no", "dx": 1, "dz": 0}', "layout.unknown_id"),
            ('{"op": "add", "x": 1, "z": 1, "width": "9", "length": 1}', "viewer.bad_edit"),
            ('{"op": "select", "id": "../x"}', "layout.unknown_id"),
            (json.dumps({"op": "select", "id": "x" * 2000}), "viewer.bad_edit"),
        ],
    )
    def test_messages_are_not_believed(
        self, street: scene_edit.Street, message: str, code: str
    ) -> None:
        before = street.layout
        message = message.replace("ID", a_thing(before))
        with pytest.raises(Geo3dError) as caught:
            scene_edit.change(street, message, "car")
        assert caught.value.code == code
        assert street.layout is before

    def test_a_change_that_breaks_the_layout_is_refused(self, street: scene_edit.Street) -> None:
        before = street.layout
        x, _, z = before.trajectory[4, :3, 3]
        with pytest.raises(InputError, match=r"layout\.camera_inside"):
            ask(street, "building", op="add", x=float(x), z=float(z), width=4, length=4)
        assert street.layout is before
        with pytest.raises(InputError, match=r"viewer\.unknown_choice"):
            ask(street, "dragon", op="add", x=0, z=0, width=4, length=4)
        ask(street, op="select", id=a_thing(before))
        with pytest.raises(InputError, match=r"viewer\.long_style"):
            scene_edit.restyle(street, "a" * 81)
        with pytest.raises(InputError, match=r"viewer\.bad_edit"):
            scene_edit.resize(street, (1.0, float("nan"), 1.0))

    def test_huge_layouts_are_refused(self, layout: Layout) -> None:
        many = Layout("many", layout.primitives * 200, layout.trajectory)
        with pytest.raises(LimitError, match=r"viewer\.too_many_things"):
            scene_edit.open_street(many, "key")

    def test_all_that_can_be_drawn_has_a_class(self) -> None:
        assert set(scene_edit.USUAL_SIZES) <= set(CLASSES)


class TestViews:
    def test_the_map_is_well_formed_and_safe(self, street: scene_edit.Street) -> None:
        ask(street, op="select", id=a_thing(street.layout))
        scene_edit.restyle(street, EVIL)
        text = scene_views.plan(street)
        root = ElementTree.fromstring(text)
        assert root.attrib["data-selected"] == street.selected
        things = [e for e in root if "g3-thing" in e.attrib.get("class", "")]
        slabs = [p for p in street.layout.primitives if p.kind == "slab"]
        assert len(things) + len(slabs) == len(street.layout.primitives)
        assert "<img" not in text + scene_views.selection(street)

    def test_a_map_drawn_again_is_another_text(self, street: scene_edit.Street) -> None:
        """Else what was dragged and refused stays where it is (case `refused-move-stays`)."""
        assert scene_views.plan(street) != scene_views.plan(street)

    def test_the_camera_sees_classes_and_depth(self, street: scene_edit.Street) -> None:
        text = scene_views.conditions(street)
        assert text.count("data:image/png") == 2 and "road" in text

    def test_near_is_bright_and_nothing_white(self) -> None:
        depth = np.array([[3.0, 80.0, -1.0]], np.float32)
        none = np.zeros((1, 3), np.int32)
        maps = scene_views.LayoutMaps(depth, none.astype(np.int8), none)
        near, far, nothing = scene_views.depth_colors(maps)[0].tolist()
        assert near == [253, 231, 37] and far == [68, 1, 84] and nothing == [255] * 3

    def test_the_layout_in_3d_is_y_up(self, street: scene_edit.Street) -> None:
        points = scene_views.layout_model(street.layout).points
        low, high = street.layout.bounds()
        np.testing.assert_allclose(points[:, 1].max(), -low[1], atol=1e-3)
        np.testing.assert_allclose(points[:, 2].min(), -high[2], atol=1e-3)

    def test_a_long_drive_is_thinned(self, tmp_path: Path) -> None:
        paths = [tmp_path / f"{i:03d}.png" for i in range(100)]
        for path in paths:
            Image.new("RGB", (8, 8)).save(path)
        assert scene_views.drive(paths).count("<img") == scene_views.MAX_FRAMES
        assert scene_views.drive([]) == ""


class TestTab:
    def test_a_street_is_opened_changed_and_saved(self, tab: Any, tmp_path: Path) -> None:
        opened = tab._pick(next(iter(scene_job.examples())))
        street = opened[tab.street]
        assert opened[tab.plan].startswith("<svg") and "data:image" in opened[tab.conditions]
        id = a_thing(street.layout)
        changed = tab._change(street, json.dumps({"op": "select", "id": id}), "car")
        assert tab.panes not in changed and changed[tab.thing].visible
        changed = tab._restyle(street, "autumn", 3.0, 4.0, 5.0)
        assert changed[tab.style] == "autumn" and "<canvas" in changed[tab.panes]
        refused = tab._change(street, '{"op": "redo"}', "car")
        assert "layout.nothing_to_redo" in refused[tab.problem]
        assert tab._look(street, 10**9)[tab.plan]
        saved = load_layout(tab._save(street).value["path"])
        assert saved.primitive(id).style == "autumn"

    def test_uploads_are_read_or_refused(self, tab: Any, layout: Layout, tmp_path: Path) -> None:
        good = save_layout(layout, tmp_path / "mine.json")
        assert tab._upload(str(good))[tab.street].layout.name == layout.name
        cases = {
            f"{EVIL.replace('/', '')}.json": (b"<html>", "layout_file.not_json"),
            "empty.json": (b"{}", "layout.empty"),
            "code.npy": (b"\x80", "viewer.not_a_layout"),
        }
        for name, (content, code) in cases.items():
            (tmp_path / name).write_bytes(content)
            answer = tab._upload(str(tmp_path / name))
            assert code in answer[tab.card] and "<img" not in answer[tab.card]
            assert answer[tab.file] is None and tab.street not in answer

    def test_streets_are_made_up(self, tab: Any) -> None:
        assert tab._make("curved", 40, 2)[tab.street].layout.name == "curved-40m-2"
        for arguments, code in (
            (("spiral", 40, 2), "viewer.unknown_choice"),
            (("curved", 4000, 2), "viewer.bad_length"),
            (("curved", 40, None), "viewer.bad_seed"),
        ):
            assert code in tab._make(*arguments)[tab.card]

    def test_a_scene_is_followed_to_its_end(
        self, tab: Any, jobs: Jobs, layout: Layout, tmp_path: Path
    ) -> None:
        street = scene_edit.open_street(layout, "key")
        started = tab._start([], street, "smoke", "night", NO_STYLE, 7)
        job_id = started[tab.controls.job_id]
        job = jobs.get(job_id)
        argv = json.loads((job.folder / "job.json").read_text())["argv"]
        assert argv[0] == "scene" and argv[argv.index("--style") + 1] == "night"
        assert scene_job.layout_of(job).name == layout.name
        run = job.folder / "run" / "scene" / "street"
        for name in ("previews/progress.png", "outputs/frames/0000.png", "outputs/frames/0001.png"):
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(run / name)
        shown = tab._watch(jobs.get(job_id))[tab.preview]
        assert "progress-" in shown.value["path"]
        with pytest.raises(InputError, match=r"job\.no_result"):
            scene_job.frames(jobs.get(job_id))
        (run / "outputs" / "drive.gif").write_bytes(b"GIF89a")
        atomic_write_json(run / "metrics.json", {"depth_error_m": 0.25, "notes": [EVIL]})
        end_job(job.folder, "done")
        answer = tab._show(job_id)
        assert "0.25" in answer[tab.result] and "<img" not in answer[tab.result]
        assert answer[tab.drive].count("<img") == 2
        assert scene_job.output(jobs.get(job_id), "../metrics.json", tmp_path) is None
        request = SimpleNamespace(query_params={"job": job_id})
        attached = tab.attach(request)
        assert attached[tab.street].layout.name == layout.name and attached[tab.seed] == 7
        assert tab.controls.select_tab(request).selected == "scene"

    def test_what_cannot_be_built_is_named(self, tab: Any, jobs: Jobs, layout: Layout) -> None:
        street = scene_edit.open_street(layout, "key")
        cases = [
            ((None, "demo", NO_STYLE, NO_STYLE, 0), "viewer.no_layout"),
            ((street, "huge", NO_STYLE, NO_STYLE, 0), "viewer.unknown_choice"),
            ((street, "demo", EVIL, NO_STYLE, 0), "viewer.unknown_choice"),
            ((street, "demo", NO_STYLE, NO_STYLE, -1), "viewer.bad_seed"),
        ]
        for arguments, code in cases:
            assert code in tab._start([], *arguments)[tab.controls.status]
        assert jobs.all() == []


def test_presets_are_those_of_the_command() -> None:
    from scenes.urban.config import PRESETS

    assert set(scene_job.PRESETS) <= set(PRESETS)
