"""What each tab shows under "The same from the command line and in Python" makes the same.

The lines are taken from the page's HTML and run in a folder that holds what their user has: the
inputs by their names, and the folder of runs.
"""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import bumpy_sphere, permuted
from object_pipelines import cut_out_image, tiny_pipeline_folder
from PIL import Image
from segmentation_helpers import tiny_segmenter, wall_image

from apps.cli import main
from apps.job_files import Job, end_job
from apps.jobs import Jobs
from apps.viewer import (
    generate_job,
    match_job,
    results,
    scene_job,
    segment_job,
    shapes,
)
from geo3d.mesh.io import load_mesh
from geo3d.segmentation.images import read_label
from geo3d.synth.streets.generate import generate_street
from shape_matching.map_files import load_p2p

pytestmark = pytest.mark.slow


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    """Jobs that wait for `done`."""
    return Jobs(tmp_path / "runs" / "jobs", max_running=0)


def done(jobs: Jobs, job: Job, patch: pytest.MonkeyPatch) -> Job:
    """Run a job's command here, as its child process would."""
    argv = json.loads((job.folder / "job.json").read_text())["argv"]
    patch.setattr(sys, "argv", ["geo3d", *argv])
    assert main(argv) == 0
    end_job(job.folder, "done")
    return jobs.get(job.id)


def shown(job: Job, python: Sequence[str]) -> tuple[list[str], str]:
    """Return the words of the command, and the Python lines, as the page shows them."""
    found = re.search(r'<pre class="g3-commands">(.*?)</pre>', results.ending(job, python), re.S)
    assert found is not None
    line, _, code = html.unescape(found[1]).partition("\n\n")
    words = shlex.split(line)
    assert words[0] == "geo3d" and not any(Path(word).is_absolute() for word in words)
    return words[1:], code


class Again:
    """A result made again from what the page shows."""

    def __init__(
        self, job: Job, python: Sequence[str], place: Path, patch: pytest.MonkeyPatch
    ) -> None:
        """Run both in a folder with the inputs; the folder of runs lies there already."""
        for path in (job.folder / "inputs").rglob("*.*"):
            shutil.copyfile(path, place / path.name)
        patch.chdir(place)
        words, code = shown(job, python)
        known = set(place.rglob("manifest.json"))
        assert main(words) == 0
        (manifest,) = set(place.rglob("manifest.json")) - known
        assert job.run_folder is not None
        self.before, self.after = job.run_folder / "outputs", manifest.parent / "outputs"
        self.names: dict[str, Any] = {}
        exec(code, self.names)


def test_match(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = bumpy_sphere(2)
    target, _ = permuted(source)
    first = shapes.keep(source, "one shape", tmp_path / "kept")
    second = shapes.keep(target, "two", tmp_path / "kept")
    settings = match_job.Settings("axiomatic", "fast", 3, ((0, 1), (20, 30), (50, 7)))
    job = done(jobs, match_job.submit(jobs, first, second, settings), monkeypatch)
    again = Again(job, match_job.python_lines(job), tmp_path, monkeypatch)
    expected = load_p2p(again.before / "map.txt")
    assert np.array_equal(load_p2p(again.after / "map.txt"), expected)
    found = again.names["found"]
    assert np.array_equal(found.p2p_21, expected)
    assert np.allclose(found.confidence, np.load(again.before / "map.npz")["confidence"], atol=1e-6)


@pytest.mark.parametrize("repair", [False, True])
def test_segment(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repair: bool) -> None:
    model = tmp_path / "runs" / "train-segmenter" / "mine" / "outputs" / "segmenter.safetensors"
    model.parent.mkdir(parents=True)
    tiny_segmenter(model)
    picture = segment_job.read_upload(wall_image(tmp_path / "wall.png", size=48), tmp_path)
    request = segment_job.Request("mine", segment_job.NOTHING, (), repair)
    job = done(jobs, segment_job.submit(jobs, picture, None, request), monkeypatch)
    again = Again(job, segment_job.python_lines(job, jobs), tmp_path, monkeypatch)
    name = "picture-mask.png"
    expected = read_label(again.before / name).mask
    assert np.array_equal(read_label(again.after / name).mask, expected)
    assert np.array_equal(np.asarray(again.names["mask"]), expected)
    assert 0 < expected.sum() < expected.size


def test_generate(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pipeline_folder(tmp_path / "runs" / "models" / "tiny")
    cut_out_image().save(tmp_path / "red.png")
    image = generate_job.read_upload(tmp_path / "red.png", tmp_path)
    request = generate_job.Request("models/tiny", 2, 1, 3.0, 5)
    job = done(jobs, generate_job.submit(jobs, image, request), monkeypatch)
    again = Again(job, generate_job.python_lines(job), tmp_path, monkeypatch)
    for name, found in (("object", "found"), ("object-student", "quick")):
        expected = load_mesh(again.before / f"{name}.glb")
        assert (again.after / f"{name}.glb").read_bytes() == (
            again.before / f"{name}.glb"
        ).read_bytes()
        mesh = again.names[found].mesh
        assert len(mesh.faces) > 0 and np.allclose(
            np.sort(mesh.vertices.mean(axis=0)), np.sort(expected.vertices.mean(axis=0)), atol=0.05
        )


def test_scene(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = scene_job.Request("smoke", scene_job.NO_STYLE, scene_job.NO_STYLE, 1)
    street = generate_street(12.0, 0, "straight")
    job = done(jobs, scene_job.submit(jobs, street, request), monkeypatch)
    again = Again(job, scene_job.python_lines(job), tmp_path, monkeypatch)
    before = json.loads((again.before.parent / "metrics.json").read_text())
    after = json.loads((again.after.parent / "metrics.json").read_text())
    built = again.names["built"]
    for key in ("depth_error_median_m", "psnr_to_teacher", "miou"):
        assert after[key] == before[key] == built.metrics[key]
    assert all(
        np.array_equal(np.asarray(Image.open(a)), np.asarray(Image.open(b)))
        for a, b in zip(
            sorted((again.before.parent / "previews").glob("*.png")),
            sorted((again.after.parent / "previews").glob("*.png")),
            strict=True,
        )
    )
