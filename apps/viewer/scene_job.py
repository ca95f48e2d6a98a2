"""Building a street scene from the viewer's side: layouts in, what is submitted, what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apps.job_files import Job
from apps.jobs import Jobs
from apps.viewer import fragments
from apps.viewer.estimates import Guess, remembered
from apps.viewer.job_parts import checked_seed, command, copied, fresh, result_of, unknown_choice
from geo3d.errors import InputError
from geo3d.files import asset_roots, slug
from geo3d.layout.layout import Layout
from geo3d.synth.streets.generate import generate_street
from geo3d.synth.streets.path import StreetKind
from geo3d.synth.streets.styles import LIGHTS, LOOKS
from scenes.urban.layout_json import load_layout, save_layout

KIND = "scene"
STREETS = "urban/streets"
"""Shipped layouts, among the assets."""
KINDS: tuple[StreetKind, ...] = ("straight", "curved", "crossing")
PRESETS = {
    "demo": "about two minutes for 60 m",
    "cpu": "half an hour for 60 m",
    "smoke": "seconds; only shows that everything runs",
}
"""Presets of `scenes.urban.config` that make sense on the page, and what they cost."""
_COSTS = {"demo": (50.0, 0.5), "cpu": (30.0, 30.0), "smoke": (4.0, 0.1)}
"""Seconds to start, and per metre of the drive, of a preset."""
MEMORY = 1.5 * 2**30
"""Bytes that a job needs; a guess."""
NO_STYLE = "as the layout says"
LENGTHS = (30, 300)
"""Metres of streets that are made up on the page."""
MAX_LAYOUT_BYTES = 16 << 20
FILES = (
    *("drive.gif", "drive.mp4", "mesh.glb", "mesh_textured.glb", "points.ply"),
    *("gaussians.ply", "gaussians.glb", "gaussians.spz", "layout.json"),
)
"""What can be downloaded of a scene."""
_METRICS = {
    "depth_error_m": ("Depth error, m", "Scene against layout, at some cameras of the drive"),
    "miou": ("Semantic mIoU", "Classes seen in the images against the layout's"),
    "consistency": ("View difference", "Colour of neighbouring views, one seen from the other"),
    "build_seconds": ("Build, seconds", "Without loading and export"),
    "peak_memory_mib": ("Memory, MiB", "Most that the process used"),
}


@dataclass(frozen=True)
class Request:
    """What the user chose beside the layout."""

    preset: str
    light: str
    look: str
    seed: int

    @property
    def style(self) -> str:
        """The words for the teacher; empty where the layout's prompts hold."""
        return " ".join(word for word in (self.light, self.look) if word != NO_STYLE)


def examples() -> dict[str, Path]:
    """Return the shipped layouts by title."""
    for root in asset_roots():
        if found := sorted((root / STREETS).glob("*.json"), reverse=True):
            return {f"{path.stem.capitalize()} street": path for path in found}
    return {}


def made_up(kind: str, length: float | None, seed: float | None) -> Layout:
    """Return a street made up by rule.

    Raises:
        InputError: ``viewer.unknown_choice``, ``viewer.bad_length``, ``viewer.bad_seed``.
    """
    found = next((k for k in KINDS if k == kind), None)
    if found is None:
        raise unknown_choice("street")
    if length is None or not LENGTHS[0] <= length <= LENGTHS[1]:
        raise InputError(
            "viewer.bad_length",
            f"On the page streets are {LENGTHS[0]} to {LENGTHS[1]} m long.",
            "Longer ones are built on the command line: `geo3d scene`.",
        )
    return generate_street(float(length), checked_seed(seed), found)


def read_upload(file: Path) -> Layout:
    """Read an uploaded layout file.

    Raises:
        InputError: ``viewer.not_a_layout``, or what is wrong with the file.
        LimitError, FileFormatError: see `scenes.urban.layout_json.load_layout`.
    """
    if file.suffix.lower() != ".json":
        raise InputError(
            "viewer.not_a_layout",
            f"{file.name} is no .json file.",
            "See docs/urban.md for layouts.",
        )
    return load_layout(file, MAX_LAYOUT_BYTES)


def keep_layout(layout: Layout, scratch: Path) -> str:
    """Write the layout as a file to download and return its path."""
    return str(save_layout(layout, fresh(scratch, "layouts") / f"{slug(layout.name)}.json"))


