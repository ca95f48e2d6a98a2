"""The tab Match without a browser: jobs, handlers, refusals."""

from __future__ import annotations

import base64
import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from helpers import bumpy_sphere, permuted
from viewer_helpers import on_a_page

from apps.job_files import Job, end_job
from apps.jobs import Jobs
from apps.report.shapes import CONFIDENCE, MATCHED
from apps.viewer import match_job, shapes
from apps.viewer.estimates import expected
from apps.viewer.match_result import ERROR, read_result, shapes_group
from apps.viewer.worker import measure
from geo3d.errors import InputError
from geo3d.files import atomic_write_json
from geo3d.mesh.io import load_mesh, save_mesh

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
        guess = match_job.guess(SETTINGS, 10_000)
        assert not expected(jobs, guess).learnt
        job = match_job.submit(jobs, source, target, SETTINGS)
        finish(job, order)
        end = {"state": "done", "error": None, "seconds": 3 * job.settings["guess_s"]}
        atomic_write_json(job.folder / "ended.json", {**end, "peak_bytes": 5e8})
        learned = expected(jobs, guess)
        assert learned.learnt and learned.memory == 5e8
        assert learned.seconds >= 3 * guess.seconds
        slower = match_job.guess(match_job.Settings("diffumatch", "default", 3), 10_000)
        faster = match_job.guess(match_job.Settings("axiomatic", "fast", 3), 10_000)
        assert faster.seconds < guess.seconds < slower.seconds

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
        group = shapes_group(result)
        assert [list(m.colors) for m in group.models] == [[MATCHED], [MATCHED]]
        assert list(group.models[1].scalars) == [CONFIDENCE, ERROR]
        assert result.errors is not None
        assert result.errors[0] > 0
        np.testing.assert_array_equal(result.errors[1:], 0)
        np.testing.assert_array_equal(group.models[1].matches, wrong)
        assert "<img" not in match_job.result_card(job, result)
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
        assert list(shapes_group(result).models[1].scalars) == [CONFIDENCE]
        assert "Mean error" not in match_job.result_card(job, result)


