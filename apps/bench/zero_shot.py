"""Time per pair of the zero-shot matcher beside the published algorithm's own settings.

Each row is measured in a process of its own, on one pair of generated shapes whose truth is known.
The published settings are those of the release: features on all vertices, a prior of 32.5 million
parameters (random weights here: they do not change the time) asked 200 times per direction and step
for the mask and 32 times for score distillation, ZoomOut by single functions on all vertices, 300
steps.  A few steps are timed and the rest is multiplied.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from apps.bench.measuring import apart, peak_mib
from apps.bench.spectral import bench_pairs, match_numbers
from geo3d.config import load_config
from geo3d.device import item_generator
from geo3d.distill.preconditioning import IDDPM
from geo3d.progress import ProgressCallback, ignore_progress, tell_each
from shape_matching.config import MatchConfig
from shape_matching.prior.denoiser import Denoiser, DenoiserConfig
from shape_matching.prior.prior import Prior
from shape_matching.prior.zero_shot import optimise
from shape_matching.prior.zero_shot_config import ZeroShotConfig
from shape_matching.search.prepare import prepare

PUBLISHED_STEPS = 300
K_NETWORK, N_SAMPLES = 200, 1_500


def bench_zero_shot(
    vertices: int = 5_000,
    seed: int = 0,
    steps: int = 2,
    progress: ProgressCallback = ignore_progress,
) -> list[dict[str, Any]]:
    """Return a row per setting: seconds per pair, peak memory, error.

    Args:
        steps: published steps that are timed, after one to warm up.
    """
    jobs: Mapping[str, Callable[[], dict[str, Any]]] = {
        "published settings": partial(_published, vertices, seed, steps),
        "diffumatch": partial(_match, vertices, seed, "default", True),
        "diffumatch, preset fast": partial(_match, vertices, seed, "fast", True),
        "axiomatic": partial(_match, vertices, seed, "default", False),
    }
    told = tell_each(list(jobs), progress, "settings")
    rows = [{"what": name, **apart(jobs[name])} for name in told]
    for row in rows:
        row["ratio_cpu"] = round(rows[0]["cpu_s"] / row["cpu_s"], 1)
    return rows


def _published(n_vertices: int, seed: int, steps: int) -> dict[str, Any]:
    source, target, _ = bench_pairs(n_vertices, seed)[0]
    before = time.process_time()
    place = torch.device("cpu")
    one, two = (prepare(m, K_NETWORK, N_SAMPLES, "auto", place, False) for m in (source, target))
    prepared = time.process_time() - before
    prior = Prior(Denoiser(DenoiserConfig()).requires_grad_(False).eval(), IDDPM())
    config = load_config(ZeroShotConfig, preset="published")
    times: list[float] = []
    optimise(
        one,
        two,
        prior,
        replace(config, steps=steps + 1),
        generator=item_generator(seed, 0),
        progress=lambda event: times.append(time.process_time()),
    )
    per_step = (times[-1] - times[0]) / steps
    return {
        "cpu_s": round(prepared + PUBLISHED_STEPS * per_step, 1),
        "wall_s": None,
        "peak_gib": round(peak_mib() / 1024, 2),
        "error_x100": None,
        "cpu_s_per_step": round(per_step, 2),
    }


def _match(n_vertices: int, seed: int, preset: str, with_prior: bool) -> dict[str, Any]:
    config = load_config(MatchConfig, preset=preset)
    config = replace(config, cache=False, improve=with_prior, seed=seed)
    numbers = match_numbers(*bench_pairs(n_vertices, seed)[0], config, 1)
    return {**numbers, "cpu_s_per_step": None}
