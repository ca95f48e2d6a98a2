"""The tab Generate without a browser: jobs, handlers, refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from object_pipelines import cut_out_image, tiny_pipeline_folder

from apps.cli import main
from apps.job_files import end_job
from apps.jobs import Jobs
from apps.viewer import generate_job
from apps.viewer.job_parts import result_of
from geo3d.errors import InputError

EVIL = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with two pipelines beside it, one of them without students."""
    runs = tmp_path_factory.mktemp("runs")
    tiny_pipeline_folder(runs / "models" / "both")
    tiny_pipeline_folder(runs / "models" / "teacher", student=False)
    return runs


@pytest.fixture
def jobs(runs: Path) -> Iterator[Jobs]:
    """Jobs that stay queued."""
    made = Jobs(runs / "jobs", max_running=0)
    yield made
    made.close()


@pytest.fixture
def tab(jobs: Jobs, tmp_path: Path) -> Any:
    """The tab on a page; gradio leaks an event loop where none is running."""

    async def build() -> Any:
        import gradio as gr

        from apps.viewer.generate_tab import GenerateTab

        with gr.Blocks(analytics_enabled=False):
            return GenerateTab(jobs, tmp_path / "scratch")

    return asyncio.run(build())


def picture(tab: Any, folder: Path, name: str = "red.png") -> Any:
    cut_out_image().save(folder / name)
    return tab._upload(str(folder / name))[tab.image]


def finished(jobs: Jobs, job_id: str) -> Any:
    job = jobs.get(job_id)
    assert main(json.loads((job.folder / "job.json").read_text())["argv"]) == 0
    end_job(job.folder, "done")
    return jobs.get(job_id)


def test_teacher_and_student_of_a_picture(tab: Any, jobs: Jobs, tmp_path: Path) -> None:
    started = tab._start([], picture(tab, tmp_path), "models/both", 3, 1, 3.0, 5)
    job_id = started[tab.controls.job_id]
    assert "queued" in started[tab.controls.status]
    with pytest.raises(InputError, match=r"job\.no_result"):
        result_of(jobs.get(job_id))
    job = finished(jobs, job_id)
    _, metrics = result_of(job)
    assert metrics["calls"]["structure"] > metrics["student"]["calls"]["structure"] == 1
    shown = tab._show(job_id)
    titles = [model.title for model in generate_job.shapes(job).models]
    assert titles == [
        "Teacher, mesh",
        "Student, mesh",
        "Teacher, Gaussians",
        "Student, Gaussians",
    ]
    assert shown[tab.panes].count("<canvas") == 2
    assert "Download everything" in shown[tab.result] and "g3-verdict" in shown[tab.result]
    assert "Student is faster by" in shown[tab.result] and "Latents" in shown[tab.result]
    names = [Path(p).name for p in generate_job.downloads(job, tmp_path / "s")]
    assert names == ["red-gaussians.ply", "red-student-gaussians.ply", "red-student.glb", "red.glb"]
    request = SimpleNamespace(query_params={"job": job_id})
    attached = tab.attach(request)
    assert attached[tab.controls.job_id] == job_id
    assert (attached[tab.steps], attached[tab.seed]) == (3, 5)
    assert tab.controls.select_tab(request).selected == "generate"


def test_a_model_without_students_says_so(tab: Any, jobs: Jobs, tmp_path: Path) -> None:
    started = tab._start([], picture(tab, tmp_path), "models/teacher", 1, 1, 1.0, 0)
    job_id = started[tab.controls.job_id]
    finished(jobs, job_id)
    shown = tab._show(job_id)
    titles = [model.title for model in generate_job.shapes(jobs.get(job_id)).models]
    assert shown[tab.panes] and titles == ["Teacher, mesh", "Teacher, Gaussians"]
    assert "no few-step students" in shown[tab.result]


def test_what_cannot_be_done_is_named(tab: Any, jobs: Jobs, tmp_path: Path) -> None:
    before = len(jobs.all())
    image = picture(tab, tmp_path)
    cases = [
        ((None, "models/both", 1, 1, 1.0, 0), "viewer.missing_image"),
        ((image, "../models/both", 1, 1, 1.0, 0), "viewer.unknown_choice"),
        ((image, EVIL, 1, 1, 1.0, 0), "viewer.unknown_choice"),
        ((image, "models/both", 0, 1, 1.0, 0), "viewer.bad_steps"),
        ((image, "models/both", 1, 99, 1.0, 0), "viewer.bad_steps"),
        ((image, "models/both", 1, 1, 99.0, 0), "viewer.bad_guidance"),
        ((image, "models/both", 1, 1, 1.0, None), "viewer.bad_seed"),
    ]
    for arguments, code in cases:
        assert code in tab._start([], *arguments)[tab.controls.status]
    assert len(jobs.all()) == before
    none = Jobs(tmp_path / "none" / "jobs", max_running=0)
    request = generate_job.Request("models/both", 1, 1, 1.0, 0)
    code = "viewer.no_model" if not generate_job.models(none) else "viewer.unknown_choice"
    with pytest.raises(InputError) as caught:
        generate_job.submit(none, image, request)
    none.close()
    assert caught.value.code == code


def test_bad_uploads_are_refused_with_a_reason(tab: Any, tmp_path: Path) -> None:
    bad = tmp_path / f"{EVIL.replace('/', '')}.png"
    bad.write_bytes(b"<html>")
    answer = tab._upload(str(bad))
    assert "object_image.unreadable" in answer[tab.card]
    assert "<img" not in answer[tab.card]
    assert answer[tab.image] is None and answer[tab.file] is None


def test_names_never_become_markup(tab: Any, tmp_path: Path) -> None:
    name = f"{EVIL.replace('/', '')}.png"
    cut_out_image().save(tmp_path / name)
    assert "<img" not in tab._upload(str(tmp_path / name))[tab.card]


def test_examples_are_cut_out_objects(tab: Any) -> None:
    for title in generate_job.EXAMPLES:
        found = tab._pick(title)[tab.image]
        assert found.width == generate_job.EXAMPLE_SIDE
    assert tab._pick("")[tab.image] is None


def test_defaults_are_those_of_the_model(tab: Any, runs: Path) -> None:
    assert generate_job.defaults(runs / "models" / "both") == (2, 3.0)
    assert generate_job.defaults(runs) == (25, 4.0)
    assert tab._choose("models/both") == {tab.steps: 2, tab.guidance: 3.0}