def guess(layout: Layout, preset: str) -> Guess:
    """Return what a job should take, by the metres of its drive."""
    steps = np.diff(layout.trajectory[:, :3, 3], axis=0)
    metres = float(np.linalg.norm(steps, axis=1).sum())
    start, per_metre = _COSTS.get(preset, _COSTS["demo"])
    return Guess(KIND, start + per_metre * metres, MEMORY, {"preset": preset})


def submit(jobs: Jobs, layout: Layout, request: Request) -> Job:
    """Write the layout into a new job and queue ``geo3d scene`` on it.

    Raises:
        InputError: ``viewer.unknown_choice``, ``viewer.bad_seed``.
        LimitError: see `apps.jobs.Jobs.submit`.
    """
    known = request.light in (NO_STYLE, *LIGHTS) and request.look in (NO_STYLE, *LOOKS)
    if request.preset not in PRESETS or not known:
        raise unknown_choice("preset or style")
    checked_seed(request.seed)
    folder = jobs.new_folder()
    path = save_layout(layout, folder / "inputs" / "layout.json")
    how = {"preset": request.preset, "seed": request.seed, "style": request.style}
    argv = command("scene", folder, path, **how)
    record = {
        "kind": KIND,
        "layout": layout.name,
        **remembered(jobs, guess(layout, request.preset)),
        **vars(request),
    }
    title = f"Scene of {layout.name}" + (f", {request.style}" if request.style else "")
    return jobs.submit(folder, title, argv, record)


def layout_of(job: Job) -> Layout:
    """Return the layout of a job; errors as `scenes.urban.layout_json.load_layout`."""
    return load_layout(job.folder / "inputs" / "layout.json", MAX_LAYOUT_BYTES)


def preview(job: Job, scratch: Path) -> str | None:
    """Return a copy of the newest image of a job, under a name that changes with it."""
    run = job.run_folder
    if run is None:
        return None
    try:
        found = [(p.stat().st_mtime_ns, p) for p in (run / "previews").glob("*.png")]
        if not found:
            return None
        moment, path = max(found)
        target = scratch / "views" / job.id / f"{path.stem}-{moment}.png"
        return str(target) if target.is_file() else copied(path, target)
    except OSError:
        # It was replaced just now; the next look finds the new one.
        return None


def frames(job: Job) -> list[Path]:
    """Return the frames along the drive of a finished job.

    Raises:
        InputError: ``job.no_result``.
    """
    run, _ = result_of(job)
    return sorted((run / "outputs" / "frames").glob("*.png"))


def python_lines(job: Job) -> list[str]:
    """Return how to build the same scene in Python."""
    s = job.settings
    style = " ".join(w for w in (s["light"], s["look"]) if w != NO_STYLE)
    changes = [f"seed={s['seed']}", *([f"prompt={style}"] if style else [])]
    return [
        "from geo3d.config import load_config",
        "from scenes.urban.config import SceneConfig",
        "from scenes.urban.driver import build_scene",
        "from scenes.urban.layout_json import load_layout",
        "",
        f'config = load_config(SceneConfig, preset="{s["preset"]}", overrides={changes})',
        'built = build_scene(load_layout("layout.json"), config, "street")',
        "built.metrics, built.previews",
    ]


def output(job: Job, name: str, scratch: Path) -> str | None:
    """Return a copy of one of `FILES` of a job, or None."""
    source = job.run_folder / "outputs" / name if job.run_folder else None
    if source is None or name not in FILES:
        return None
    target = scratch / "downloads" / job.id / f"{slug(str(job.settings['layout']))}-{name}"
    return copied(source, target)


def result_card(job: Job) -> str:
    """Return the numbers of a finished scene, as HTML."""
    _, metrics = result_of(job)
    facts = [("Job, seconds", f"{job.seconds:.0f}", "From start to end, loading included")]
    for key, (words, why) in _METRICS.items():
        value = metrics.get(key)
        if isinstance(value, int | float):
            facts.append((words, f"{value:.3g}" if value < 1000 else f"{value:.0f}", why))
    facts.append(("Seed", str(job.settings["seed"]), "The same seed gives the same scene"))
    words = " ".join(w for w in (job.settings["light"], job.settings["look"]) if w != NO_STYLE)
    mark = fragments.badge("info", f"{job.settings['preset']}, {words or NO_STYLE}")
    remarks = [str(text) for text in metrics.get("notes", ())]
    return fragments.facts_card(facts, remarks, mark)
