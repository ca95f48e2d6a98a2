"""A matching job from the viewer's side: what is submitted, how long it takes, how it is shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apps.commands.match import FINAL_FMAP, LIVE_FMAP
from apps.job_files import Job, read_json
from apps.jobs import Jobs
from apps.viewer import fragments
from apps.viewer.estimates import Guess, remembered
from apps.viewer.job_parts import bad_edit, command, offered
from apps.viewer.match_result import SIDES, MatchResult, read_shapes, write_views
from apps.viewer.shapes import Shape, keep, read_truth
from geo3d.errors import InputError
from geo3d.files import atomic_write_text, slug
from shape_matching.method_names import METHOD_HINTS

METHODS = tuple(METHOD_HINTS)
START_S = 6.0
"""Seconds until a child process is ready to compute (interpreter, torch)."""
SECONDS_PER_1000_VERTICES = {"fast": 2.0, "default": 6.0}
"""First guess, for both shapes together, before this machine has a history."""
OPTIMISATION_S = {"diffumatch": 12.0}
"""What a method needs besides, whatever the size of the shapes."""
SHARE_OF_SEARCH = {"nearest": 0.05, "zoomout": 0.4}
"""How long methods that do not search take beside those that do."""
SCORES = {
    "orientation": "1 where the map keeps inside and outside apart, -1 for a mirror image",
    "residual": "How far matched points are apart in the spectral embedding; lower is better",
    "coverage": "Share of sampled source points that some target point is sent to",
    "roughness": "How much the map stretches neighbouring points apart; lower is smoother",
    "curvature": "How alike the curvature of matched points is; at most 1",
    "lead": "How clearly the chosen start beats the next different one",
}
"""What the numbers of `geo3d match` mean."""
MEMORY = 600 * 2**20
"""Bytes that a job needs, and what a vertex adds; a guess."""
MEMORY_PER_VERTEX = 60_000
MAX_LANDMARKS = 100


@dataclass(frozen=True)
class Settings:
    """What the user chose beside the shapes."""

    method: str
    preset: str
    seed: int
    landmarks: tuple[tuple[int, int], ...] = ()
    """Rows of a source vertex and a target vertex; none, or three or more."""


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
    _check_landmarks(settings, source, target)
    folder = jobs.new_folder()
    record: dict[str, Any] = {
        "kind": "match",
        **vars(settings),
        **remembered(jobs, guess(settings, source.n_vertices + target.n_vertices)),
        "pair": pair_key(source, target),
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
    marks = None
    if settings.landmarks:
        rows = "".join(f"{a} {b}\n" for a, b in settings.landmarks)
        marks = atomic_write_text(folder / "inputs" / "landmarks.txt", rows)
    argv = command("match", folder, *inputs, **{**vars(settings), "landmarks": marks})
    return jobs.submit(folder, title, argv, record)


def read_landmarks(message: object) -> list[tuple[int, int]]:
    """Return the landmarks that the page sent, as pairs of vertices.

    Raises:
        InputError: ``viewer.bad_edit``.
    """
    try:
        rows = json.loads(str(message)[:10_000])
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list) or len(rows) > MAX_LANDMARKS:
        raise bad_edit(f"landmarks are a list of at most {MAX_LANDMARKS} pairs")
    for row in rows:
        if not isinstance(row, list) or len(row) != 2 or not all(type(v) is int for v in row):
            raise bad_edit("a landmark is a vertex of each shape")
    return [(a, b) for a, b in rows]


def pair_key(source: Shape, target: Shape) -> str:
    """Return a name of two shapes that stays the same while they are on the page."""
    return f"{Path(source.path).parent.name} {Path(target.path).parent.name}"


def guess(settings: Settings, n_vertices: int) -> Guess:
    """Return what a match of so many vertices, of both shapes together, should take."""
    slope = SECONDS_PER_1000_VERTICES.get(settings.preset, 6.0)
    slope *= SHARE_OF_SEARCH.get(settings.method, 1.0)
    seconds = START_S + OPTIMISATION_S.get(settings.method, 0.0) + slope * n_vertices / 1000
    like = {"method": settings.method, "preset": settings.preset}
    return Guess("match", seconds, MEMORY + MEMORY_PER_VERTEX * n_vertices, like)


def shapes_of(job: Job, scratch: Path) -> tuple[Shape, Shape]:
    """Return the job's shapes as the page shows them."""
    source, target = (
        keep(mesh, str(job.settings[f"{side}_name"]), scratch)
        for side, mesh in zip(SIDES, read_shapes(job), strict=True)
    )
    return source, target


def python_lines(job: Job) -> list[str]:
    """Return how to make the same map in Python."""
    settings = job.settings
    source, target = (Path(str(settings[side])).name for side in SIDES)
    call = f'METHODS["{settings["method"]}"](load_mesh("{source}"), load_mesh("{target}"), config'
    marks = settings.get("landmarks")
    lines = [
        "from geo3d.config import load_config",
        "from geo3d.mesh.io import load_mesh",
        "from shape_matching.config import MatchConfig",
        "from shape_matching.methods import METHODS",
        "",
        f'settings = dict(preset="{settings["preset"]}", overrides=["seed={settings["seed"]}"])',
        "config = load_config(MatchConfig, **settings)",
        f"found = {call}{', landmarks=marks' if marks else ''})",
        "found.p2p_21, found.confidence, found.probability",
    ]
    if marks:
        lines[1:1] = ["import numpy as np"]
        lines.insert(-2, f"marks = np.array({[list(row) for row in marks]})")
    return lines


def result_card(job: Job, result: MatchResult) -> str:
    """Return scores, ambiguity, time and seed of a finished match, as HTML."""
    metrics = result.metrics
    probability = metrics.get("probability")
    facts = [
        ("Seconds", f"{job.seconds:.1f}", "From start to end, loading included"),
        ("Seed", str(job.settings["seed"]), "The same seed gives the same map"),
        (
            "Probability",
            "unknown" if probability is None else f"{probability:.0%}",
            "That the mean error is below 5 % of √area; learnt from maps whose truth is known",
        ),
        (
            "Mean confidence",
            f"{result.confidence.mean():.2f}",
            "Of a vertex: the probability that its match is within 5 % of √area",
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
    scores = [
        (_words(key), _number(value), SCORES.get(key, ""))
        for key, value in metrics.get("scores", {}).items()
    ]
    title = "What the search saw of the map"
    table = fragments.folded_table(title, ("Score", "Value", "Meaning"), scores) if scores else ""
    return fragments.facts_card(facts, remarks, "") + table


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
    views = write_views(result, scratch / "views" / job.id)
    outputs = job.run_folder / "outputs"
    files = {
        f"{pair}-map.txt": outputs / "map.txt",
        f"{pair}-map.npz": outputs / "map.npz",
        f"{pair}-source.glb": views[0],
        f"{pair}-target.glb": views[1],
    }
    return offered(job, scratch, files)


def _check_landmarks(settings: Settings, source: Shape, target: Shape) -> None:
    """Check what a job would refuse.

    Raises:
        InputError: ``landmarks.bad``, ``viewer.no_landmarks``.
    """
    if not settings.landmarks:
        return
    from shape_matching.methods import METHODS as methods
    from shape_matching.methods import takes
    from shape_matching.search.initial_maps import check_landmarks

    if not takes(methods[settings.method], "landmarks"):
        raise InputError(
            "viewer.no_landmarks",
            f"The method '{settings.method}' takes no landmarks.",
            "Remove them, or choose axiomatic or diffumatch.",
        )
    check_landmarks(np.array(settings.landmarks), source.n_vertices, target.n_vertices)


def _words(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
