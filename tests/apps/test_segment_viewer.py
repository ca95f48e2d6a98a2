"""The tab Segment without a browser: jobs, handlers, refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from segmentation_helpers import tiny_segmenter, wall_image, wall_label

from apps.cli import main
from apps.job_files import end_job
from apps.jobs import Jobs
from apps.viewer import segment_job
from apps.viewer.segment_job import NOTHING, SHIPPED
from geo3d.errors import InputError
from geo3d.segmentation.predict import SHIPPED as SHIPPED_FILE

EVIL = '<img src=x onerror="alert(1)">'


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Jobs that stay queued, and two models that were trained here."""
    for seed, name in enumerate(("first", "second")):
        path = tmp_path / "runs" / "train-segmenter" / name / "outputs" / "segmenter.safetensors"
        path.parent.mkdir(parents=True)
        tiny_segmenter(path, seed)
    made = Jobs(tmp_path / "runs" / "jobs", max_running=0)
    yield made
    made.close()


@pytest.fixture
def tab(jobs: Jobs, tmp_path: Path) -> Any:
    """The tab on a page; gradio leaks an event loop where none is running."""

    async def build() -> Any:
        import gradio as gr

        from apps.viewer.segment_tab import SegmentTab

        with gr.Blocks(analytics_enabled=False):
            return SegmentTab(jobs, tmp_path / "scratch")

    return asyncio.run(build())


def test_the_name_of_the_shipped_model_is_known() -> None:
    assert segment_job.MODEL == SHIPPED_FILE


def test_models_trained_here_can_be_chosen(jobs: Jobs) -> None:
    cell = "bench-segment/run/outputs/cells/supervised/accurate/large/cl_dice/0"
    path = jobs.root.parent / cell / "segmenter.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()
    names = segment_job.models(jobs)
    assert set(names) == {
        SHIPPED,
        "first",
        "second",
        "run/supervised/accurate/large/cl_dice/0",
    }
    assert next(iter(names)) == SHIPPED


def test_a_picture_goes_through_the_page(tab: Any, jobs: Jobs, tmp_path: Path) -> None:
    image, label = wall_image(tmp_path / "my.png"), wall_label(tmp_path / "label.png")
    loaded = tab._upload(str(image))
    picture = loaded[tab.image]
    assert (picture.width, picture.height) == (96, 96)
    kept = tab._upload_label(str(label))[tab.label]
    started = tab._start([], picture, kept, "first", "second", ["ce_dice"])
    job_id = started[tab.controls.job_id]
    assert "queued" in started[tab.controls.status]
    job = jobs.get(job_id)
    argv = json.loads((job.folder / "job.json").read_text())["argv"]
    assert main(argv) == 0
    end_job(job.folder, "done")
    assert tab.controls._poll(job_id, None)[tab.controls.finished] == job_id
    shown = tab._show(job_id)
    titles = list(segment_job.views(jobs.get(job_id)))
    assert titles == [
        "Overlay: first",
        "Overlay: second",
        "Loss map of ce_dice: first",
        "Loss map of ce_dice: second",
        "Mask: first",
        "Mask: second",
        "Image",
    ]
    assert shown[tab.result].count("Components") == 2
    assert "mortar is in" in shown[tab.result] and "load_segmenter" in shown[tab.result]
    left, right = (Path(shown[pane]).read_bytes() for pane in tab.panes)
    assert left != right
    assert Path(tab._view(job_id, "Image")).is_file()
    assert not isinstance(tab._view(job_id, "../../etc"), str)
    names = [Path(p).name for p in segment_job.downloads(jobs.get(job_id), tmp_path / "s")]
    assert names[0] == "my-compared-mask.png" and len(names) == 6
    attached = tab.attach(SimpleNamespace(query_params={"job": job_id}))
    assert attached[tab.controls.job_id] == job_id
    assert attached[tab.losses] == ["ce_dice"]
    assert (
        tab.controls.select_tab(SimpleNamespace(query_params={"job": job_id})).selected == "segment"
    )


def test_the_other_tab_leaves_these_jobs_alone(tab: Any, jobs: Jobs, tmp_path: Path) -> None:
    picture = segment_job.example("Drawn wall", tmp_path)
    job_id = tab._start([], picture, picture.label, SHIPPED, NOTHING, None)[tab.controls.job_id]
    argv = json.loads((jobs.get(job_id).folder / "job.json").read_text())["argv"]
    assert "--model" not in argv and "--compare" not in argv and "--label" not in argv
    other = jobs.submit(jobs.new_folder(), "a", ["match"], {"kind": "match"})
    for query in ({}, {"job": "0" * 32}, {"job": other.id}):
        attached = tab.attach(SimpleNamespace(query_params=query))
        assert not attached.get(tab.controls.job_id)


def test_what_cannot_be_done_is_named(tab: Any, jobs: Jobs, tmp_path: Path) -> None:
    picture = tab._upload(str(wall_image(tmp_path / "a.png")))[tab.image]
    small = tab._upload_label(str(wall_label(tmp_path / "b.png", size=64)))[tab.label]
    losses = ["ce_dice", "cl_dice", "cb_dice", "cavity", "warping"]
    cases = [
        ((None, None, SHIPPED, NOTHING, []), "viewer.missing_image"),
        ((picture, None, "../x", NOTHING, []), "viewer.unknown_choice"),
        ((picture, None, SHIPPED, EVIL, []), "viewer.unknown_choice"),
        ((picture, None, SHIPPED, NOTHING, ["none"]), "viewer.unknown_choice"),
        ((picture, None, SHIPPED, NOTHING, losses), "viewer.too_many_losses"),
        ((picture, small, SHIPPED, NOTHING, ["ce_dice"]), "viewer.label_size"),
    ]
    for arguments, code in cases:
        assert code in tab._start([], *arguments)[tab.controls.status]
    assert jobs.all() == []
    job = jobs.submit(jobs.new_folder(), "a", ["segment"], {"kind": "segment", "compared": NOTHING})
    with pytest.raises(InputError, match=r"job\.no_result"):
        segment_job.views(job)


def test_bad_uploads_are_refused_with_a_reason(tab: Any, tmp_path: Path) -> None:
    bad = tmp_path / f"{EVIL.replace('/', '')}.png"
    bad.write_bytes(b"<html>")
    answer = tab._upload(str(bad))
    assert "image.unreadable" in answer[tab.card]
    assert "<img" not in answer[tab.card]
    assert answer[tab.image] is None and answer[tab.file] is None
    colours = wall_image(tmp_path / "colours.png")
    assert "image.bad_label" in tab._upload_label(str(colours))[tab.label_card]


def test_examples_come_with_their_labels(tab: Any) -> None:
    loaded = tab._pick("Drawn wall")
    assert loaded[tab.image].width == loaded[tab.label].width
    assert tab._pick("")[tab.image] is None
