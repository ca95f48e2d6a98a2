"""Find the mortar of brick walls in images, and count its components and holes.

  geo3d segment wall.jpg
  geo3d segment *.png --model my.safetensors --tile 1024
  geo3d segment wall.jpg --compare other.safetensors --loss-maps cl_dice topo_loss
  geo3d segment wall.jpg --repair
  geo3d segment --resume runs/segment/RUN

The run folder holds, for each image: outputs/NAME-mask.png (0 and 255), NAME-probability.png (of
mortar, 16 bits), NAME-regions.csv (every component and hole: number, pixels, place), and
previews/NAME-overlay.png, where they are outlined and numbered, the largest of each kind first.
The shipped model also says how probable it is that an image shows a wall at all, and warns if not.
With --repair, broken-off pieces are joined or removed, gaps closed and pinholes filled where that
costs least probability; NAME-changes.csv lists each change (kind, cost in nats, pixels, place), and
previews/NAME-repair.png shows them: added in blue, taken away in red.
With --loss-maps, previews/NAME-loss-map-LOSS.png shows where a loss wants more mortar (blue) or
less (red), compared with --label or, without one, with the prediction freed of small pieces.
With a --model that was trained on volumes, IMAGE is NIfTI, TIFF of several pages or .npy; masks and
probabilities are NIfTI at the same place (or .npy), tunnels and cavities are counted and repaired.
Images that cannot be read are named; the others are segmented all the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, failed_lines, show_run, unique_names
from apps.running import Beginning, full_path, remember, request_of, require_files, run_verb
from geo3d.errors import ConfigError, InputError
from geo3d.files import atomic_write_json
from geo3d.progress import ProgressCallback, tell_each
from geo3d.runs import Run

if TYPE_CHECKING:
    import numpy as np

    from geo3d.segmentation.predict import Prediction, Segmenter
    from geo3d.topology.repair import Repaired

BAD_INPUT = 3
"""Exit code when some of several images could not be segmented."""

COMPARED = "-compared"
"""Ending of the names of what the second segmenter makes."""

FIXED = "images model compare tile overlap loss_maps label repair"
"""Flags that a run keeps."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d segment``."""
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="pictures of any size")
    parser.add_argument("--model", metavar="FILE", help="segmenter (default: the shipped one)")
    parser.add_argument("--compare", metavar="FILE", help="second segmenter, to be compared")
    parser.add_argument(
        "--loss-maps", metavar="LOSS", nargs="+", default=[], help="losses to draw gradient maps of"
    )
    parser.add_argument("--label", metavar="FILE", help="label of the image, for the loss maps")
    parser.add_argument("--tile", metavar="N", type=int, help="side of a tile in pixels")
    parser.add_argument("--overlap", metavar="N", type=int, help="pixels that tiles share")
    parser.add_argument(
        "--repair", action="store_true", help="mend components and holes of the masks, locally"
    )
    add_common(parser, "device", "out", "resume", "threads", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Segment the images, write the run folder, print the numbers."""
    loaded: list[Segmenter] = []

    def begin() -> Beginning:
        request = _request(args)
        loaded.extend(_segmenters(request))
        return _beginning(request)

    def work(run: Run, progress: ProgressCallback) -> None:
        request = request_of(run)
        _segment_all(run, request, loaded or _segmenters(request), progress)

    done = run_verb(args, "segment", begin, work, FIXED)
    show_run(args, done, _text(done.numbers, done))
    return BAD_INPUT if done.numbers["failed"] else 0


def _request(args: argparse.Namespace) -> dict[str, Any]:
    """Look at what is asked for, the cheapest first."""
    require_files(args.model, args.compare, args.label)
    if not any(Path(image).is_file() for image in args.images):
        require_files(*args.images)
    _check_request(args)
    models = [args.model, *([args.compare] if args.compare else [])]
    return {
        "images": [full_path(image) for image in args.images],
        "models": [full_path(model) for model in models],
        "label": full_path(args.label),
        "loss_maps": args.loss_maps,
        "repair": args.repair,
        "tile": args.tile,
        "overlap": _overlap(args),
        "device": args.device,
    }


def _overlap(args: argparse.Namespace) -> int | None:
    """Return what tiles share; a quarter of tiles of a given side, else as usual."""
    from geo3d.segmentation.predict import OVERLAP

    if args.overlap is not None or args.tile is None:
        return args.overlap
    return min(OVERLAP, args.tile // 4)


def _beginning(request: Mapping[str, Any]) -> Beginning:
    from geo3d.segmentation.predict import SHIPPED

    files = [*request["images"], *request["models"], request["label"]]
    inputs = [path for path in files if path and Path(path).is_file()]

    def prepare(run: Run) -> None:
        models = [model or SHIPPED for model in request["models"]]
        run.record["config"] = {**request, "models": models}
        remember(request)(run)

    return Beginning(Path(request["images"][0]).stem, None, inputs, prepare)


def _check_request(args: argparse.Namespace) -> None:
    if not args.images:
        raise ConfigError("segment.no_image", "No image is given.", "geo3d segment IMAGE")
    if args.label and (len(args.images) > 1 or not args.loss_maps):
        raise ConfigError(
            "segment.label_not_used",
            "A label is for the loss maps of one image.",
            "geo3d segment IMAGE --label FILE --loss-maps LOSS",
        )
    if args.loss_maps:
        from geo3d.segmentation.images import read_label
        from geo3d.segmentation.loss_maps import check_loss

        for loss in args.loss_maps:
            check_loss(loss)
        if args.label:
            read_label(args.label)


def _segmenters(request: Mapping[str, Any]) -> list[Segmenter]:
    from geo3d.segmentation.predict import load_segmenter

    return [load_segmenter(model, request["device"]) for model in request["models"]]


def _segment_all(
    run_folder: Run,
    request: Mapping[str, Any],
    segmenters: Sequence[Segmenter],
    progress: ProgressCallback,
) -> None:
    from geo3d.segmentation.rasters import stem_of

    done: list[list[dict[str, Any]]] = [[] for _ in segmenters]
    failed = []
    images = [Path(image) for image in request["images"]]
    # The name of a.nii.gz is a.
    stems = [f"{stem_of(image.name) or image.stem}.image" for image in images]
    named = list(zip(images, unique_names(stems), strict=True))
    for image, name in tell_each(named, progress, "pictures"):
        try:
            for segmenter, rows, ending in zip(segmenters, done, ("", COMPARED), strict=False):
                summary = run_folder.outputs / f"{name}{ending}.json"
                if not summary.is_file():
                    _segment(image, segmenter, summary, run_folder, (request, progress))
                rows.append(json.loads(summary.read_text(encoding="utf-8")))
        except InputError as error:
            if len(images) == 1:
                raise
            failed.append({"image": str(image), **error.to_dict()})
    compared = done[1] if len(done) > 1 else []
    run_folder.finish(
        {"pictures": done[0], "compared": compared, "failed": failed},
        models=[_about(segmenter) for segmenter in segmenters],
    )


def _segment(
    image: Path,
    segmenter: Segmenter,
    summary: Path,
    run_folder: Run,
    how: tuple[Mapping[str, Any], ProgressCallback],
) -> None:
    """Segment one image; its summary is written last and marks it as done."""
    begun = time.perf_counter()
    write = _write_volume if segmenter.kind.dimensions == 3 else _write_image
    row = write(image, segmenter, summary.stem, run_folder, how)
    row["seconds"] = round(time.perf_counter() - begun, 3)
    atomic_write_json(summary, {"image": str(image), **row})


def _predicted(
    values: np.ndarray,
    segmenter: Segmenter,
    request: Mapping[str, Any],
    progress: ProgressCallback,
) -> tuple[Prediction, Repaired | None]:
    """Return what the segmenter says, and the mended mask where that is asked for."""
    from geo3d.topology.repair import repair

    found = segmenter.predict(
        values, tile=request["tile"], overlap=request["overlap"], progress=progress
    )
    return found, repair(found.probabilities[1]) if request["repair"] else None


def _write_image(
    image: Path,
    segmenter: Segmenter,
    name: str,
    run_folder: Run,
    how: tuple[Mapping[str, Any], ProgressCallback],
) -> dict[str, Any]:
    from geo3d.segmentation.images import read_image, read_label
    from geo3d.segmentation.outputs import Places, write_loss_maps, write_prediction
    from geo3d.segmentation.repairs import write_repair

    request, places = how[0], Places(run_folder.outputs, run_folder.previews)
    picture = read_image(image)
    prediction, repaired = _predicted(picture.pixels, segmenter, *how)
    row = write_prediction(picture.pixels, prediction, name, places, repaired)
    if repaired is not None:
        row["repair"] = write_repair(picture.pixels, prediction.mask, repaired, name, places)
    given = read_label(request["label"]) if request["label"] else None
    label = given.mask if given else None
    notes = write_loss_maps(picture.pixels, prediction, label, request["loss_maps"], name, places)
    of_label = [f"label: {note}" for note in given.notes] if given else []
    row["notes"] = [*picture.notes, *row["notes"], *of_label, *notes]
    return row


def _write_volume(
    image: Path,
    segmenter: Segmenter,
    name: str,
    run_folder: Run,
    how: tuple[Mapping[str, Any], ProgressCallback],
) -> dict[str, Any]:
    from geo3d.segmentation.outputs import Places
    from geo3d.segmentation.rasters import read_raster
    from geo3d.segmentation.volumes import write_volume

    places = Places(run_folder.outputs, run_folder.previews)
    volume = read_raster(image)
    prediction, repaired = _predicted(volume.values, segmenter, *how)
    row = write_volume(image, volume.values, prediction, name, places, repaired)
    loss_maps = ["loss maps are of images, not of volumes"] if how[0]["loss_maps"] else []
    row["notes"] = [*volume.notes, *row["notes"], *loss_maps]
    return row


def _about(segmenter: Segmenter) -> dict[str, Any]:
    config = segmenter.config
    return {"loss": config.loss, "framework": config.framework, **segmenter.info}


def _wall(probability: float | None) -> str:
    return "" if probability is None else f", a wall with probability {probability:.2f}"


def _text(metrics: Mapping[str, Any], run_folder: Run) -> str:
    lines = []
    for row in (*metrics["pictures"], *metrics["compared"]):
        second = " (second model)" if row["name"].endswith(COMPARED) else ""
        lines.append(
            f"{row['image']}{second}: {_counted([row[k] for k in row if k.startswith('betti')])}, "
            + _share(row)
            + _wall(row.get("wall_probability"))
        )
        if "repair" in row:
            found = row["repair"]
            lines.append(
                f"  repaired: {found['changes']} changes, {found['cost']:.1f} nats; before, "
                f"{_counted(found['before'])}"
            )
        lines += [f"  note: {note}" for note in row["notes"]]
    lines += failed_lines(metrics["failed"])
    lines.append(f"masks: {run_folder.outputs}\noverlays: {run_folder.previews}")
    return "\n".join(lines)


def _counted(betti: Sequence[int]) -> str:
    """Return Betti numbers of an image or volume in words."""
    names = ("component", "hole") if len(betti) == 2 else ("component", "tunnel", "cavity")
    plural = {"cavity": "cavities"}
    words = [
        name if n == 1 else plural.get(name, f"{name}s")
        for n, name in zip(betti, names, strict=True)
    ]
    return ", ".join(f"{n} {word}" for n, word in zip(betti, words, strict=True))


def _share(row: Mapping[str, Any]) -> str:
    if "mortar_fraction" in row:
        return f"{100 * row['mortar_fraction']:.1f} % mortar"
    return f"{100 * row['foreground_fraction']:.1f} % foreground"
