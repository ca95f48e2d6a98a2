"""Correction by hand and repair in the tab Segment, without a browser."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from segmentation_helpers import tiny_segmenter, wall_image

from apps.cli import main
from apps.job_files import end_job
from apps.jobs import Jobs
from apps.viewer import segment_correct, segment_job
from apps.viewer.segment_correct import Correction
from apps.viewer.segment_job import NOTHING
from geo3d.errors import InputError
from geo3d.runs import amend_run
from geo3d.segmentation.images import save_mask
from geo3d.topology.betti import betti_numbers

SIDE = 40


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run of `geo3d segment` leaves: two bars of mortar, and a manifest."""
    folder = tmp_path / "run"
    (folder / "outputs").mkdir(parents=True)
    (folder / "previews").mkdir()
    mask = np.zeros((SIDE, SIDE), bool)
    mask[8:12], mask[28:32] = True, True
    save_mask(folder / "outputs" / "picture-mask.png", mask)
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(folder / "picture.png")
    state = {"status": "done", "pid": 1, "host": "h", "heartbeat": 0, "record": {}}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "manifest.json").write_text(json.dumps({"status": "done", "outputs": []}))
    return folder


@pytest.fixture
def correction(run: Path) -> Correction:
    return segment_correct.open_mask(run, run / "picture.png", "picture", corrected=False)


def ask(correction: Correction, op: str = "stroke", **more: Any) -> None:
    segment_correct.change(correction, json.dumps({"op": op, **more}))


def bridge(column: float = 20.5, join: bool = True) -> dict[str, Any]:
    return {"join": join, "width": 3, "points": [[10, column], [30, column]]}


def test_strokes_change_numbers_and_are_taken_back(correction: Correction) -> None:
    assert correction.betti == (2, 0)
    ask(correction, **bridge(10.5))
    assert correction.betti == (1, 0)
    ask(correction, **bridge(30.5))
    assert correction.betti == (1, 1)
    said = segment_correct.numbers(correction)
    assert "Components <b>1 (was 2)</b>" in said and "1 (was 0)" in said and "holes 0 to 1" in said
    assert "not saved" in said
    ask(correction, "undo")
    ask(correction, "undo")
    ask(correction, "undo")
    assert "nothing to undo" in correction.said
    assert (correction.mask == correction.first).all() and not correction.strokes
    ask(correction, "redo")
    assert correction.betti == (1, 0) == betti_numbers(correction.mask)
    ask(correction, **bridge(30.5))
    ask(correction, "redo")
    assert "nothing to redo" in correction.said, "what was taken back is forgotten by a new stroke"


def test_a_stroke_that_changes_nothing_is_not_remembered(correction: Correction) -> None:
    ask(correction, join=False, width=2, points=[[20, 20]])
    assert "changed nothing" in correction.said and not correction.past and correction.saved


def test_old_strokes_are_forgotten_when_they_fill_memory(
    correction: Correction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_correct, "MAX_UNDONE_PIXELS", 60)
    ask(correction, **bridge(10.5))
    ask(correction, **bridge(30.5))
    assert len(correction.past) == 1 and len(correction.strokes) == 2
    ask(correction, "undo")
    ask(correction, "undo")
    assert correction.betti == (1, 0) and len(correction.strokes) == 1


@pytest.mark.parametrize(
    "message",
    [
        "",
        "[]",
        '{"op": 3}',
        '{"op": "erase"}',
        '{"op": "stroke", "join": 1, "width": 3, "points": [[1, 1]]}',
        '{"op": "stroke", "join": true, "width": 1e9, "points": [[1, 1]]}',
        '{"op": "stroke", "join": true, "width": NaN, "points": [[1, 1]]}',
        '{"op": "stroke", "join": true, "width": 3, "points": []}',
        '{"op": "stroke", "join": true, "width": 3, "points": [[1]]}',
        '{"op": "stroke", "join": true, "width": 3, "points": [[1, 1e300]]}',
        '{"op": "stroke", "join": true, "width": 3, "points": [["a", true]]}',
        '{"op": "stroke", "join": true, "width": 3, "points": [' + "[1, 1]," * 3000 + "[1, 1]]}",
        "[" * 90_000,
    ],
)
def test_what_the_page_cannot_have_asked_is_refused(correction: Correction, message: str) -> None:
    with pytest.raises(InputError, match=r"viewer\.bad_edit"):
        segment_correct.change(correction, message)
    assert (correction.mask == correction.first).all()


def test_there_is_an_end_to_strokes(
    correction: Correction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_correct, "MAX_STROKES", 1)
    ask(correction, **bridge(10.5))
    with pytest.raises(InputError, match=r"viewer\.too_many_strokes"):
        ask(correction, **bridge(30.5))


def test_the_layer_tells_the_largest_piece_from_others_and_holes() -> None:
    mask = np.zeros((12, 12), bool)
    mask[1:8, 1:8] = True
    mask[3:5, 3:5] = False
    mask[10, 10] = True
    image = Image.open(io.BytesIO(segment_correct.layer_png(mask))).convert("RGBA")
    colours = np.asarray(image)
    names = segment_correct.LAYER
    for place, colour in (
        ((1, 1), names["largest"]),
        ((10, 10), names["pieces"]),
        ((3, 3), names["holes"]),
    ):
        assert tuple(colours[place]) == colour
    assert colours[9, 0, 3] == 0


