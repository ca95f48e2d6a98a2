"""Time of a pipeline beside that of its few-step students, from image to mesh, stage by stage.

Everything is measured in one run: the makers take turns on each image, so that whatever else the
machine does falls on all of them.  A number is the median over repeats of an image, then the mean
over images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from apps.bench.measuring import timed
from geo3d.errors import InputError
from geo3d.files import asset
from geo3d.progress import ProgressCallback, ignore_progress, tell_each
from geo3d.render.cameras import orbit
from geo3d.synth.objects.generate import generate_object
from scenes.objects.data.views import draw_views
from scenes.objects.pipeline import GenerateConfig, Pipeline, load_pipeline

KINDS = ("chair", "car", "house", "vase", "key")
"""Objects whose images are used; of one seed each."""
STEPS = (1, 2)
TEACHER_STEPS = 25
STAGES = ("picture", "structure", "voxels", "latent", "mesh")
_PIXELS = 96
_OBJECT_SEED = 10_000_019
Row = dict[str, Any]


def bench_generation(
    data: str | Path | None = None,
    repeats: int = 3,
    seed: int = 0,
    progress: ProgressCallback = ignore_progress,
    kinds: Sequence[str] = KINDS,
) -> list[Row]:
    """Return a row for the pipeline in 25 steps and for its students in 1 and 2, in milliseconds.

    Args:
        data: pipeline folder with students; by default the shipped one.
        repeats: measured runs per image, after one that does not count.
        seed: of the noise.
        progress: hears of every image.
        kinds: procedural objects whose images are taken.

    Raises:
        InputError: ``bench.no_students``.
        CheckpointError: as `load_pipeline`.
    """
    model = data or asset("objects/pipeline")
    if not (Path(model) / "student.json").is_file():
        raise InputError(
            "bench.no_students",
            f"The pipeline in {model} has no students to compare it with.",
            "Train them and put the pipeline together with `geo3d train objects`.",
        )
    student = load_pipeline(model, variant="student")
    makers: list[tuple[str, Pipeline, GenerateConfig]] = []
    ways = [("teacher", load_pipeline(model), TEACHER_STEPS)]
    ways += [(f"student, {steps} + {steps} steps", student, steps) for steps in STEPS]
    for name, pipeline, steps in ways:
        structure, latent = (replace(sampler, steps=steps) for sampler in pipeline.samplers)
        config = GenerateConfig(structure, latent, ("mesh",), on_empty="keep")
        makers.append((name, pipeline, config))
    runs: dict[str, list[Row]] = {name: [] for name, _, _ in makers}
    for kind in tell_each(kinds, progress, "timing"):
        picture = _picture(kind)
        timed: dict[str, list[Row]] = {name: [] for name, _, _ in makers}
        for repeat in range(repeats + 1):
            for name, pipeline, config in makers:
                run = _timed(pipeline, picture, seed, config)
                if repeat:
                    timed[name].append(run)
        for name, found in timed.items():
            runs[name].append({key: float(np.median([r[key] for r in found])) for key in found[0]})
    means = {
        name: {key: float(np.mean([r[key] for r in found])) for key in found[0]}
        for name, found in runs.items()
    }
    return [_row(name, found, means["teacher"]) for name, found in means.items()]


def _row(name: str, found: Mapping[str, float], teacher: Mapping[str, float]) -> Row:
    return {
        "maker": name,
        "passes": round(found["passes"]),
        "cells": round(found["cells"]),
        **{f"{stage} ms": round(found[stage], 1) for stage in STAGES},
        "all ms": round(found["all"], 1),
        "CPU ms": round(found["cpu"], 1),
        "x sampling": round(_sampling(teacher) / _sampling(found), 2),
        "x all": round(teacher["all"] / found["all"], 2),
        "x all, CPU": round(teacher["cpu"] / found["cpu"], 2),
    }


def _sampling(found: Mapping[str, float]) -> float:
    return found["structure"] + found["latent"]


def _timed(pipeline: Pipeline, picture: Image.Image, seed: int, config: GenerateConfig) -> Row:
    """Make one object and return the milliseconds of every stage."""
    made, spent = timed(pipeline.generate, [picture], [seed], config)
    latent = made.objects[0].latent
    return {
        **{stage: 1e3 * made.seconds.get(stage, 0.0) for stage in STAGES},
        "all": 1e3 * spent.wall,
        "cpu": 1e3 * spent.cpu,
        "passes": sum(made.calls.values()),
        "cells": 0 if latent is None else len(latent),
    }


def _picture(kind: str) -> Image.Image:
    mesh = generate_object(kind, _OBJECT_SEED).mesh
    return Image.fromarray(draw_views(mesh, [orbit(mesh, 0.6, up="z", size=_PIXELS)])[0])
