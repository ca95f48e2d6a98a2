"""Time per pair of the zero-shot matcher beside the published algorithm's own settings.

Each row is measured in a process of its own, on one pair of generated shapes whose truth is known.
The published settings are those of the release: features on all vertices, a prior of 32.5 million
parameters (random weights here: they do not change the time) asked 200 times per direction and step
for the mask and 32 times for score distillation, ZoomOut by single functions on all vertices, 300
steps.  A few steps are timed and the rest is multiplied.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from apps.bench.spectral import bench_pairs, peak_gib, scorer
from geo3d.config import load_config
from geo3d.device import item_generator
from geo3d.distill.preconditioning import IDDPM
from geo3d.progress import ProgressCallback, ignore_progress, report
from shape_matching.config import MatchConfig
from shape_matching.match import match
from shape_matching.prior.denoiser import Denoiser, DenoiserConfig
from shape_matching.prior.prior import Prior
from shape_matching.prior.zero_shot import optimise
from shape_matching.prior.zero_shot_config import ZeroShotConfig
from shape_matching.search.prepare import prepare

PUBLISHED_STEPS = 300
K_NETWORK, N_SAMPLES = 200, 1_500


def bench_zero_shot(
    n_vertices: int = 5_000,
    seed: int = 0,
    steps: int = 2,
    progress: ProgressCallback = ignore_progress,
) -> list[dict[str, Any]]:
    """Return a row per setting: seconds per pair, peak memory, error.

    Args:
        steps: published steps that are timed, after one to warm up.
    """
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    jobs: Mapping[str, Callable[[], dict[str, Any]]] = {
        "published settings": partial(_published, n_vertices, seed, steps),
        "diffumatch": partial(_match, n_vertices, seed, "default", True),
        "diffumatch, preset fast": partial(_match, n_vertices, seed, "fast", True),
        "axiomatic": partial(_match, n_vertices, seed, "default", False),
    }
    for i, (name, job) in enumerate(jobs.items()):
        report(progress, "settings", i, len(jobs))
        with context.Pool(1) as pool:
            rows.append({"what": name, **pool.apply(job)})
    report(progress, "settings", len(jobs), len(jobs))
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
        "peak_gib": round(peak_gib(), 2),
        "error_x100": None,
        "cpu_s_per_step": round(per_step, 2),
    }


def _match(n_vertices: int, seed: int, preset: str, with_prior: bool) -> dict[str, Any]:
    source, target, truth = bench_pairs(n_vertices, seed)[0]
    config = replace(
        load_config(MatchConfig, preset=preset), cache=False, improve=with_prior, seed=seed
    )
    cpu, wall = time.process_time(), time.perf_counter()
    found = match(source, target, config, device="cpu")
    return {
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.perf_counter() - wall, 1),
        "peak_gib": round(peak_gib(), 2),
        "error_x100": round(scorer(source, truth)(found.p2p_21), 2),
        "cpu_s_per_step": None,
    }