def test_a_saved_mask_reads_like_the_segmenters_and_the_manifest_says_so(
    run: Path, correction: Correction
) -> None:
    with pytest.raises(InputError, match=r"viewer\.nothing_corrected"):
        segment_correct.save(correction)
    ask(correction, **bridge(10.5))
    segment_correct.save(correction)
    assert correction.saved
    pixels = np.asarray(Image.open(run / "outputs" / "picture-corrected-mask.png"))
    assert pixels.dtype == np.uint8 and set(np.unique(pixels)) == {0, 255}
    assert ((pixels == 255) == correction.mask).all()
    first = np.asarray(Image.open(run / "outputs" / "picture-mask.png"))
    assert ((first == 255) == correction.first).all(), "the segmenter's mask stays"
    manifest = json.loads((run / "manifest.json").read_text())
    said = manifest["corrected_by_hand"]["picture"]
    assert (said["before"], said["after"], said["strokes"]) == ([2, 0], [1, 0], 1)
    assert said["pixels"] == (correction.first != correction.mask).sum()
    assert said["mask"] in {entry["path"] for entry in manifest["outputs"]}
    again = segment_correct.open_mask(run, run / "picture.png", "picture", corrected=True)
    assert (again.mask == correction.mask).all() and again.strokes == correction.strokes
    ask(again, **bridge(30.5))
    segment_correct.save(again)
    strokes = json.loads((run / "outputs" / "picture-strokes.json").read_text())
    assert [stroke["join"] for stroke in strokes] == [True, True]


def test_a_run_that_is_not_done_is_not_added_to(run: Path) -> None:
    (run / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"run\.not_done"):
        amend_run(run, more=1)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Jobs that stay queued, and a model that was trained here."""
    path = tmp_path / "runs" / "train-segmenter" / "first" / "outputs" / "segmenter.safetensors"
    path.parent.mkdir(parents=True)
    tiny_segmenter(path)
    made = Jobs(tmp_path / "runs" / "jobs", max_running=0)
    yield made
    made.close()


def test_the_tab_repairs_and_corrects(jobs: Jobs, tmp_path: Path) -> None:
    async def build() -> Any:
        import gradio as gr

        from apps.viewer.segment_tab import SegmentTab

        with gr.Blocks(analytics_enabled=False):
            return SegmentTab(jobs, tmp_path / "scratch")

    tab = asyncio.run(build())
    picture = tab._upload(str(wall_image(tmp_path / "my.png", size=48)))[tab.image]
    job_id = tab._start([], picture, None, "first", NOTHING, [], True)[tab.controls.job_id]
    job = jobs.get(job_id)
    argv = json.loads((job.folder / "job.json").read_text())["argv"]
    assert "--repair" in argv and main(argv) == 0
    end_job(job.folder, "done")

    shown = tab._show(job_id)
    assert shown[tab.choices[1]].value == "Repair: first"
    card = shown[tab.result]
    assert "before and after" in card
    assert "The same from the command line" in card
    assert "from geo3d.topology.repair import repair" in card
    run, metrics = segment_job.result_of(jobs.get(job_id))
    changes = metrics["pictures"][0]["repair"]["changes"]
    rows = (run / "outputs" / "picture-changes.csv").read_text().splitlines()
    assert len(rows) == changes + 1 and rows[0] == "number,kind,cost,pixels,row,column"

    entered = tab._enter("Correct by hand", job_id)
    correction = entered[tab.correction]
    assert "<svg" in entered[tab.canvas] and correction.mask.shape == (48, 48)
    cut = {"op": "stroke", "join": False, "width": 6, "points": [[0, 24], [48, 24]]}
    join = {**cut, "join": True}
    for message in (cut, join):
        painted = tab._paint(correction, json.dumps(message))
    assert "Strokes" in painted[tab.numbers]
    assert "viewer.bad_edit" in tab._paint(correction, "{}")[tab.numbers]
    saved = tab._save(correction, job_id)
    assert "corrected by hand" in saved[tab.result]
    assert saved[tab.corrected].value == "first, corrected by hand"
    names = [file["orig_name"] for file in saved[tab.downloads].value]
    assert "my-corrected-mask.png" in names
    titles = [title for title, _ in saved[tab.choices[0]].choices]
    assert titles[:2] == ["Overlay: first", "Overlay: first, corrected by hand"]
    again = tab._enter("Correct by hand", job_id)
    assert len(again[tab.correction].strokes) == len(correction.strokes)
    assert "viewer.unknown_choice" in tab._open_mask(job_id, "../first")[tab.numbers]
    assert tab._enter("Look", job_id)[tab.correction] is None
    assert tab._no_result()[tab.correction] is None
    record = json.loads((job.folder / "job.json").read_text())
    del record["settings"]["repair"]
    (job.folder / "job.json").write_text(json.dumps(record))
    old = tab.attach(SimpleNamespace(query_params={"job": job_id}))
    assert tab.repair not in old and old[tab.controls.job_id] == job_id
