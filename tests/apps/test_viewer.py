"""The viewer without a browser: pieces of HTML, shapes, jobs, handlers."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import trimesh
from helpers import bumpy_sphere, permuted

from apps.job_files import Job, end_job
from apps.jobs import Jobs
from apps.viewer import fragments, match_job, shapes
from apps.viewer.match_result import (
    CONFIDENCE,
    ERROR,
    MATCHED,
    legend,
    read_result,
    write_views,
)
from apps.viewer.worker import measure
from geo3d.errors import Geo3dError, InputError
from geo3d.files import atomic_write_json
from geo3d.mesh.io import load_mesh, save_mesh
from geo3d.mesh.mesh import Mesh

ROOT = Path(__file__).resolve().parents[2]
EVIL = '<img src=x onerror="alert(1)">'
SETTINGS = match_job.Settings("axiomatic", "default", 3)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Jobs that stay queued."""
    made = Jobs(tmp_path / "runs" / "jobs", max_running=0)
    yield made
    made.close()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[shapes.Shape, shapes.Shape, np.ndarray]:
    """A bumpy sphere, its shuffled copy, and the map from the copy."""
    source = bumpy_sphere(2)
    target, order = permuted(source)
    first, second = (shapes.keep(m, n, tmp_path) for m, n in ((source, "one"), (target, "two")))
    return first, second, order


def finish(job: Job, p2p_21: np.ndarray, **metrics: Any) -> None:
    """Write what ``geo3d match`` would have written."""
    run = job.folder / "run" / "match" / "one-two"
    (run / "outputs").mkdir(parents=True)
    np.savetxt(run / "outputs" / "map.txt", p2p_21, "%d")
    np.savez(run / "outputs" / "map.npz", p2p_21=p2p_21, confidence=np.linspace(0, 1, len(p2p_21)))
    atomic_write_json(run / "metrics.json", metrics)
    end_job(job.folder, "done")


def on_a_page(make: Callable[[], Any]) -> Any:
    """Make components inside a page; gradio leaks an event loop where none is running."""

    async def build() -> Any:
        import gradio as gr

        with gr.Blocks(analytics_enabled=False):
            return make()

    return asyncio.run(build())


class TestFragments:
    def test_text_from_outside_is_never_markup(self, jobs: Jobs) -> None:
        error = InputError("mesh.bad", EVIL, EVIL)
        job = jobs.submit(jobs.new_folder(), EVIL, ["match"], {})
        defects = [{"severity": "warning", "code": "x", "message": EVIL, "hint": EVIL}]
        pieces = [
            fragments.error_card(error, about=EVIL),
            fragments.mesh_card(EVIL, 1, 1, defects),
            fragments.facts_card([(EVIL, EVIL, EVIL)], [EVIL], ""),
            fragments.job_card(replace(job, progress={"stage": EVIL, "step": 1, "total": 2})),
            fragments.note(EVIL),
            fragments.scale([[0, 0, 0], [9, 9, 9]], EVIL, EVIL, EVIL),
        ]
        for piece in pieces:
            assert "<img" not in piece
            assert "&lt;img" in piece
            assert not re.search(r'="[^"]*onerror="', piece)

    @pytest.mark.parametrize(
        ("path", "shown"),
        [
            ("/srv/geo3d/runs/jobs/0a1b/inputs/big.png", "big.png"),
            ("/tmp/gradio/3f/fake.png", "fake.png"),
            (r"C:\\Users\\me\\runs\\x.json", "x.json"),
            ("plain.obj", "plain.obj"),
        ],
    )
    def test_a_message_names_files_without_folders(self, path: str, shown: str) -> None:
        error = InputError("a.b", f"{path} is bad (cannot read '{path}').", f"Mend {path}.")
        card = fragments.error_card(error, about=shown)
        assert path not in card or path == shown
        assert card.count(shown) == 3 and "srv" not in card and "tmp" not in card
        words = "half of 1/2 and/or a http://x.example/y is 3 // 4"
        assert fragments.without_folders(words) == words

    def test_folders_of_the_server_may_have_spaces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GRADIO_TEMP_DIR", "/var/my own temp")
        said = fragments.without_folders("/var/my own temp/3f/a.png is no image.")
        assert said == "a.png is no image."

    def test_the_worst_defect_decides_the_badge(self) -> None:
        def card(*severities: str) -> str:
            found = [{"severity": s, "message": "m", "hint": ""} for s in severities]
            return fragments.mesh_card("a", 4, 4, found)

        assert "healthy" in card()
        assert "healthy" in card("info")
        assert "usable, with remarks" in card("info", "warning")
        assert "needs repair" in card("warning", "error")

    def test_a_running_job_shows_stage_share_and_expected_time(self, jobs: Jobs) -> None:
        job = jobs.submit(jobs.new_folder(), "a", ["match"], {"expected_s": 61.0})
        event = {"stage": "zoomout", "step": 3, "total": 12}
        card = fragments.job_card(replace(job, state="running", progress=event, seconds=7.9))
        assert 'aria-valuenow="25"' in card
        assert "zoomout: 3 of 12" in card
        assert "7 s of about 1 min 1 s" in card

    def test_a_silent_job_is_pointed_out(self, jobs: Jobs) -> None:
        job = jobs.submit(jobs.new_folder(), "a", ["match"], {})
        assert "sign of life" in fragments.job_card(replace(job, state="running", silent_s=40.0))
        assert "sign of life" not in fragments.job_card(replace(job, state="running", silent_s=2.0))