def polled_by(tab: Any, job_id: str, map_shown: str) -> Any:
    """Return what a tick of the tab's clock changes."""
    return tab.controls._poll(job_id, tab._watch, map_shown)


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
            assert code in tab._start([], *arguments)[tab.controls.status]

    @pytest.mark.parametrize(
        ("probability", "words"),
        [
            (0.1, "Probably wrong"),
            (0.7, "Doubtful"),
            (0.9, "Probably right"),
            (None, "is not known"),
        ],
    )
    def test_a_sentence_says_how_sure_the_map_is(
        self, tab: Any, jobs: Jobs, pair: Any, probability: float | None, words: str
    ) -> None:
        source, target, order = pair
        job_id = tab._start([], source, target, "axiomatic", "default", 5, None)[
            tab.controls.job_id
        ]
        finish(jobs.get(job_id), order, ambiguous=False, probability=probability)
        polled_by(tab, job_id, "")
        assert words in tab._show(job_id, "")[tab.result]

    def test_an_ambiguous_map_is_called_so(self, tab: Any, jobs: Jobs, pair: Any) -> None:
        source, target, order = pair
        given = (source, target, "axiomatic", "default", 5, None)
        job_id = tab._start([], *given)[tab.controls.job_id]
        finish(jobs.get(job_id), order, ambiguous=True, probability=0.9)
        shown = tab._show(job_id, "")
        assert "Ambiguous: another map" in shown[tab.result]
        assert f"geo3d/jobs/{job_id}.zip" in shown[tab.result]
        assert "load_mesh(&quot;one.ply&quot;)" in shown[tab.result]
        assert "geo3d match one.ply two.ply --method axiomatic" in shown[tab.result]

    def test_landmarks_of_the_panes_reach_the_command(
        self, tab: Any, jobs: Jobs, pair: Any
    ) -> None:
        source, target, _ = pair
        marks = tab._mark("[[0, 1], [2, 3], [4, 5]]")[tab.landmarks]
        for bad in ("[[0]]", "{}", "[[0, 1.5]]", "[" * 5000, '[["a", 1]]', f"[{'[0,0],' * 200}]"):
            assert "viewer.bad_edit" in tab._mark(bad)[tab.controls.status]
        given = (source, target, "axiomatic", "default", 5, None)
        job = jobs.get(tab._start([], *given, marks)[tab.controls.job_id])
        argv = json.loads((job.folder / "job.json").read_text())["argv"]
        file = Path(argv[argv.index("--landmarks") + 1])
        assert file.read_text() == "0 1\n2 3\n4 5\n"
        assert "marks = np.array([[0, 1], [2, 3], [4, 5]])" in match_job.python_lines(job)
        few = tab._start([], *given, marks[:2])
        assert "landmarks.bad" in few[tab.controls.status]
        nearest = tab._start([], source, target, "nearest", "default", 5, None, marks)
        assert "viewer.no_landmarks" in nearest[tab.controls.status]

    def test_several_targets_are_a_job_each(
        self, tab: Any, jobs: Jobs, pair: Any, tmp_path: Path
    ) -> None:
        source = pair[0]
        paths = [str(save_mesh(bumpy_sphere(2), tmp_path / f"{n}.ply")) for n in "abc"]
        bad = tmp_path / "bad.ply"
        bad.write_text("no mesh")
        loaded = tab._upload(1, [*paths, str(bad)], source, None, "axiomatic", "default")
        assert loaded[tab.shapes[1]].name == "a" and len(loaded[tab.more]) == 2
        assert "also b, c" in loaded[tab.cards[1]] and "bad.ply" in loaded[tab.cards[1]]
        given = (source, loaded[tab.shapes[1]], "axiomatic", "default", 5, None)
        started = tab._start(loaded[tab.more], *given)
        assert "one → b" in started[tab.controls.others]
        assert sorted(job.title for job in jobs.all()) == ["one → a", "one → b", "one → c"]
        last = min(jobs.all(), key=lambda job: -job.created)
        assert "2 jobs before it" in tab.controls.state(last)[tab.controls.status]

    def test_a_job_is_followed_from_start_to_result(self, tab: Any, jobs: Jobs, pair: Any) -> None:
        source, target, order = pair
        started = tab._start([], source, target, "axiomatic", "default", 5, None)
        job_id = started[tab.controls.job_id]
        assert started[tab.controls.timer].active
        assert "queued" in started[tab.controls.status]
        finish(jobs.get(job_id), order, scores={}, ambiguous=False, notes=[], probability=0.9)
        polled = polled_by(tab, job_id, "")
        assert polled[tab.controls.finished] == job_id
        assert not polled[tab.controls.timer].active
        shown = tab._show(job_id, "")
        assert shown[tab.panes].count("<canvas") == 2 and "data-source" in shown[tab.panes]
        assert "Probably right" in shown[tab.result]

    def test_the_map_is_shown_while_it_changes_and_at_the_end(
        self, tab: Any, jobs: Jobs, pair: Any
    ) -> None:
        source, target, order = pair
        job_id = tab._start([], source, target, "diffumatch", "default", 5, None)[
            tab.controls.job_id
        ]
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
        given = (source, target, "axiomatic", "fast", 5, None)
        job_id = tab._start([], *given)[tab.controls.job_id]
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
        job_id = tab._start([], source, target, "axiomatic", "default", 0, None)[
            tab.controls.job_id
        ]
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


@pytest.mark.slow
def test_fifty_jobs_do_not_grow_the_server(tmp_path: Path) -> None:
    """Each round uploads, runs, shows the result and offers the files, as a page would."""
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
        job_id = tab._start([], *pair, "axiomatic", "default", 0, None)[tab.controls.job_id]
        end = time.monotonic() + 60
        while polled_by(tab, job_id, "")[tab.controls.finished] != job_id:
            assert time.monotonic() < end
            time.sleep(0.05)
        tab._show(job_id, "")
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
