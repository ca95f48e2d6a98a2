"""A segmentation job from the viewer's side: what is submitted, and how its result is shown."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from apps.commands.segment import COMPARED
from apps.job_files import Job
from apps.jobs import Jobs
from apps.viewer import fragments
from apps.viewer.job_parts import (
    MAX_PIXELS,
    Upload,
    command,
    keep_image,
    renamed_outputs,
    result_of,
    unknown_choice,
)
from geo3d.errors import InputError
from geo3d.files import asset
from geo3d.segmentation.images import ImageLimits, read_image, read_label
from geo3d.segmentation.loss_names import LOSS_MAP_HINTS
from geo3d.synth.walls import brick_wall

KIND = "segment"
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
    )
    record = {
        "kind": KIND,
        "picture": image.name,
        "label": label.name if label else "",
        **vars(request),
        "losses": list(request.losses),
    }
    return jobs.submit(folder, f"Mortar of {image.name}", argv, record)


def views(job: Job) -> dict[str, Path]:
    """Return the images of a finished job by title, overlays first.

    Raises:
        InputError: ``job.no_result``.
    """
    run, _ = result_of(job)
    named = [(str(job.settings["model"]), "")]
    if job.settings["compared"] != NOTHING:
        named.append((str(job.settings["compared"]), COMPARED))
    folders = run / "previews", run / "outputs"
    found = {f"Overlay: {m}": folders[0] / f"picture{e}-overlay.png" for m, e in named}
    for loss in job.settings["losses"]:
        for model, ending in named:
            path = folders[0] / f"picture{ending}-loss-map-{loss}.png"
            found[f"Loss map of {loss}: {model}"] = path
    found |= {f"Mask: {m}": folders[1] / f"picture{e}-mask.png" for m, e in named}
    found["Image"] = job.folder / "inputs" / "picture.png"
    # A loss that could not be asked has left a note in place of an image.
    return {title: path for title, path in found.items() if path.is_file()}


def first_views(titles: Sequence[str]) -> tuple[str, str]:
    """Return what the two panes show first: both overlays, else the overlay and a loss map."""
    overlays = [title for title in titles if title.startswith("Overlay")]
    others = [title for title in titles if title.startswith("Loss map")]
    if len(overlays) > 1:
        return overlays[0], overlays[1]
    return overlays[0], others[0] if others else "Image"


def result_card(job: Job) -> str:
    """Return the numbers of each model of a finished job, as HTML."""
    _, metrics = result_of(job)
    both = (("model", "pictures"), ("compared", "compared"))
    return "".join(_card(str(job.settings[name]), row) for name, k in both for row in metrics[k])


def downloads(job: Job, scratch: Path) -> list[str]:
    """Return copies of masks, probabilities and regions under names that say what they are."""
    return renamed_outputs(job, scratch, (".png", ".csv"), "picture", job.settings["picture"])


def _card(model: str, row: Mapping[str, Any]) -> str:
    facts = [
        ("Components", str(row["betti0"]), "Betti number 0: pieces of mortar; 1 is a whole wall"),
        ("Holes", str(row["betti1"]), "Betti number 1: bricks that mortar goes all around"),
        ("Mortar", f"{100 * row['mortar_fraction']:.1f} %", "Share of the pixels"),
        ("Seconds", f"{row['seconds']:.1f}", "Prediction, regions, images"),
    ]
    return fragments.facts_card(facts, row["notes"], fragments.badge("info", model))


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
    parts = path.relative_to(root).parts
    return f"{parts[1]}/{'/'.join(parts[4:-1])}" if len(parts) > 4 else parts[1]
