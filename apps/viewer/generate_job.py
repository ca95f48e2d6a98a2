"""A generation from the viewer's side: what is submitted, and how its result is shown."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from apps.job_files import Job, read_json
from apps.jobs import Jobs
from apps.report.shapes import Group, page_sized, read_model
from apps.viewer import fragments
from apps.viewer.estimates import Guess, remembered
from apps.viewer.job_parts import (
    MAX_PIXELS,
    Upload,
    checked_seed,
    command,
    keep_image,
    renamed_outputs,
    result_of,
    unknown_choice,
)
from geo3d.distill.conventions import strength_to_scale
from geo3d.errors import Geo3dError, InputError
from geo3d.files import asset_roots

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
MAX_STEPS = 100
MAX_STUDENT_STEPS = 4
MAX_GUIDANCE = 20.0
MEMORY = 1.2 * 2**30
"""Bytes that a job needs; a guess."""
FACES = 40_000
"""Most faces of a mesh: more are slow to turn on the page."""
STAGES = {
    "picture": "Image to tokens",
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
    """What the user chose beside the image."""

    model: str
    steps: int
    student_steps: int
    guidance: float
    seed: int


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


def read_upload(file: Path, scratch: Path) -> Upload:
    """Read an uploaded image and keep our own copy of its pixels.

    Raises:
        InputError, LimitError, FileFormatError: what is wrong with it, see
            `scenes.objects.image_files.read_image`.
    """
    from scenes.objects.image_files import read_image

    return keep_image(read_image(file, MAX_PIXELS), file.stem, scratch)


def example(title: str, scratch: Path) -> Upload:
    """Return an image of a made-up object."""
    from geo3d.render.cameras import Camera, look_at
    from geo3d.synth.objects.generate import generate_object
    from scenes.objects.data.views import cropped, draw_views

    mesh = generate_object(*EXAMPLES[title]).mesh
    c2w = look_at(np.array([1.1, -1.9, 1.1]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
    side, focal, middle = EXAMPLE_SIDE, 1.5 * EXAMPLE_SIDE, EXAMPLE_SIDE / 2
    camera = Camera(c2w, focal, focal, middle, middle, side, side)
    pixels = draw_views(mesh, [cropped(camera, mesh)])[0]
    return keep_image(pixels, title, scratch)


def guess_s(steps: float, student_steps: float, both: bool) -> float:
    """Return seconds of a job before this machine has a history; passes take most of it."""
    return 6.0 + 0.2 * steps + (2.0 + 0.2 * student_steps if both else 0.0)


def guess(jobs: Jobs, request: Request) -> Guess | None:
    """Return what a job should take; None for a model that is not there."""
    model = models(jobs).get(request.model)
    if model is None:
        return None
    seconds = guess_s(request.steps, request.student_steps, has_student(model))
    return Guess(KIND, seconds, MEMORY, {"model": request.model})


def submit(jobs: Jobs, image: Upload, request: Request) -> Job:
    """Copy the image into a new job and queue ``geo3d generate`` on it.

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
    copy = shutil.copyfile(image.path, folder / "inputs" / "object.png")
    argv = command(
        "generate",
        folder,
        copy,
        model=model,
        steps=request.steps,
        guidance=f"{request.guidance:g}",
        seed=request.seed,
        faces=FACES,
        both=both,
        student_steps=request.student_steps if both else None,
        no_student=not both,
    )
    record = {
        "kind": KIND,
        "picture": image.name,
        "both": both,
        **(remembered(jobs, found) if (found := guess(jobs, request)) else {}),
        **vars(request),
    }
    return jobs.submit(folder, f"Object of {image.name}", argv, record)


def image_of(job: Job, scratch: Path) -> Upload:
    """Return the image of a job as the page shows it."""
    kept = read_upload(job.folder / "inputs" / "object.png", scratch)
    return replace(kept, name=str(job.settings["picture"]))


def shapes(job: Job) -> Group:
    """Return the meshes of teacher and student, then their Gaussians, as panes show them."""
    run, _ = result_of(job)
    models, notes = [], []
    for kind, suffix in (("mesh", ".glb"), ("Gaussians", "-gaussians.ply")):
        for who, ending in ENDINGS.items():
            path = run / "outputs" / f"object{ending}{suffix}"
            try:
                if path.is_file():
                    title = f"{who}, {kind}"
                    models.append(replace(page_sized(read_model(path)), title=title))
            except Geo3dError as error:
                notes.append(f"{who}, {kind}: {error.message}")
    return Group(models, True, notes)


def python_lines(job: Job) -> list[str]:
    """Return how to make the same object in Python."""
    s = job.settings
    name = "pipeline" if s["model"] == SHIPPED else str(s["model"])
    is_own = name.startswith(f"{MODELS}/")
    model = f'"{job.folder.parent.parent.name}/{name}"' if is_own else f'asset("objects/{name}")'
    lines = [
        "from dataclasses import replace",
        "from geo3d.files import asset",
        "from scenes.objects.image_files import read_image",
        "from scenes.objects.pipeline import GenerateConfig, load_pipeline",
        "",
        f"pipeline = load_pipeline({model})",
        f"how = dict(steps={s['steps']}, guidance_scale={float(s['guidance']):g})",
        "structure, latent = (replace(sampler, **how) for sampler in pipeline.samplers)",
        "config = GenerateConfig(structure=structure, latent=latent)",
        'images = [read_image("object.png")]',
        f"found = pipeline.generate(images, [{s['seed']}], config).objects[0]",
        "found.mesh, found.gaussian",
    ]
    if s.get("both"):
        how = f"replace(sampler, steps={s['student_steps']})"
        lines += [
            "",
            f'student = load_pipeline({model}, variant="student")',
            f"structure, latent = ({how} for sampler in student.samplers)",
            "config = GenerateConfig(structure=structure, latent=latent)",
            f"quick = student.generate(images, [{s['seed']}], config).objects[0]",
        ]
    return [x for x in lines if "import asset" not in x] if is_own else lines


def downloads(job: Job, scratch: Path) -> list[str]:
    """Return copies of meshes and Gaussians under names that say what they are."""
    return renamed_outputs(job, scratch, (".glb", ".ply"), "object", job.settings["picture"])


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
        raise unknown_choice("model")
    limits = ((request.steps, MAX_STEPS), (request.student_steps, MAX_STUDENT_STEPS))
    for value, most in limits:
        if not 1 <= value <= most:
            raise InputError("viewer.bad_steps", f"There must be 1 to {most} steps.", "Try 1.")
    if not 1.0 <= request.guidance <= MAX_GUIDANCE:
        raise InputError(
            "viewer.bad_guidance", f"Guidance is 1 (none) to {MAX_GUIDANCE:g}.", "Try 4."
        )
    checked_seed(request.seed)
