"""A matching job from the viewer's side: what is submitted, how long it takes, how it is shown."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from apps.commands.match import FINAL_FMAP, LIVE_FMAP
from apps.job_files import Job, read_json
from apps.jobs import Jobs
from apps.viewer import fragments
from apps.viewer.job_parts import command, offered
from apps.viewer.match_result import MATCHED, SIDES, MatchResult, read_shapes, write_views
from apps.viewer.shapes import Shape, keep, read_truth
from geo3d.errors import InputError
from geo3d.files import slug
from shape_matching.method_names import METHOD_HINTS

METHODS = tuple(METHOD_HINTS)
START_S = 6.0
"""Seconds until a child process is ready to compute (interpreter, torch)."""
SECONDS_PER_1000_VERTICES = {"fast": 2.0, "default": 6.0}
"""First guess, for both shapes together, before this machine has a history."""
OPTIMISATION_S = {"diffumatch": 12.0}
"""What a method needs besides, whatever the size of the shapes."""
SCORES = {
    "orientation": "1 where the map keeps inside and outside apart, -1 for a mirror image",
    "residual": "How far matched points are apart in the spectral embedding; lower is better",
    "coverage": "Share of sampled source points that some target point is sent to",
    "roughness": "How much the map stretches neighbouring points apart; lower is smoother",
    "curvature": "How alike the curvature of matched points is; at most 1",
    "lead": "How clearly the chosen start beats the next different one",
}
"""What the numbers of `geo3d match` mean."""
WRONG, SURE = 0.6, 0.8
"""Probabilities of a map below which the page warns."""
HISTORY = 12
"""How many earlier jobs an estimate looks at."""


@dataclass(frozen=True)
class Settings:
    """What the user chose beside the shapes."""

    method: str
    preset: str
    seed: int


def submit(
    jobs: Jobs, source: Shape, target: Shape, settings: Settings, truth_files: Sequence[Path] = ()
) -> Job:
    """Copy the shapes into a new job and queue ``geo3d match`` on them.

    Raises:
        InputError: ``viewer.not_usable``, or what is wrong with the ground truth.
        LimitError: see `apps.jobs.Jobs.submit`.
    """
    for shape in (source, target):
        if not shape.usable:
            raise InputError(
                "viewer.not_usable",
                f"{shape.name} has defects that stop a match.",
                "Repair it first: `geo3d check FILE --repair ...` lists what helps.",
            )
    if not truth_files and source.truth and target.truth:
        truth_files = (Path(source.truth), Path(target.truth))
    truth = read_truth(truth_files, source, target) if truth_files else None
    folder = jobs.new_folder()
    record: dict[str, Any] = {
        "kind": "match",
        **vars(settings),
        "expected_s": estimate_s(jobs, settings, source.n_vertices + target.n_vertices),
        "vertices": source.n_vertices + target.n_vertices,
    }
    for side, shape in zip(SIDES, (source, target), strict=True):
        record[side] = f"{side}/{slug(shape.name)}.ply"
        record[f"{side}_name"] = shape.name
        copy = folder / "inputs" / record[side]
        copy.parent.mkdir()
        shutil.copyfile(shape.path, copy)
    if truth is not None:
        np.savez(folder / "inputs" / "truth.npz", source=truth.source, target=truth.target)
    title = f"{source.name} → {target.name}"
    inputs = [folder / "inputs" / record[side] for side in SIDES]
    argv = command("match", folder, *inputs, **vars(settings))
    return jobs.submit(folder, title, argv, record)


def estimate_s(jobs: Jobs, settings: Settings, n_vertices: int) -> float:
    """Return the expected seconds: like earlier jobs of this kind here, scaled by vertex count."""
    slope = SECONDS_PER_1000_VERTICES.get(settings.preset, 6.0)
    fixed = START_S + OPTIMISATION_S.get(settings.method, 0.0)
    done = [job for job in jobs.all() if job.state == "done" and _alike(job, settings)]
    slopes = [
        max(job.seconds - fixed, 0.1) / job.settings["vertices"] * 1000 for job in done[:HISTORY]
    ]
    return fixed + (median(slopes) if slopes else slope) * n_vertices / 1000


def shapes_of(job: Job, scratch: Path) -> tuple[Shape, Shape]:
    """Return the job's shapes as the page shows them."""
    source, target = (
        keep(mesh, str(job.settings[f"{side}_name"]), scratch)
        for side, mesh in zip(SIDES, read_shapes(job), strict=True)
    )
    return source, target


def result_card(job: Job, result: MatchResult) -> str:
    """Return scores, ambiguity, time and seed of a finished match, as HTML."""
    metrics = result.metrics
    probability = metrics.get("probability")
    if probability is not None and probability < WRONG:
        mark = fragments.badge("bad", "probably wrong")
    elif metrics.get("ambiguous"):
        mark = fragments.badge("warning", "ambiguous: another map is nearly as good")
    elif probability is None or probability < SURE:
        mark = fragments.badge("warning", "doubtful")
    else:
        mark = fragments.badge("good", "probably right")
    facts = [
        ("Seconds", f"{job.seconds:.1f}", "From start to end, loading included"),
        ("Seed", str(job.settings["seed"]), "The same seed gives the same map"),
        (
            "Probability",
            "unknown" if probability is None else f"{probability:.0%}",
            "That the mean error is below 5; learned from maps whose truth is known",
        ),
        (
            "Mean confidence",
            f"{result.confidence.mean():.2f}",
            "Of a vertex: the probability that its match is within 5",
        ),
    ]
    remarks = [str(text) for text in metrics.get("notes", ())]
    if result.errors is not None:
        known = result.errors[np.isfinite(result.errors)]
        facts.insert(
            0,
            ("Mean error ×100", f"{100 * known.mean():.2f}", "Geodesic error over √area, in %"),
        )
    failed = read_json(job.folder / "errors_failed.json")
    if failed:
        remarks.append(f"The error could not be measured: {failed.get('message', '')}")
    scores = metrics.get("scores", {}).items()
    facts += [(_words(key), _number(value), SCORES.get(key, "")) for key, value in scores]
    return fragments.facts_card(facts, remarks, mark)


def map_picture(job: Job) -> tuple[str, bytes] | None:
    """Return the newest image of the job's functional map, and a name for this state of it."""
    if job.run_folder is None:
        return None
    for name in (FINAL_FMAP, LIVE_FMAP):
        path = job.run_folder / "previews" / name
        try:
            return f"{job.id}-{path.stat().st_mtime_ns}", path.read_bytes()
        except OSError:
            # Not there yet, or no longer: the live one goes when the final one has come.
            continue
    return None


def downloads(job: Job, result: MatchResult, scratch: Path) -> list[str]:
    """Return copies of the map and the coloured shapes under names that say what they are."""
    if job.run_folder is None:
        return []
    names = [slug(str(job.settings[f"{side}_name"])) for side in SIDES]
    pair = f"{names[0]}-to-{names[1]}"
    views = write_views(result, MATCHED, scratch / "views" / job.id)
    outputs = job.run_folder / "outputs"
    files = {
        f"{pair}-map.txt": outputs / "map.txt",
        f"{pair}-map.npz": outputs / "map.npz",
        f"{pair}-source.glb": views[0],
        f"{pair}-target.glb": views[1],
    }
    return offered(job, scratch, files)


def _alike(job: Job, settings: Settings) -> bool:
    mine = job.settings
    return mine.get("method") == settings.method and mine.get("preset") == settings.preset


def _words(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