class TestShapes:
    @pytest.mark.parametrize(
        "mesh",
        [
            Mesh(np.eye(3), np.zeros((0, 3), int)),
            bumpy_sphere(1),
            Mesh(np.vstack([bumpy_sphere(1).vertices, np.zeros((60, 3))]), bumpy_sphere(1).faces),
        ],
        ids=["three points", "42 vertices", "42 vertices and 60 of no face"],
    )
    def test_what_is_too_small_to_match_is_refused_at_once(
        self, mesh: Mesh, tmp_path: Path
    ) -> None:
        shape = shapes.upload_to_shape(save_mesh(mesh, tmp_path / "small.ply"), tmp_path)
        assert not shape.usable
        assert "match.too_small" in [defect["code"] for defect in shape.defects]

    def test_an_upload_keeps_vertices_faces_and_order(self, tmp_path: Path) -> None:
        mesh, _ = permuted(bumpy_sphere(2))
        shape = shapes.upload_to_shape(save_mesh(mesh, tmp_path / "My shape (1).off"), tmp_path)
        copy = load_mesh(shape.path)
        np.testing.assert_array_equal(copy.vertices, mesh.vertices)
        np.testing.assert_array_equal(copy.faces, mesh.faces)
        assert (shape.name, shape.usable) == ("My shape (1)", True)
        assert Path(shape.view).read_bytes()[:4] == b"glTF"

    @pytest.mark.parametrize(
        ("name", "content", "code"),
        [
            ("page.obj", b"<!doctype html><script>alert(1)</script>", "mesh_file.not_a_mesh"),
            ("tool.exe", b"MZ\x90", "viewer.file_type"),
            ("empty.ply", b"", "mesh_file.empty"),
            ("nan.off", b"OFF\n3 1 0\n0 0 nan\n1 0 0\n0 1 0\n3 0 1 2\n", "mesh.non_finite"),
            ("far.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n", "mesh.index_out_of_range"),
        ],
    )
    def test_bad_uploads_have_their_codes(
        self, tmp_path: Path, name: str, content: bytes, code: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Geo3dError) as caught:
            shapes.upload_to_shape(tmp_path / name, tmp_path)
        assert caught.value.code == code

    def test_views_are_matt_and_hold_linear_light(self, tmp_path: Path) -> None:
        triangle = Mesh(np.eye(3), np.array([[0, 1, 2]]))
        colors = np.array([[0, 0, 0], [188, 188, 188], [255, 255, 255]], np.uint8)
        data = shapes.save_view(triangle, colors, tmp_path / "a.glb").read_bytes()
        length = int.from_bytes(data[12:16], "little")
        header = json.loads(data[20 : 20 + length])
        assert header["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0
        # sRGB 188 is half the light of white.
        scene = trimesh.load_scene(tmp_path / "a.glb", process=False, skip_materials=True)
        stored = next(iter(scene.geometry.values())).visual.vertex_colors[:, :3]
        np.testing.assert_allclose(stored, [[0] * 3, [128] * 3, [255] * 3], atol=1)
        read_back = load_mesh(tmp_path / "a.glb").vertex_colors
        np.testing.assert_allclose(read_back, colors, atol=1)


class TestTruth:
    def test_a_map_pairs_every_target_vertex(self, tmp_path: Path, pair: Any) -> None:
        source, target, order = pair
        np.savetxt(tmp_path / "gt.txt", order, "%d")
        truth = shapes.read_truth([tmp_path / "gt.txt"], source, target)
        np.testing.assert_array_equal(truth.source, order)
        np.testing.assert_array_equal(truth.target, np.arange(len(order)))

    @pytest.mark.parametrize("swapped", [False, True])
    def test_lists_are_told_apart_by_name(self, tmp_path: Path, pair: Any, swapped: bool) -> None:
        source, target, _ = pair
        files = [tmp_path / "one.vts", tmp_path / "two.vts"]
        files[0].write_text("1\n2\n3\n")
        files[1].write_text("4\n5\n6\n")
        truth = shapes.read_truth(files[::-1] if swapped else files, source, target)
        assert (truth.source.tolist(), truth.target.tolist()) == ([0, 1, 2], [3, 4, 5])

    @pytest.mark.parametrize(
        ("files", "code"),
        [
            ({"a.vts": "1\n2\n"}, "viewer.truth_files"),
            ({"a.txt": "0\n1\n"}, "viewer.truth_length"),
            ({"a.vts": "1\n2\n", "b.vts": "1\n"}, "viewer.truth_length"),
            ({"a.vts": "1\n", "b.vts": "999999\n"}, "dataset.index_out_of_range"),
            ({"a.txt": "<html>"}, "correspondence.bad_map"),
        ],
    )
    def test_unusable_files_are_refused(
        self, tmp_path: Path, pair: Any, files: dict[str, str], code: str
    ) -> None:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        with pytest.raises(Geo3dError) as caught:
            shapes.read_truth([tmp_path / name for name in files], pair[0], pair[1])
        assert caught.value.code == code


class TestMatchJob:
    def test_a_job_holds_its_own_copies_and_a_command_line(self, jobs: Jobs, pair: Any) -> None:
        source, target, _ = pair
        job = match_job.submit(jobs, source, target, SETTINGS)
        argv = json.loads((job.folder / "job.json").read_text())["argv"]
        assert argv[0] == "match"
        assert [Path(p).parent.parent for p in argv[1:3]] == [job.folder / "inputs"] * 2
        assert argv[argv.index("--seed") + 1] == "3"
        np.testing.assert_array_equal(load_mesh(argv[2]).vertices, load_mesh(target.path).vertices)
        again = match_job.shapes_of(job, jobs.root.parent)
        assert [shape.name for shape in again] == ["one", "two"]

    def test_shapes_with_errors_are_not_submitted(self, jobs: Jobs, pair: Any) -> None:
        source, target, _ = pair
        broken = replace(source, defects=({"severity": "error", "message": "", "hint": ""},))
        with pytest.raises(InputError) as caught:
            match_job.submit(jobs, broken, target, SETTINGS)
        assert caught.value.code == "viewer.not_usable"
        assert jobs.all() == []

    def test_estimates_follow_the_history_of_this_machine(self, jobs: Jobs, pair: Any) -> None:
        source, target, order = pair
        guess = match_job.estimate_s(jobs, SETTINGS, 10_000)
        job = match_job.submit(jobs, source, target, SETTINGS)
        finish(job, order)
        seconds = match_job.START_S + 0.5 * job.settings["vertices"]
        end = {"state": "done", "error": None, "seconds": seconds}
        atomic_write_json(job.folder / "ended.json", end)
        learned = match_job.estimate_s(jobs, SETTINGS, 10_000)
        assert learned == pytest.approx(match_job.START_S + 5000.0)
        slower = match_job.Settings("diffumatch", "default", 3)
        assert match_job.estimate_s(jobs, slower, 10_000) > guess + 5
        other = match_job.Settings("axiomatic", "fast", 3)
        assert match_job.estimate_s(jobs, other, 10_000) < guess < learned

    def test_result_colours_and_downloads(self, jobs: Jobs, pair: Any, tmp_path: Path) -> None:
        source, target, order = pair
        np.savetxt(tmp_path / "gt.txt", order, "%d")
        job = match_job.submit(jobs, source, target, SETTINGS, [tmp_path / "gt.txt"])
        wrong = order.copy()
        wrong[0] = (order[0] + 7) % len(order)
        finish(job, wrong, scores={"orientation": 0.5}, ambiguous=True, notes=[EVIL])
        measure(job.folder)
        job = jobs.get(job.id)
        result = read_result(job)
        assert result.colorings == [MATCHED, CONFIDENCE, ERROR]
        assert result.errors is not None
        assert result.errors[0] > 0
        np.testing.assert_array_equal(result.errors[1:], 0)
        views = {c: write_views(result, c, tmp_path / "views") for c in result.colorings}
        contents = {path.read_bytes() for paths in views.values() for path in paths}
        assert len(contents) == 5  # the source is grey under two of the three colourings
        assert all(legend(result, c) for c in result.colorings)
        card = match_job.result_card(job, result)
        assert "ambiguous: another map" in card
        assert "<img" not in card
        files = match_job.downloads(job, result, tmp_path / "scratch")
        assert [Path(f).name for f in files] == [
            "one-to-two-map.txt",
            "one-to-two-map.npz",
            "one-to-two-source.glb",
            "one-to-two-target.glb",
        ]
        np.testing.assert_array_equal(np.loadtxt(files[0], dtype=int), wrong)

    def test_without_ground_truth_there_is_no_error(self, jobs: Jobs, pair: Any) -> None:
        source, target, order = pair
        job = match_job.submit(jobs, source, target, SETTINGS)
        with pytest.raises(InputError) as caught:
            read_result(job)
        assert caught.value.code == "job.no_result"
        finish(job, order)
        result = read_result(jobs.get(job.id))
        assert result.colorings == [MATCHED, CONFIDENCE]
        assert "Mean error" not in match_job.result_card(job, result)


def polled_by(tab: Any, job_id: str, map_shown: str) -> Any:
    """Return what a tick of the tab's clock changes."""
    return tab.controls._poll(job_id, tab._watch, MATCHED, map_shown)


class TestHandlers:
    @pytest.fixture
    def tab(self, jobs: Jobs, tmp_path: Path) -> Any:
        from apps.viewer.match_tab import MatchTab

        return on_a_page(lambda: MatchTab(jobs, tmp_path))

    def test_a_run_needs_two_shapes_and_known_settings(self, tab: Any, pair: Any) -> None:
        source, target, _ = pair
        cases = [
            ((source, None, "axiomatic", "default", 0, None), "viewer.missing_shape"),
            ((source, target, "magic", "default", 0, None), "viewer.unknown_choice"),
            ((source, target, "axiomatic", "default", None, None), "viewer.bad_seed"),
            ((source, target, "axiomatic", "default", -1, None), "viewer.bad_seed"),
        ]
        for arguments, code in cases:
            assert code in tab._start(*arguments)[tab.controls.status]

    @pytest.mark.parametrize(
        ("probability", "words"),
        [(0.1, "probably wrong"), (0.7, "doubtful"), (0.9, "probably right"), (None, "doubtful")],
    )
    def test_the_badge_says_how_sure_the_map_is(
        self, tab: Any, jobs: Jobs, pair: Any, probability: float | None, words: str
    ) -> None:
        source, target, order = pair
        job_id = tab._start(source, target, "axiomatic", "default", 5, None)[tab.controls.job_id]
        finish(jobs.get(job_id), order, ambiguous=False, probability=probability)
        polled_by(tab, job_id, "")
        assert words in tab._show(job_id, MATCHED)[tab.result]

    def test_a_job_is_followed_from_start_to_result(self, tab: Any, jobs: Jobs, pair: Any) -> None:
        source, target, order = pair
        started = tab._start(source, target, "axiomatic", "default", 5, None)
        job_id = started[tab.controls.job_id]
        assert started[tab.controls.timer].active
        assert "queued" in started[tab.controls.status]
        finish(jobs.get(job_id), order, scores={}, ambiguous=False, notes=[], probability=0.9)
        polled = polled_by(tab, job_id, "")
        assert polled[tab.controls.finished] == job_id
        assert not polled[tab.controls.timer].active
        shown = tab._show(job_id, MATCHED)
        assert [Path(shown[pane]).suffix for pane in tab.panes] == [".glb", ".glb"]
        assert "probably right" in shown[tab.result]

    def test_the_map_is_shown_while_it_changes_and_at_the_end(
        self, tab: Any, jobs: Jobs, pair: Any
    ) -> None:
        source, target, order = pair
        job_id = tab._start(source, target, "diffumatch", "default", 5, None)[tab.controls.job_id]
        assert tab.map not in polled_by(tab, job_id, "")
        previews = jobs.get(job_id).folder / "run" / "match" / "one-two" / "previews"
        previews.mkdir(parents=True)
        (previews / "live-fmap.png").write_bytes(b"first")
        polled = polled_by(tab, job_id, "")
        assert base64.b64encode(b"first").decode() in polled[tab.map]
        assert "as it is now" in polled[tab.map]
        shown = polled[tab.map_shown]
        assert tab.map not in polled_by(tab, job_id, shown)
        os.utime(previews / "live-fmap.png", ns=(1, 1))
        assert tab.map in polled_by(tab, job_id, shown)
        (previews / "live-fmap.png").rename(previews / "fmap.png")
        finish(jobs.get(job_id), order)
        polled = polled_by(tab, job_id, shown)
        assert "The final map" in polled[tab.map]
        request = SimpleNamespace(query_params={"job": job_id})
        assert tab.attach(request)[tab.map] == polled[tab.map]
        # other shapes: the map was not theirs
        assert tab._clear(0, source, target, "nearest", "default")[tab.map] == ""

    def test_every_method_has_its_hint(self, tab: Any, pair: Any) -> None:
        for method in match_job.METHODS:
            text = tab._estimate(pair[0], pair[1], method, "default")
            assert f"{method}: " in text and "about" in text

    def test_another_page_attaches_by_the_address(self, tab: Any, jobs: Jobs, pair: Any) -> None:
        source, target, _ = pair
        job_id = tab._start(source, target, "axiomatic", "fast", 5, None)[tab.controls.job_id]
        request = SimpleNamespace(query_params={"job": job_id})
        attached = tab.attach(request)
        assert (attached[tab.controls.job_id], attached[tab.preset], attached[tab.seed]) == (
            job_id,
            "fast",
            5,
        )
        assert attached[tab.controls.timer].active
        for bad in ("0" * 32, "../../etc", EVIL):
            answer = tab.attach(SimpleNamespace(query_params={"job": bad}))
            assert "job.unknown" in answer[tab.controls.status]

    def test_a_refused_upload_names_file_and_reason(self, tab: Any, tmp_path: Path) -> None:
        bad = tmp_path / "page.obj"
        bad.write_text("<html></html>")
        answer = tab._upload(0, str(bad), None, None, "axiomatic", "default")
        assert "mesh_file.not_a_mesh" in answer[tab.cards[0]]
        assert "page.obj" in answer[tab.cards[0]]
        assert answer[tab.files[0]] is None

    def test_cancel_reaches_the_job(self, tab: Any, jobs: Jobs, pair: Any) -> None:
        source, target, _ = pair
        job_id = tab._start(source, target, "axiomatic", "default", 0, None)[tab.controls.job_id]
        tab.controls._cancel(job_id)
        assert (jobs.get(job_id).folder / "cancel").exists()

    def test_a_job_whose_folder_is_gone_ends_the_clock(self, tab: Any) -> None:
        for answer in (polled_by(tab, "0" * 32, ""), tab.controls._cancel("0" * 32)):
            assert "job.unknown" in answer[tab.controls.status]
            # gradio refuses updates of what an event does not name
            assert set(answer) <= set(tab.controls.outputs)
        assert not polled_by(tab, "0" * 32, "")[tab.controls.timer].active

    def test_the_clock_may_change_all_that_it_does_change(self, jobs: Jobs, tmp_path: Path) -> None:
        import gradio as gr

        from apps.viewer.match_tab import MatchTab

        def page() -> Any:
            tab = MatchTab(jobs, tmp_path)
            functions = gr.context.Context.root_block.fns.values()  # type: ignore[union-attr]
            tick = (tab.controls.timer._id, "tick")
            return tab, next(f.outputs for f in functions if tick in f.targets)

        tab, outputs = on_a_page(page)
        assert set(polled_by(tab, "0" * 32, "")) <= set(outputs)
        assert {tab.map, tab.map_shown} <= set(outputs)

    def test_the_list_of_jobs_escapes_titles_and_links_by_id(self, jobs: Jobs) -> None:
        from apps.viewer.jobs_tab import JobsTab

        listing = on_a_page(lambda: JobsTab(jobs))
        assert "No jobs yet" in listing.render()
        job = jobs.submit(jobs.new_folder(), EVIL, ["match"], {})
        html = listing.render()
        assert "<img" not in html
        assert f'href="?job={job.id}"' in html


@pytest.mark.slow
def test_fifty_jobs_do_not_grow_the_server(tmp_path: Path) -> None:
    """Each round uploads, runs, shows every colouring and offers the files, as a page would."""
    from apps.viewer.match_tab import MatchTab

    worker = tmp_path / "worker.py"
    worker.write_text(QUICK_WORKER)
    jobs = Jobs(tmp_path / "jobs", worker=(sys.executable, str(worker), str(ROOT)))
    tab = on_a_page(lambda: MatchTab(jobs, tmp_path / "scratch"))
    source = bumpy_sphere(4)
    paths = [save_mesh(m, tmp_path / f"{n}.ply") for m, n in ((source, "a"), (source, "b"))]
    process, sizes = psutil.Process(), []
    for _ in range(50):
        pair = [shapes.upload_to_shape(path, tmp_path / "scratch") for path in paths]
        job_id = tab._start(*pair, "axiomatic", "default", 0, None)[tab.controls.job_id]
        end = time.monotonic() + 60
        while polled_by(tab, job_id, "")[tab.controls.finished] != job_id:
            assert time.monotonic() < end
            time.sleep(0.05)
        tab._show(job_id, MATCHED)
        tab._recolor(job_id, CONFIDENCE)
        gc.collect()
        sizes.append(process.memory_info().rss)
    jobs.close()
    # The first rounds import what the later ones use.
    assert sizes[-1] - sizes[4] < 100e6


QUICK_WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from apps.job_worker import work

folder = Path(sys.argv[2])

def main(argv):
    import numpy as np
    from geo3d.files import atomic_write_json
    from geo3d.mesh.io import load_mesh
    run = folder / "run" / "match" / "a-b"
    (run / "outputs").mkdir(parents=True)
    n = load_mesh(argv[2]).n_vertices
    np.savetxt(run / "outputs" / "map.txt", np.arange(n), "%d")
    np.savez(run / "outputs" / "map.npz", p2p_21=np.arange(n), confidence=np.ones(n))
    atomic_write_json(run / "metrics.json", {})
    return 0

sys.exit(work(folder, main))
"""
