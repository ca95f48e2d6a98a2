"""A segmentation job from the viewer's side: what is submitted, and how its result is shown."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from apps.commands.segment import COMPARED
from apps.job_files import Job, read_json
from apps.jobs import Jobs
from apps.viewer import fragments, segment_correct
from apps.viewer.estimates import Guess, remembered
from apps.viewer.job_parts import (
    MAX_PIXELS,
    Upload,
    command,
    keep_image,
    renamed_outputs,
    result_of,
    unknown_choice,
)
from apps.viewer.segment_correct import Correction
from geo3d.errors import InputError
from geo3d.files import asset
from geo3d.segmentation.corrections import CORRECTED
from geo3d.segmentation.images import ImageLimits, read_image, read_label
from geo3d.segmentation.loss_names import LOSS_MAP_HINTS
from geo3d.synth.walls import brick_wall

KIND = "segment"
BY_HAND = "corrected by hand"
SHIPPED = "shipped"
NOTHING = "nothing"
MODEL = "segmentation/mortar.safetensors"
"""The shipped model, among the assets."""
EXAMPLES = {
    "Drawn wall": (1, "indistr"),
    "Drawn wall, odd colours": (2, "colors"),
    "Drawn wall, shadows": (3, "shadows"),
}
"""Seed and group of walls that `geo3d.synth.walls` draws."""
EXAMPLE_SIDE = 384
LIMITS = ImageLimits(max_bytes=64 << 20, max_pixels=MAX_PIXELS)
"""Of images for the page; the command line takes larger ones."""
MAX_LOSSES = 4
START_S, PREDICT_S, REPAIR_S, LOSS_S = 2.5, 6.0, 4.0, 4.0
"""Seconds to start, and per megapixel: to predict, to repair, and per loss."""
MEMORY, MEMORY_PER_MEGAPIXEL = 700 * 2**20, 300 * 2**20
"""Bytes; a guess."""
MAX_CHANGES = 200
"""Changes of a repair that the page lists, the costliest; the table to download has all."""
CHANGES = {
    "join": "piece joined",
    "remove": "piece removed",
    "cut": "holes joined by a cut",
    "fill": "hole filled",
    "close": "gap closed",
    "open": "loop cut",
}
"""The words for `geo3d.topology.repair_components.Change.kind`."""
WHITE = np.uint8(255)
"""Mortar in the image of a label."""
_TRAINED = (
    "train-segmenter/*/outputs/segmenter.safetensors",
    "bench-segment/*/outputs/cells/*/*/*/*/*/segmenter.safetensors",
)
"""Where models that were trained here lie, below the folder of runs."""


@dataclass(frozen=True)
class Request:
    """What the user chose beside the image."""

    model: str
    compared: str
    losses: tuple[str, ...]
    repair: bool = False


def models(jobs: Jobs) -> dict[str, Path | None]:
    """Return the models to choose from: the shipped one, then those trained here, newest first."""
    root = jobs.root.parent
    found = [path for pattern in _TRAINED for path in root.glob(pattern)]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return {SHIPPED: None, **{_model_name(path, root): path for path in found}}


def read_upload(file: Path, scratch: Path) -> Upload:
    """Read an uploaded image and keep our own copy of its pixels.

    Raises:
        InputError, LimitError, FileFormatError: what is wrong with it, see `read_image`.
    """
    found = read_image(file, LIMITS)
    return keep_image(found.pixels, file.stem, scratch, found.notes)


def keep_label(file: Path, scratch: Path) -> Upload:
    """Read an uploaded label and keep our own copy of its mask.

    Raises:
        InputError, LimitError, FileFormatError: what is wrong with it, see `read_label`.
    """
    label = read_label(file, LIMITS)
    return keep_image(label.mask * WHITE, file.stem, scratch, label.notes)


def example(title: str, scratch: Path) -> Upload:
    """Return a drawn wall, with its label."""
    seed, group = EXAMPLES[title]
    wall = brick_wall(seed, EXAMPLE_SIDE, EXAMPLE_SIDE, group=group)
    label = keep_image(wall.mask * WHITE, f"{title}, label", scratch)
    return replace(keep_image(wall.image, title, scratch), label=label)


def image_of(job: Job, scratch: Path) -> Upload:
    """Return the image of a job as the page shows it."""
    kept = read_upload(job.folder / "inputs" / "picture.png", scratch)
    return replace(kept, name=str(job.settings["picture"]))


def submit(jobs: Jobs, image: Upload, label: Upload | None, request: Request) -> Job:
    """Copy the image into a new job and queue ``geo3d segment`` on it.

    Raises:
        InputError: ``viewer.unknown_choice``, ``viewer.too_many_losses``, ``viewer.label_size``.
        LimitError: see `apps.jobs.Jobs.submit`.
    """
    known = models(jobs)
    _check(image, label, request, known)
    folder = jobs.new_folder()
    inputs = folder / "inputs"
    shutil.copyfile(image.path, inputs / "picture.png")
    compared = asset(MODEL) if request.compared == SHIPPED else known.get(request.compared)
    given = None
    if request.losses and label is not None:
        given = shutil.copyfile(label.path, inputs / "label.png")
    argv = command(
        "segment",
        folder,
        inputs / "picture.png",
        model=known[request.model],
        compare=compared,
        loss_maps=request.losses,
        label=given,
        repair=request.repair,
    )
    record = {
        "kind": KIND,
        "picture": image.name,
        "label": label.name if label else "",
        **vars(request),
        "losses": list(request.losses),
        **remembered(jobs, guess(image, request)),
    }
    return jobs.submit(folder, f"Mortar of {image.name}", argv, record)


def views(job: Job) -> dict[str, Path]:
    """Return the images of a finished job by title, overlays first.

    Raises:
        InputError: ``job.no_result``.
    """
    run, _ = result_of(job)
    models = _models_of(job)
    named = models + [(f"{m}, {BY_HAND}", e + CORRECTED) for m, e in models]
    folders = run / "previews", run / "outputs"
    found = {f"Overlay: {m}": folders[0] / f"picture{e}-overlay.png" for m, e in named}
    found |= {f"Repair: {m}": folders[0] / f"picture{e}-repair.png" for m, e in models}
    for loss in job.settings["losses"]:
        for model, ending in models:
            path = folders[0] / f"picture{ending}-loss-map-{loss}.png"
            found[f"Loss map of {loss}: {model}"] = path
    found |= {f"Mask: {m}": folders[1] / f"picture{e}-mask.png" for m, e in named}
    found["Image"] = job.folder / "inputs" / "picture.png"
    # A loss that could not be asked has left a note in place of an image.
    return {title: path for title, path in found.items() if path.is_file()}


def masks(job: Job) -> dict[str, tuple[str, bool]]:
    """Return the masks of a finished job that can be corrected by hand, by title.

    With each, the name of the segmenter's files and whether it was corrected before; those come
    last.

    Raises:
        InputError: ``job.no_result``.
    """
    run, _ = result_of(job)
    named = [(model, f"picture{ending}") for model, ending in _models_of(job)]
    found = {model: (name, False) for model, name in named}
    for model, name in named:
        if (run / "outputs" / f"{name}{CORRECTED}-mask.png").is_file():
            found[f"{model}, {BY_HAND}"] = name, True
    return found


def open_mask(job: Job, title: str) -> Correction:
    """Return one of the `masks` of a job to be corrected.

    Raises:
        InputError: ``job.no_result``, ``viewer.unknown_choice``.
    """
    known = masks(job)
    if title not in known:
        raise unknown_choice("mask")
    run, _ = result_of(job)
    name, corrected = known[title]
    picture = job.folder / "inputs" / "picture.png"
    return segment_correct.open_mask(run, picture, name, corrected=corrected)


def corrected_title(correction: Correction, job: Job) -> str:
    """Return the title that a mask has once it is saved."""
    return next(t for t, found in masks(job).items() if found == (correction.name, True))


def first_views(titles: Sequence[str]) -> tuple[str, str]:
    """Return what the two panes show first: two overlays, else the overlay and what is special."""
    overlays = [title for title in titles if title.startswith("Overlay")]
    if len(overlays) > 1:
        return overlays[0], overlays[1]
    others = [title for title in titles if title.startswith(("Repair", "Loss map"))]
    return overlays[0], others[0] if others else "Image"


def result_card(job: Job) -> str:
    """Return the numbers of each model of a finished job, as HTML."""
    run, metrics = result_of(job)
    both = (("model", "pictures"), ("compared", "compared"))
    cards = [
        _card(str(job.settings[name]), row) + _repair_card(run, row)
        for name, k in both
        for row in metrics[k]
    ]
    by_hand = (read_json(run / "manifest.json") or {}).get("corrected_by_hand", {})
    for model, ending in _models_of(job):
        if found := by_hand.get(f"picture{ending}"):
            cards.append(_corrected_card(model, found))
    return "".join(cards)


def python_lines(job: Job, jobs: Jobs) -> list[str]:
    """Return how to make the same mask in Python."""
    settings, root = job.settings, jobs.root.parent
    chosen = str(settings["model"])
    path = models(jobs).get(chosen)
    given = "" if chosen == SHIPPED else f'"{path.relative_to(root.parent) if path else "MODEL"}"'
    lines = [
        "from geo3d.segmentation.images import read_image",
        "from geo3d.segmentation.predict import load_segmenter",
        "",
        f'found = load_segmenter({given}).predict(read_image("picture.png").pixels)',
        "mask = found.mask",
    ]
    if settings.get("repair"):
        lines.insert(2, "from geo3d.topology.repair import repair")
        lines[-1:] = ["repaired = repair(found.probabilities[1])", "mask = repaired.mask"]
    return lines


def guess(image: Upload, request: Request) -> Guess:
    """Return what a job should take, by the pixels of its image."""
    megapixels = image.width * image.height / 1e6
    passes = 2 if request.compared != NOTHING else 1
    per_megapixel = PREDICT_S + REPAIR_S * request.repair + LOSS_S * len(request.losses)
    seconds = START_S + passes * per_megapixel * megapixels
    like = {"compared": passes > 1, "losses": len(request.losses), "repair": request.repair}
    return Guess(KIND, seconds, MEMORY + MEMORY_PER_MEGAPIXEL * megapixels, like)


def downloads(job: Job, scratch: Path) -> list[str]:
    """Return copies of masks, probabilities and regions under names that say what they are."""
    return renamed_outputs(job, scratch, (".png", ".csv"), "picture", job.settings["picture"])


def _models_of(job: Job) -> list[tuple[str, str]]:
    """Return the models of a job and the endings of their files."""
    named = [(str(job.settings["model"]), "")]
    if job.settings["compared"] != NOTHING:
        named.append((str(job.settings["compared"]), COMPARED))
    return named


def _card(model: str, row: Mapping[str, Any]) -> str:
    facts = [
        ("Components", str(row["betti0"]), "Betti number 0: pieces of mortar; 1 is a whole wall"),
        ("Holes", str(row["betti1"]), "Betti number 1: bricks that mortar goes all around"),
        ("Mortar", f"{100 * row['mortar_fraction']:.1f} %", "Share of the pixels"),
        ("Seconds", f"{row['seconds']:.1f}", "Prediction, regions, images"),
    ]
    if (wall := row.get("wall_probability")) is not None:
        text = "How probable it is that the image shows a wall; as often right as it says"
        facts.insert(3, ("Wall", f"{100 * wall:.0f} %", text))
    return fragments.facts_card(facts, row["notes"], fragments.badge("info", model))


def _repair_card(run: Path, row: Mapping[str, Any]) -> str:
    """Return what a repair has changed, as HTML; empty where there was none."""
    if "repair" not in row:
        return ""
    found = row["repair"]
    pieces, holes = (f"{b} to {a}" for b, a in zip(found["before"], found["after"], strict=True))
    facts = [
        ("Components", pieces, "Betti number 0 before and after"),
        ("Holes", holes, "Betti number 1 before and after"),
        ("Changes", str(found["changes"]), "Listed below, numbered as in the image"),
        ("Cost", f"{found['cost']:.1f} nats", "How much less likely the mask has become"),
    ]
    card = fragments.facts_card(facts, (), fragments.badge("info", "Repair"))
    with (run / "outputs" / f"{row['name']}-changes.csv").open(newline="") as file:
        changes = list(csv.DictReader(file))
    table = [
        (
            c["number"],
            CHANGES[c["kind"]],
            f"{float(c['cost']):.2f}",
            c["pixels"],
            c["row"],
            c["column"],
        )
        for c in changes[:MAX_CHANGES]
    ]
    head = ("Number", "Change", "Cost, nats", "Pixels", "Row", "Column")
    title = f"{len(table)} changes" + ("" if len(table) == len(changes) else " that cost most")
    return card + (fragments.folded_table(title, head, table) if table else "")


def _corrected_card(model: str, found: Mapping[str, Any]) -> str:
    (pieces, holes), (pieces_then, holes_then) = found["after"], found["before"]
    facts = [
        ("Components", f"{pieces} (was {pieces_then})", "Betti number 0, of the mask as saved"),
        ("Holes", f"{holes} (was {holes_then})", "Betti number 1, of the mask as saved"),
        ("Strokes", str(found["strokes"]), "Painted by hand"),
        ("Pixels", str(found["pixels"]), "Different from the segmenter's mask"),
    ]
    return fragments.facts_card(facts, (), fragments.badge("warning", f"{model}, {BY_HAND}"))


def _check(
    image: Upload, label: Upload | None, request: Request, known: Mapping[str, Path | None]
) -> None:
    """Check again what the page offers: a request need not come from our page."""
    choices = request.model in known and request.compared in (*known, NOTHING)
    if not choices or not set(request.losses) <= set(LOSS_MAP_HINTS):
        raise unknown_choice("model or loss")
    if len(request.losses) > MAX_LOSSES:
        raise InputError(
            "viewer.too_many_losses",
            f"{len(request.losses)} losses are too many at once.",
            f"Choose {MAX_LOSSES} or fewer.",
        )
    if label and (label.width, label.height) != (image.width, image.height):
        raise InputError(
            "viewer.label_size",
            f"The label has {label.width} x {label.height} pixels, the image "
            f"{image.width} x {image.height}.",
            "Take the label of this image.",
        )


def _model_name(path: Path, root: Path) -> str:
    parts = list(path.relative_to(root).parts)
    return f"{parts[1]}/{'/'.join(parts[4:-1])}" if len(parts) > 4 else parts[1]
