"""Timings of the spectral pipeline, beside pyFM where that is installed, and against mesh size.

All shapes come from the creature generator, so that the ground truth is known: the source is a
posed creature, the target another pose of it with other vertices and triangles.  Errors are mean
geodesic errors x100, normalised by sqrt(area of the source).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from apps.bench.measuring import apart, peak_mib, timed
from geo3d.backends import require
from geo3d.mesh.decimate import decimate
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.ops import normalized
from geo3d.mesh.sampling import farthest_point_samples
from geo3d.progress import ProgressCallback, ignore_progress, tell_each
from geo3d.spectral.basis import eigenbasis
from geo3d.spectral.fmap import p2p_to_fmap
from geo3d.spectral.zoomout import zoomout
from geo3d.synth.creatures import generate_creature, pose, remeshed
from shape_matching.config import MatchConfig
from shape_matching.evaluate.scoring import SourceScorer
from shape_matching.match import match

KINDS = ("biped", "quadruped", "bird")
SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
K_START, K_FINAL = 20, 128
N_SAMPLES, FINISH = 2_500, 32
"""Samples of the accelerated ZoomOut, and how many of its last sizes use all vertices."""
FEWEST = 1_500
"""Smallest creature the generator makes; smaller shapes are decimated."""
N_SCORED = 400
"""Target vertices at which the error of a map is measured."""


Score = Callable[[np.ndarray], float]


def bench_pairs(n_vertices: int, seed: int) -> list[tuple[Mesh, Mesh, np.ndarray]]:
    """Return (source, target, true source vertex of each target vertex) for each kind."""
    return [_pair(kind, n_vertices, seed) for kind in KINDS]


def compare(
    vertices: int = 5_000,
    seed: int = 0,
    repeats: int = 3,
    progress: ProgressCallback = ignore_progress,
) -> list[dict[str, Any]]:
    """Time basis (k = 128), ZoomOut 20 -> 128 by steps of 1 and the whole match against pyFM.

    Every row holds median processor and wall seconds of both, their ratio, and both errors.

    Raises:
        BackendUnavailable: when pyFM is not installed.
    """
    require("pyfmaps")
    rows = []
    pairs = bench_pairs(vertices, seed)
    for kind, pair in tell_each(list(zip(KINDS, pairs, strict=True)), progress, "against pyFM"):
        rows += [{"shape": kind, **row} for row in _compare_pair(*pair, repeats)]
    return rows


def scaling(
    max_vertices: int = SIZES[-1], seed: int = 0, progress: ProgressCallback = ignore_progress
) -> list[dict[str, Any]]:
    """Time `match` from meshes to map by size, in a fresh process each, with its peak memory.

    Nothing is cached between or before; the process's own start and imports are not counted in the
    seconds, but are in the memory.
    """
    sizes = [size for size in SIZES if size <= max_vertices]
    return [apart(_match_once, size, seed) for size in tell_each(sizes, progress, "sizes")]


def _pair(kind: str, n_vertices: int, seed: int) -> tuple[Mesh, Mesh, np.ndarray]:
    creature = generate_creature(kind, seed, max(n_vertices, FEWEST))
    source = pose(creature, seed)
    other = remeshed(creature, pose(creature, seed + 1), n_vertices, seed)
    if n_vertices < FEWEST:
        coarse = decimate(source, n_vertices)
        return coarse.mesh, other.mesh, coarse.nearest_coarse()[other.template_ids]
    return source, other.mesh, other.template_ids


def _compare_pair(
    source: Mesh, target: Mesh, truth: np.ndarray, repeats: int
) -> list[dict[str, Any]]:
    one, two = normalized(source), normalized(target)
    score = scorer(one, truth)
    like = MatchConfig(k_final=K_FINAL, refinement="zoomout", cache=False)
    coupled = MatchConfig(k_final=K_FINAL, refine_vertices=0, cache=False)
    return [
        _compare_basis(one, two, repeats),
        *_compare_zoomout(one, two, truth, repeats, score),
        *(
            _row(
                f"meshes to map, ending in {name}",
                repeats,
                # new mesh objects, so that nothing is remembered from the run before
                lambda c=config: match(replace(source), replace(target), c, device="cpu").p2p_21,
                lambda: _pyfm_match(one, two),
                score,
            )
            for name, config in (("ZoomOut", like), ("coupled refinement", coupled))
        ),
    ]


def _compare_basis(one: Mesh, two: Mesh, repeats: int) -> dict[str, Any]:
    return _row(
        "basis k=128",
        repeats,
        lambda: [eigenbasis(m, K_FINAL, cache=False) for m in (one, two)],
        lambda: [_pyfm_mesh(m).process(k=K_FINAL) for m in (one, two)],
    )


def _compare_zoomout(
    one: Mesh, two: Mesh, truth: np.ndarray, repeats: int, score: Score
) -> list[dict[str, Any]]:
    from pyFM.refine.zoomout import zoomout_refine

    bases = [eigenbasis(m, K_FINAL, cache=False) for m in (one, two)]
    start = p2p_to_fmap(torch.from_numpy(truth), *(b.truncate(K_START) for b in bases))
    single = [b.to(dtype=torch.float32) for b in bases]
    some = tuple(torch.from_numpy(farthest_point_samples(m, N_SAMPLES)) for m in (one, two))
    vectors, areas = [b.evecs.numpy() for b in bases], sp.diags(bases[1].mass.numpy())

    def ours(samples: Any) -> np.ndarray:
        refined = zoomout(start.float(), *single, K_FINAL, samples=samples, finish=FINISH)
        return refined[1].numpy()

    def theirs(samples: Any) -> np.ndarray:
        subsample = None if samples is None else tuple(x.numpy() for x in samples)
        growth = {"nit": K_FINAL - K_START, "step": 1, "A2": areas, "return_p2p": True}
        return zoomout_refine(start.numpy(), *vectors, subsample=subsample, **growth)[1]

    variants = (
        ("ZoomOut 20-128 (ours on samples, pyFM on all)", some, None),
        ("ZoomOut 20-128 (both on all vertices)", None, None),
        ("ZoomOut 20-128 (both on samples)", some, some),
    )
    return [
        _row(name, repeats, lambda x=mine: ours(x), lambda x=yours: theirs(x), score)
        for name, mine, yours in variants
    ]


def _pyfm_match(one: Mesh, two: Mesh) -> np.ndarray:
    """Follow the steps of its documentation, with the orientation term, to the same final size."""
    from pyFM.functional import FunctionalMapping

    mapping = FunctionalMapping(_pyfm_mesh(one), _pyfm_mesh(two))
    mapping.preprocess(n_descr=100, descr_type="WKS", subsample_step=5, k_process=K_FINAL)
    mapping.fit(K=(35, 35), w_descr=1.0, w_lap=1e-2, w_dcomm=0.1, w_orient=1.0)
    mapping.zoomout_refine(nit=K_FINAL - 35, step=1)
    return mapping.get_p2p()


def _pyfm_mesh(mesh: Mesh) -> Any:
    from pyFM.mesh import TriMesh

    return TriMesh(mesh.vertices.copy(), mesh.faces.copy())


def scorer(source: Mesh, truth: np.ndarray) -> Score:
    """Return a function that gives the mean error x100 of a vertex map p2p_21."""
    known = np.flatnonzero(truth >= 0)
    at = known[np.linspace(0, len(known) - 1, min(N_SCORED, len(known))).astype(int)]
    scorer = SourceScorer(source)
    return lambda p2p_21: float(scorer.errors(p2p_21, at, truth[at]).mean() * 100)


def _row(
    name: str,
    repeats: int,
    ours: Callable[[], Any],
    pyfm: Callable[[], Any],
    score: Score | None = None,
) -> dict[str, Any]:
    """Run both in turn ``repeats`` times after one warm-up each."""
    results = [ours(), pyfm()]
    times = np.array([[timed(ours)[1], timed(pyfm)[1]] for _ in range(repeats)])
    cpu, wall = np.median(times[..., 0], axis=0), np.median(times[..., 1], axis=0)
    row: dict[str, Any] = {
        "what": name,
        "cpu_s": round(float(cpu[0]), 3),
        "pyfm_cpu_s": round(float(cpu[1]), 3),
        "ratio_cpu": round(float(np.median(times[:, 1, 0] / times[:, 0, 0])), 2),
        "wall_s": round(float(wall[0]), 3),
        "pyfm_wall_s": round(float(wall[1]), 3),
        "ratio_wall": round(float(np.median(times[:, 1, 1] / times[:, 0, 1])), 2),
    }
    if score is not None:
        row["error_x100"] = round(score(np.asarray(results[0])), 3)
        row["pyfm_error_x100"] = round(score(np.asarray(results[1])), 3)
    return row


def _match_once(size: int, seed: int) -> dict[str, Any]:
    source, target, truth = _pair("quadruped", size, seed)
    before = peak_mib()
    sizes = {"vertices": source.n_vertices, "target_vertices": target.n_vertices}
    numbers = match_numbers(source, target, truth, MatchConfig(cache=False), 2)
    return {**sizes, **numbers, "peak_gib_before": round(before / 1024, 2)}


def match_numbers(
    source: Mesh, target: Mesh, truth: np.ndarray, config: MatchConfig, digits: int
) -> dict[str, float]:
    """Match a pair and return seconds, the peak memory of this process, and the error."""
    found, spent = timed(match, source, target, config, device="cpu")
    return {
        "cpu_s": round(spent.cpu, digits),
        "wall_s": round(spent.wall, digits),
        "peak_gib": round(peak_mib() / 1024, 2),
        "error_x100": round(scorer(source, truth)(found.p2p_21), 2),
    }
