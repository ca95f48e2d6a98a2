"""A generation from the viewer's side: what is submitted, and how its result is shown."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from apps.job_files import Job, read_json
from apps.jobs import Jobs
from apps.viewer import fragments
from geo3d.distill.conventions import strength_to_scale
from geo3d.errors import InputError
from geo3d.files import asset_roots, new_id, slug

KIND = "generate"
SHIPPED = "shipped"
MODELS = "models"
"""Folder of pipelines below that of the runs; the page offers them beside the shipped one."""
EXAMPLES = {
    "Chair": ("chair", 900_004),
    "Car": ("car", 900_001),
    "House": ("house", 900_002),
    "Teapot": ("teapot", 900_003),
    "Guitar": ("guitar", 900_006),
    "Quadruped": ("quadruped", 900_005),
}
"""Kind and seed of objects that `geo3d.synth.objects` makes; training never saw these seeds."""
EXAMPLE_SIDE = 384
MAX_PIXELS = 16_000_000
MAX_STEPS = 100
MAX_STUDENT_STEPS = 4
MAX_GUIDANCE = 20.0
FACES = 40_000
"""Most faces of a mesh: more are slow to turn on the page."""
STAGES = {
    "picture": "Picture to tokens",
    "structure": "Structure: which voxels",
    "voxels": "Voxels",
    "latent": "Latents on the voxels",
    "mesh": "Decoding the mesh",
    "gaussian": "Decoding the Gaussians",
}
"""What a stage of the pipeline does, in the order of the stages."""
TEACHER, STUDENT = "Teacher", "Student"
ENDINGS = {TEACHER: "", STUDENT: "-student"}
"""Ends of the names of the files of each."""


@dataclass(frozen=True)
class Request:
    """What the user chose beside the picture."""

    model: str
    steps: int
    student_steps: int
    guidance: float
    seed: int


@dataclass(frozen=True)
class Picture:
    """A picture that was read; our copy of it."""

    name: str
    """For people; untrusted text."""
    path: str
    width: int
    height: int


def models(jobs: Jobs) -> dict[str, Path]:
    """Return the pipelines to choose from by name: the shipped ones, then those of this machine."""
    shipped = [p.parent for r in asset_roots() for p in sorted(r.glob("objects/*/pipeline.json"))]
    found = {SHIPPED if p.name == "pipeline" else p.name: p for p in reversed(shipped)}
    own = sorted(jobs.root.parent.glob(f"{MODELS}/*/pipeline.json"))
    return dict(reversed(found.items())) | {f"{MODELS}/{p.parent.name}": p.parent for p in own}


def has_student(folder: Path) -> bool:
    """Return whether a pipeline has few-step students beside it."""
    return (folder / "student.json").is_file()


def defaults(folder: Path) -> tuple[int, float]:
    """Return steps and guidance scale that a pipeline names for itself."""
    content = read_json(folder / "pipeline.json") or {}
    try:
        params = content["args"]["sparse_structure_sampler"]["params"]
        return int(params["steps"]), strength_to_scale(float(params.get("cfg_strength", 0.0)))
    except (KeyError, TypeError, ValueError):
        return 25, 4.0


def keep_picture(file: Path, scratch: Path) -> Picture:
    """Read an uploaded picture and keep our own copy of its pixels.

    Raises:
        InputError, LimitError, FileFormatError: what is wrong with it, see
            `scenes.objects.image.read_image`.
    """
    from scenes.objects.image import read_image

    image = read_image(file, MAX_PIXELS)
    return _kept(image, file.stem, scratch)


def example(title: str, scratch: Path) -> Picture:
    """Return the picture of a made-up object."""
    from geo3d.render.cameras import Camera, look_at
    from geo3d.synth.objects.generate import generate_object
    from scenes.objects.data.views import cropped, draw_views

    mesh = generate_object(*EXAMPLES[title]).mesh
    c2w = look_at(np.array([1.1, -1.9, 1.1]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
    side, focal, middle = EXAMPLE_SIDE, 1.5 * EXAMPLE_SIDE, EXAMPLE_SIDE / 2
    camera = Camera(c2w, focal, focal, middle, middle, side, side)
    pixels = draw_views(mesh, [cropped(camera, mesh)])[0]
    return _kept(Image.fromarray(pixels), title, scratch)


def submit(jobs: Jobs, picture: Picture, request: Request) -> Job:
    """Copy the picture into a new job and queue ``geo3d generate`` on it.

    Raises:
        InputError: ``viewer.no_model``, ``viewer.unknown_choice``, ``viewer.bad_steps``,
            ``viewer.bad_guidance``, ``viewer.bad_seed``.
        LimitError: see `apps.jobs.Jobs.submit`.
    """
    known = models(jobs)
    _check(request, known)
    model = known[request.model]
    both = has_student(model)
    folder = jobs.new_folder()
    image = folder / "inputs" / "object.png"
    shutil.copyfile(picture.path, image)
    argv = ["generate", str(image), "--model", str(model), "--steps", str(request.steps)]
    argv += ["--guidance", f"{request.guidance:g}", "--seed", str(request.seed)]
    argv += ["--faces", str(FACES), "--out", str(folder / "run"), "--json"]
    argv += ["--both", "--student-steps", str(request.student_steps)] if both else ["--no-student"]
    record = {"kind": KIND, "picture": picture.name, "both": both, **vars(request)}
    return jobs.submit(folder, f"Object of {picture.name}", argv, record)


def picture_of(job: Job, scratch: Path) -> Picture:
    """Return the picture of a job as the page shows it."""
    from scenes.objects.image import read_image

    image = read_image(job.folder / "inputs" / "object.png", MAX_PIXELS)
    return _kept(image, str(job.settings["picture"]), scratch)


def metrics_of(job: Job) -> Mapping[str, Any]:
    """Return the numbers of a finished job.

    Raises:
        InputError: ``job.no_result``.
    """
    metrics = read_json(job.run_folder / "metrics.json") if job.run_folder else None
    if job.state != "done" or metrics is None:
        raise InputError("job.no_result", "The job has no result.", "Run it again.")
    return metrics


def shown(job: Job, who: str, scratch: Path) -> tuple[str | None, str | None]:
    """Return copies of one object's mesh and of its Gaussians' picture; None for what is not."""
    run = job.run_folder
    if run is None:
        return None, None
    name = f"object{ENDINGS[who]}"
    mesh = run / "outputs" / f"{name}.glb"
    picture = run / "previews" / f"{name}-gaussians.png"
    folder = scratch / "views" / job.id
    return _copy(mesh, folder / mesh.name), _copy(picture, folder / picture.name)


def downloads(job: Job, scratch: Path) -> list[str]:
    """Return copies of meshes and Gaussians under names that say what they are."""
    run = job.run_folder
    if run is None:
        return []
    folder = scratch / "downloads" / job.id
    name = slug(str(job.settings["picture"]))
    found = []
    for path in sorted((run / "outputs").iterdir()):
        if path.suffix in (".glb", ".ply"):
            found.append(_copy(path, folder / path.name.replace("object", name, 1)))
    return [path for path in found if path]


def result_card(job: Job, metrics: Mapping[str, Any]) -> str:
    """Return the times of the stages and the sizes of the objects, as HTML."""
    sides = {TEACHER: metrics, STUDENT: metrics.get("student")}
    told = {who: numbers for who, numbers in sides.items() if numbers}
    spent = {
        who: {s: float(numbers["seconds"].get(s, 0.0)) for s in STAGES}
        for who, numbers in told.items()
    }
    totals = {who: sum(times.values()) for who, times in spent.items()}
    facts = []
    for who, numbers in told.items():
        passes = sum(numbers.get("calls", {}).values())
        facts.append((f"{who}, seconds", f"{totals[who]:.2f}", "All stages, loading apart"))
        facts.append((f"{who}, passes", f"{passes:.0f}", "Through the two flow networks"))
        for row in numbers["objects"]:
            facts += [
                (f"{who}, {key}", f"{row[key]:,}", "")
                for key in ("faces", "gaussians")
                if key in row
            ]
    if len(told) > 1 and totals[STUDENT] > 0:
        ratio = totals[TEACHER] / totals[STUDENT]
        facts.insert(0, ("Student is faster by", f"{ratio:.1f} ×", "Seconds over seconds"))
    remarks = [
        f"{who}: {text}"
        for who, numbers in told.items()
        for text in (
            *(note for row in numbers["objects"] for note in row.get("notes", ())),
            *(f"{row['message']} ({row['code']})" for row in numbers.get("failed", ())),
        )
    ]
    if STUDENT not in told:
        remarks.append("This model has no few-step students beside it.")
    mark = fragments.badge("info", str(job.settings["model"]))
    stages = [(words, [spent[who][key] for who in told]) for key, words in STAGES.items()]
    return fragments.facts_card(facts, remarks, mark) + fragments.time_bars(list(told), stages)


def _check(request: Request, known: Mapping[str, Path]) -> None:
    """Check again what the page offers: a request need not come from our page."""
    if not known:
        raise InputError(
            "viewer.no_model",
            "There is no pipeline to make objects with.",
            "Put one into the folder models/ beside the jobs, see docs/viewer.md.",
        )
    if request.model not in known:
        raise InputError("viewer.unknown_choice", "There is no such model.", "Reload the page.")
    limits = ((request.steps, MAX_STEPS), (request.student_steps, MAX_STUDENT_STEPS))
    for value, most in limits:
        if not 1 <= value <= most:
            raise InputError("viewer.bad_steps", f"There must be 1 to {most} steps.", "Try 1.")
    if not 1.0 <= request.guidance <= MAX_GUIDANCE:
        raise InputError(
            "viewer.bad_guidance", f"Guidance is 1 (none) to {MAX_GUIDANCE:g}.", "Try 4."
        )
    if not 0 <= request.seed < 2**31:
        raise InputError(
            "viewer.bad_seed", "The seed is not a whole number from 0 to 2147483647.", "Try 0."
        )


def _kept(image: Image.Image, name: str, scratch: Path) -> Picture:
    folder = scratch / "pictures" / new_id()
    folder.mkdir(parents=True)
    image.save(folder / "picture.png")
    return Picture(name, str(folder / "picture.png"), image.width, image.height)


def _copy(source: Path, target: Path) -> str | None:
    if not source.is_file():
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    return str(shutil.copyfile(source, target))
